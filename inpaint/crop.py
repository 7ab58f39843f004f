"""Square windows with integer corners in a picture: cut out and scaled for a model that works at one size.

Where a window reaches beyond the picture, the picture's outermost pixels are repeated: a black border would be a line
to an edge detector and a thing to paint to a model.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

from ..faces.types import Face


class Window(NamedTuple):
    """A square of a picture's pixels: its first column and row, which may be negative, and its side."""

    left: int
    top: int
    side: int


def window_around(box: tuple[float, ...], face_share: float) -> Window:
    """The window, centred on `box` as nearly as whole pixels allow, of whose side the box's longer one is a share."""
    x0, y0, x1, y1 = box
    side = max(round((max(x1 - x0, y1 - y0) + 1) / face_share), 2)
    return Window(round((x0 + x1 - side + 1) / 2), round((y0 + y1 - side + 1) / 2), side)


def cut(picture: torch.Tensor, window: Window) -> torch.Tensor:
    """The pixels of `picture` [H, W, C] in a window: [side, side, C]; beyond the picture its outermost repeat."""
    rows, columns = (
        torch.arange(start, start + window.side, device=picture.device).clamp(0, length - 1)
        for start, length in zip((window.top, window.left), picture.shape)
    )
    return picture[rows][:, columns]


def resize(picture: torch.Tensor, size: int) -> torch.Tensor:
    """`picture` [side, side, C] of 0..1 at [size, size, C]: bicubic, without aliasing where it shrinks."""
    if len(picture) == size:
        return picture
    channels_first = picture.movedim(-1, 0)[None]
    resized = torch.nn.functional.interpolate(channels_first, (size, size), mode="bicubic", antialias=True)
    return resized[0].movedim(0, -1).clamp(0, 1)


def nearest(values: np.ndarray, side: int) -> np.ndarray:
    """`values` [size, size] at [side, side]: for each pixel that of the pixel under its centre."""
    at = (2 * np.arange(side) + 1) * len(values) // (2 * side)
    return values[at][:, at]


def kernel_reach(window: Window, size: int) -> int:
    """Of what `resize` makes of a crop for its window, any pixel depends on crop pixels so near to the one under it."""
    return int(np.ceil(2 * max(1, size / window.side) + 0.5))


def put(picture: torch.Tensor, patch: torch.Tensor, weight: torch.Tensor, window: Window) -> torch.Tensor:
    """`picture` [H, W, C] with `patch` [side, side, C] laid over its window by `weight` [side, side] of 0..1.

    Pixels of weight 0 stay as they are, to the last bit; what lies beyond the picture is lost.
    """
    (rows, patch_rows), (columns, patch_columns) = (
        _visible(start, window.side, length) for start, length in zip((window.top, window.left), picture.shape)
    )
    whole = picture.clone()
    seen, weight = whole[rows, columns], weight[patch_rows, patch_columns, None]
    whole[rows, columns] = torch.lerp(seen, patch[patch_rows, patch_columns], weight)
    return whole


def in_crop(points: np.ndarray, window: Window, size: int) -> np.ndarray:
    """Points [n, 2] of the picture in pixels of the crop; pixel centres are at integers in both."""
    return (points - [window.left, window.top] + 0.5) * size / window.side - 0.5


def box_area(box: tuple[float, ...], window: Window, size: int) -> np.ndarray:
    """Where the pixels of `box`, x0, y0, x1, y1 in the picture, lie in the crop: bool [size, size]."""
    (x0, y0), (x1, y1) = in_crop(np.reshape(box, (2, 2)) + [[-0.5], [0.5]], window, size)
    pixels = np.arange(size)
    return ((y0 <= pixels) & (pixels <= y1))[:, None] & (x0 <= pixels) & (pixels <= x1)


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """n faces of B pictures, each ready to be inpainted; what travels on a FACE_CROP socket.

    pictures: [B, H, W, 3], whole. owners: which picture, from 0, each face is in. faces, windows: the faces, and where
    they were cut from. limits: bool [side, side], the pixels of each window that may change.
    images: [n, size, size, 3], the crops, other faces black. others: bool [n, size, size], where those are.
    areas: bool [n, size, size], the face. masks: float 0 or 1 [n, size, size], what is to be painted over.
    """

    pictures: torch.Tensor
    owners: tuple[int, ...]
    faces: tuple[Face, ...]
    windows: tuple[Window, ...]
    limits: tuple[torch.Tensor, ...]
    images: torch.Tensor
    others: np.ndarray
    areas: np.ndarray
    masks: torch.Tensor

    @property
    def size(self) -> int:
        return self.images.shape[1]


def dilate(area: np.ndarray, part: float) -> np.ndarray:
    """`area`, bool [h, w], grown by a square kernel whose side is a part of the square root of what it covers.

    FACT's dilations are all stated so; each edge moves by half of that.
    """
    return grow(area, max(int(part * np.sqrt(np.count_nonzero(area))), 1))


def grow(area: np.ndarray, side: int) -> np.ndarray:
    return ndimage.maximum_filter(area.astype(np.uint8), side, mode="constant") > 0


def _visible(start: int, side: int, length: int) -> tuple[slice, slice]:
    """Which part of a window's rows (or columns) a picture has: as rows of the picture, and as rows of the window."""
    first = min(max(start, 0), length)
    last = max(min(start + side, length), first)
    return slice(first, last), slice(first - start, last - start)
