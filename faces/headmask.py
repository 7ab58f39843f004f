"""The region of the head, for encoders that were trained on heads before black (FACT) when no parsing network is there.

An estimate from geometry alone: it keeps hair and ears of ordinary shape together with some background between them,
and loses hair that falls below the chin.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull

from .align import similarity, template
from .types import Face, Faces

# Centre and half-axes of a head with hair and ears, in pixels of the 112 template: from above the hair to the chin.
_HEAD_CENTRE = np.array([56.0, 43.0])
_HEAD_RADII = np.array([62.0, 76.0])
_EYE_LINE = 51.6


def head_mask(face: Face, image_size: tuple[int, int]) -> torch.Tensor:
    """The head of `face` in a picture of `image_size` (H, W) as a mask [H, W] of 0 and 1.

    With dense landmarks: their convex hull, joined with the upper half of the head ellipse for hair, which landmarks
    never cover. Without: the whole ellipse. The five points' similarity places the ellipse.
    """
    height, width = image_size
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in _outline(face).tolist()], fill=1)
    return torch.from_numpy(np.array(canvas, dtype=np.float32))


def head_masks(faces: Faces) -> torch.Tensor:
    """One head mask per face, picture by picture: [n, H, W], as `align_faces` takes them."""
    height, width = faces.images.shape[1:3]
    masks = [head_mask(face, (height, width)) for found in faces.found for face in found]
    return torch.stack([torch.zeros(height, width), *masks])[1:]


def masks_per_face(faces: Faces, masks: torch.Tensor) -> torch.Tensor:
    """Repeat masks [1 or B, H, W] of the pictures for each of their faces: [n, H, W], as `align_faces` takes them.

    Raises ValueError where the masks are not of these pictures.
    """
    batch, height, width = faces.images.shape[:3]
    masks = masks.reshape(-1, *masks.shape[-2:])
    if masks.shape[0] not in (1, batch) or masks.shape[1:] != (height, width):
        raise ValueError(
            f"The head mask has {masks.shape[0]} pictures of {masks.shape[2]} x {masks.shape[1]}, the photos are "
            f"{batch} of {width} x {height}: make the mask from the same pictures."
        )
    masks = masks.expand(batch, height, width)
    return torch.cat([mask.expand(len(found), -1, -1) for mask, found in zip(masks, faces.found)])


def mask_background(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Blacken what the masks [B, H, W] leave out of the pictures [B, H, W, C]; values between 0 and 1 dim."""
    return images * masks[..., None].to(images)


def _outline(face: Face) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    ellipse = _HEAD_CENTRE + _HEAD_RADII * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    to_picture = similarity(template(112), face.points)
    if face.landmarks is None:
        return _move(ellipse, to_picture)
    points = np.concatenate([_move(ellipse[ellipse[:, 1] < _EYE_LINE], to_picture), face.landmarks])
    return points[ConvexHull(points).vertices]


def _move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]
