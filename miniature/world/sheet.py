"""A sheet of people, one a row, each in several scenes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from .draw import draw
from .people import person
from .scenes import scene


def sheet(people: Sequence[int], columns: int = 10, size: int = 128, seed: int = 0) -> torch.Tensor:
    """Return people by number, a row each, in their first scenes: [rows * size, columns * size, 3] in 0..1."""
    rows = []
    for number in people:
        subjects, scenes = [person(number, seed)] * columns, [scene(number, column, seed) for column in range(columns)]
        rows.append(torch.cat(list(draw(subjects, scenes, size).images), dim=1))
    return torch.cat(rows)


def save(image: torch.Tensor, path: Path) -> None:
    """Write an image [h, w, 3] in 0..1 as PNG."""
    Image.fromarray((image * 255).round().byte().numpy()).save(path)
