"""Which operators an ONNX file is made of, without a package that reads ONNX. Standard library only.

Only these fields are looked at: model.graph (7), model.functions (25), graph.node (1), function.node (7),
node.op_type (4).
"""

import mmap
from pathlib import Path

from .protobuf import read_fields

_GRAPH, _FUNCTIONS, _OP_TYPE = 7, 25, 4
_NODES = {_GRAPH: 1, _FUNCTIONS: 7}


def list_operators(path: str | Path) -> set[str]:
    """Return the names of the operators of all nodes but those inside other nodes; raise ValueError for no ONNX."""
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    parts = [(_NODES[number], part) for number, part in _messages(data) if number in _NODES]
    nodes = [node for wanted, part in parts for number, node in _messages(part) if number == wanted]
    names = {str(text, "utf-8", "replace") for node in nodes for number, text in _messages(node) if number == _OP_TYPE}
    if not names:
        raise ValueError("it holds no network")
    return names


def _messages(data: memoryview) -> list[tuple[int, memoryview]]:
    return [(number, value) for number, value in read_fields(data) if isinstance(value, memoryview)]
