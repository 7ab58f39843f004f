"""Sets of drawn portraits on disk: made once by several processes, read back without loading them into memory.

A folder holds `set.json` (the recipe), `captions.txt` (a line a picture) and `shard-00000/`, ...: numpy arrays of
`SHARD` pictures each. A shard appears whole or not at all, so that a run that was stopped goes on where it was. The
same recipe gives the same bytes, however many processes work.
"""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .captions import caption
from .draw import draw
from .people import SPLITS, Person, person
from .scenes import Scene, scene

SHARD = 128  # pictures
_KINDS = ("pictures", "labels", "masks", "points")


@dataclass(frozen=True)
class Recipe:
    """What a set holds: `people` of a split from its `first` on, each in `pictures` scenes, `size` pixels a side.

    styles: the shares of photos, sketches and cartoons. Raises ValueError for what cannot be drawn.
    """

    split: str = "train"
    first: int = 0
    people: int = 2000
    pictures: int = 12
    size: int = 64
    seed: int = 0
    styles: tuple[float, float, float] = (0.7, 0.12, 0.18)

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"The miniature has people to {', '.join(SPLITS)}, none to '{self.split}'.")
        room = len(SPLITS[self.split])
        if self.first < 0 or self.people < 1 or self.first + self.people > room:
            raise ValueError(
                f"The split '{self.split}' has people 0 to {room - 1}, not {self.people} from {self.first}"
            )
        if self.pictures < 1 or self.size < 16:
            raise ValueError(
                f"A set has 1 picture a person or more, of 16 pixels or more, not {self.pictures} of {self.size}."
            )
        if len(self.styles) != 3 or min(self.styles) < 0 or not sum(self.styles):
            raise ValueError(f"The styles need three shares, of which none is negative and not all 0: {self.styles}.")

    def __len__(self) -> int:
        return self.people * self.pictures

    def shown(self, index: int) -> tuple[Person, Scene, str]:
        """Who is in the picture `index`, in what scene, and its caption. Some captions leave clothes or place open."""
        number = SPLITS[self.split].start + self.first + index // self.pictures
        who, seen = person(number, self.seed), scene(number, index % self.pictures, self.seed, tuple(self.styles))
        told = np.random.default_rng([self.seed, 3, number, index % self.pictures]).random(2) > 0.15
        return who, seen, caption(who, seen, clothes=bool(told[0]), background=bool(told[1]))


@dataclass(frozen=True, eq=False)
class PictureSet:
    """A set on disk. captions: one a picture; people: [n] the person's number in each picture.

    shards: for every shard its arrays by name, mapped into memory.
    """

    recipe: Recipe
    captions: list[str]
    people: np.ndarray
    shards: list[dict[str, np.ndarray]]

    def __len__(self) -> int:
        return len(self.recipe)

    def pictures(self, indices: Sequence[int]) -> torch.Tensor:
        """[b, h, w, 3] uint8."""
        return self._rows("pictures", indices)

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """[b, h, w] uint8, see `draw.Drawn`."""
        return self._rows("labels", indices)

    def masks(self, indices: Sequence[int]) -> torch.Tensor:
        """[b, 5, h, w] bool, in the order of `draw.PARTS`."""
        bits = np.unpackbits(self._rows("masks", indices).numpy(), axis=-1, count=self.recipe.size)
        return torch.from_numpy(bits).bool()

    def points(self, indices: Sequence[int]) -> torch.Tensor:
        """[b, 5, 2] float32 pixels, see `draw.Drawn`."""
        return self._rows("points", indices)

    def _rows(self, kind: str, indices: Sequence[int]) -> torch.Tensor:
        rows = [self.shards[int(index) // SHARD][kind][int(index) % SHARD] for index in indices]
        return torch.from_numpy(np.stack(rows))


def write(folder: Path, recipe: Recipe, processes: int = 1, report: Callable[[int, int], None] | None = None) -> None:
    """Draw what is missing of a set into `folder`.

    processes: how many draw at the same time, where the system can fork; elsewhere one does. report: called with the
    number of shards that stand and of all. Raises ValueError where the folder holds a set of another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "set.json").exists() and _recipe(folder) != recipe:
        raise ValueError(f"{folder} holds another set ({_recipe(folder)}); choose another folder or remove it.")
    lines = "".join(f"{recipe.shown(index)[2]}\n" for index in range(len(recipe)))
    (folder / "captions.txt").write_text(lines)
    (folder / "set.json").write_text(json.dumps(asdict(recipe), indent=1))
    count = -(-len(recipe) // SHARD)
    missing = [number for number in range(count) if not _shard(folder, number).is_dir()]
    for done, _ in enumerate(_each(partial(_draw_shard, folder, recipe), missing, processes), count - len(missing) + 1):
        if report:
            report(done, count)


def read(folder: Path) -> PictureSet:
    """Open a set. Raises ValueError where there is none or shards are missing."""
    if not (folder / "set.json").is_file():
        raise ValueError(f"There is no set of drawn portraits in {folder}: make one with miniature.dataset.write.")
    recipe = _recipe(folder)
    count = -(-len(recipe) // SHARD)
    missing = sum(not _shard(folder, number).is_dir() for number in range(count))
    if missing:
        raise ValueError(f"{missing} of {count} shards are missing in {folder}: write the set again to finish it.")
    shards = [
        {kind: np.load(_shard(folder, number) / f"{kind}.npy", mmap_mode="r") for kind in _KINDS}
        for number in range(count)
    ]
    first = SPLITS[recipe.split].start + recipe.first
    people = np.repeat(np.arange(first, first + recipe.people), recipe.pictures)
    return PictureSet(recipe, (folder / "captions.txt").read_text().splitlines(), people, shards)


def _recipe(folder: Path) -> Recipe:
    settings = json.loads((folder / "set.json").read_text())
    return Recipe(**{**settings, "styles": tuple(settings["styles"])})


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}"


def _draw_shard(folder: Path, recipe: Recipe, number: int) -> None:
    """Draw one shard beside its place and move it there."""
    indices = range(number * SHARD, min((number + 1) * SHARD, len(recipe)))
    people, scenes, _ = zip(*map(recipe.shown, indices))
    drawn = draw(people, scenes, recipe.size)
    arrays = {
        "pictures": (drawn.pictures * 255).round().byte().numpy(),
        "labels": drawn.labels.numpy(),
        "masks": np.packbits(drawn.masks.numpy(), axis=-1),
        "points": drawn.points.numpy(),
    }
    part = folder / f"{_shard(folder, number).name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for kind, array in arrays.items():
        np.save(part / f"{kind}.npy", array)
    os.replace(part, _shard(folder, number))


def _each(work: Callable, items: list[int], processes: int):
    """`work` on each item, in several processes where the system can fork: others could not import this package."""
    if processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(work, items)
        return
    with multiprocessing.get_context("fork").Pool(processes, _alone) as pool:
        yield from pool.imap_unordered(work, items)


def _alone() -> None:
    """One thread a process: small planes gain nothing from more."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
