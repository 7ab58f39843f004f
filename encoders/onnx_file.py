"""An ONNX file as data: its nodes and tensors, read without a package and without running anything.

ONNX is a protobuf; the numbers of fields below are those of its published `onnx.proto`.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..weights.files import HEAD, not_weights
from ..weights.protobuf import read_fields, read_varint

# Number of a tensor's type in the file: how its bytes are read. bfloat16 is read as its upper 16 bits of a float32.
_TYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
_GRAPH = 7  # field of a model
_FLOATS, _INT32S, _INT64S, _RAW, _DOUBLES = 4, 5, 7, 9, 10  # fields of a tensor that hold its numbers


@dataclass(frozen=True)
class OnnxNode:
    """One operation; attributes: numbers, lists of numbers, text or tensors, by name."""

    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict


@dataclass
class OnnxGraph:
    """nodes: in the order in which they can be run; tensors: by name; inputs, outputs: their shapes by name.

    A size that the file leaves open is its name or None. Inputs that are tensors of the file, or that no node reads
    while others are read, are left out.
    """

    nodes: list[OnnxNode] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    inputs: dict[str, list] = field(default_factory=dict)
    outputs: dict[str, list] = field(default_factory=dict)


def read_onnx(path: str | Path) -> OnnxGraph:
    """Return the graph of an ONNX file.

    Raises ValueError, with what is wrong but without the file's name, where it is cut short or keeps its numbers in a
    second file; misread bytes of another kind of file lead to other errors too (`trial.name_faults` turns them).
    """
    data = memoryview(Path(path).read_bytes())
    if reason := not_weights(bytes(data[:HEAD])):
        raise ValueError(f"it is {reason}")
    graphs = [value for number, value in read_fields(data) if number == _GRAPH]
    if not graphs:
        raise ValueError("it holds no network")
    return _read_graph(graphs[0])


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _integers(value: int | memoryview) -> list[int]:
    """Return the numbers of a repeated field: one, or packed ones."""
    if isinstance(value, int):
        return [_signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = read_varint(value, at)
        numbers.append(_signed(number))
    return numbers


def _read_graph(data: memoryview) -> OnnxGraph:
    graph = OnnxGraph()
    for number, value in read_fields(data):
        if number == 1:
            graph.nodes.append(_read_node(value))
        elif number == 5:
            name, tensor = _read_tensor(value)
            graph.tensors[name] = tensor
        elif number in (11, 12):
            name, shape = _read_shape(value)
            (graph.inputs if number == 11 else graph.outputs)[name] = shape
    inputs = {name: shape for name, shape in graph.inputs.items() if name not in graph.tensors}
    used = {name for node in graph.nodes for name in node.inputs}
    graph.inputs = {name: shape for name, shape in inputs.items() if name in used} or inputs
    return graph


def _read_node(data: memoryview) -> OnnxNode:
    inputs, outputs, attributes, operation = [], [], {}, ""
    for number, value in read_fields(data):
        if number in (1, 2):
            (inputs if number == 1 else outputs).append(str(value, "utf-8"))
        elif number == 4:
            operation = str(value, "utf-8")
        elif number == 5:
            name, content = _read_attribute(value)
            attributes[name] = content
    return OnnxNode(operation, tuple(inputs), tuple(outputs), attributes)


def _read_attribute(data: memoryview) -> tuple[str, object]:
    name, content = "", None
    for number, value in read_fields(data):
        if number == 1:
            name = str(value, "utf-8")
        elif number == 2:
            content = struct.unpack("<f", value)[0]
        elif number == 3:
            content = _signed(value)
        elif number == 4:
            content = bytes(value).decode("utf-8", "replace")
        elif number == 5:
            content = _read_tensor(value)[1]
        elif number == 7:
            content = [*(content or []), *np.frombuffer(value, "<f4").tolist()]
        elif number == 8:
            content = [*(content or []), *_integers(value)]
    return name, content


def _read_tensor(data: memoryview) -> tuple[str, torch.Tensor]:
    name, kind, shape, parts, numbers = "", 0, [], [], []
    for number, value in read_fields(data):
        if number == 1:
            shape += _integers(value)
        elif number == 2:
            kind = value
        elif number == 8:
            name = str(value, "utf-8")
        elif number in (_FLOATS, _DOUBLES, _RAW):
            parts.append(value)
        elif number in (_INT32S, _INT64S):
            numbers += _integers(value)
        elif number == 14 and value:
            raise ValueError("it keeps its numbers in a second file, which is not read")
    if kind not in _TYPES:
        raise ValueError(f"the tensor '{name}' is of a type ({kind}) that is not read")
    if numbers:
        flat = np.array(numbers).astype(_TYPES[kind])
    else:
        flat = np.frombuffer(b"".join(parts), _TYPES[kind]).copy()
    return name, torch.from_numpy(flat.reshape(shape))


def _read_shape(data: memoryview) -> tuple[str, list]:
    """Return name and shape of an input or output: ValueInfo holds a type, that a tensor's type, that a shape."""
    parts = dict(read_fields(data))
    shape = []
    for number, dimension in read_fields(_dig(parts[2], 1, 2)) if 2 in parts else ():
        if number == 1:
            sizes = dict(read_fields(dimension))
            shape.append(sizes[1] if 1 in sizes else str(sizes[2], "utf-8") if 2 in sizes else None)
    return str(parts[1], "utf-8"), shape


def _dig(data: memoryview, *numbers: int) -> memoryview:
    """Return the field of a field, by their numbers; empty where it is missing."""
    for number in numbers:
        data = dict(read_fields(data)).get(number, memoryview(b""))
    return data
