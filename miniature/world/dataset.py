"""Sets of rendered portraits on disk: made once by several processes, read back without loading them into memory.

A folder holds `set.json` (version and recipe), `captions.txt` (a line an image) and `images.npy`, one array with a
record for each image that is mapped into memory. A record says whether it is finished, so that a run that was stopped
goes on where it was. The same recipe gives the same bytes, however many processes work.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .captions import caption
from .draw import PARTS, draw
from .people import SPLITS, Person, person
from .scenes import Scene, scene

VERSION = 2  # of the files of a set
CHUNK = 128  # images that a process renders at once


@dataclass(frozen=True)
class SetRecipe:
    """What a set holds: `people` of a split from its `first` on, each in `images` scenes, `size` pixels a side.

    styles: the shares of photos, sketches and cartoons. Raises ValueError for what cannot be drawn.
    """

    split: str = "train"
    first: int = 0
    people: int = 2000
    images: int = 12
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
        if self.images < 1 or self.size < 16:
            raise ValueError(
                f"A set has 1 picture a person or more, of 16 pixels or more, not {self.images} of {self.size}."
            )
        if len(self.styles) != 3 or min(self.styles) < 0 or not sum(self.styles):
            raise ValueError(f"The styles need three shares, of which none is negative and not all 0: {self.styles}.")

    def __len__(self) -> int:
        return self.people * self.images

    def describe(self, index: int) -> tuple[Person, Scene, str]:
        """Return the person in an image, the scene, and the caption. Some captions leave clothes or background open."""
        number, image = SPLITS[self.split].start + self.first + index // self.images, index % self.images
        subject, setting = person(number, self.seed), scene(number, image, self.seed, tuple(self.styles))
        chances = np.random.default_rng([self.seed, 3, number, image]).random(2)
        clothes, background = (bool(chance > 0.15) for chance in chances)
        return subject, setting, caption(subject, setting, clothes=clothes, background=background)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A set on disk. captions: one an image. people: [n] the person's number in each. records: [n], see `record_type`.

    Methods take indices of b images and give their part of the records.
    """

    recipe: SetRecipe
    captions: list[str]
    people: np.ndarray
    records: np.memmap

    def __len__(self) -> int:
        return len(self.recipe)

    def images(self, indices: Sequence[int]) -> torch.Tensor:
        """Return uint8 [b, h, w, 3]."""
        return torch.from_numpy(self.records["images"][list(indices)])

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """Return uint8 [b, h, w], see `draw.Rendering`."""
        return torch.from_numpy(self.records["labels"][list(indices)])

    def masks(self, indices: Sequence[int]) -> torch.Tensor:
        """Return bool [b, 5, h, w], in the order of `draw.PARTS`."""
        bits = np.unpackbits(self.records["masks"][list(indices)], axis=-1, count=self.recipe.size)
        return torch.from_numpy(bits).bool()

    def points(self, indices: Sequence[int]) -> torch.Tensor:
        """Return float32 [b, 5, 2] in pixels, see `draw.Rendering`."""
        return torch.from_numpy(self.records["points"][list(indices)])


def record_type(size: int) -> np.dtype:
    """Return the type of an image's record: all that is known of it; masks are packed to bits."""
    return np.dtype(
        [
            ("images", np.uint8, (size, size, 3)),
            ("labels", np.uint8, (size, size)),
            ("masks", np.uint8, (len(PARTS), size, -(-size // 8))),
            ("points", np.float32, (5, 2)),
            ("finished", bool),
        ]
    )


def write(
    folder: Path, recipe: SetRecipe, processes: int = 1, report: Callable[[int, int], None] | None = None
) -> None:
    """Render what is missing of a set into `folder`.

    processes: how many render at the same time, where the system can fork; elsewhere one does. report: called with the
    numbers of finished images and of all. Raises ValueError where the folder holds another set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "set.json").exists() and _read_recipe(folder) != recipe:
        raise ValueError(f"{folder} holds another set ({_read_recipe(folder)}); choose another folder or remove it.")
    (folder / "set.json").write_text(json.dumps({"version": VERSION, **asdict(recipe)}, indent=1))
    lines = "".join(f"{recipe.describe(index)[2]}\n" for index in range(len(recipe)))
    (folder / "captions.txt").write_text(lines)
    path = folder / "images.npy"
    if not path.exists():
        part = path.with_suffix(".part")
        np.lib.format.open_memmap(part, "w+", record_type(recipe.size), (len(recipe),)).flush()
        part.replace(path)
    finished = np.load(path, mmap_mode="r")["finished"]
    chunks = [range(start, min(start + CHUNK, len(recipe))) for start in range(0, len(recipe), CHUNK)]
    missing = [chunk for chunk in chunks if not finished[chunk.start : chunk.stop].all()]
    for _ in _map(partial(_render, path, recipe), missing, processes):
        if report:
            report(int(finished.sum()), len(recipe))


def read(folder: Path) -> ImageSet:
    """Open a set. Raises ValueError where there is none or images are missing."""
    if not (folder / "images.npy").is_file():
        raise ValueError(f"There is no set of drawn portraits in {folder}: make one with miniature.dataset.write.")
    recipe, records = _read_recipe(folder), np.load(folder / "images.npy", mmap_mode="r")
    if missing := int((~records["finished"]).sum()):
        raise ValueError(f"{missing} of {len(recipe)} pictures are missing in {folder}: write the set again to finish "
                         "it.")  # fmt: skip
    first = SPLITS[recipe.split].start + recipe.first
    people = np.repeat(np.arange(first, first + recipe.people), recipe.images)
    return ImageSet(recipe, (folder / "captions.txt").read_text().splitlines(), people, records)


def _read_recipe(folder: Path) -> SetRecipe:
    settings = json.loads((folder / "set.json").read_text())
    if settings.pop("version", 1) != VERSION:
        raise ValueError(f"{folder} holds a set of another version; choose another folder or remove it.")
    return SetRecipe(**{**settings, "styles": tuple(settings["styles"])})


def _render(path: Path, recipe: SetRecipe, indices: range) -> None:
    """Render some images into their records; each is marked as finished when all of it is on the disk."""
    people, scenes, _ = zip(*map(recipe.describe, indices))
    rendering = draw(people, scenes, recipe.size)
    records = np.load(path, mmap_mode="r+")
    rows = records[indices.start : indices.stop]
    rows["images"] = (rendering.images * 255).round().byte().numpy()
    rows["labels"] = rendering.labels.numpy()
    rows["masks"] = np.packbits(rendering.masks.numpy(), axis=-1)
    rows["points"] = rendering.points.numpy()
    records.flush()
    rows["finished"] = True
    records.flush()


def _map(work: Callable, items: list, processes: int) -> Iterator:
    """Do `work` on each item, in several processes where the system can fork: others could not import this package."""
    if processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(work, items)
        return
    with multiprocessing.get_context("fork").Pool(processes, use_one_thread) as pool:
        yield from pool.imap_unordered(work, items)


def use_one_thread() -> None:
    """Let a process compute in one thread: small planes gain nothing from more."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
