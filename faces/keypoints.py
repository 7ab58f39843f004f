"""The picture of a face's five points that InstantID's ControlNet reads (docs/papers.md 4.1)."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw

from .align import in_template_order

# By the points' order: eye at the image's left, eye at its right, nose, corners of the mouth likewise.
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
NOSE = 2
RADIUS, HALF_WIDTH = 10, 4  # pixels at every size
_LIMB_SHADE = 0.6


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
