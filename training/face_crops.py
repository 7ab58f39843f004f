"""Aligned crops of many people on disk, of which places alone are in memory: what recognisers learn from.

- prepared shards (`likeness.py prepare --for msid`)
- tar shards of others (WebDataset's convention) whose pictures are aligned already
- InsightFace's record files: train.rec, MXNet's RecordIO, and train.idx. A record is the number 0xced7230a, a length of
  29 bits with a mark of three above it, and the content, filled up to four bytes. The content is a header of 24 bytes
  (how many labels follow, or 0; a label; two numbers) and a JPEG. Where the content has the number itself at a multiple
  of four bytes, it is cut there into records marked 1, 2, ..., 3. Record 0 tells where the pictures end and which
  records after them tell of each person the first picture and the one behind the last.
"""

import io
import struct
import warnings
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from . import shards
from .photo_lists import LeftOutError, PhotoList, list_photos, list_tars, read_bytes
from .photos import ALIGNED

RECORDS, INDEX = "train.rec", "train.idx"
_MAGIC = 0xCED7230A
_HEADER = struct.Struct("<IfQQ")  # of an image's record: number of labels, the label, two ids
_HEAD = _HEADER.size + 12  # bytes that show two labels, and whether more follows
_END = 2**62  # behind all bytes and records
_WHOLE = 2**24  # up to which a label of 32 bits counts exactly
_THREADS = 8  # that decode a batch: Pillow leaves the others running meanwhile


@dataclass(frozen=True, eq=False)
class CropSet:
    """n aligned crops of people.

    people: int64 [n], numbers from 0 below `count`. fetch: returns crops uint8 [b, S, S, 3] of rows int64 [b]; raises
    ValueError, naming the place, for one that cannot be read.
    """

    people: torch.Tensor
    count: int
    fetch: Callable[[torch.Tensor], torch.Tensor]

    def __len__(self) -> int:
        return len(self.people)

    def select(self, rows: torch.Tensor) -> "CropSet":
        """Return the crops of some rows [m]."""
        return replace(self, people=self.people[rows], fetch=lambda some: self.fetch(rows[some]))


def find_crops(source: Path, split: bool = False) -> CropSet | None:
    """Return the crops that `source` has, None where it has photos that are to be prepared first.

    split: whether every process has shards of its own. Raises ValueError with a sentence where they cannot be read.
    """
    if (source / shards.MANIFEST).is_file():
        return _read_prepared(source, split)
    if split:
        raise ValueError(f"split = true is for prepared photos, which {source} is not: 'likeness.py prepare' them.")
    if (source / RECORDS).is_file():
        return _read_records(source / RECORDS, source / INDEX)
    if list_tars(source):
        photos = list_photos(source)
        with Image.open(photos[0].open()) as first:
            aligned = first.size == (ALIGNED, ALIGNED)
        return _of_pictures(photos) if aligned else None
    return None


def _read_prepared(folder: Path, split: bool) -> CropSet:
    manifest = shards.read_manifest(folder)
    if "crops" not in manifest:
        raise ValueError(f"{folder} was prepared without msid's crops: prepare the photos with --for msid.")
    samples = shards.read_samples(shards.find_shards(folder, manifest, split))
    return CropSet(samples.people, manifest["people"], samples.columns[shards.CROP].__getitem__)


def _of_pictures(photos: PhotoList) -> CropSet:
    def read(row: int) -> tuple[str, bytes]:
        return photos[row].name, photos[row].open().getvalue()

    return CropSet(photos.people, photos.count_people(), partial(_decode_all, read))


def _read_records(records: Path, index: Path) -> CropSet:
    """Return the crops of InsightFace's record files."""
    if not index.is_file():
        raise ValueError(f"{records} needs {index.name} beside it, which says where its records are.")
    table = _read_index(index)
    keys, places = table.T
    if not len(keys) or places.max() >= records.stat().st_size:
        raise ValueError(f"{records} is cut off, or {index.name} is another's: it has records behind the end.")
    labels, picture = _read_image(records, int(places[0]), _HEAD)
    told = keys[0] == 0 and len(labels) == 2 and not picture
    if told and keys[-1] < _WHOLE:
        rows, people = _list_people(records, keys, places, *map(int, labels))
    else:
        rows, people = _list_labels(records, places, *np.searchsorted(keys, (1, int(labels[0])) if told else (0, _END)))
    table = table[rows]

    def read(row: int) -> tuple[str, bytes]:
        key, place = table[row]
        return f"record {key} of {records}", _read_image(records, int(place))[1]

    return CropSet(torch.from_numpy(people), int(people.max()) + 1, partial(_decode_all, read))


def _read_index(index: Path) -> np.ndarray:
    """Return keys and places of records, int64 [n, 2], by key; raises ValueError where the file has anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # all that is said of what is no number
            table = np.fromfile(index, np.int64, sep=" ").reshape(-1, 2)
    except (ValueError, DeprecationWarning) as error:
        raise ValueError(f"{index} is no index of records ({error}).") from error
    return table if (np.diff(table[:, 0]) > 0).all() else table[table[:, 0].argsort(kind="stable")]


def _list_people(records: Path, keys, places, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the pictures and their people, by the records from `first` to `end`, one of each person."""
    people, count = np.full(len(keys), -1, dtype=np.int64), 0
    for number, row in enumerate(np.searchsorted(keys, np.arange(first, end))):
        if row == len(keys) or keys[row] != first + number:
            raise ValueError(f"{records} has no record {first + number}, which would tell of a person.")
        labels, _ = _read_image(records, int(places[row]), _HEAD)
        begin, after = np.searchsorted(keys, np.array(labels[:2], dtype=np.int64))
        people[begin:after] = count
        count += bool(after > begin)
    (rows,) = (people >= 0).nonzero()
    if not len(rows):
        raise ValueError(f"{records} has people without pictures only.")
    return rows, people[rows]


def _list_labels(records: Path, places: np.ndarray, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return those rows from `first` to `end` that have pictures, and the people that the pictures' own labels tell."""
    rows, people = array("q"), array("q")
    for row in range(first, end):
        labels, picture = _read_image(records, int(places[row]), _HEAD)
        if picture or len(labels) > 2:
            rows.append(row)
            people.append(int(labels[0]))
    if not rows:
        raise ValueError(f"{records} has no pictures.")
    return np.asarray(rows), np.unique(np.asarray(people), return_inverse=True)[1]


def _read_image(records: Path, place: int, most: int = _END) -> tuple[tuple[float, ...], bytes]:
    """Return labels and picture of the record at `place`; raises ValueError where there is none.

    most: how many bytes of it are needed; what is behind them may be left out.
    """
    content = _read_record(records, place, most)
    count = _HEADER.unpack_from(content)[0] if len(content) >= _HEADER.size else _END
    end = _HEADER.size + 4 * count
    if end > len(content) and len(content) < most:
        raise ValueError(f"{records} has no image record at byte {place}.")
    if not count:
        return _HEADER.unpack_from(content)[1:2], content[end:]
    return tuple(np.frombuffer(content[_HEADER.size : min(end, len(content) // 4 * 4)], "<f4").tolist()), content[end:]


def _read_record(records: Path, place: int, most: int = _END) -> bytes:
    """Return the content of the record at `place`, its parts joined by the number at which it was cut.

    most: as `_read_image` has it.
    """
    parts, mark, length = [], 1, 0
    while mark in (1, 2) and length < most:
        try:
            magic, word = struct.unpack("<II", read_bytes(records, place, 8))
            mark, size = word >> 29, word & (1 << 29) - 1
            if magic != _MAGIC or mark > 3 or (mark in (0, 1)) == bool(parts):
                raise ValueError(f"{records} has no record at byte {place}: it is damaged, or {INDEX} is another's.")
            parts.append(read_bytes(records, place + 8, min(size, most)))
        except LeftOutError as error:
            raise ValueError(f"{error}: copy it again.") from error
        place, length = place + 8 + -(-size // 4) * 4, length + size + 4
    return struct.pack("<I", _MAGIC).join(parts)


def _decode_all(read: Callable[[int], tuple[str, bytes]], rows: torch.Tensor) -> torch.Tensor:
    """Return the pictures of some rows; `read` gives a row's name and file."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return torch.stack(list(pool.map(lambda row: _decode(*read(row)), rows.tolist())))


def _decode(name: str, content: bytes) -> torch.Tensor:
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as a picture ({error}).") from error
    if pixels.shape != (ALIGNED, ALIGNED, 3):
        height, width, _ = pixels.shape
        raise ValueError(f"{name} is {width} x {height} pixels, but aligned crops have {ALIGNED} x {ALIGNED}.")
    return torch.from_numpy(pixels)
