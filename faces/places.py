"""Where in a picture a person is to be: parts of it, boxes, heads; and how neighbouring places meet."""

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate, pad

from .geometry import fill_convex, move
from .headmask import head_outline
from .keypoints import find_fit
from .types import Face

# x, y, width and height in per cent of the picture.
PARTS = {
    "left half": (0, 0, 50, 100),
    "middle half": (25, 0, 50, 100),
    "right half": (50, 0, 50, 100),
    "left third": (0, 0, 100 / 3, 100),
    "middle third": (100 / 3, 0, 100 / 3, 100),
    "right third": (200 / 3, 0, 100 / 3, 100),
}
_GROWTH = 1.3  # of a head, so that hair and a chin of another shape have room


def fill_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> torch.Tensor:
    """Return a mask [H, W] of 0 and 1; box: x, y, width, height in per cent, cut at the picture's border."""
    height, width = size
    x, y, across, down = box
    x0, x1 = (round(width * edge / 100) for edge in (x, x + across))
    y0, y1 = (round(height * edge / 100) for edge in (y, y + down))
    mask = torch.zeros(size)
    mask[y0:y1, x0:x1] = 1
    return mask


def fill_head(face: Face, source: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """Return a mask [H, W] of 0 and 1: a face's estimated head, grown, in a picture of another size.

    source: (H, W) of the face's picture, which is brought to `size` by filling it, cut at its middle
    """
    corners = move(np.float64(head_outline(face)), find_fit(source, size))
    middle = corners.mean(axis=0)
    head = fill_convex(middle + _GROWTH * (corners - middle), (0, 0, size[1], size[0]))
    return torch.from_numpy(head.astype(np.float32))


def resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return a mask [H, W] in 0..1 stretched to another size."""
    return interpolate(mask[None, None].float(), size=size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)


def blend_places(places: torch.Tensor, percent: float) -> torch.Tensor:
    """Return places [n, H, W] with soft rims, scaled down where they overlap so that they sum to at most 1.

    percent: how wide a rim is, half of it to either side of the edge, in per cent of the shorter side. Rims of
    neighbours that share an edge sum to 1; at the picture's border there is none.
    """
    reach = round(percent / 200 * min(places.shape[-2:]))
    if reach:
        wide = pad(places[None], (reach,) * 4, mode="replicate")
        places = avg_pool2d(wide, 2 * reach + 1, stride=1)[0]
    return places / places.sum(dim=0).clamp(min=1)
