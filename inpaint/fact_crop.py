"""One face of an image in a square crop to inpaint, with what is to be painted over (docs/papers.md 2.7).

Masks and edges are made in the prepared crop of `size` x `size` pixels, as FACT's are, and not in the image.
"""

import numpy as np
import torch

from ..faces.align import warp
from ..faces.choose import choose
from ..faces.detector import as_bytes, as_rgb
from ..faces.geometry import box_corners, convex_hull, fill_convex, move, similarity
from ..faces.regions import lay_oval
from ..faces.types import Face, Faces, list_numbers
from .canny import canny
from .crop import FaceCrop, Window, box_area, cut, dilate, grow, in_crop, resize, window_around

# FACT's dilations: sides of square kernels as parts of the square root of the dilated area.
_PAINTED, _JAW, _UNDRAWN = 0.04, 0.1, 0.05
_POSE_REACH = 7  # side in pixels of the kernel that takes the face out of a pose map
_DONOR_SHARE = 1.5  # of the donor's face box is shown to the pose detector
# Centre and half-axes of a face from hairline to chin, in pixels of the 112 template.
_FACE_CENTRE, _FACE_RADII = np.array([56.0, 72.0]), np.array([40.0, 47.0])


def prepare(
    faces: Faces, index: int, face_share: float, size: int, face_mask: torch.Tensor | None, donor: Faces | None
) -> tuple[FaceCrop, torch.Tensor]:
    """Cut out one face of every image; the second result is the same crops with the donor's face laid over it.

    index: see `pick`. face_share: longer side of the face's box as a part of the crop's side. face_mask: [m, H, W],
    the faces in the images, m = 1 or B, or None to estimate them. donor: images, 1 or B, whose largest faces are
    laid over the ones chosen, or None. Raises ValueError where face, mask or donor is missing or does not fit.
    """
    originals = faces.images
    targets = [pick(faces, i, index) for i in range(len(originals))]
    windows = [window_around(face.box, face_share) for face in targets]
    images = torch.stack([resize(cut(image, window), size) for image, window in zip(originals, windows)])
    others = np.stack([_find_others(*parts, size) for parts in zip(faces.per_image, targets, windows)])
    if face_mask is None:
        areas = np.stack([face_area(face, window, size) for face, window in zip(targets, windows)]) & ~others
    else:
        masks = _per_image(face_mask.reshape(-1, *face_mask.shape[-2:], 1), originals, "face_mask")
        cuts = torch.stack([resize(cut(mask, window), size)[..., 0] for mask, window in zip(masks, windows)])
        areas = (cuts > 0.5).cpu().numpy() & ~others
    if empty := [i for i, area in enumerate(areas) if not area.any()]:
        raise ValueError(
            f"There is nothing to paint over: the mask of face {index} in picture {empty[0] + 1} of {len(areas)} is "
            "empty where that face was found. Look at face_mask, or disconnect it."
        )
    images = images * torch.from_numpy(~others)[..., None].to(images)
    composite, donors = _lay_donor(images, targets, windows, donor)
    below = [below_eyes(face, window, size) for face, window in zip(targets, windows)]
    masks = np.stack([inpaint_mask(*parts) for parts in zip(areas, below, donors)]) & ~others
    masks = torch.from_numpy(masks).to(images)
    whole = tuple(torch.ones(window.side, window.side, dtype=torch.bool) for window in windows)
    owners = tuple(range(len(targets)))
    return FaceCrop(originals, owners, tuple(targets), tuple(windows), whole, images, others, areas, masks), composite


def pick(faces: Faces, image: int, index: int) -> Face:
    """Return the face `index` of an image, from 0: the index from the left, or the person's number in a followed video.

    Raises ValueError where there is none.
    """
    present = faces.per_image[image]
    by_number = dict(zip(list_numbers(present), present))
    if index not in by_number:
        raise ValueError(
            f"Picture {image + 1} of {len(faces.per_image)} has no face {index}, only "
            f"{sorted(by_number) or 'none at all'}: "
            'change index, or set choose to "all" in Detect Faces.'
        )
    return by_number[index]


def face_area(face: Face, window: Window, size: int) -> np.ndarray:
    """Return where `face` is in its crop, from hairline to chin: bool [size, size]."""
    return _fill(in_crop(lay_oval(face, _FACE_CENTRE, _FACE_RADII), window, size), size)


def below_eyes(face: Face, window: Window, size: int) -> np.ndarray:
    """Return the side of the line through the eyes on which the mouth is: bool [size, size]."""
    right, left, *_, mouth_right, mouth_left = in_crop(face.points.astype(np.float64), window, size)
    x, y = left - right
    rows, columns = np.mgrid[:size, :size]
    depth = x * (rows - right[1]) - y * (columns - right[0])
    mouth = (mouth_right + mouth_left) / 2 - right
    return depth * (x * mouth[1] - y * mouth[0]) > 0


def inpaint_mask(area: np.ndarray, below: np.ndarray, donor: np.ndarray) -> np.ndarray:
    """Return what is to be painted over (docs/papers.md 2.7, step 4), all bool [size, size].

    The face `area` a little dilated; and below the eyes, where a jaw of another shape needs room, more dilated, but
    only where the `donor`'s face, laid onto this one, lies.
    """
    return dilate(area, _PAINTED) | (dilate(area, _JAW) & below & (area | donor))


def canny_without_face(crop: FaceCrop) -> torch.Tensor:
    """Return the crops' edges, white on black [B, size, size, 3], but none below the eyes or around other faces."""
    edges = []
    for pixels, face, window, area, others in zip(
        as_bytes(crop.images), crop.faces, crop.windows, crop.areas, crop.others
    ):
        undrawn = dilate(area, _UNDRAWN) & below_eyes(face, window, crop.size)
        edges.append(canny(pixels) & ~undrawn & ~grow(others, 5))  # 5: Sobel sees the black's rim two pixels away
    return torch.from_numpy(np.stack(edges))[..., None].expand(-1, -1, -1, 3).to(crop.images)


def cut_control(crop: FaceCrop, control: torch.Tensor | None) -> torch.Tensor:
    """Cut the crops [B, size, size, 3] out of maps [m, H, W, C] of the whole images; black outside, or without a map.

    Raises ValueError where the maps are not of the images' size or number.
    """
    if control is None:
        return torch.zeros_like(crop.images)
    maps = _per_image(as_rgb(control), crop.originals, "control_image").to(crop.images)
    # With one row and column of black around it, the outermost pixels that `cut` repeats are black.
    maps = torch.nn.functional.pad(maps, (0, 0, 1, 1, 1, 1))
    windows = (Window(left + 1, top + 1, side) for left, top, side in crop.windows)
    return torch.stack([resize(cut(m, window), crop.size) for m, window in zip(maps, windows)])


def without_face(crop: FaceCrop, control: torch.Tensor) -> torch.Tensor:
    """Return `control` [B, size, size, 3] with the face blackened, so that a pose map leaves the expression free."""
    faceless = np.stack([~grow(area, _POSE_REACH) for area in crop.areas])
    return control * torch.from_numpy(faceless)[..., None].to(control)


def _find_others(present: tuple[Face, ...], face: Face, window: Window, size: int) -> np.ndarray:
    """Return where the boxes of the other faces lie in the crop, and not the chosen one's: bool [size, size]."""
    others = np.zeros((size, size), dtype=bool)
    for other in present:
        if other is not face:
            others |= box_area(other.box, window, size)
    return others & ~box_area(face.box, window, size)


def _lay_donor(
    images: torch.Tensor, faces: list[Face], windows: list[Window], donor: Faces | None
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the crops with the donor's face laid over theirs, and where the face itself is: bool [B, size, size].

    Of the donor its face's box is shown, made half as wide and high again, as far as the image reaches.
    """
    size = images.shape[1]
    if donor is None:
        return images, np.zeros((len(images), size, size), dtype=bool)
    if len(donor.per_image) not in (1, len(images)) or not all(donor.per_image):
        raise ValueError(
            f"donor must hold one picture with a face, or {len(images)}, one for each picture of faces; it holds "
            f"{len(donor.per_image)} with {[len(present) for present in donor.per_image]} faces."
        )
    composites, areas = [], []
    for i, (image, face, window) in enumerate(zip(images, faces, windows)):
        source, present = (part[i % len(donor.per_image)] for part in (donor.images, donor.per_image))
        height, width = source.shape[:2]
        (other,) = choose(present, "largest", 0, (height, width))
        matrix = similarity(other.points, in_crop(face.points, window, size))
        corners = other.centre + (np.reshape(other.box, (2, 2)) - other.centre) * _DONOR_SHARE
        box = box_corners(*corners.clip(0, [width - 1, height - 1]).ravel())
        visible = torch.from_numpy(_fill(move(box, matrix), size))[..., None]
        composites.append(torch.where(visible.to(image.device), warp(source.to(image), matrix, size), image))
        areas.append(_fill(move(lay_oval(other, _FACE_CENTRE, _FACE_RADII), matrix), size))
    return torch.stack(composites), np.stack(areas)


def _per_image(maps: torch.Tensor, images: torch.Tensor, name: str) -> torch.Tensor:
    """Return `maps` [m, H, W, C], one for all images or one each, as [B, H, W, C]; else raise ValueError."""
    batch, height, width = images.shape[:3]
    if maps.shape[1:3] != (height, width):
        raise ValueError(
            f"{name} is {maps.shape[2]} x {maps.shape[1]} pixels, the picture with the faces is {width} x {height}: "
            "make it from that very picture, or scale it to its size."
        )
    if len(maps) not in (1, batch):
        raise ValueError(f"{name} holds {len(maps)} pictures for {batch} with faces: give one, or one for each.")
    return maps.expand(batch, -1, -1, -1)


def _fill(points: np.ndarray, size: int) -> np.ndarray:
    """Return which pixels of a crop have their centre in the convex hull of `points` [n, 2]: bool [size, size]."""
    return fill_convex(convex_hull(points), (0, 0, size, size))
