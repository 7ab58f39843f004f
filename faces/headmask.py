"""Heads cut from their background, for encoders that were trained on heads before black (FACT).

From face parsing as FACT's authors do it, or, where no parsing network is there, estimated from geometry alone: the
estimate keeps hair and ears of ordinary shape together with some background between them, and loses hair that falls
below the chin.
"""

import numpy as np
import torch
from scipy import ndimage

from .geometry import convex_hull, fill_convex
from .regions import lay_oval
from .types import Face, Faces

# Centre and half-axes of a head with hair and ears, in pixels of the 112 template: from above the hair to the chin.
_HEAD_CENTRE = np.array([56.0, 43.0])
_HEAD_RADII = np.array([62.0, 76.0])


def head_outline(face: Face) -> np.ndarray:
    """Return the estimated head of `face` as convex corners [k, 2] in the image, which it may leave.

    With dense landmarks: their convex hull, joined with the upper half of the head ellipse for hair, which landmarks
    never cover. Without: the whole ellipse.
    """
    return convex_hull(lay_oval(face, _HEAD_CENTRE, _HEAD_RADII))


def head_mask(face: Face, image_size: tuple[int, int]) -> torch.Tensor:
    """Return the estimated head of `face` in an image of `image_size` (H, W) as a mask [H, W] of 0 and 1."""
    height, width = image_size
    return torch.from_numpy(fill_convex(head_outline(face), (0, 0, width, height)).astype(np.float32))


def head_masks(faces: Faces) -> torch.Tensor:
    """Return one head mask per face, image by image: [n, H, W], as `align_faces` takes them."""
    height, width = faces.images.shape[1:3]
    from .landmarks import complete  # late: it needs the host, which the drawn world does without

    masks = [head_mask(face, (height, width)) for _, face in complete(faces).pairs]
    return torch.stack([torch.zeros(height, width), *masks])[1:]


def head_of_labels(face: np.ndarray, hair: np.ndarray) -> np.ndarray:
    """Return FACT's head, bool [h, w], of parsed face and hair, bool [h, w] each (docs/papers.md 2.2).

    Face and hair together, dilated by a square of side sqrt(face area)/20 that closes the gaps between labels; of
    that the one piece with the largest outline, its holes filled; and the face, wherever it lies.
    """
    side = max(int(np.sqrt(np.count_nonzero(face)) / 20), 1)
    dilated = ndimage.maximum_filter((face | hair).astype(np.uint8), side, mode="constant")
    return largest_piece(dilated > 0) | face


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return that 8-connected piece of `mask`, bool [h, w], whose outer contour encloses most, with its holes filled.

    The contour runs through pixel centres, so of every square between four of them it encloses all, half (where one
    corner is missing) or nothing: a line of single pixels encloses nothing, however long.
    """
    whole = ndimage.binary_fill_holes(mask)
    pieces, count = ndimage.label(whole, structure=np.ones((3, 3)))
    if count < 2:
        return whole
    corners = np.stack([pieces[:-1, :-1], pieces[:-1, 1:], pieces[1:, :-1], pieces[1:, 1:]])
    enclosed = np.maximum(np.count_nonzero(corners, axis=0) - 2, 0) / 2
    areas = np.bincount(corners.max(axis=0).ravel(), enclosed.ravel(), minlength=count + 1)
    return pieces == 1 + areas[1:].argmax()


def masks_per_face(faces: Faces, masks: torch.Tensor) -> torch.Tensor:
    """Repeat masks of the images for each of their faces: [n, H, W], as `align_faces` takes them.

    masks: [m, H, W] (or [H, W]), m = 1 for one that serves all images, or the number of images, or of faces.
    Raises ValueError where the masks are not of these images.
    """
    batch, height, width = faces.images.shape[:3]
    masks = masks.reshape(-1, *masks.shape[-2:])
    if masks.shape[1:] != (height, width):
        raise ValueError(
            f"The head mask is {masks.shape[2]} x {masks.shape[1]} pixels, the photos are {width} x {height}: make it "
            "from the very pictures that went into Detect Faces, or scale it to their size."
        )
    counts = [len(present) for present in faces.per_image]
    if masks.shape[0] in (1, batch):
        masks = masks.expand(batch, height, width)
        return torch.cat([mask.expand(count, -1, -1) for mask, count in zip(masks, counts)])
    if masks.shape[0] != sum(counts):
        raise ValueError(
            f"There are {masks.shape[0]} head masks for {batch} photos with {sum(counts)} faces: give one mask for "
            "all, one per photo, or one per face."
        )
    return masks


def mask_background(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Blacken what the masks [B, H, W] leave out of the images [B, H, W, C]; values between 0 and 1 dim."""
    return images * masks[..., None].to(images)
