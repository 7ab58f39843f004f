"""The wire format of protobuf, in which ONNX files are written: fields of a number and a value. No package needed."""

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_SIZES = {_FIXED64: 8, _FIXED32: 4}


def read_fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of every field of a message; nothing is copied.

    A value is a number, or the bytes of a text, a message, packed numbers or a fixed-size number. Raises ValueError,
    with what is wrong but without the file's name, for bytes that are no such message.
    """
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = read_varint(data, at)
        else:
            size = _SIZES.get(wire)
            if wire == _BYTES:
                size, at = read_varint(data, at)
            if size is None:
                raise ValueError("it is no ONNX file")
            if at + size > len(data):
                raise ValueError("it is cut short, or no ONNX file")
            value, at = data[at : at + size], at + size
        yield number, value


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return a number of up to 64 bits, seven a byte, the lowest first, and where it ends."""
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, at + index + 1
    raise ValueError("it is no ONNX file")
