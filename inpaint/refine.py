"""Faces of pictures in square crops with some of what is around them, each to be painted anew and put back.

Unlike the crops of FACT (`crop.prepare`) they show the other faces, and what may change is settled in the picture: no
pixel belongs to two faces, so that they can be painted and pasted in any order.
"""

from dataclasses import replace
from typing import NamedTuple

import comfy.model_management
import numpy as np
import torch

from ..faces.detector import as_rgb
from ..faces.masks import MaskStyle, face_masks
from ..faces.types import Face, Faces
from .crop import FaceCrop, Window, cut, resize, window_around

EVERY_FACE = -1  # where a face's number is asked for


class Place(NamedTuple):
    """A face to paint: the picture it is in, its number there, where it is cut out and which pixels may change."""

    picture: int
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
) -> tuple[FaceCrop, tuple[int, ...]]:
    """The wanted faces of the pictures [B, H, W, C], picture by picture, and each one's number in its picture.

    faces: found in these very pictures; a stand-in for a face that was not found is none. mask: [1 or B, H, W], what
    may change, instead of the faces' estimated outlines; without faces everything it holds is one place, number 0.
    wanted: numbers of faces: the place from the left, or the person's number in a followed video; EVERY_FACE among them
    stands for all. A picture without any of them is in the result, but nothing of it is cut out.
    Raises ValueError where there is nothing to paint, or what is given does not fit the pictures.
    """
    images = as_rgb(images)
    mask = None if mask is None else _mask_of(mask, images)
    if faces is None and mask is None:
        raise ValueError("Nothing says what to paint: connect faces (from Detect Faces), mask, or both.")
    if faces is not None:
        _check_faces(faces, images)
    places = []
    for i, image in enumerate(images):
        comfy.model_management.throw_exception_if_processing_interrupted()
        own = None if mask is None else mask[i % len(mask)]
        found = _in_mask(own) if faces is None else _numbered(faces.found[i])
        places += _places(i, image, found, own, style)
    _check_wanted({place.number for place in places}, wanted, mask is not None)
    places = [place for place in places if EVERY_FACE in wanted or place.number in wanted]
    return _crop(images, places, style.size), tuple(place.number for place in places)


def outline(image: torch.Tensor, face: Face, region: str, style: CropStyle) -> torch.Tensor:
    """Which pixels of the picture [H, W, 3] are the region (see masks.REGIONS) of a face, edge moved: bool [H, W]."""
    # Of a crop whose side is 1 / face_share of the face.
    per_cent = 100 * style.expand / (style.size * style.face_share)
    drawn = MaskStyle(style.shape, expand=per_cent, unit="per cent of the face")
    (mask,), _ = face_masks(Faces(image[None], ((face,),)), region, drawn)
    return mask.cpu() > 0.5


def area_in_crop(area: torch.Tensor, window: Window, size: int) -> torch.Tensor:
    """`area`, bool [H, W], in a crop: bool [size, size]; what is too small to fill half a pixel of it stays too."""
    soft = resize(cut(area[..., None].float(), window), size)[..., 0]
    return soft > min(0.5, soft.max() / 2)


def greyed(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Pictures [n, H, W, 3] as inpainting models are shown them: grey where the masks [n, H, W] are above a half."""
    return (images - 0.5) * (1 - masks.round())[..., None].to(images) + 0.5


def apart(masks: list[torch.Tensor], faces: list[Face]) -> list[torch.Tensor]:
    """Masks, bool [H, W], of as many faces, without overlaps: a pixel of several goes to the nearest of these faces.

    Near is measured from the middle of a face's box, in units of the box's longer side.
    """
    nearest = torch.full(masks[0].shape, torch.inf)
    owner = torch.full(masks[0].shape, -1, dtype=torch.int16)
    rows, columns = (torch.arange(length, dtype=torch.float32) for length in masks[0].shape)
    for i, (mask, face) in enumerate(zip(masks, faces)):
        x0, y0, x1, y1 = face.box
        squared = (rows[:, None] - (y0 + y1) / 2) ** 2 + (columns - (x0 + x1) / 2) ** 2
        distance = squared / (max(x1 - x0, y1 - y0) + 1) ** 2
        nearer = mask & (distance < nearest)
        nearest[nearer], owner[nearer] = distance[nearer], i
    return [owner == i for i in range(len(masks))]


def _places(
    i: int, image: torch.Tensor, found: list[tuple[int, Face]], mask: torch.Tensor | None, style: CropStyle
) -> list[Place]:
    """The places of one picture [H, W, 3]; a face of which the mask holds nothing has none."""
    if not found:
        return []
    numbers, faces = zip(*found)
    windows = [window_around(face.box, style.face_share) for face in faces]
    outlines = [outline(image, face, "face", style) if mask is None else mask for face in faces]
    areas = apart([_within(area, window) for area, window in zip(outlines, windows)], faces)
    return [Place(i, *each) for each in zip(numbers, faces, windows, areas) if each[-1].any()]


def _crop(images: torch.Tensor, places: list[Place], size: int) -> FaceCrop:
    windows = [place.window for place in places]
    limits = (cut(place.area[..., None], place.window)[..., 0] for place in places)
    masks = torch.stack([area_in_crop(place.area, place.window, size) for place in places])
    return FaceCrop(
        pictures=images,
        owners=tuple(place.picture for place in places),
        faces=tuple(place.face for place in places),
        windows=tuple(windows),
        limits=tuple(limits),
        images=torch.stack([resize(cut(images[place.picture], place.window), size) for place in places]),
        others=np.zeros(masks.shape, dtype=bool),
        areas=masks.numpy(),
        masks=masks.to(images),
    )


def _within(area: torch.Tensor, window: Window) -> torch.Tensor:
    """`area`, bool [H, W], without what lies outside the window."""
    left, top, side = window
    inside = torch.zeros_like(area)
    rows, columns = slice(max(top, 0), max(top + side, 0)), slice(max(left, 0), max(left + side, 0))
    inside[rows, columns] = area[rows, columns]
    return inside


def _numbered(found: tuple[Face, ...]) -> list[tuple[int, Face]]:
    """The found faces with their numbers; stand-ins, which have no score, are left out."""
    return [(place if face.number is None else face.number, face) for place, face in enumerate(found) if face.score > 0]


def _in_mask(mask: torch.Tensor) -> list[tuple[int, Face]]:
    """What a mask [H, W] holds, as if it were one face."""
    rows, columns = (torch.nonzero(mask.any(dim=axis))[:, 0].tolist() for axis in (1, 0))
    if not rows:
        return []
    box = float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])
    return [(0, replace(_NOBODY, box=box))]


_NOBODY = Face(np.zeros((5, 2), np.float32), (0.0, 0.0, 1.0, 1.0), 0.0)


def _mask_of(mask: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    batch, height, width = images.shape[:3]
    mask = mask.reshape(-1, *mask.shape[-2:])
    if tuple(mask.shape[1:]) != (height, width):
        raise ValueError(
            f"mask is {mask.shape[2]} x {mask.shape[1]} pixels, the picture is {width} x {height}: make it from that "
            "very picture, or scale it to its size."
        )
    if len(mask) not in (1, batch):
        raise ValueError(f"mask holds {len(mask)} masks for {batch} pictures: give one, or one for each.")
    if not (mask > 0.5).any():
        raise ValueError("There is nothing to paint: mask is empty. Paint what may change white, or disconnect it.")
    return mask.cpu() > 0.5


def _check_faces(faces: Faces, images: torch.Tensor) -> None:
    if faces.images.shape[:3] != images.shape[:3]:
        (count, height, width), (batch, tall, wide) = faces.images.shape[:3], images.shape[:3]
        raise ValueError(
            f"faces were found in {count} pictures of {width} x {height}, but image holds {batch} of {wide} x {tall}: "
            "send the same pictures through Detect Faces."
        )


def _check_wanted(there: set[int], wanted: tuple[int, ...], masked: bool) -> None:
    if not there:
        raise ValueError(
            "There is nothing to paint: "
            + ("the mask holds nothing of any face." if masked else "no face was found in any picture.")
            + " Look at the picture that Detect Faces shows, or connect a mask without faces."
        )
    if missing := sorted({*wanted} - {EVERY_FACE} - there):
        raise ValueError(
            f"There is no face {missing[0]} in any picture, only {sorted(there)}: change index, or set choose to "
            '"all" in Detect Faces.'
        )
