"""Drawn people as photos on disk, a folder a person, as trainings and people read real ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .dataset import CHUNK, SetRecipe
from .draw import draw
from .people import SPLITS

STYLES = (1.0, 0.0, 0.0)  # photos alone


def write_photos(folder: Path, recipe: SetRecipe, report: Callable[[int, int], None]) -> None:
    """Draw the photos of a set that are missing in `folder`: person-000123/04.png, and its caption 04.txt beside it.

    report: called with the numbers of finished photos and of all.
    """
    files = [_name(folder, recipe, index) for index in range(len(recipe))]
    missing = [index for index, file in enumerate(files) if not file.is_file()]
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        subjects, scenes, captions = zip(*map(recipe.describe, chunk))
        for index, image, caption in zip(chunk, draw(subjects, scenes, recipe.size).images, captions):
            files[index].parent.mkdir(parents=True, exist_ok=True)
            files[index].with_suffix(".txt").write_text(f"{caption}\n", "utf-8")
            part = files[index].with_suffix(".part")
            Image.fromarray((image.numpy() * 255).round().astype(np.uint8)).save(part, "PNG")
            part.replace(files[index])
        report(len(recipe) - len(missing) + start + len(chunk), len(recipe))


def _name(folder: Path, recipe: SetRecipe, index: int) -> Path:
    person = SPLITS[recipe.split].start + recipe.first + index // recipe.images
    return folder / f"person-{person:06d}" / f"{index % recipe.images:02d}.png"
