"""What each network that scores wants to see: crops of faces, and whole images, made as its authors made them."""

import numpy as np
import torch
from PIL import Image

from ..faces.align import template, warp
from ..faces.geometry import invert, similarity
from ..faces.types import Faces

# Borders of MTCNN's box by five points: in units of the points' mean distance s from their middle, each the sum of a
# constant and, in these shares, e (distance of the eyes / s), m (from eyes to mouth, down / s), u and v (from the eyes'
# middle to the nose / s, right and down) and k (from eyes to mouth, right / s). Fitted to 169 of its boxes, of which
# the mean overlap (intersection over union) is .918 leaving each photograph out; MTCNN's own on mirrored ones is .905.
_BOX = np.array(
    [
        [-2.260, 0.009, 0.237, -1.396, 0.124, 0.368],
        [-0.364, -0.486, -0.668, -0.061, -0.449, 0.153],
        [1.766, 0.018, -0.049, -1.380, -0.038, 0.508],
        [4.520, -0.689, -0.711, 0.119, -0.375, -0.069],
    ]
)


def box_of_points(points: np.ndarray) -> np.ndarray:
    """Return the box [4] (x0, y0, x1, y1) that MTCNN draws around a face with these five points [5, 2], nearly."""
    eyes, mouth, middle = points[:2].mean(axis=0), points[3:].mean(axis=0), points.mean(axis=0)
    scale = np.sqrt(np.square(points - middle).sum(axis=1).mean())
    (u, v), (k, m) = (points[2] - eyes) / scale, (mouth - eyes) / scale
    shares = np.array([1, np.linalg.norm(points[1] - points[0]) / scale, np.hypot(k, m), u, v, k])
    return np.tile(middle, 2) + scale * (_BOX @ shares)


def cut_box(image: Image.Image, box: np.ndarray, size: int, margin: int = 0) -> Image.Image:
    """Return the box (x0, y0, x1, y1) of an image, stretched to a square as facenet-pytorch does.

    margin: pixels of the result that the box grows by, half of them on each side. The box is clipped to the image and
    its corners are cut down to whole pixels; Pillow resizes, with anti-aliasing where it shrinks.
    """
    grow = margin * (box[2:] - box[:2]) / (size - margin) / 2
    corners = np.concatenate([box[:2] - grow, box[2:] + grow])
    x0, y0, x1, y1 = corners.clip(0, [*image.size, *image.size]).astype(int).tolist()
    return image.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))).resize((size, size), Image.Resampling.BILINEAR)


def cut_boxes(faces: Faces, size: int, background: torch.Tensor | None = None) -> torch.Tensor:
    """Return the crops of all faces for FaceNet, [n, size, size, 3] in 0..1; background: as for `align_faces`.

    Boxes are MTCNN's as far as the five points tell (docs/papers.md 7.1), without a margin.
    """
    crops = [faces.images.new_zeros(0, size, size, 3)]
    for i, (image, face) in enumerate(faces.pairs):
        masked = image if background is None else image * background[i, ..., None].to(image)
        crop = cut_box(to_bytes(masked), box_of_points(face.points.astype(np.float64)), size)
        crops.append(from_bytes(crop).to(faces.images)[None])
    return torch.cat(crops)


def fit_from_template(points: np.ndarray, size: int) -> np.ndarray:
    """Return the similarity [2, 3] from image to crop whose errors are least in the image, not in the crop.

    So SphereFace's and AdaFace's aligners fit; the crop is 2.7 % tighter on average than Umeyama's.
    """
    return invert(similarity(template(size), points))


def align_in_image(faces: Faces, size: int, background: torch.Tensor | None = None) -> torch.Tensor:
    """Return the crops of all faces as SphereFace's and AdaFace's scorers cut them; otherwise as `align_faces`."""
    crops = [faces.images.new_zeros(0, size, size, 3)]
    for i, (image, face) in enumerate(faces.pairs):
        masked = image if background is None else image * background[i, ..., None].to(image)
        crops.append(warp(masked, fit_from_template(face.points, size), size)[None])
    return torch.cat(crops)


def fit_shorter_side(image: Image.Image, resized: int, side: int) -> Image.Image:
    """Return the middle square of `side` pixels of an image whose shorter side was made `resized`: CLIP's and DINO's.

    Pillow's bicubic; the longer side is cut down to whole pixels, and the square's corner rounded, as torchvision does.
    """
    shorter = min(image.size)
    width, height = (resized if length == shorter else int(resized * length / shorter) for length in image.size)
    left, top = (int(round((length - side) / 2)) for length in (width, height))
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))


def squash(image: Image.Image, side: int) -> Image.Image:
    """Return an image squashed to a square, by Pillow's bicubic: SigLIP's."""
    return image.resize((side, side), Image.Resampling.BICUBIC)


def to_bytes(image: torch.Tensor) -> Image.Image:
    """Return an image [h, w, 3] in 0..1 as every score sees it, in 8 bits."""
    return Image.fromarray((image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def from_bytes(image: Image.Image) -> torch.Tensor:
    """Return an image as [h, w, 3] in 0..1."""
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255)
