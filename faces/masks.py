"""Masks of faces and their parts, from landmarks or from face parsing, as box or hull, grown and feathered.

Everything is worked out in the small box of the image that the part can reach, so that large images stay quick.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import comfy.model_management
import numpy as np
import torch
from scipy import ndimage

from .geometry import PixelBox, box_corners, clip_box, fill_convex
from .headmask import head_outline
from .landmarks import complete
from .parsing import FaceParser
from .regions import PAIRS, dense, outline
from .types import Face, Faces

REGIONS = (
    *("face", "head", "hair", "left eye", "right eye", "both eyes", "nose", "mouth", "left brow", "right brow"),
    "brows",
)
SHAPES = ("hull", "box")
UNITS = ("per cent of the face", "pixels")

_FINEST = 4.0  # a blur wider than this many pixels is worked out at a coarser scale, where it has this width


@dataclass(frozen=True)
class MaskStyle:
    """How a mask is finished.

    shape: one of SHAPES; "box" is the upright box around the part, as a detector of boxes would give it, cut to the
        image afterwards; parsing, which sees nothing beyond the image, gives the box around what is in it.
    expand: how far the edge moves outwards; a negative number moves it inwards.
    feather: how far the soft edge reaches to either side of the hard one: a Gaussian of half that standard deviation.
    unit: of the two, one of UNITS; the face measures as the longer side of its box.
    """

    shape: str = "hull"
    expand: float = 0.0
    feather: float = 0.0
    unit: str = "pixels"

    def in_pixels(self, face: Face) -> tuple[float, float]:
        """Return expand and feather in pixels of the image."""
        scale = 1.0 if self.unit == "pixels" else max(face.sides) / 100
        return self.expand * scale, self.feather * scale


@dataclass(frozen=True)
class _Area:
    """A part before it is a mask: its bounds [k, 2] in the image, what fills a box with it, and its origin in words."""

    bounds: np.ndarray | None
    fill: Callable[[PixelBox], np.ndarray]
    source: str


def face_masks(
    faces: Faces, region: str, style: MaskStyle, parser: FaceParser | None = None
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return one mask per face, image by image, [n, H, W] in 0..1, and for each, in words, what it was made from.

    region: one of REGIONS. With a parser everything comes from parsing, otherwise from landmarks (see
    `landmarks.complete`) or, in their place, the five points. Without feather the masks hold 0 and 1 only. Raises
    ValueError for hair without a parser.
    """
    if region == "hair" and parser is None:
        raise ValueError(
            "Hair can only be masked by a face parser: connect Load Face Parser to face_parser, or choose the region "
            '"head", which is estimated without one.'
        )
    faces = faces if parser else complete(faces)
    height, width = faces.images.shape[1:3]
    masks, sources = [torch.zeros(0, height, width)], []
    for image, face in faces.pairs:
        comfy.model_management.throw_exception_if_processing_interrupted()
        areas = _find_areas(image, face, region, parser, style.shape == "box")
        mask = np.max([_finish(area, face, style, (height, width)) for area in areas], axis=0)
        masks.append(torch.from_numpy(mask)[None])
        sources.append(areas[0].source)
    return torch.cat(masks).to(faces.images.device), tuple(sources)


def join_per_image(faces: Faces, masks: torch.Tensor) -> torch.Tensor:
    """Join the masks [n, H, W] of the faces to one per image: [B, H, W], empty where there is no face."""
    joined = masks.new_zeros(faces.images.shape[:3])
    owners = [i for i, present in enumerate(faces.per_image) for _ in present]
    for owner, mask in zip(owners, masks):
        joined[owner] = torch.maximum(joined[owner], mask)
    return joined


def describe(region: str, masks: torch.Tensor, sources: tuple[str, ...]) -> str:
    """Say what the masks [n, H, W] of `region` were made from, and whether some of them are empty."""
    empty = int((masks.flatten(1).amax(dim=1) == 0).sum())
    remark = f"; {empty} of {len(masks)} masks empty" if empty else ""
    return f"{region}: {', '.join(dict.fromkeys(sources)) or 'no face'}{remark}"


def tint(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the images [B, H, W, 3] with what the masks [B, H, W] hold tinted and the rest dimmed."""
    weight = masks[..., None].to(images)
    tint = images.new_tensor([1.0, 0.35, 0.25])
    return images * 0.55 * (1 - weight) + (images * 0.6 + tint * 0.4) * weight


def _find_areas(image: torch.Tensor, face: Face, region: str, parser: FaceParser | None, box: bool) -> list[_Area]:
    parts = PAIRS.get(region, (region,))
    if parser is not None:
        parsing, source = parser.parse(image, face), f"BiSeNet face parsing ({parser.name})"
        fills = [_extend(partial(parsing.fill, part), image.shape[:2]) for part in parts]
        return [_Area(parsing.bounds(part), fill, source) for part, fill in zip(parts, fills)]
    if region == "head":
        points = "five points" if dense(face) is None else "landmarks"
        return [_outline_area(head_outline(face), f"head estimated from {points}", box)]
    return [_outline_area(*outline(face, part), box) for part in parts]


def _extend(fill: Callable[[PixelBox], np.ndarray], size: tuple[int, int]) -> Callable[[PixelBox], np.ndarray]:
    """Make `fill`, of a source that knows nothing beyond the image of `size` (H, W), repeat the border pixels there.

    Otherwise hair that leaves the image would be feathered, and shrunk, at the image's border.
    """

    def fill_beyond(box: PixelBox) -> np.ndarray:
        x0, y0, x1, y1 = box
        left, top, right, bottom = inside = clip_box(box, size)
        return np.pad(fill(inside), ((top - y0, y1 - bottom), (left - x0, x1 - right)), mode="edge")

    return fill_beyond


def _outline_area(corners: np.ndarray, source: str, box: bool) -> _Area:
    if box:
        corners = box_corners(*corners.min(axis=0), *corners.max(axis=0))
    return _Area(corners, lambda pixel_box: fill_convex(corners, pixel_box), source)


def _finish(area: _Area, face: Face, style: MaskStyle, size: tuple[int, int]) -> np.ndarray:
    """Return the finished mask [H, W], float32, of a part in an image of `size` (H, W)."""
    canvas = np.zeros(size, np.float32)
    expand, feather = style.in_pixels(face)
    box = None if area.bounds is None else _find_reach(area.bounds, size, abs(expand), feather)
    if box is None:
        return canvas
    mask = area.fill(box)
    mask = _box_around(mask, round(expand)) if style.shape == "box" else _expand(mask, expand)
    x0, y0, *_ = box
    left, top, right, bottom = clip_box(box, size)
    canvas[top:bottom, left:right] = _blur(mask, feather / 2)[top - y0 : bottom - y0, left - x0 : right - x0]
    return canvas


def _find_reach(bounds: np.ndarray, size: tuple[int, int], expand: float, feather: float) -> PixelBox | None:
    """Return the box of and around `bounds` that can matter to the image; None for a part too far outside to be seen.

    Beyond the image's edge it keeps what expansion or blur would bring in, and does not grow any further there.
    """
    limit = np.array(size[::-1])
    fade = int(np.ceil(1.5 * feather)) + 1  # three standard deviations
    reach = int(np.ceil(expand)) + fade
    low = np.maximum(np.floor(bounds.min(axis=0)).astype(int), -reach)
    high = np.minimum(np.ceil(bounds.max(axis=0)).astype(int) + 1, limit + reach)
    start = np.minimum(low, np.maximum(low - reach, -fade))
    stop = np.maximum(high, np.minimum(high + reach, limit + fade))
    visible = (low < high).all() and (start < limit).all() and (stop > 0).all()
    return (*start.tolist(), *stop.tolist()) if visible else None


def _expand(mask: np.ndarray, by: float) -> np.ndarray:
    """Return `mask`, bool [h, w], with its edge moved `by` pixels outwards in every direction, inwards if negative."""
    if by == 0 or not mask.any() or (by < 0 and mask.all()):
        return mask
    return ndimage.distance_transform_edt(~mask) <= by if by > 0 else ndimage.distance_transform_edt(mask) > -by


def _box_around(mask: np.ndarray, by: int) -> np.ndarray:
    """Return the upright box around `mask`, bool [h, w], with its edges moved outwards by `by` pixels."""
    box = np.zeros_like(mask)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if len(rows):
        (top, bottom), (left, right) = ((max(line[0] - by, 0), line[-1] + by + 1) for line in (rows, columns))
        box[top : max(bottom, 0), left : max(right, 0)] = True
    return box


def _blur(mask: np.ndarray, sigma: float) -> np.ndarray:
    """Return `mask`, bool [h, w], blurred by a Gaussian of `sigma` pixels, as float32."""
    soft = mask.astype(np.float32)
    if sigma <= 0:
        return soft
    block = max(1, int(sigma / _FINEST))
    height, width = mask.shape
    soft = np.pad(soft, ((0, -height % block), (0, -width % block)))
    small = soft.reshape(soft.shape[0] // block, block, -1, block).mean(axis=(1, 3))
    blurred = ndimage.gaussian_filter(small, sigma / block, mode="constant", truncate=3)
    if block > 1:
        whole = torch.from_numpy(blurred)[None, None]
        blurred = torch.nn.functional.interpolate(whole, scale_factor=block, mode="bilinear")[0, 0].numpy()
    return blurred[:height, :width]
