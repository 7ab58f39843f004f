"""Pictures of people as the trainings of adapters draw from them: whatever never changes is worked out beforehand.

One safetensors file holds a set: the tensors of `Portraits`, features as `features.<encoder>`, and in the metadata

format, version   "likeness-portraits", "1"; a reader refuses every other version
captions          JSON, a list
"""

import json
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
class Portraits:
    """n pictures of people, all on the CPU.

    latents, faces and features may be `shards.Column`s instead of tensors: they stay on disk until rows are drawn.

    latents: [n, c, h, w] float16, as the UNet knows them (after process_latent_in).
    people: int64 [n], a number for each person, any numbers. captions: one a picture.
    faces: [n, h, w] float16 in 0..1, the share of each latent's pixels that is face.
    features: by name of the encoder ("transface", "msid", "arcface", "clip", "expression") [n, ...] float16.
    sides: int64 [n], pixels of the photo that became the crop's side; None where that is not known.
    Raises ValueError where these are not of as many pictures, or faces and latents differ in size.
    """

    latents: torch.Tensor
    people: torch.Tensor
    captions: list[str]
    faces: torch.Tensor
    features: dict[str, torch.Tensor]
    sides: torch.Tensor | None = None

    def __post_init__(self):
        counts = {"latents": len(self.latents), "people": len(self.people), "captions": len(self.captions)}
        counts |= {"sides": len(self.sides)} if self.sides is not None else {}
        counts |= {"faces": len(self.faces)} | {f"{name} features": len(each) for name, each in self.features.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(f"Portraits need as many of everything as there are pictures, not {told}.")
        sizes = [list(each.shape[-2:]) for each in (self.faces, self.latents)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"Portraits need faces of the size of their latents, {sizes[1]}, not {sizes[0]}.")

    def __len__(self) -> int:
        return len(self.latents)

    def select(self, rows: torch.Tensor) -> "Portraits":
        """Return the portraits of some rows [m]."""
        captions = [self.captions[row] for row in rows.tolist()]
        features = {name: _select(tensor, rows) for name, tensor in self.features.items()}
        latents, faces = (_select(tensor, rows) for tensor in (self.latents, self.faces))
        sides = None if self.sides is None else self.sides[rows]
        return Portraits(latents, self.people[rows], captions, faces, features, sides)

    @cached_property
    def shelves(self) -> Shelves:
        """Where each person's pictures are."""
        _, person, counts = self.people.unique(return_inverse=True, return_counts=True)
        order, starts = person.argsort(stable=True), counts.cumsum(0) - counts
        place = order.argsort() - starts[person]
        return Shelves(order, person, place, starts, counts)


def others(portraits: Portraits, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """For each of `indices` [b] another picture of the person, all equally likely: the shuffle of docs/papers.md 2.8.

    Where a person has only one picture, it stands for itself. generator: the CPU's.
    """
    order, person, place, starts, counts = portraits.shelves
    who = person[indices]
    steps = 1 + torch.randint(1 << 62, indices.shape, generator=generator) % (counts[who] - 1).clamp(min=1)
    return order[starts[who] + (place[indices] + steps) % counts[who]]


def _select(tensor, rows: torch.Tensor):
    """Return rows of a tensor, or of a column that stays in its shards."""
    return tensor[rows] if isinstance(tensor, torch.Tensor) else tensor.select(rows)


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
    tensors |= {f"{_FEATURES}{name}": each for name, each in portraits.features.items()}
    tensors |= {} if portraits.sides is None else {"sides": portraits.sides}
    metadata = {**FORMAT.metadata, "captions": json.dumps(portraits.captions)}
    data = safetensors.torch.save({name: each.contiguous() for name, each in tensors.items()}, metadata)
    saving.write(path, data, "Portraits for training")


def load(path: str | Path) -> Portraits:
    """The set at `path`, bit for bit as it was saved.

    Raises ValueError, naming file and fault, for a file that is none or a damaged one.
    """
    with FORMAT.name_faults(path):
        metadata, tensors = formats.read(path, FORMAT)
        if missing := [name for name in _TENSORS if name not in tensors]:
            raise ValueError(f"'{missing[0]}' is missing")
        features = {name.removeprefix(_FEATURES): tensors[name] for name in tensors if name.startswith(_FEATURES)}
        captions = json.loads(metadata.get("captions", "[]"))
        needed = {name: tensors[name] for name in _TENSORS}
        return Portraits(captions=captions, features=features, sides=tensors.get("sides"), **needed)
