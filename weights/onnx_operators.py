"""Which operators an ONNX file is made of, without a package that reads ONNX. Standard library only.

ONNX is protobuf: a field is a number with a kind, then its value. Here only these are looked at:
model.graph (7), model.functions (25), graph.node (1), function.node (7), node.op_type (4).
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

_GRAPH, _FUNCTIONS, _OP_TYPE = 7, 25, 4
_NODES = {_GRAPH: 1, _FUNCTIONS: 7}
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def list_operators(path: str | Path) -> set[str]:
    """Return the names of the operators of all nodes but those inside other nodes; raise ValueError for no ONNX."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        names = set()
        for part, start, end in _fields(data, 0, len(data)):
            for field, begin, stop in _fields(data, start, end) if part in _NODES else ():
                if field == _NODES[part]:
                    texts = [data[a:b] for number, a, b in _fields(data, begin, stop) if number == _OP_TYPE]
                    names |= {text.decode("utf-8", "replace") for text in texts}
        if not names:
            raise ValueError("it holds no network")
        return names


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number, first byte, behind the last byte) of a message's fields that hold bytes, text or messages."""
    while start < end:
        key, start = _varint(data, start, end)
        length = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(key & 7, 0)
        if key & 7 == _VARINT:
            _, start = _varint(data, start, end)
        elif key & 7 == _BYTES:
            length, start = _varint(data, start, end)
        elif not length:
            raise ValueError("it is no ONNX file")
        if start + length > end:
            raise ValueError("it is cut short, or no ONNX file")
        if key & 7 == _BYTES:
            yield key >> 3, start, start + length
        start += length


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Return a number of up to 64 bits, seven a byte, the lowest first, and where it ends."""
    value = 0
    for index, byte in enumerate(data[start : min(start + 10, end)]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, start + index + 1
    raise ValueError("it is no ONNX file")
