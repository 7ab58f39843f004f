"""Similarity alignment of a face to the ArcFace template (the crop every identity encoder here was trained on)."""

from itertools import product

import numpy as np
import torch

from .geometry import invert, similarity
from .types import Faces

ARCFACE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def template(size: int) -> np.ndarray:
    """Return the five template points [5, 2] for a `size` x `size` crop.

    A size divisible by 128 but not by 112 scales by size/128 and shifts x by 8 * size/128, as insightface crops do;
    every other size scales by size/112. Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"The crop size must be at least 1 pixel, not {size}.")
    if size % 128 == 0 and size % 112:
        return (ARCFACE_112 + [8.0, 0.0]) * (size / 128)
    return ARCFACE_112 * (size / 112)


def in_template_order(points: np.ndarray) -> np.ndarray:
    """Return five points [5, 2] with both eyes and both mouth corners swapped where they run the wrong way round.

    A face in an image, at any roll, has its mouth to the right-hand side of the way from the template's first eye to
    its second. Points named after the subject of a mirrored image run the other way, and no similarity fits those.
    """
    across, down = points[1] - points[0], points[3:].mean(axis=0) - points[:2].mean(axis=0)
    return points if across[0] * down[1] >= across[1] * down[0] else points[[1, 0, 2, 4, 3]]


def measure_roll(points: np.ndarray) -> float:
    """Return by how many degrees the face of five points [5, 2] in template order is turned clockwise: -180..180."""
    across, down = points[1] - points[0], points[3:].mean(axis=0) - points[:2].mean(axis=0)
    # Both say it, the mouth's way turned back by a quarter; the longer one, of a face from the front, weighs more.
    return float(np.degrees(np.arctan2(across[1] - down[0], across[0] + down[1])))


def warp(image: torch.Tensor, matrix: np.ndarray, size: int) -> torch.Tensor:
    """Cut the crop that `matrix` [2, 3] (image -> crop) describes out of `image` [H, W, C].

    Returns [size, size, C] on the image's device: bilinear, black outside the image. A crop much smaller than the
    face aliases, and stays so on purpose: the published networks were trained on plain bilinear crops.
    """
    height, width, channels = image.shape
    # Coordinates are worked out on the CPU in double precision, which some accelerators lack, then only gathered.
    inverse = invert(matrix)
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    x, y = (inverse[i, 0] * columns + inverse[i, 1] * rows + inverse[i, 2] for i in range(2))
    crop = image.new_zeros(size, size, channels)
    for dx, dy in product((0, 1), (0, 1)):
        column, row = np.floor(x) + dx, np.floor(y) + dy
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        weight = (1 - abs(x - column)) * (1 - abs(y - row)) * inside
        row, column = row.clip(0, height - 1).astype(np.int64), column.clip(0, width - 1).astype(np.int64)
        pixels = image[torch.from_numpy(row).to(image.device), torch.from_numpy(column).to(image.device)]
        crop += pixels * torch.from_numpy(weight)[..., None].to(pixels)
    return crop


def align_faces(faces: Faces, size: int, background: torch.Tensor | None = None) -> torch.Tensor:
    """Cut the aligned crops of all faces, image by image: [n, size, size, 3] in 0..1.

    background: masks [n, H, W], one per face in the same order (1 keeps, 0 blackens, as FACT's input wants), or None
    to leave the images whole. Raises ValueError where the masks do not fit the faces.
    """
    pairs = faces.pairs
    if background is not None and background.shape != (len(pairs), *faces.images.shape[1:3]):
        raise ValueError(
            f"Expected one mask per face, {[len(pairs), *faces.images.shape[1:3]]} (faces, height, width), "
            f"not {list(background.shape)}: use masks of the pictures the faces were found in."
        )
    crops = [faces.images.new_zeros(0, size, size, 3)]
    for i, (image, face) in enumerate(pairs):
        if background is not None:
            image = image * background[i, ..., None].to(image)
        crops.append(warp(image, similarity(face.points, template(size)), size)[None])
    return torch.cat(crops)
