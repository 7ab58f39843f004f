"""The picture of a face's five points that InstantID's ControlNet reads (docs/papers.md 4.7)."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw

from .align import in_template_order
from .geometry import move
from .types import Face

# By the points' order: eye at the image's left, eye at its right, nose, corners of the mouth likewise.
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
NOSE = 2
RADIUS, HALF_WIDTH = 10, 4  # pixels at every size
_LIMB_SHADE = 0.6


def find_fit(source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """Return the matrix [2, 3] by which an image of size `source` (H, W) fills `target`, cut at its middle."""
    (height, width), (new_height, new_width) = source, target
    scale = max(new_height / height, new_width / width)
    shift = [(new - 1) / 2 - scale * (old - 1) / 2 for new, old in ((new_width, width), (new_height, height))]
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def fit_faces(faces: tuple[Face, ...], source: tuple[int, int], target: tuple[int, int]) -> list[np.ndarray]:
    """Return the five points [5, 2] of faces in an image that was brought from size `source` to `target`."""
    return [move(np.float64(face.points), find_fit(source, target)) for face in faces]


def box_mask(faces: tuple[Face, ...], source: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Return a mask [H, W] of size `target`, 1 in the faces' boxes."""
    mask = torch.zeros(target)
    for face in faces:
        corners = move(np.reshape(np.float64(face.box), (2, 2)), find_fit(source, target))
        (x0, y0), (x1, y1) = np.rint(corners).astype(int).clip(0, target[::-1])
        mask[y0:y1, x0:x1] = 1
    return mask


def draw_keypoints(faces: list[np.ndarray], width: int, height: int) -> torch.Tensor:
    """Return faces as InstantID sees them, [height, width, 3] in 0..1: limbs to the nose, dimmer, and five dots each.

    faces: points [5, 2] in pixels of the picture to be made; what lies outside of it is cut off
    """
    canvas = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(canvas)
    faces = [in_template_order(np.float64(points)) for points in faces]
    for points in faces:
        for index, point in enumerate(points):
            if index != NOSE:
                colour = tuple(int(value * _LIMB_SHADE) for value in COLOURS[index])
                draw.polygon(_find_limb(point, points[NOSE]), fill=colour, outline=colour)
    pixels = np.array(canvas)
    rows, columns = np.indices(pixels.shape[:2])
    for points in faces:
        for (x, y), colour in zip(np.trunc(points), COLOURS):
            pixels[(columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2] = colour
    return torch.from_numpy(pixels).float() / 255


def _find_limb(point: np.ndarray, nose: np.ndarray) -> list[tuple[int, int]]:
    """Return the corners, one a degree, of the ellipse from a point to the nose, in whole pixels as OpenCV has them."""
    (dx, dy), centre = point - nose, np.trunc((point + nose) / 2)
    length, turn = int(math.hypot(dx, dy) / 2), math.radians(int(math.degrees(math.atan2(dy, dx))))
    angle = np.radians(np.arange(361))
    ellipse = (length * np.cos(angle) + 1j * HALF_WIDTH * np.sin(angle)) * np.exp(1j * turn) + centre @ [1, 1j]
    return list(zip(np.rint(ellipse.real).astype(int).tolist(), np.rint(ellipse.imag).astype(int).tolist()))
