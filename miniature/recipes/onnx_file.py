"""The convolutional recogniser as an ONNX file, the form in which ArcFace recognisers are published."""

from pathlib import Path

import torch
from onnx import TensorProto, checker, helper, numpy_helper, save

from ..models.recogniser import Recogniser, in_bytes

_EPS = 1e-5  # of the norms


def export(network: Recogniser, path: Path) -> None:
    """Write `network`: one input [n, 3, 112, 112] in -1..1, one output [n, d]; its matrices in bytes."""
    weights = {name: tensor.float() for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    nodes, constants = [], []
    for name, tensor in weights.items():
        if tensor.ndim > 1:
            nodes.append(_from_bytes(constants, name, tensor))
        else:
            constants.append(numpy_helper.from_array(tensor.numpy(), name))
    at = "pixels"
    for number in range(len(network.stages)):
        at = _stage(nodes, f"stages.{number}", at)
    nodes.append(helper.make_node("Flatten", [at], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "feature.weight"], ["feature"], transB=1))
    nodes.append(_norm("norm", "feature", "embedding"))
    shapes = [_shape("pixels", ["n", 3, 112, 112]), _shape("embedding", ["n", len(weights["norm.weight"])])]
    graph = helper.make_graph(nodes, "recogniser", shapes[:1], shapes[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, path)


def _from_bytes(constants: list, name: str, weight: torch.Tensor):
    """Return the node that makes a weight of its bytes, which are appended to the constants."""
    parts = in_bytes(f"{name}.bytes", weight)
    constants += [numpy_helper.from_array(tensor.numpy(), part) for part, tensor in parts.items()]
    return helper.make_node("DequantizeLinear", list(parts), [name], axis=0)


def _stage(nodes: list, name: str, at: str) -> str:
    """Append what `recogniser.RecogniserStage` computes, and return what its output is called."""
    nodes.append(_convolution(f"{name}.down", at, stride=2))
    nodes.append(_norm(f"{name}.norm1", f"{name}.down", f"{name}.n1"))
    nodes.append(helper.make_node("Relu", [f"{name}.n1"], [f"{name}.x"]))
    nodes.append(_convolution(f"{name}.first", f"{name}.x"))
    nodes.append(_norm(f"{name}.norm2", f"{name}.first", f"{name}.n2"))
    nodes.append(helper.make_node("Relu", [f"{name}.n2"], [f"{name}.h"]))
    nodes.append(_convolution(f"{name}.second", f"{name}.h"))
    nodes.append(_norm(f"{name}.norm3", f"{name}.second", f"{name}.n3"))
    nodes.append(helper.make_node("Add", [f"{name}.x", f"{name}.n3"], [f"{name}.sum"]))
    nodes.append(helper.make_node("Relu", [f"{name}.sum"], [f"{name}.out"]))
    return f"{name}.out"


def _convolution(name: str, at: str, stride: int = 1):
    return helper.make_node("Conv", [at, f"{name}.weight"], [name], strides=[stride] * 2, pads=[1] * 4)


def _norm(name: str, at: str, out: str):
    parts = [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    return helper.make_node("BatchNormalization", [at, *parts], [out], epsilon=_EPS)


def _shape(name: str, shape: list):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
