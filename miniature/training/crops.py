"""Aligned crops of drawn people, made as the nodes make those of photographs, for training encoders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...faces.align import align_faces
from ...faces.headmask import head_masks
from ...faces.types import Face, Faces
from ..world.dataset import ImageSet

CROP = 112  # pixels a side
_AT_ONCE = 64


def read_faces(dataset: ImageSet, indices: Sequence[int]) -> Faces:
    """Return the faces of drawn pictures from the points they were drawn with."""
    images, points = dataset.images(indices).float() / 255, dataset.points(indices).numpy()
    side = float(dataset.recipe.size - 1)
    faces = tuple((Face(five, (0.0, 0.0, side, side), 1.0, drawn=True),) for five in points)
    return Faces(images, faces, "the drawn world")


def align_pixels(faces: Faces) -> torch.Tensor:
    """Return the aligned crops of all faces [n, 3, 112, 112] in -1..1, as recognisers read them; differentiable."""
    return align_faces(faces, CROP).movedim(-1, 1) * 2 - 1


def cut_crops(dataset: ImageSet, indices: Sequence[int], masked: bool) -> torch.Tensor:
    """Return aligned crops, uint8 [n, 112, 112, 3]; masked: heads on black, as FACT wants them."""
    faces = read_faces(dataset, indices)
    return (align_faces(faces, CROP, head_masks(faces) if masked else None) * 255).round().to(torch.uint8)


def cache_crops(path: Path, dataset: ImageSet, masked: bool) -> np.ndarray:
    """Return the crops of a whole set [n, 112, 112, 3], mapped into memory from the file `path`, which is made if need
    be.
    """
    if not path.is_file():
        part = path.with_suffix(".part")
        shape = len(dataset), CROP, CROP, 3
        array = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
        for start in range(0, len(dataset), _AT_ONCE):
            indices = range(start, min(start + _AT_ONCE, len(dataset)))
            array[start : indices.stop] = cut_crops(dataset, indices, masked).numpy()
        array.flush()
        part.replace(path)
    return np.load(path, mmap_mode="r")


def as_pixels(dataset: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Return images uint8 [b, h, w, 3] as networks read them: [b, 3, h, w] in -1..1."""
    return torch.as_tensor(dataset).movedim(-1, 1).float() / 127.5 - 1
