"""The reader of TensorFlow Lite files, against files that the FlatBuffers library writes."""

import numpy as np
import pytest
from likeness.weights import mediapipe_file, tflite
from likeness.weights.errors import RefusedError

flatbuffers = pytest.importorskip("flatbuffers")
FLOAT32, FLOAT16, INT32 = 0, 1, 2
UINT8_VECTOR = 3


class Writer(flatbuffers.Builder):
    """Tables by the numbers of their fields: offsets to other things, or (type, number) for what stands inline."""

    def table(self, **fields):
        self.StartObject(1 + max(int(name[1:]) for name in fields))
        for name, value in fields.items():
            if isinstance(value, tuple):
                getattr(self, f"Prepend{value[0]}Slot")(int(name[1:]), value[1], 0)
            else:
                self.PrependUOffsetTRelativeSlot(int(name[1:]), value, 0)
        return self.EndObject()

    def tables(self, offsets):
        self.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.PrependUOffsetTRelative(offset)
        return self.EndVector()

    def numbers(self, values, dtype=np.int32):
        return self.CreateNumpyVector(np.asarray(values, dtype))


def write(operators, tensors):
    """A network: operators (code, inputs, outputs), tensors (kind, shape, values or None, (ends, columns) or None)."""
    out = Writer(1024)
    codes = sorted({code for code, _, _ in operators})
    steps = [
        out.table(_0=("Uint32", codes.index(code)), _1=out.numbers(inputs), _2=out.numbers(outputs))
        for code, inputs, outputs in operators
    ]
    buffers, described = [out.table(_0=out.numbers([], np.uint8))], []
    for kind, shape, values, sparse in tensors:
        fields = {"_0": out.numbers(shape), "_1": ("Int8", kind)}
        if values is not None:
            data = np.asarray(values, {FLOAT32: np.float32, FLOAT16: np.float16, INT32: np.int32}[kind])
            buffers.append(out.table(_0=out.numbers(data.view(np.uint8), np.uint8)))
            fields["_2"] = ("Uint32", len(buffers) - 1)
        if sparse:
            ends, columns = (out.table(_0=out.numbers(numbers, np.uint8)) for numbers in sparse)
            rows = out.table(_0=("Int8", 0), _1=("Int32", shape[0]))
            last = out.table(
                _0=("Int8", 1), _2=("Uint8", UINT8_VECTOR), _3=ends, _4=("Uint8", UINT8_VECTOR), _5=columns
            )
            fields["_6"] = out.table(_2=out.tables([rows, last]))
        described.append(out.table(**fields))
    graph = out.table(_0=out.tables(described), _3=out.tables(steps))
    names = [out.table(_0=("Int8", code), _3=("Int32", code)) for code in codes]
    model = out.table(_1=out.tables(names), _2=out.tables([graph]), _4=out.tables(buffers))
    out.Finish(model, b"TFL3")
    return bytes(out.Output())


KERNEL = np.arange(2 * 3 * 3 * 4).reshape(2, 3, 3, 4)
NETWORK = write(
    [
        (6, [1], [5]),  # dequantize the kernel
        (tflite.CONV_2D, [0, 5, 2], [6]),
        (124, [3], [7]),  # densify, then dequantize
        (6, [7], [8]),
        (tflite.PRELU, [6, 8], [9]),
        (22, [9, 4], [10]),  # reshape: no weights
    ],
    [
        (FLOAT32, [1, 8, 8, 4], None, None),
        (FLOAT16, KERNEL.shape, KERNEL.ravel(), None),
        (FLOAT32, [2], [0.5, -0.5], None),
        (FLOAT16, [2, 3], [7, 8, 9], ([0, 1, 3], [1, 0, 2])),
        (INT32, [2], [1, 128], None),
        *[(FLOAT32, [1], None, None)] * 6,
    ],
)


def test_weights_come_in_the_order_of_the_steps_plain_and_dense():
    conv, prelu = tflite.operators(NETWORK)
    assert (conv.code, prelu.code) == (tflite.CONV_2D, tflite.PRELU)
    kernel, bias = conv.constants
    assert kernel.dtype == np.float16 and np.array_equal(kernel, KERNEL) and bias.tolist() == [0.5, -0.5]
    assert prelu.constants[0].tolist() == [[0, 7, 0], [8, 0, 9]]


def test_kernels_are_laid_out_as_pytorch_wants_them():
    conv, _ = tflite.operators(NETWORK)
    weight = mediapipe_file._to_torch(conv)["weight"]
    assert weight.shape == (2, 4, 3, 3) and weight[1, 3, 0, 2] == KERNEL[1, 0, 2, 3]
    depthwise = tflite.Operator(tflite.DEPTHWISE_CONV_2D, [KERNEL[:1]])
    assert mediapipe_file._to_torch(depthwise)["weight"].shape == (4, 1, 3, 3)


def test_another_network_is_refused_by_its_layers(tmp_path):
    (tmp_path / "other.tflite").write_bytes(NETWORK)
    with pytest.raises(RefusedError, match="other.tflite is another network: it has 2 layers with weights, not 91"):
        mediapipe_file.convert_full_range(tmp_path / "other.tflite", tmp_path / "out", {})


@pytest.mark.parametrize("length", range(0, len(NETWORK) - 8, 9))
def test_what_is_cut_short_is_refused(length):
    with pytest.raises(ValueError, match="no TensorFlow Lite file|cut short or damaged"):
        list(tflite.operators(NETWORK[:length]))
