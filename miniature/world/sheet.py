"""A sheet of people, one a row, each in several scenes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from .draw import draw
from .people import person
from .scenes import scene


def sheet(people: Sequence[int], pictures: int = 10, size: int = 128, seed: int = 0) -> torch.Tensor:
    """People by number, a row each, in their first `pictures` scenes: [rows * size, pictures * size, 3] in 0..1."""
    rows = []
    for number in people:
        who, scenes = person(number, seed), [scene(number, picture, seed) for picture in range(pictures)]
        rows.append(torch.cat(list(draw([who] * pictures, scenes, size).pictures), dim=1))
    return torch.cat(rows)


def save(picture: torch.Tensor, path: Path) -> None:
    """Write a picture [h, w, 3] in 0..1 as PNG."""
    Image.fromarray((picture * 255).round().byte().numpy()).save(path)
