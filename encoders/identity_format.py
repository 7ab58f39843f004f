"""The format of identity files, and what a file says of itself. Standard library only.

Format version 1, a promise: a safetensors file (8 bytes little-endian length, JSON header, tensors without gaps) with

    features     F32 [photos, tokens, dim]   what adapters read, bit for bit as encoded
    embedding    F32 [photos, d]             of length 1, by which photos are compared
    crops        U8  [photos, S, S, 3]       thumbnails in RGB; optional, and no other tensor is allowed

and in `__metadata__`, where every value is a string:

    format           "likeness.face_id"
    version          "1"
    encoder          kind of the encoder, e.g. "transface"
    encoder_file     its weight file
    encoder_sha256   of that file, 64 hexadecimal digits
    photos           their number, 1 to 1000
    crop_size        S: pixels a side of what the encoder saw, also where no thumbnails were kept; up to 1024, and all
                     crops together hold 67 million pixels at most
    masked           "true" where the crops' background was blackened, else "false"
    agreement        per photo the cosine with the mean of the others, separated by spaces; empty for one photo
    note             free text, such as who agreed to what; may be empty
    consent          what the person agreed to; optional, and readers from before it was there leave it alone

Other keys of the metadata are left alone. A reader refuses every higher version: whatever an older reader would
misunderstand gets a new number.
"""

import json
import math
import os
import re
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from ..weights import files
from ..weights.formats import Format

FORMAT = Format("likeness.face_id", 1, "an identity", "; choose a file that Save Identity wrote")
LARGEST_HEADER = 100_000  # bytes
LARGEST_FILE = 1 << 30  # bytes
LONGEST_NOTE = 4000  # characters
_LARGEST = {"photos": 1000, "crop_size": 1024}
_LARGEST_AXIS = 1 << 20
_MOST_PIXELS = 1 << 26  # of all crops together, 0.8 GB as an image: figures stand in for thumbnails that are not kept
_DTYPES = {"features": ("F32", 3), "embedding": ("F32", 2), "crops": ("U8", 4)}
_BYTES = {"F32": 4, "U8": 1}
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,255}")  # anything but control characters
_NOTE = re.compile(rf"[^\x00-\x08\x0b-\x1f\x7f-\x9f]{{0,{LONGEST_NOTE}}}")
_PATTERNS = {
    "encoder": _NAME,
    "encoder_file": _NAME,
    "encoder_sha256": re.compile("[0-9a-f]{64}"),
    "photos": re.compile("[1-9][0-9]{0,3}"),
    "crop_size": re.compile("[1-9][0-9]{0,3}"),
    "masked": re.compile("true|false"),
    "agreement": re.compile(r"(-?[01]\.[0-9]{4}( -?[01]\.[0-9]{4})*)?"),
    "note": _NOTE,
}


class Tensor(NamedTuple):
    """Where a tensor lies: `begin` and `end` in bytes after the header."""

    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What an identity file says of itself; the fields are those of the format, checked."""

    encoder: str
    encoder_file: str
    encoder_sha256: str
    photos: int
    crop_size: int
    masked: bool
    agreement: tuple[float, ...]
    note: str
    tensors: dict[str, Tensor]
    consent: str = ""


def metadata(header: Header) -> dict[str, str]:
    """Return a header's fields as they stand in the file."""
    return {
        **FORMAT.metadata,
        "encoder": header.encoder,
        "encoder_file": header.encoder_file,
        "encoder_sha256": header.encoder_sha256,
        "photos": str(header.photos),
        "crop_size": str(header.crop_size),
        "masked": "true" if header.masked else "false",
        "agreement": " ".join(f"{value:.4f}" for value in header.agreement),
        "note": header.note,
        **({"consent": header.consent} if header.consent else {}),
    }


def read_header(path: str | os.PathLike) -> Header:
    """Return what the file at `path` says of itself; its tensors are not read.

    Raises ValueError, naming file and fault, for anything that does not keep the format; OSError if it cannot be read.
    """
    with open(path, "rb") as file, FORMAT.name_faults(path):
        return parse(file)


def parse(file: BinaryIO) -> Header:
    """Read the header and stop where the tensors begin; raises ValueError that says what is wrong."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size > LARGEST_FILE:
        raise ValueError(f"it has {size} bytes, more than any identity ({LARGEST_FILE})")
    start = file.read(files.HEAD)
    if reason := files.not_weights(start):
        raise ValueError(f"it is {reason}")
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{":
        raise ValueError("it is not a safetensors file")
    if length > min(LARGEST_HEADER, size - 8):
        raise ValueError("it is cut short, or its header is longer than an identity's")
    file.seek(8)
    try:
        content = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_refuse_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError("its header is damaged") from error
    fields = _read_fields(content.pop("__metadata__", None))
    return Header(**fields, tensors=_read_tensors(content, fields["photos"], fields["crop_size"], size - 8 - length))


def _refuse_repeats(pairs: list[tuple[str, object]]) -> dict:
    """Return a JSON object whose keys stand only once: two readers may else take different ones of them."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _read_fields(values: object) -> dict:
    """Return the fields of a `Header` but for its tensors, from the metadata."""
    FORMAT.check(values)
    for key, pattern in _PATTERNS.items():
        if not (isinstance(values.get(key), str) and pattern.fullmatch(values[key])):
            raise ValueError(f"'{key}' of its metadata is missing or damaged")
    fields = {key: values[key] for key in _PATTERNS}
    for key, largest in _LARGEST.items():
        fields[key] = int(values[key])
        if fields[key] > largest:
            raise ValueError(f"'{key}' of its metadata is {fields[key]}, above the limit of {largest}")
    if fields["photos"] * fields["crop_size"] ** 2 > _MOST_PIXELS:
        raise ValueError(f"'photos' and 'crop_size' of its metadata ask for more than {_MOST_PIXELS} pixels of crops")
    fields["consent"] = values.get("consent", "")
    if not (isinstance(fields["consent"], str) and _NOTE.fullmatch(fields["consent"])):
        raise ValueError("'consent' of its metadata is damaged")
    fields["masked"] = values["masked"] == "true"
    fields["agreement"] = tuple(map(float, values["agreement"].split()))
    if len(fields["agreement"]) != (fields["photos"] if fields["photos"] > 1 else 0):
        raise ValueError("'agreement' of its metadata has another number of photos")
    return fields


def _read_tensors(entries: dict, photos: int, crop_size: int, room: int) -> dict[str, Tensor]:
    """Return the tensors by name: the format's, that fit together and fill the `room` bytes after the header."""
    if {*entries} - {"crops"} != {"features", "embedding"}:
        raise ValueError(f"it must hold features and embedding, not {', '.join(sorted(entries))[:200] or 'nothing'}")
    tensors = {name: _tensor(name, entry) for name, entry in entries.items()}
    for name, tensor in tensors.items():
        if tensor.shape[0] != photos:
            raise ValueError(f"'{name}' holds {tensor.shape[0]} photos, but its metadata says {photos}")
    if "crops" in tensors and tensors["crops"].shape[1:] != (crop_size, crop_size, 3):
        raise ValueError(f"its thumbnails are not {crop_size} pixels a side, as its metadata says")
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.begin):
        if tensor.begin != end:
            raise ValueError("its tensors overlap or leave gaps")
        end = tensor.end
    if end != room:
        raise ValueError(f"it is cut short or damaged: {end} bytes of tensors are announced, {room} are there")
    return tensors


def _tensor(name: str, entry: object) -> Tensor:
    dtype, axes = _DTYPES[name]
    if not (isinstance(entry, dict) and entry.get("dtype") == dtype):
        raise ValueError(f"'{name}' is not stored as {dtype}")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not (_is_numbers(shape, axes, 1, _LARGEST_AXIS) and _is_numbers(offsets, 2, 0, LARGEST_FILE)):
        raise ValueError(f"'{name}' has a shape or place that no identity has")
    begin, end = offsets
    if end - begin != math.prod(shape) * _BYTES[dtype]:
        raise ValueError(f"'{name}' has another size than its shape says")
    return Tensor(tuple(shape), begin, end)


def _is_numbers(values: object, count: int, low: int, high: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) is int and low <= value <= high for value in values)
    )
