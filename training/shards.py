"""Prepared photos on disk: tar shards of the WebDataset convention, written one by one, whose rows are read by place.

A sample is files of one name in a shard, "00000008-03.latents.npy" and so on ("crop" is what `train msid` sees), and
"00000008-03.json" with person, caption and the side that the crop had in the photo, with buckets the size, see
`Portraits`. Any reader of WebDataset reads them in turn. Here only their places are kept in memory, so that a training
draws any row, and pairs of one person, of any number of photos.
"""

import io
import json
import os
import platform
import tarfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch

from .distributed import count_processes, get_rank
from .photo_lists import check_rest
from .portraits import Portraits, Ragged, join

MANIFEST, NOTHING = "prepared.json", "clip_of_nothing.npy"
VERSION = 1  # of the manifest and what it speaks of
CROP = "crop"
_LATENTS, _FACES, _DETAILS = "latents", "faces", "json"
_HEAD = 128  # bytes of an npy file, in which its shape is


def name_shard(folder: Path, number: int) -> Path:
    """Return where a shard lies."""
    return folder / f"shard-{number:06d}.tar"


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, np.ndarray], dict]]) -> None:
    """Write samples (name, arrays by name, details for the JSON), so that `path` is whole or not there.

    The same samples give the same bytes.
    """
    part = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.part")
    try:
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, arrays, details in samples:
                for key, array in arrays.items():
                    content = io.BytesIO()
                    np.save(content, np.ascontiguousarray(array))
                    _add(tar, f"{name}.{key}.npy", content.getvalue())
                _add(tar, f"{name}.{_DETAILS}", json.dumps(details).encode())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sweep_parts(folder: Path) -> None:
    """Remove what processes of this machine left half written that were killed."""
    for part in folder.glob(f"*.{platform.node()}.*.part"):
        if not psutil.pid_exists(int(part.suffixes[-2][1:])):
            part.unlink(missing_ok=True)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def describe(portraits: Portraits, row: int) -> tuple[dict[str, np.ndarray], dict]:
    """Return arrays and details of one portrait, as `write_shard` takes them."""
    tensors = {_LATENTS: portraits.latents, _FACES: portraits.faces} | portraits.features
    arrays = {name: tensor[torch.tensor([row])][0].numpy() for name, tensor in tensors.items()}
    return arrays, tell(portraits.people[row], portraits.captions[row], portraits.sizes[row])


def tell(person: torch.Tensor, caption: str, size: torch.Tensor) -> dict:
    """Return the details of a photo; a square of which nothing was cut off has a side, others a size."""
    height, width, *cut_off = size = size.tolist()
    sides = {"size": size} if height != width or any(cut_off) else {"side": height}
    return {"person": int(person), "caption": caption} | sides


@dataclass(frozen=True, eq=False)
class Column:
    """One tensor of n samples that stays in its shards until rows are asked for: `column[rows]` is a tensor.

    files: the shards. shard, place: int64 [n], which, and where in it the numbers begin. row_shape, dtype: of a sample.
    """

    files: list[Path]
    shard: torch.Tensor
    place: torch.Tensor
    row_shape: tuple[int, ...]
    dtype: np.dtype

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.row_shape)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        length = int(np.prod(self.row_shape)) * self.dtype.itemsize
        parts = []
        for shard, place in zip(self.shard[rows].tolist(), self.place[rows].tolist()):
            with self.files[shard].open("rb", buffering=0) as file:
                file.seek(place)
                parts.append(np.frombuffer(file.read(length), self.dtype).reshape(self.row_shape))
        return torch.from_numpy(np.stack(parts))

    def select(self, rows: torch.Tensor) -> "Column":
        """Return the column of some rows, still in the shards."""
        return Column(self.files, self.shard[rows], self.place[rows], self.row_shape, self.dtype)


@dataclass(frozen=True, eq=False)
class Captions(Sequence[str]):
    """The captions of n samples, which stay in their shards until one is asked for.

    files: the shards. shard, place, length: int64 [n], which, where in it the details begin, and their bytes.
    """

    files: list[Path]
    shard: torch.Tensor
    place: torch.Tensor
    length: torch.Tensor

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, row: int) -> str:
        with self.files[self.shard[row]].open("rb", buffering=0) as file:
            file.seek(int(self.place[row]))
            return json.loads(file.read(int(self.length[row])))["caption"]

    def select(self, rows: torch.Tensor) -> "Captions":
        """Return the captions of some rows, still in the shards."""
        return Captions(self.files, self.shard[rows], self.place[rows], self.length[rows])


class _Places:
    """Where the rows of one column are, while shards are read through."""

    def __init__(self, row_shape: tuple[int, ...], dtype: np.dtype, size: int):
        self.row_shape, self.dtype, self.size = row_shape, dtype, size
        self.shard, self.place = array("q"), array("q")

    def add(self, shard: int, entry: tarfile.TarInfo) -> None:
        if entry.size != self.size:
            raise ValueError(f"{entry.name} has another size than the others")
        head = self.size - int(np.prod(self.row_shape)) * self.dtype.itemsize
        self.shard.append(shard)
        self.place.append(entry.offset_data + head)

    def column(self, files: list[Path]) -> Column:
        return Column(files, as_tensor(self.shard), as_tensor(self.place), self.row_shape, self.dtype)


class Samples(NamedTuple):
    """What shards hold: columns by name; int64 people [n]; captions; sizes [n, 4]."""

    columns: dict[str, Column | Ragged]
    people: torch.Tensor
    captions: Captions
    sizes: torch.Tensor


def read_samples(files: list[Path]) -> Samples:
    """Return the samples of shards; raises ValueError, naming file and fault, for one that is cut off or strange."""
    places: dict[str, tuple[dict[bytes, _Places], array]] = {}  # by shape, and which of these each row has
    people, sizes, shard, place, length = (array("q") for _ in range(5))
    for number, file in enumerate(files):
        try:
            _check_end(file)
            with tarfile.open(file, "r:") as tar:
                for entry in tar:
                    key = entry.name.partition(".")[2].removesuffix(".npy")
                    if key == _DETAILS:
                        details = json.load(tar.extractfile(entry))
                        people.append(details["person"])
                        sizes.extend(details["size"] if "size" in details else (details["side"],) * 2 + (0, 0))
                        shard.append(number)
                        place.append(entry.offset_data)
                        length.append(entry.size)
                    else:
                        parts, order = places.setdefault(key, ({}, array("b")))
                        head = tar.extractfile(entry).read(_HEAD)
                        if head not in parts:
                            parts[head] = _Places(*_read_kind(tar.extractfile(entry)))
                        parts[head].add(number, entry)
                        order.append(list(parts).index(head))
                    tar.members.clear()  # it would keep them all
                check_rest(file, tar.offset)
            if any(len(order) != len(people) for _, order in places.values()):
                raise ValueError("a part of a sample is missing")
        except (tarfile.TarError, ValueError, KeyError, EOFError) as error:
            reason = str(error).partition(": ")[0]  # numpy and json show what they read, too
            raise ValueError(
                f"The shard {file} cannot be read ({reason}): delete it, and run 'likeness.py prepare' again, which "
                "makes only what is missing."
            ) from error
    columns = {
        key: join([where.column(files) for where in parts.values()], as_tensor(order))
        for key, (parts, order) in places.items()
    }
    captions = Captions(files, *map(as_tensor, (shard, place, length)))
    return Samples(columns, as_tensor(people), captions, as_tensor(sizes).reshape(-1, 4))


def as_tensor(numbers: array) -> torch.Tensor:
    """Return an array of numbers as a tensor of their type, in the same memory."""
    return torch.from_numpy(np.asarray(numbers))


def read_shards(files: list[Path]) -> Portraits:
    """Return the portraits of shards; raises ValueError as `read_samples` does."""
    columns, people, captions, sizes = read_samples(files)
    columns.pop(CROP, None)
    return Portraits(columns.pop(_LATENTS), people, captions, columns.pop(_FACES), columns, sizes)


def take_own(files: list[Path], rank: int, world: int) -> list[Path]:
    """Return those of all shards that process `rank` of `world` trains on where they are split: each is somebody's.

    Raises ValueError where there are fewer shards than processes.
    """
    if len(files) < world:
        raise ValueError(
            f"split = true gives every process shards of its own, but there are {world} processes and {len(files)} "
            "shards: start fewer processes, or leave split out."
        )
    return files[rank::world]


def _check_end(file: Path) -> None:
    """Raise ValueError where a tar file does not end as one: with two empty blocks."""
    with file.open("rb") as tar:
        tar.seek(max(file.stat().st_size - 2 * tarfile.BLOCKSIZE, 0))
        if tar.read() != bytes(2 * tarfile.BLOCKSIZE):
            raise ValueError("it is cut off")


def _read_kind(file) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return shape, dtype and length in bytes of an npy file, of which nothing but the head is read."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    return shape, dtype, file.tell() + int(np.prod(shape)) * dtype.itemsize


def read_manifest(folder: Path) -> dict:
    """Return what a folder of shards says of itself; raises ValueError where it is not of this version."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / MANIFEST} is damaged: prepare the photos again, into another folder.") from error
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{folder} was prepared by another version of Likeness: prepare the photos again, into another folder."
        )
    manifest["data"] = {"buckets": False} | manifest["data"]  # which an earlier version did not write
    return manifest


def find_shards(folder: Path, manifest: dict, split: bool = False) -> list[Path]:
    """Return the shards of a folder, or where they are split this process's; raises ValueError where one is missing."""
    files = [name_shard(folder, number) for number in range(manifest["shards"])]
    if split:
        files = take_own(files, get_rank(), count_processes())
    if missing := [file.name for file in files if not file.is_file()]:
        parts = count_processes() > 1 and not split
        whose, started = (" of this process", f", with {count_processes()} processes as here") if split else ("", "")
        raise ValueError(
            f"{len(missing)} of {len(files)} shards{whose} are missing in {folder}, the first is {missing[0]}: run "
            f"'likeness.py prepare' again{started}, which makes what is missing"
            f"{', or, where each machine has a part of the shards, train with --set data.split=true' * parts}."
        )
    return files


def read(folder: Path, manifest: dict, split: bool = False) -> tuple[Portraits, list[torch.Tensor]]:
    """Return prepared portraits and, where CLIP saw them, what it sees in nothing.

    split: whether every process reads its own shards alone. Raises ValueError with a sentence where shards are missing
    or damaged.
    """
    nothing = folder / NOTHING
    portraits = read_shards(find_shards(folder, manifest, split))
    return portraits, [torch.from_numpy(np.load(nothing))] if nothing.is_file() else []
