"""Draw a table of scores beside the pictures they belong to."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _FAINT, _BEST, _BAR = (250, 250, 248), (32, 32, 32), (120, 120, 120), (255, 232, 160), (111, 168, 220)
_SIDE, _GAP, _COLUMN, _HEAD = 88, 8, 132, 34  # pixels: thumbnail, margin, column of a score, heading and foot
_RANK = 96  # pixels of the first column


def score_table(images: torch.Tensor, order: list[int], scores: dict[str, torch.Tensor], foot: str) -> torch.Tensor:
    """A picture [1, h, w, 3] with one line per picture, the best on top: thumbnail, number from 1, scores with bars.

    images: [n, H, W, 3] in 0..1; order: their indices from best to worst; scores: by name, [n] each, the first being
    what the order was made by; foot: what the scores come from.
    """
    small, medium = ImageFont.load_default(13), ImageFont.load_default(16)
    wide = _SIDE + _RANK + _COLUMN * len(scores) + 3 * _GAP
    width = max(wide, round(small.getlength(foot)) + 2 * _GAP)
    sheet = Image.new("RGB", (width, 2 * _HEAD + len(order) * (_SIDE + _GAP)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    left = _SIDE + _RANK + 2 * _GAP
    for column, name in enumerate(scores):
        pen.text((left + column * _COLUMN, _GAP), name, fill=_INK, font=medium)
    for row, index in enumerate(order):
        top = _HEAD + row * (_SIDE + _GAP)
        if row == 0:
            pen.rectangle((0, top - _GAP // 2, width, top + _SIDE + _GAP // 2 - 1), fill=_BEST)
        thumbnail = _thumbnail(images[index])
        sheet.paste(thumbnail, (_GAP + (_SIDE - thumbnail.width) // 2, top + (_SIDE - thumbnail.height) // 2))
        pen.text((_SIDE + 2 * _GAP, top + _SIDE / 2 - 10), f"picture {index + 1}", fill=_INK, font=medium)
        for column, values in enumerate(scores.values()):
            _draw_score(pen, left + column * _COLUMN, top + _SIDE / 2, float(values[index]), medium)
    pen.text((_GAP, sheet.height - _HEAD + _GAP), foot, fill=_FAINT, font=small)
    return torch.from_numpy(np.array(sheet, dtype=np.float32) / 255)[None]


def _draw_score(pen: ImageDraw.ImageDraw, x: float, y: float, value: float, font) -> None:
    pen.text((x, y - 16), f"{value:.3f}", fill=_INK, font=font)
    length = (_COLUMN - 3 * _GAP) * min(max(value, 0.0), 1.0)
    pen.rectangle((x, y + 8, x + _COLUMN - 3 * _GAP, y + 13), outline=_BAR)
    pen.rectangle((x, y + 8, x + length, y + 13), fill=_BAR)


def _thumbnail(image: torch.Tensor) -> Image.Image:
    picture = Image.fromarray((image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    picture.thumbnail((_SIDE, _SIDE))
    return picture
