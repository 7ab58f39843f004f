"""Pictures of people as the trainings of adapters draw from them: whatever never changes is worked out beforehand.

One safetensors file holds a set: the tensors of `Portraits`, features as `features.<encoder>`, where the latents are of
several shapes `latents.<number>` and `faces.<number>` of each with "buckets" [n], which it is, and in the metadata

format, version   "likeness-portraits", "1"; a reader refuses every other version
captions          JSON, a list
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch

from ..weights import formats, saving

FORMAT = formats.Format(
    "likeness-portraits",
    1,
    "portraits",
    newer="its format has version {0}, and only {1} can be read",
    advice=" Encode the photos again.",
)
_TENSORS = ("latents", "people", "faces")
_RAGGED = ("latents", "faces")  # which may be of several shapes
_FEATURES = "features."


class Shelves(NamedTuple):
    """n pictures in the order of their people: int64 each.

    order: [n] pictures, person by person. person, place: [n] for every picture whose it is, from 0, and which of that
    person's. starts, counts: [people] where in the order a person's pictures begin, and how many there are.
    """

    order: torch.Tensor
    person: torch.Tensor
    place: torch.Tensor
    starts: torch.Tensor
    counts: torch.Tensor


@dataclass(frozen=True, eq=False)
class Ragged:
    """n rows of several shapes: `ragged[rows]` is a tensor, if the rows are of one of them.

    parts: tensors or columns, one for each shape. bucket, place: [n], in which of them a row is, and where in it.
    """

    parts: tuple
    bucket: torch.Tensor
    place: torch.Tensor

    def __len__(self) -> int:
        return len(self.bucket)

    def find(self, rows: torch.Tensor):
        """Return the part that some rows [m] are in; raises ValueError where they are in several."""
        (bucket,) = self.bucket[rows].unique().tolist()
        return self.parts[bucket]

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return self.find(rows)[self.place[rows]]

    def select(self, rows: torch.Tensor) -> "Ragged":
        """Return some rows [m], of any shapes."""
        return Ragged(self.parts, self.bucket[rows], self.place[rows])


def join(parts: Sequence, bucket: torch.Tensor):
    """Return tensors or columns of several shapes as one; bucket: [n], the part of each row, in their order."""
    if len(parts) == 1:
        return parts[0]
    place = torch.empty(len(bucket), dtype=torch.long)
    for number, part in enumerate(parts):
        place[bucket == number] = torch.arange(len(part))
    return Ragged(tuple(parts), bucket, place)


def stack(rows: Sequence[torch.Tensor]):
    """Return tensors of one shape or several as one, [n, ...]."""
    by_shape: dict[tuple, list[torch.Tensor]] = {}
    for row in rows:
        by_shape.setdefault(tuple(row.shape), []).append(row)
    shapes = list(by_shape)
    bucket = torch.tensor([shapes.index(tuple(row.shape)) for row in rows])
    return join([torch.stack(alike) for alike in by_shape.values()], bucket)


@dataclass(frozen=True, eq=False)
class Portraits:
    """n pictures of people, all on the CPU.

    latents, faces and features may be `shards.Column`s instead of tensors, and captions `shards.Captions`: they stay on
    disk until rows are drawn.
    Latents and faces of several shapes are `Ragged`.

    latents: [n, c, h, w] float16, as the UNet knows them (after process_latent_in).
    people: int64 [n], a number for each person, any numbers. captions: one a picture.
    faces: [n, h, w] float16 in 0..1, the share of each latent's pixels that is face.
    features: by name of the encoder ("transface", "msid", "arcface", "clip", "expression") [n, ...] float16.
    sizes: int64 [n, 4], SDXL's numbers: height and width of what a picture was cut from, in its own pixels, and how
    many pixels, of the picture's, were cut off at the top and at the left. None where that is not known.
    Raises ValueError where these are not of as many pictures, or faces and latents differ in size.
    """

    latents: torch.Tensor
    people: torch.Tensor
    captions: Sequence[str]
    faces: torch.Tensor
    features: dict[str, torch.Tensor]
    sizes: torch.Tensor | None = None

    def __post_init__(self):
        counts = {"latents": len(self.latents), "people": len(self.people), "captions": len(self.captions)}
        counts |= {"sizes": len(self.sizes)} if self.sizes is not None else {}
        counts |= {"faces": len(self.faces)} | {f"{name} features": len(each) for name, each in self.features.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(f"Portraits need as many of everything as there are pictures, not {told}.")
        sizes = [[list(part.shape[-2:]) for part in _list_parts(each)] for each in (self.faces, self.latents)]
        if sizes[0] != sizes[1]:
            faces, latents = (", ".join(map(str, each)) for each in sizes)
            raise ValueError(f"Portraits need faces of the size of their latents, {latents}, not {faces}.")

    def __len__(self) -> int:
        return len(self.latents)

    def select(self, rows: torch.Tensor) -> "Portraits":
        """Return the portraits of some rows [m]."""
        features = {name: _select(tensor, rows) for name, tensor in self.features.items()}
        latents, captions, faces = (_select(column, rows) for column in (self.latents, self.captions, self.faces))
        sizes = None if self.sizes is None else self.sizes[rows]
        return Portraits(latents, self.people[rows], captions, faces, features, sizes)

    def split(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return some rows [m] in groups whose latents are of one shape."""
        if not isinstance(self.latents, Ragged):
            return [rows]
        buckets = self.latents.bucket[rows]
        return [rows[buckets == number] for number in buckets.unique()]

    def measure(self, rows: torch.Tensor) -> tuple[int, int]:
        """Return height and width of the latents of some rows [m] of one shape."""
        latents = self.latents.find(rows) if isinstance(self.latents, Ragged) else self.latents
        return tuple(latents.shape[-2:])

    @cached_property
    def shelves(self) -> Shelves:
        """Where each person's pictures are."""
        _, person, counts = self.people.unique(return_inverse=True, return_counts=True)
        order, starts = person.argsort(stable=True), counts.cumsum(0) - counts
        place = order.argsort() - starts[person]
        return Shelves(order, person, place, starts, counts)


def draw(portraits: Portraits, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return rows [count] of one shape, every picture as likely as any other. generator: the CPU's.

    The first, of all pictures, tells the shape; the others are of its pictures.
    """
    rows = torch.randint(len(portraits), (count,), generator=generator)
    if not isinstance(portraits.latents, Ragged):
        return rows
    bucket = portraits.latents.bucket
    alike = (bucket == bucket[rows[0]]).nonzero()[:, 0]
    return alike[torch.randint(len(alike), (count,), generator=generator)]


def others(portraits: Portraits, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """For each of `indices` [b] another picture of the person, all equally likely: the shuffle of docs/papers.md 2.8.

    Where a person has only one picture, it stands for itself. generator: the CPU's.
    """
    order, person, place, starts, counts = portraits.shelves
    who = person[indices]
    steps = 1 + torch.randint(1 << 62, indices.shape, generator=generator) % (counts[who] - 1).clamp(min=1)
    return order[starts[who] + (place[indices] + steps) % counts[who]]


def _list_parts(tensor) -> tuple:
    return tensor.parts if isinstance(tensor, Ragged) else (tensor,)


def _select(column, rows: torch.Tensor):
    """Return rows of a tensor or list, or of a column that stays in its shards."""
    if isinstance(column, list):
        return [column[row] for row in rows.tolist()]
    return column[rows] if isinstance(column, torch.Tensor) else column.select(rows)


def hold_out(portraits: Portraits, share: float, people: torch.Tensor | None = None) -> tuple[Portraits, Portraits]:
    """Return the portraits to train on, and those of a share of the people, one at least, always the same ones.

    people: of whom they are chosen, None for all. Raises ValueError where nobody would be left.
    """
    people = portraits.people.unique() if people is None else people
    held = torch.isin(portraits.people, choose_held_out(people, share))
    return portraits.select((~held).nonzero()[:, 0]), portraits.select(held.nonzero()[:, 0])


def choose_held_out(people: torch.Tensor, share: float) -> torch.Tensor:
    """Return a share of `people` [n], one at least, always the same ones; raises ValueError where nobody is left."""
    count = max(1, round(share * len(people)))
    if count >= len(people):
        raise ValueError(
            f"To hold out {count} of {len(people)} people for the validation leaves nobody to train on: take photos of "
            "more people, a smaller held_out, or validate_steps = 0."
        )
    return people[torch.randperm(len(people), generator=torch.Generator().manual_seed(0))[:count]]


def save(path: str | Path, portraits: Portraits) -> None:
    """Write a set to `path`, which holds the whole file or what it held before. Raises OSError where it cannot."""
    tensors = {name: getattr(portraits, name) for name in _TENSORS}
    if isinstance(portraits.latents, Ragged):
        groups = portraits.split(torch.arange(len(portraits)))
        for name in _RAGGED:
            ragged = tensors.pop(name)
            tensors |= {f"{name}.{number}": ragged[rows] for number, rows in enumerate(groups)}
        tensors["buckets"] = portraits.latents.bucket.unique(return_inverse=True)[1]
    tensors |= {f"{_FEATURES}{name}": each for name, each in portraits.features.items()}
    tensors |= {} if portraits.sizes is None else {"sizes": portraits.sizes}
    metadata = {**FORMAT.metadata, "captions": json.dumps(portraits.captions)}
    data = safetensors.torch.save({name: each.contiguous() for name, each in tensors.items()}, metadata)
    saving.write(path, data, "Portraits for training")


def load(path: str | Path) -> Portraits:
    """The set at `path`, bit for bit as it was saved.

    Raises ValueError, naming file and fault, for a file that is none or a damaged one.
    """
    with FORMAT.name_faults(path):
        metadata, tensors = formats.read(path, FORMAT)
        if "buckets" in tensors:
            bucket = tensors["buckets"]
            for name in _RAGGED:
                tensors[name] = join([tensors[f"{name}.{number}"] for number in bucket.unique().tolist()], bucket)
        if "sides" in tensors:  # as earlier versions wrote them, of square crops
            sides = tensors["sides"]
            tensors["sizes"] = torch.stack((sides, sides, 0 * sides, 0 * sides), dim=1)
        if missing := [name for name in _TENSORS if name not in tensors]:
            raise ValueError(f"'{missing[0]}' is missing")
        features = {name.removeprefix(_FEATURES): tensors[name] for name in tensors if name.startswith(_FEATURES)}
        captions = json.loads(metadata.get("captions", "[]"))
        needed = {name: tensors[name] for name in _TENSORS}
        return Portraits(captions=captions, features=features, sizes=tensors.get("sizes"), **needed)
