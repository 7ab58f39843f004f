"""Aligned crops of drawn people, made as the nodes make those of photographs, for training encoders."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ...faces.align import align_faces
from ...faces.headmask import head_masks
from ...faces.types import Face, Faces
from ..world.dataset import ImageSet

CROP = 112  # pixels a side
_AT_ONCE = 64


def known_faces(pictures: ImageSet, indices: Sequence[int]) -> Faces:
    """The faces of drawn pictures from the points they were drawn with."""
    images, points = pictures.pictures(indices).float() / 255, pictures.points(indices).numpy()
    side = float(pictures.recipe.size - 1)
    found = tuple((Face(five, (0.0, 0.0, side, side), 1.0),) for five in points)
    return Faces(images, found, "the drawn world")


def aligned_pixels(faces: Faces) -> torch.Tensor:
    """The aligned crops of all faces [n, 3, 112, 112] in -1..1, as recognisers read them; differentiable."""
    return align_faces(faces, CROP).movedim(-1, 1) * 2 - 1


def crops(pictures: ImageSet, indices: Sequence[int], masked: bool) -> torch.Tensor:
    """uint8 [n, 112, 112, 3]; masked: before black, as FACT wants them."""
    faces = known_faces(pictures, indices)
    return (align_faces(faces, CROP, head_masks(faces) if masked else None) * 255).round().to(torch.uint8)


def kept_crops(path: Path, pictures: ImageSet, masked: bool) -> np.ndarray:
    """The crops of a whole set [n, 112, 112, 3], mapped into memory from the file `path`, which is made if need be."""
    if not path.is_file():
        part = path.with_suffix(".part")
        shape = len(pictures), CROP, CROP, 3
        kept = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
        for indices in _runs(len(pictures)):
            kept[indices.start : indices.stop] = crops(pictures, indices, masked).numpy()
        kept.flush()
        part.replace(path)
    return np.load(path, mmap_mode="r")


def _runs(count: int) -> Iterator[range]:
    return (range(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE))


def as_pixels(pictures: torch.Tensor | np.ndarray) -> torch.Tensor:
    """uint8 [b, h, w, 3] -> [b, 3, h, w] in -1..1, as the networks read them."""
    return torch.as_tensor(pictures).movedim(-1, 1).float() / 127.5 - 1
