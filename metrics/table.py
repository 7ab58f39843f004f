"""Draw scores below the images they belong to."""

import math

import torch
from PIL import Image, ImageDraw

from ..graphics import BLUE, FAINT, PALE_GOLD, PAPER, paste_fitted, to_pillow, to_tensor, wrap, write

_SIDE, _GAP = 168, 8  # pixels: an image's square, margin
_COLUMNS = 5  # at most: a node shows that many side by side in letters large enough to be read
_LARGE, _SMALL, _LINE = 24, 17, 21  # pixels: letters of an image's number and main score, of the others, a line of them
_BAR = 6


def draw_scores(images: torch.Tensor, order: list[int], scores: dict[str, torch.Tensor], foot: str) -> torch.Tensor:
    """Return an image [1, h, w, 3] with a cell for each image, the best first: it, its number from 1, a bar, scores.

    images: [n, H, W, 3] in 0..1; order: their indices from best to worst; scores: by name, [n] each, the first being
    what the order was made by, NaN where an image has no face; foot: what the scores come from.
    """
    columns = min(_COLUMNS, math.ceil(math.sqrt(len(order))))
    width = max(2, columns) * (_SIDE + _GAP) + _GAP
    height = _SIDE + _LARGE + _BAR + 2 * _GAP + _LINE * len(scores)
    lines = wrap(foot, _SMALL, width - 2 * _GAP)
    rows = -(-len(order) // columns)
    sheet = Image.new("RGB", (width, rows * (height + _GAP) + 2 * _GAP + _LINE * len(lines)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, index in enumerate(order):
        row, column = divmod(place, columns)
        corner = _GAP + column * (_SIDE + _GAP), _GAP + row * (height + _GAP)
        if place == 0:
            pen.rectangle((0, 0, corner[0] + _SIDE + _GAP // 2, corner[1] + height), fill=PALE_GOLD)
        paste_fitted(sheet, to_pillow(images[index]), corner, _SIDE)
        _write_scores(pen, corner, index, {name: float(values[index]) for name, values in scores.items()})
    for number, line in enumerate(lines):
        write(pen, (_GAP, sheet.height - _GAP - _LINE * (len(lines) - number)), line, _SMALL, FAINT)
    return to_tensor(sheet)


def _write_scores(pen: ImageDraw.ImageDraw, corner: tuple[int, int], index: int, values: dict[str, float]) -> None:
    """Write an image's number, main score with its bar, and all scores below the image at `corner`."""
    left, top = corner[0], corner[1] + _SIDE + _GAP // 2
    main = next(iter(values.values()))
    known = main == main
    write(pen, (left, top), f"picture {index + 1}", _SMALL)
    write(pen, (left + _SIDE, top), f"{main:.2f}" if known else "no face", _LARGE if known else _SMALL, anchor="ra")
    top += _LARGE + _GAP // 2
    pen.rectangle((left, top, left + _SIDE - 1, top + _BAR), outline=BLUE)
    if known:
        pen.rectangle((left, top, left + (_SIDE - 1) * min(max(main, 0.0), 1.0), top + _BAR), fill=BLUE)
    for number, (name, value) in enumerate(values.items()):
        text = f"{name} {value:.3f}" if value == value else f"{name}: no face"
        write(pen, (left, top + _BAR + _GAP // 2 + _LINE * number), text, _SMALL, FAINT)
