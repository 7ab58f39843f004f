"""Show what was found: boxes, points, score and number drawn into the images."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .types import Face, Faces, list_numbers

_FRAME = (255, 196, 0)
_INK = (24, 24, 24)
_POINTS = ((64, 200, 255), (64, 200, 255), (120, 255, 120), (255, 96, 160), (255, 96, 160))


def overlay(faces: Faces) -> torch.Tensor:
    """Return the images [B, H, W, 3] with every face's box, five points, number and score.

    The number is the person's in a followed video, else the index among the chosen faces, from 0, left to right.
    """
    overlays = []
    for image, present in zip(faces.images, faces.per_image):
        canvas = Image.fromarray((image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        for number, face in zip(list_numbers(present), present):
            _draw_face(ImageDraw.Draw(canvas), face, number, canvas.size)
        overlays.append(torch.from_numpy(np.array(canvas, dtype=np.float32) / 255))
    return torch.stack(overlays).to(faces.images)


def _draw_face(pen: ImageDraw.ImageDraw, face: Face, number: int, size: tuple[int, int]) -> None:
    width = max(1, round(max(size) / 256))
    pen.rectangle(face.box, outline=_FRAME, width=width)
    for (x, y), colour in zip(face.points.tolist(), _POINTS):
        pen.ellipse((x - width, y - width, x + width, y + width), fill=colour, outline=_INK)
    text = f"{number}  {face.score:.2f}"
    font = ImageFont.load_default(max(8, round(max(size) / 32)))
    left, top, right, bottom = font.getbbox(text)
    pad = (bottom - top) // 4 + 1
    label = right - left + 2 * pad, bottom - top + 2 * pad
    # Above the box where there is room, else inside it; never beyond the image's right edge.
    x = max(0, min(round(face.box[0]), size[0] - label[0]))
    edge = round(face.box[1])
    y = edge - label[1] if face.box[1] >= label[1] else max(0, edge)
    pen.rectangle((x, y, x + label[0] - 1, y + label[1] - 1), fill=_FRAME)
    pen.text((x + pad - left, y + pad - top), text, fill=_INK, font=font)
