"""Reading the weights of TensorFlow Lite files, in the order in which they are computed with.

A file is a FlatBuffer (https://flatbuffers.dev/internals): tables whose fields are known by their numbers in the
schema. A dozen of these fields is all that weights need, so they are read here, without the schema's 200 modules.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_DEQUANTIZE, _DENSIFY = 6, 124
CONCATENATION, CONV_2D, DEPTHWISE_CONV_2D, MUL, PRELU = 2, 3, 4, 18, 54
_DTYPES = {0: np.float32, 1: np.float16}  # of TensorType; others hold shapes and axes
_INDEX_DTYPES = {1: np.int32, 2: np.uint16, 3: np.uint8}  # of SparseIndexVector


@dataclass(frozen=True)
class Operator:
    """One step of a network: its number in the schema's list, and its constant inputs in the order of the inputs."""

    code: int
    constants: list[np.ndarray]


class _Table:
    """A table in `data`; fields are asked for by their number in the schema."""

    def __init__(self, data: bytes, at: int):
        self._data, self._at = data, at
        self._fields = at - struct.unpack_from("<i", data, at)[0]

    def _find(self, field: int) -> int | None:
        end, entry = struct.unpack_from("<H", self._data, self._fields)[0], 4 + 2 * field
        offset = struct.unpack_from("<H", self._data, self._fields + entry)[0] if entry < end else 0
        return self._at + offset if offset else None

    def number(self, field: int, layout: str) -> int:
        at = self._find(field)
        return 0 if at is None else struct.unpack_from(layout, self._data, at)[0]

    def table(self, field: int) -> "_Table | None":
        at = self._find(field)
        return None if at is None else _Table(self._data, at + struct.unpack_from("<I", self._data, at)[0])

    def vector(self, field: int, dtype: type) -> np.ndarray:
        at = self._find(field)
        if at is None:
            return np.empty(0, dtype)
        at += struct.unpack_from("<I", self._data, at)[0]
        return np.frombuffer(self._data, dtype, struct.unpack_from("<I", self._data, at)[0], at + 4)

    def tables(self, field: int) -> "list[_Table]":
        at = self._find(field)
        if at is None:
            return []
        first = at + struct.unpack_from("<I", self._data, at)[0] + 4
        offsets = self.vector(field, np.uint32)
        return [_Table(self._data, first + 4 * index + int(offset)) for index, offset in enumerate(offsets)]


def operators(data: bytes) -> Iterator[Operator]:
    """Yield the steps of a network that hold weights, as they are computed; half precision and sparse ones made plain.

    Raises ValueError where `data` is no TensorFlow Lite file or is cut short.
    """
    if data[4:8] != b"TFL3":
        raise ValueError("no TensorFlow Lite file")
    try:
        yield from _operators(_Table(data, struct.unpack_from("<I", data)[0]))
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise ValueError("a TensorFlow Lite file that is cut short or damaged") from error


def _operators(model: _Table) -> Iterator[Operator]:
    codes = [max(code.number(0, "<b"), code.number(3, "<i")) for code in model.tables(1)]
    graph, buffers = model.tables(2)[0], model.tables(4)
    tensors, same_as = graph.tables(0), {}
    for operator in graph.tables(3):
        code, inputs = codes[operator.number(0, "<I")], operator.vector(1, np.int32).tolist()
        if code in (_DEQUANTIZE, _DENSIFY):
            same_as[int(operator.vector(2, np.int32)[0])] = same_as.get(inputs[0], inputs[0])
            continue
        values = [_values(tensors[same_as.get(index, index)], buffers) for index in inputs if index >= 0]
        if constants := [value for value in values if value is not None]:
            yield Operator(code, constants)


def _values(tensor: _Table, buffers: list[_Table]) -> np.ndarray | None:
    """Return the numbers of a tensor; None where they are not known before the network runs, or are no weights."""
    dtype = _DTYPES.get(tensor.number(1, "<b"))
    data = buffers[tensor.number(2, "<I")].vector(0, np.uint8)
    if dtype is None or not data.size:
        return None
    shape, values = tensor.vector(0, np.int32), data.view(dtype)
    return (_densify(values, shape, sparsity) if (sparsity := tensor.table(6)) else values).reshape(shape)


def _densify(values: np.ndarray, shape: np.ndarray, sparsity: _Table) -> np.ndarray:
    """Return a tensor of `shape` of which only the `values` that are not 0 are stored, row by row of its last axis."""
    last = sparsity.tables(2)[-1]
    ends, columns = (
        last.table(field + 1).vector(0, _INDEX_DTYPES[last.number(field, "<B")]).astype(np.int64) for field in (2, 4)
    )
    dense = np.zeros((ends.size - 1, shape[-1]), values.dtype)
    dense[np.repeat(np.arange(ends.size - 1), np.diff(ends)), columns] = values
    return dense
