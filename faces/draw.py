"""Show the faces that were found: boxes, points, scores and numbers drawn into the images."""

import torch
from PIL import ImageDraw

from ..graphics import GOLD, INK, choose_font, to_pillow, to_tensor, write
from .types import Face, Faces, list_numbers

_POINTS = ((64, 200, 255), (64, 200, 255), (120, 255, 120), (255, 96, 160), (255, 96, 160))


def overlay(faces: Faces) -> torch.Tensor:
    """Return the images [B, H, W, 3] with every face's box, five points, number and score.

    The number is the person's in a followed video, else the index among the chosen faces, from 0, left to right.
    """
    overlays = []
    for image, present in zip(faces.images, faces.per_image):
        canvas = to_pillow(image)
        for number, face in zip(list_numbers(present), present):
            _draw_face(ImageDraw.Draw(canvas), face, number, canvas.size)
        overlays.append(to_tensor(canvas))
    return torch.cat(overlays).to(faces.images)


def _draw_face(pen: ImageDraw.ImageDraw, face: Face, number: int, size: tuple[int, int]) -> None:
    width = max(1, round(max(size) / 256))
    pen.rectangle(face.box, outline=GOLD, width=width)
    for (x, y), colour in zip(face.points.tolist(), _POINTS):
        pen.ellipse((x - width, y - width, x + width, y + width), fill=colour, outline=INK)
    _draw_label(pen, f"{number}  {face.score:.2f}{' profile' if face.profile else ''}", face.box, size)


def _draw_label(pen: ImageDraw.ImageDraw, text: str, box: tuple[float, ...], size: tuple[int, int]) -> None:
    height = max(8, round(max(size) / 32))
    left, top, right, bottom = choose_font(text, height).getbbox(text)
    pad = (bottom - top) // 4 + 1
    label = right - left + 2 * pad, bottom - top + 2 * pad
    # Above the box where there is room, else inside it; never beyond the image's right edge.
    x = max(0, min(round(box[0]), size[0] - label[0]))
    y = round(box[1]) - label[1] if box[1] >= label[1] else max(0, round(box[1]))
    pen.rectangle((x, y, x + label[0] - 1, y + label[1] - 1), fill=GOLD)
    write(pen, (x + pad - left, y + pad - top), text, height)
