"""Draw a table of scores beside the images they belong to."""

import torch
from PIL import Image, ImageDraw

from ..graphics import BLUE, FAINT, PALE_GOLD, PAPER, measure, paste_fitted, to_pillow, to_tensor, write

_SIDE, _GAP, _COLUMN, _HEAD = 88, 8, 132, 34  # pixels: thumbnail, margin, column of a score, heading and foot
_RANK = 96  # pixels of the first column
_BAR = _COLUMN - 3 * _GAP  # pixels of a score's bar
_SMALL, _MEDIUM = 13, 16


def draw_scores(images: torch.Tensor, order: list[int], scores: dict[str, torch.Tensor], foot: str) -> torch.Tensor:
    """Return an image [1, h, w, 3] with a line for each image, the best on top: it, its number from 1, scores, bars.

    images: [n, H, W, 3] in 0..1; order: their indices from best to worst; scores: by name, [n] each, the first being
    what the order was made by, NaN where an image has no face; foot: what the scores come from.
    """
    left = _SIDE + _RANK + 2 * _GAP
    width = max(left + _COLUMN * len(scores) + _GAP, measure(foot, _SMALL) + 2 * _GAP)
    sheet = Image.new("RGB", (width, 2 * _HEAD + len(order) * (_SIDE + _GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(scores):
        write(pen, (left + column * _COLUMN, _GAP), name, _MEDIUM)
    for row, index in enumerate(order):
        top = _HEAD + row * (_SIDE + _GAP)
        if row == 0:
            pen.rectangle((0, top - _GAP // 2, width, top + _SIDE + _GAP // 2 - 1), fill=PALE_GOLD)
        paste_fitted(sheet, to_pillow(images[index]), (_GAP, top), _SIDE)
        write(pen, (_SIDE + 2 * _GAP, top + _SIDE / 2 - 10), f"picture {index + 1}", _MEDIUM)
        for column, values in enumerate(scores.values()):
            x, y, value = left + column * _COLUMN, top + _SIDE / 2, float(values[index])
            if value != value:
                write(pen, (x, y - 16), "no face", _MEDIUM, FAINT)
                continue
            write(pen, (x, y - 16), f"{value:.3f}", _MEDIUM)
            pen.rectangle((x, y + 8, x + _BAR, y + 13), outline=BLUE)
            pen.rectangle((x, y + 8, x + _BAR * min(max(value, 0.0), 1.0), y + 13), fill=BLUE)
    write(pen, (_GAP, sheet.height - _HEAD + _GAP), foot, _SMALL, FAINT)
    return to_tensor(sheet)
