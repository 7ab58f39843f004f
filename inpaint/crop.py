"""Square windows with integer corners in an image: cut out and scaled for a model that works at one size.

Where a window reaches beyond the image, the image's outermost pixels are repeated: a black border would be a line
to an edge detector and a thing to paint to a model.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

from ..faces.geometry import clip_box
from ..faces.types import Face, Faces


class Window(NamedTuple):
    """A square of an image's pixels: its first column and row, which may be negative, and its side."""

    left: int
    top: int
    side: int


def window_around(box: tuple[float, ...], face_share: float) -> Window:
    """Return the window, centred on `box` up to whole pixels, of whose side the box's longer one is a share."""
    x0, y0, x1, y1 = box
    side = max(round((max(x1 - x0, y1 - y0) + 1) / face_share), 2)
    return Window(round((x0 + x1 - side + 1) / 2), round((y0 + y1 - side + 1) / 2), side)


def cut(image: torch.Tensor, window: Window) -> torch.Tensor:
    """Return the pixels of `image` [H, W, C] in a window: [side, side, C]; beyond the image its outermost repeat."""
    rows, columns = (
        torch.arange(start, start + window.side, device=image.device).clamp(0, length - 1)
        for start, length in zip((window.top, window.left), image.shape)
    )
    return image[rows][:, columns]


def resize(image: torch.Tensor, height: int, width: int | None = None) -> torch.Tensor:
    """Return `image` [H, W, C] of 0..1 at [height, width, C]: bicubic, without aliasing where it shrinks.

    width: None for that of a square.
    """
    shape = (height, width or height)
    if image.shape[:2] == shape:
        return image
    channels_first = image.movedim(-1, 0)[None]
    resized = torch.nn.functional.interpolate(channels_first, shape, mode="bicubic", antialias=True)
    return resized[0].movedim(0, -1).clamp(0, 1)


def nearest(values: np.ndarray, side: int) -> np.ndarray:
    """Return `values` [size, size] at [side, side]: for each pixel that of the pixel under its centre."""
    index = (2 * np.arange(side) + 1) * len(values) // (2 * side)
    return values[index][:, index]


def kernel_reach(window: Window, size: int) -> int:
    """Return from how far, in crop pixels, `resize` draws on a crop for a pixel of its window."""
    return int(np.ceil(2 * max(1, size / window.side) + 0.5))


def put(image: torch.Tensor, patch: torch.Tensor, weight: torch.Tensor, window: Window) -> torch.Tensor:
    """Return `image` [H, W, C] with `patch` [side, side, C] laid over its window by `weight` [side, side] of 0..1.

    Pixels of weight 0 stay as they are, to the last bit; what lies beyond the image is lost.
    """
    left, top, side = window
    x0, y0, x1, y1 = clip_box((left, top, left + side, top + side), image.shape[:2])
    inside = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    result = image.clone()
    result[y0:y1, x0:x1] = torch.lerp(image[y0:y1, x0:x1], patch[inside], weight[inside][..., None])
    return result


def in_crop(points: np.ndarray, window: Window, size: int) -> np.ndarray:
    """Return points [n, 2] of the image in pixels of the crop; pixel centres are at integers in both."""
    return (points - [window.left, window.top] + 0.5) * size / window.side - 0.5


def box_area(box: tuple[float, ...], window: Window, size: int) -> np.ndarray:
    """Return where the pixels of `box`, x0, y0, x1, y1 in the image, lie in the crop: bool [size, size]."""
    (x0, y0), (x1, y1) = in_crop(np.reshape(box, (2, 2)) + [[-0.5], [0.5]], window, size)
    pixels = np.arange(size)
    return ((y0 <= pixels) & (pixels <= y1))[:, None] & (x0 <= pixels) & (pixels <= x1)


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """n faces of B images, each ready to be inpainted; what travels on a FACE_CROP socket.

    originals: [B, H, W, 3], the whole images. owners: which of them, from 0, each face is in. faces, windows: the
    faces and where they were cut from. limits: bool [side, side], the pixels of each window that may change.
    images: [n, size, size, 3], the crops, other faces black. others: bool [n, size, size], where those are.
    areas: bool [n, size, size], the face. masks: float 0 or 1 [n, size, size], what is to be painted over.
    """

    originals: torch.Tensor
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
        """Pixels a side of the crops."""
        return self.images.shape[1]

    @property
    def found(self) -> Faces:
        """The faces in their images."""
        owned = list(zip(self.owners, self.faces))
        per_image = (tuple(face for owner, face in owned if owner == i) for i in range(len(self.originals)))
        return Faces(self.originals, tuple(per_image))

    def select(self, indices: list[int]) -> "FaceCrop":
        """Return the crops of some of the faces, by their place among these."""
        parts = {
            name: tuple(getattr(self, name)[i] for i in indices) for name in ("owners", "faces", "windows", "limits")
        }
        arrays = {name: getattr(self, name)[indices] for name in ("images", "others", "areas", "masks")}
        return replace(self, **parts, **arrays)


def dilate(area: np.ndarray, part: float) -> np.ndarray:
    """Return `area`, bool [h, w], grown by a square kernel whose side is a part of the square root of what it covers.

    FACT's dilations are all stated so; each edge moves by half of that.
    """
    return grow(area, max(int(part * np.sqrt(np.count_nonzero(area))), 1))


def grow(area: np.ndarray, side: int) -> np.ndarray:
    """Return `area`, bool [h, w], grown by a square kernel of `side` pixels."""
    return ndimage.maximum_filter(area.astype(np.uint8), side, mode="constant") > 0
