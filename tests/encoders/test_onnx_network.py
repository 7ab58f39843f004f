"""ONNX graphs as torch networks, against onnxruntime on the same file."""

import comfy.ops
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from likeness.encoders.onnx_file import read_onnx
from likeness.encoders.onnx_network import OnnxNetwork, UnknownOperationError
from likeness.weights.trial import name_faults
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.RandomState(0)


def numbers(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def write(path, nodes, weights, shape=(1, 4, 8, 8), opset=21, raw=True):
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    if not raw:
        tensors = [
            helper.make_tensor(name, tensor.data_type, value.shape, value.flatten().tolist())
            for (name, value), tensor in zip(weights.items(), tensors)
        ]
    graph = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), str(path))
    return str(path)


def node(operation, *inputs, output="y", **attributes):
    return helper.make_node(operation, list(inputs), [output], **attributes)


NORM = {"s": numbers(4), "b": numbers(4), "m": numbers(4), "v": abs(numbers(4)) + 0.5}
BLOCKED = {  # 8 numbers of an output channel share a scale, as in OpenCV's int8 files; the last block is cut
    "q": RNG.randint(-128, 127, (6, 36)).astype(np.int8),
    "scale": abs(numbers(6, 5)),
    "zero": np.zeros((6, 5), np.int8),
    "shape": np.array([6, 4, 3, 3]),
}
CASES = {
    "convolution": ([node("Conv", "x", "w", "b", pads=[1, 1, 1, 1], strides=[2, 2])],
                    {"w": numbers(6, 4, 3, 3), "b": numbers(6)}),
    "grouped, dilated": ([node("Conv", "x", "w", group=4, dilations=[2, 2])], {"w": numbers(4, 1, 3, 3)}),
    "norm": ([node("BatchNormalization", "x", *"sbmv", epsilon=1e-3)], NORM),
    "slopes": ([node("PRelu", "x", "w")], {"w": numbers(4, 1, 1)}),
    "head": ([node("Flatten", "x", output="f"), node("Gemm", "f", "w", "b", transB=1)],
             {"w": numbers(5, 256), "b": numbers(5)}),
    "untransposed head and norm": (
        [node("Flatten", "x", output="f"), node("Gemm", "f", "w", output="g"),
         node("BatchNormalization", "g", *"sbmv")], {"w": numbers(256, 4), **NORM}),
    "squeeze and excite": (
        [node("GlobalAveragePool", "x", output="p"), node("Conv", "p", "w", output="c"), node("Relu", "c", output="r"),
         node("Sigmoid", "r", output="s"), node("Mul", "x", "s", output="m"), node("Add", "m", "x")],
        {"w": numbers(4, 4, 1, 1)}),
    "turned and reshaped": ([node("Transpose", "x", output="t", perm=[0, 2, 3, 1]), node("Reshape", "t", "n")],
                            {"n": np.array([0, -1, 4])}),
    "in blocks of bytes": (
        [node("DequantizeLinear", "q", "scale", "zero", output="d", axis=1, block_size=8),
         node("Reshape", "d", "shape", output="w"), node("Conv", "x", "w")], BLOCKED),
    "a scale for each channel": (
        [node("DequantizeLinear", "q", "scale", output="d", axis=0), node("Reshape", "d", "shape", output="w"),
         node("Conv", "x", "w")], BLOCKED | {"scale": abs(numbers(6))}),
}  # fmt: skip


@pytest.mark.parametrize("raw", [True, False], ids=["bytes", "lists"])
@pytest.mark.parametrize("name", CASES)
def test_as_onnxruntime(tmp_path, name, raw):
    nodes, weights = CASES[name]
    path = write(tmp_path / "part.onnx", nodes, weights, raw=raw)
    x = numbers(1, 4, 8, 8)
    expected = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    network = OnnxNetwork(read_onnx(path), comfy.ops.manual_cast, dtype=torch.float32).eval()
    np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("greedy, weights", [
    ([node("Mul", "column", "row", output="m"), node("Mul", "x", "m")],
     {"column": numbers(100_000, 1), "row": numbers(1, 100_000)}),
    ([node("DequantizeLinear", "bytes", "row", output="d", axis=1), node("Mul", "x", "d")],
     {"bytes": np.zeros((100_000, 1), np.int8), "row": numbers(1, 100_000)}),
    ([node("Conv", "x", "w")], {"w": np.zeros((2_000_000, 4, 1, 1), np.float32)}),
    ([node("Conv", "x", "w", pads=[10**5] * 4)], {"w": numbers(1, 4, 1, 1)}),
])  # fmt: skip
def test_what_would_fill_the_memory_is_refused(tmp_path, greedy, weights):
    path = write(tmp_path / "greedy.onnx", greedy, weights)
    with pytest.raises(UnknownOperationError):
        OnnxNetwork(read_onnx(path), comfy.ops.manual_cast)(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("unknown", [
    [node("Softsign", "x")],
    [node("Conv", "x", "w", pads=[0, 0, 1, 1])],
    [node("Flatten", "x", output="f"), node("Gemm", "f", "head", alpha=0.5)],
])  # fmt: skip
def test_what_it_does_not_know_is_said(tmp_path, unknown):
    path = write(tmp_path / "part.onnx", unknown, {"w": numbers(6, 4, 3, 3), "head": numbers(256, 4)})
    with pytest.raises(UnknownOperationError):
        OnnxNetwork(read_onnx(path), comfy.ops.manual_cast)


def test_inputs_that_no_node_reads_are_none(tmp_path):
    """As in OpenCV's int8 files, whose inputs still list the weights before they were made bytes."""
    path = write(tmp_path / "part.onnx", *CASES["convolution"])
    model = onnx.load(path)
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [6]) for name in ("b", "old"))
    onnx.save(model, path)
    assert read_onnx(path).inputs == {"x": [1, 4, 8, 8]}


def test_any_cut_or_flipped_file_is_refused_in_words_or_read(tmp_path):
    whole = bytearray(open(write(tmp_path / "part.onnx", *CASES["in blocks of bytes"]), "rb").read())
    rng = np.random.RandomState(1)
    refused = 0
    for i in range(300):
        content = whole[: rng.randint(len(whole))] if i % 2 else bytearray(whole)
        if not i % 2:
            content[rng.randint(len(whole))] ^= 1 << rng.randint(8)
        (tmp_path / "hurt.onnx").write_bytes(content)
        try:
            with name_faults("hurt.onnx cannot be used"):
                OnnxNetwork(read_onnx(tmp_path / "hurt.onnx"), comfy.ops.manual_cast)(torch.zeros(1, 4, 8, 8))
        except ValueError as error:
            refused += str(error).startswith("hurt.onnx cannot be used")
    assert refused > 150
