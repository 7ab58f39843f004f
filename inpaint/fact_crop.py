"""One face of a picture in a square crop to inpaint, with what is to be painted over (docs/papers.md 2.7).

Masks and edges are made in the prepared crop of `size` x `size` pixels, as FACT's are, and not in the picture.
"""

import numpy as np
import torch

from ..faces.align import template, warp
from ..faces.choose import choose
from ..faces.detector import as_bytes, as_rgb
from ..faces.geometry import convex_hull, ellipse, fill_convex, move, similarity
from ..faces.regions import dense
from ..faces.types import Face, Faces
from .canny import canny
from .crop import FaceCrop, Window, box_area, cut, dilate, grow, in_crop, resize, window_around

# FACT's dilations: sides of square kernels as parts of the square root of the dilated area.
_PAINTED, _JAW, _UNDRAWN = 0.04, 0.1, 0.05
_POSE_REACH = 7  # side in pixels of the kernel that takes the face out of a pose map
_DONOR_SHARE = 1.5  # of the donor's face box is shown to the pose detector
# Centre and half-axes of a face from hairline to chin, in pixels of the 112 template, and the height of its eyes.
_FACE_CENTRE, _FACE_RADII, _EYE_LINE = np.array([56.0, 72.0]), np.array([40.0, 47.0]), 51.6


def prepare(
    faces: Faces, index: int, face_share: float, size: int, face_mask: torch.Tensor | None, donor: Faces | None
) -> tuple[FaceCrop, torch.Tensor]:
    """Cut out one face of every picture; the second result is the same crops with the donor's face laid over it.

    index: see `chosen`. face_share: longer side of the face's box as a part of the crop's side. face_mask: [m, H, W],
    the faces in the pictures, m = 1 or B, or None to estimate them. donor: pictures, 1 or B, whose largest faces are
    laid over the ones chosen, or None. Raises ValueError where face, mask or donor is missing or does not fit.
    """
    pictures = faces.images
    kept = [chosen(faces, i, index) for i in range(len(pictures))]
    windows = [window_around(face.box, face_share) for face in kept]
    images = torch.stack([resize(cut(picture, window), size) for picture, window in zip(pictures, windows)])
    others = np.stack([_others(found, *rest, size) for found, *rest in zip(faces.found, kept, windows)])
    if face_mask is None:
        areas = np.stack([face_area(face, window, size) for face, window in zip(kept, windows)]) & ~others
    else:
        areas = _cut_masks(face_mask, pictures, windows, size) & ~others
    _check_areas(areas, index)
    images = images * torch.from_numpy(~others)[..., None].to(images)
    composite, warped = _with_donor(images, kept, windows, donor)
    below = [below_eyes(face, window, size) for face, window in zip(kept, windows)]
    masks = np.stack([inpaint_mask(*parts) for parts in zip(areas, below, warped)]) & ~others
    masks = torch.from_numpy(masks).to(images)
    whole = tuple(torch.ones(window.side, window.side, dtype=torch.bool) for window in windows)
    owners = tuple(range(len(kept)))
    return FaceCrop(pictures, owners, tuple(kept), tuple(windows), whole, images, others, areas, masks), composite


def chosen(faces: Faces, picture: int, index: int) -> Face:
    """The face `index` of a picture, from 0: the place from the left, or the person's number in a followed video.

    Raises ValueError where there is none.
    """
    found = faces.found[picture]
    named = {place if face.number is None else face.number: face for place, face in enumerate(found)}
    if index not in named:
        raise ValueError(
            f"Picture {picture + 1} of {len(faces.found)} has no face {index}, only {sorted(named) or 'none at all'}: "
            'change index, or set choose to "all" in Detect Faces.'
        )
    return named[index]


def face_area(face: Face, window: Window, size: int) -> np.ndarray:
    """Where `face` is in its crop, from hairline to chin: bool [size, size]."""
    return _fill(in_crop(face_outline(face), window, size), size)


def face_outline(face: Face) -> np.ndarray:
    """Points [n, 2] in the picture whose convex hull is the face.

    Dense landmarks, with the upper half of an average face's oval for a forehead that they may not reach; without
    them the whole oval. The five points' similarity places it.
    """
    oval = ellipse(_FACE_CENTRE, _FACE_RADII)
    to_picture = similarity(template(112), face.points)
    landmarks = dense(face)
    if landmarks is None:
        return move(oval, to_picture)
    return np.concatenate([move(oval[oval[:, 1] < _EYE_LINE], to_picture), landmarks])


def below_eyes(face: Face, window: Window, size: int) -> np.ndarray:
    """The side of the line through the eyes on which the mouth is: bool [size, size]."""
    right, left, *_, mouth_right, mouth_left = in_crop(face.points.astype(np.float64), window, size)
    x, y = left - right
    rows, columns = np.mgrid[:size, :size]
    depth = x * (rows - right[1]) - y * (columns - right[0])
    mouth = (mouth_right + mouth_left) / 2 - right
    return depth * (x * mouth[1] - y * mouth[0]) > 0


def inpaint_mask(area: np.ndarray, below: np.ndarray, warped: np.ndarray) -> np.ndarray:
    """What is to be painted over (docs/papers.md 2.7, step 4), all bool [size, size].

    The face `area` a little dilated; and below the eyes, where a jaw of another shape needs room, more dilated, but
    only where the donor's face `warped` onto this one lies.
    """
    return dilate(area, _PAINTED) | (dilate(area, _JAW) & below & (area | warped))


def canny_without_face(crop: FaceCrop) -> torch.Tensor:
    """The crops' edges, white on black [B, size, size, 3], none in the face below the eyes or around other faces."""
    drawn = []
    for pixels, face, window, area, others in zip(
        as_bytes(crop.images), crop.faces, crop.windows, crop.areas, crop.others
    ):
        undrawn = dilate(area, _UNDRAWN) & below_eyes(face, window, crop.size)
        drawn.append(canny(pixels) & ~undrawn & ~grow(others, 5))  # 5: Sobel sees the black's rim two pixels away
    return torch.from_numpy(np.stack(drawn))[..., None].expand(-1, -1, -1, 3).to(crop.images)


def cut_control(crop: FaceCrop, control: torch.Tensor | None) -> torch.Tensor:
    """The crops [B, size, size, 3] of maps [m, H, W, C] of the whole pictures; black outside them, or without a map.

    Raises ValueError where the maps are not of the pictures' size or number.
    """
    if control is None:
        return torch.zeros_like(crop.images)
    maps = _of_pictures(as_rgb(control), crop.pictures, "control_image").to(crop.images)
    # With one row and column of black around it, the outermost pixels that `cut` repeats are black.
    maps = torch.nn.functional.pad(maps, (0, 0, 1, 1, 1, 1))
    windows = (Window(left + 1, top + 1, side) for left, top, side in crop.windows)
    return torch.stack([resize(cut(m, window), crop.size) for m, window in zip(maps, windows)])


def without_face(crop: FaceCrop, control: torch.Tensor) -> torch.Tensor:
    """`control` [B, size, size, 3] with the face blackened, so that a pose map leaves the expression free."""
    faceless = np.stack([~grow(area, _POSE_REACH) for area in crop.areas])
    return control * torch.from_numpy(faceless)[..., None].to(control)


def _others(found: tuple[Face, ...], face: Face, window: Window, size: int) -> np.ndarray:
    """Where the boxes of the other faces lie in the crop, and not the chosen one's: bool [size, size]."""
    others = np.zeros((size, size), dtype=bool)
    for other in found:
        if other is not face:
            others |= box_area(other.box, window, size)
    return others & ~box_area(face.box, window, size)


def _cut_masks(masks: torch.Tensor, pictures: torch.Tensor, windows: list[Window], size: int) -> np.ndarray:
    masks = _of_pictures(masks.reshape(-1, *masks.shape[-2:], 1), pictures, "face_mask")
    resized = [resize(cut(mask, window), size)[..., 0] for mask, window in zip(masks, windows)]
    return (torch.stack(resized) > 0.5).cpu().numpy()


def _with_donor(
    images: torch.Tensor, faces: list[Face], windows: list[Window], donor: Faces | None
) -> tuple[torch.Tensor, np.ndarray]:
    """The crops with the donor's face, half as wide again, laid over theirs; and where it is, bool [B, size, size]."""
    size = images.shape[1]
    if donor is None:
        return images, np.zeros((len(images), size, size), dtype=bool)
    if len(donor.found) not in (1, len(images)) or not all(donor.found):
        raise ValueError(
            f"donor must hold one picture with a face, or {len(images)}, one for each picture of faces; it holds "
            f"{len(donor.found)} with {[len(found) for found in donor.found]} faces."
        )
    composites, areas = [], []
    for i, (image, face, window) in enumerate(zip(images, faces, windows)):
        picture, found = (held[i % len(donor.found)] for held in (donor.images, donor.found))
        (other,) = choose(found, "largest", 0, picture.shape[:2])
        matrix = similarity(other.points, in_crop(face.points, window, size))
        shown = torch.from_numpy(_fill(move(_wider_box(other.box, picture.shape), matrix), size))[..., None]
        composites.append(torch.where(shown.to(image.device), warp(picture.to(image), matrix, size), image))
        areas.append(_fill(move(face_outline(other), matrix), size))
    return torch.stack(composites), np.stack(areas)


def _wider_box(box: tuple[float, ...], shape: torch.Size) -> np.ndarray:
    """The corners [4, 2] of a box made half as wide and high again, as far as the picture reaches."""
    (x0, y0), (x1, y1) = corners = np.reshape(box, (2, 2))
    centre = corners.mean(axis=0)
    limit = np.array([shape[1] - 1, shape[0] - 1])
    (x0, y0), (x1, y1) = (centre + (corners - centre) * _DONOR_SHARE).clip(0, limit)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _of_pictures(maps: torch.Tensor, pictures: torch.Tensor, name: str) -> torch.Tensor:
    """`maps` [m, H, W, C], one for all pictures or one each, as [B, H, W, C]; raises ValueError where it is neither."""
    batch, height, width = pictures.shape[:3]
    if maps.shape[1:3] != (height, width):
        raise ValueError(
            f"{name} is {maps.shape[2]} x {maps.shape[1]} pixels, the picture with the faces is {width} x {height}: "
            "make it from that very picture, or scale it to its size."
        )
    if len(maps) not in (1, batch):
        raise ValueError(f"{name} holds {len(maps)} pictures for {batch} with faces: give one, or one for each.")
    return maps.expand(batch, -1, -1, -1)


def _check_areas(areas: np.ndarray, index: int) -> None:
    for i, area in enumerate(areas):
        if not area.any():
            raise ValueError(
                f"There is nothing to paint over: the mask of face {index} in picture {i + 1} of {len(areas)} is empty "
                "where that face was found. Look at face_mask, or disconnect it."
            )


def _fill(points: np.ndarray, size: int) -> np.ndarray:
    """Which pixels of a crop have their centre in the convex hull of `points` [n, 2] of the crop: bool [size, size]."""
    return fill_convex(convex_hull(points), (0, 0, size, size))
