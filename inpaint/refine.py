"""Faces of images in square crops with some of what is around them, each to be painted anew and put back.

Unlike the crops of FACT (`fact_crop.prepare`) they show the other faces, and what may change is settled in the image:
no pixel belongs to two faces, so that they can be painted and pasted in any order.
"""

from typing import NamedTuple

import comfy.model_management
import numpy as np
import torch

from ..faces.choose import lay_out
from ..faces.detector import as_rgb
from ..faces.geometry import clip_box
from ..faces.masks import MaskStyle, face_masks
from ..faces.types import Face, Faces, list_numbers
from .crop import FaceCrop, Window, cut, resize, window_around

EVERY_FACE = -1  # where a face's number is asked for


class Target(NamedTuple):
    """A face to paint: the image it is in, its number there, where it is cut out and which pixels may change."""

    image: int
    number: int
    face: Face
    window: Window
    area: torch.Tensor


class CropStyle(NamedTuple):
    """How faces are cut out and masked.

    face_share: longer side of the face's box as a part of the crop's side. size: side of the crop in its own pixels.
    shape: one of masks.SHAPES. expand: how far the edge of the face is moved outwards, in pixels of the crop.
    """

    face_share: float = 0.5
    size: int = 512
    shape: str = "box"
    expand: float = 0.0


def refine_crops(
    images: torch.Tensor,
    faces: Faces | None,
    mask: torch.Tensor | None,
    wanted: tuple[int, ...],
    style: CropStyle,
    none_is_well: bool = False,
) -> tuple[FaceCrop, tuple[int, ...]]:
    """Cut out the wanted faces of images [B, H, W, C], image by image; return also each one's number in its image.

    faces: found in these very images; a stand-in for a face that was not found is none. mask: [1 or B, H, W], what
    may change, instead of the faces' estimated outlines; without faces everything it holds is one face, number 0.
    wanted: numbers of faces: the index from the left, or the person's number in a followed video; EVERY_FACE among them
    stands for all. An image without any of them is in the result, but nothing of it is cut out.
    none_is_well: wanted faces that are not there are left out, and there may be nothing to paint at all.
    Raises ValueError where there is nothing to paint, or what is given does not fit the images.
    """
    images = as_rgb(images)
    mask = None if mask is None else _check_mask(mask, images, none_is_well)
    if faces is None and mask is None:
        raise ValueError("Nothing says what to paint: connect faces (from Detect Faces), mask, or both.")
    if faces is not None:
        faces = lay_out(faces, images)
    if faces is not None and faces.images.shape[:3] != images.shape[:3]:
        (count, height, width), (batch, tall, wide) = faces.images.shape[:3], images.shape[:3]
        raise ValueError(
            f"faces were found in {count} pictures of {width} x {height}, but image holds {batch} of {wide} x {tall}: "
            "send the same pictures through Detect Faces."
        )
    targets = []
    for i, image in enumerate(images):
        comfy.model_management.throw_exception_if_processing_interrupted()
        area = None if mask is None else mask[i % len(mask)]
        if faces is None:
            numbered = _read_mask(area)
        else:  # but for stand-ins, which have no score
            present = faces.per_image[i]
            numbered = [(number, face) for number, face in zip(list_numbers(present), present) if face.score > 0]
        targets += _find_targets(i, image, numbered, area, style)
    if not none_is_well:
        _check_wanted({target.number for target in targets}, wanted, mask is not None)
    targets = [target for target in targets if EVERY_FACE in wanted or target.number in wanted]
    return _make_crop(images, targets, style.size), tuple(target.number for target in targets)


def outline(image: torch.Tensor, face: Face, region: str, style: CropStyle) -> torch.Tensor:
    """Return which pixels of an image [H, W, 3] are a region (of masks.REGIONS) of a face, edge moved: bool [H, W]."""
    # Of a crop whose side is 1 / face_share of the face.
    per_cent = 100 * style.expand / (style.size * style.face_share)
    mask_style = MaskStyle(style.shape, expand=per_cent, unit="per cent of the face")
    (mask,), _ = face_masks(Faces(image[None], ((face,),)), region, mask_style)
    return mask.cpu() > 0.5


def area_in_crop(area: torch.Tensor, window: Window, size: int) -> torch.Tensor:
    """Return `area`, bool [H, W], in a crop: bool [size, size]; what is too small to fill half a pixel stays too."""
    soft = resize(cut(area[..., None].float(), window), size)[..., 0]
    return soft > min(0.5, soft.max() / 2)


def grey_out(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return images [n, H, W, 3] as inpainting models are shown them: grey where masks [n, H, W] are above a half."""
    return (images - 0.5) * (1 - masks.round())[..., None].to(images) + 0.5


def separate(masks: list[torch.Tensor], faces: list[Face]) -> list[torch.Tensor]:
    """Return masks, bool [H, W], of as many faces, without overlaps: a pixel of several goes to the nearest face.

    Near is measured from the middle of a face's box, in units of the box's longer side.
    """
    nearest = torch.full(masks[0].shape, torch.inf)
    owner = torch.full(masks[0].shape, -1, dtype=torch.int16)
    rows, columns = (torch.arange(length, dtype=torch.float32) for length in masks[0].shape)
    for i, (mask, face) in enumerate(zip(masks, faces)):
        x, y = face.centre.tolist()
        squared = (rows[:, None] - y) ** 2 + (columns - x) ** 2
        distance = squared / (max(face.sides) + 1) ** 2
        nearer = mask & (distance < nearest)
        nearest[nearer], owner[nearer] = distance[nearer], i
    return [owner == i for i in range(len(masks))]


def _find_targets(
    i: int, image: torch.Tensor, numbered: list[tuple[int, Face]], mask: torch.Tensor | None, style: CropStyle
) -> list[Target]:
    """Return the targets of image `i`, [H, W, 3]; a face of which the mask, bool [H, W], holds nothing is none."""
    if not numbered:
        return []
    numbers, faces = zip(*numbered)
    windows = [window_around(face.box, style.face_share) for face in faces]
    areas = []
    for face, window in zip(faces, windows):
        area = outline(image, face, "face", style) if mask is None else mask
        left, top, side = window
        x0, y0, x1, y1 = clip_box((left, top, left + side, top + side), area.shape)
        inside = torch.zeros_like(area)
        inside[y0:y1, x0:x1] = area[y0:y1, x0:x1]
        areas.append(inside)
    targets = zip(numbers, faces, windows, separate(areas, faces))
    return [Target(i, *target) for target in targets if target[-1].any()]


def _make_crop(images: torch.Tensor, targets: list[Target], size: int) -> FaceCrop:
    windows = [target.window for target in targets]
    limits = (cut(target.area[..., None], target.window)[..., 0] for target in targets)
    crops = [resize(cut(images[target.image], target.window), size) for target in targets]
    masks = [area_in_crop(target.area, target.window, size) for target in targets]
    masks = torch.stack(masks) if masks else torch.zeros(0, size, size, dtype=torch.bool)
    return FaceCrop(
        originals=images,
        owners=tuple(target.image for target in targets),
        faces=tuple(target.face for target in targets),
        windows=tuple(windows),
        limits=tuple(limits),
        images=torch.stack(crops) if crops else images.new_zeros(0, size, size, 3),
        others=np.zeros(masks.shape, dtype=bool),
        areas=masks.numpy(),
        masks=masks.to(images),
    )


def _read_mask(mask: torch.Tensor) -> list[tuple[int, Face]]:
    """Return what a mask, bool [H, W], holds as if it were one face, number 0; an empty one holds none."""
    rows, columns = (torch.nonzero(mask.any(dim=axis))[:, 0].tolist() for axis in (1, 0))
    if not rows:
        return []
    box = float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])
    return [(0, Face(np.zeros((5, 2), np.float32), box, 0.0))]


def _check_mask(mask: torch.Tensor, images: torch.Tensor, may_be_empty: bool) -> torch.Tensor:
    """Return the mask as bool [1 or B, H, W]; raise ValueError where it does not fit the images or is empty."""
    batch, height, width = images.shape[:3]
    mask = mask.reshape(-1, *mask.shape[-2:])
    if tuple(mask.shape[1:]) != (height, width):
        raise ValueError(
            f"mask is {mask.shape[2]} x {mask.shape[1]} pixels, the picture is {width} x {height}: make it from that "
            "very picture, or scale it to its size."
        )
    if len(mask) not in (1, batch):
        raise ValueError(f"mask holds {len(mask)} masks for {batch} pictures: give one, or one for each.")
    if not (may_be_empty or (mask > 0.5).any()):
        raise ValueError("There is nothing to paint: mask is empty. Paint what may change white, or disconnect it.")
    return mask.cpu() > 0.5


def _check_wanted(present: set[int], wanted: tuple[int, ...], masked: bool) -> None:
    if not present:
        raise ValueError(
            "There is nothing to paint: "
            + ("the mask holds nothing of any face." if masked else "no face was found in any picture.")
            + " Look at the picture that Detect Faces shows, connect a mask without faces, or set if_no_face of Refine "
            'Faces to "pass through".'
        )
    if missing := sorted({*wanted} - {EVERY_FACE} - present):
        raise ValueError(
            f"There is no face {missing[0]} in any picture, only {sorted(present)}: change index, or set choose to "
            '"all" in Detect Faces.'
        )
