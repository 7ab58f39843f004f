"""The agreement of photos as an image: thumbnails along both sides, a coloured cosine where two of them meet."""

import torch
from PIL import Image, ImageDraw

from ..graphics import ALARM, GRID, INK, PAPER, Colour, paste_fitted, to_pillow, to_tensor, wrap, write
from .agreement import Comparison, digits, find_disagreeing, least_agreeing, verdict

# Cells below, at and above the threshold: orange and blue differ for colour-blind eyes too.
_LOW, _MIDDLE, _HIGH = (226, 118, 46), (247, 242, 230), (58, 124, 176)
_SPAN = 0.4  # how far below the threshold a cell is as orange as it gets
_CELLS = ((4, 104), (10, 76), (20, 58), (1000, 46))  # up to so many photos, pixels of a cell
_MARGIN, _GAP, _NUMBER, _WIDTH, _LINE = 20, 12, 34, 640, 28  # pixels


def draw(comparison: Comparison, row_crops: torch.Tensor, column_crops: torch.Tensor) -> torch.Tensor:
    """Return the picture [1, H, W, 3] of a comparison; crops: [photos, S, S, 3] in 0..1 of the two identities.

    A photo that disagrees has a red frame, and its overall value is red. Of many photos, those that agree least are
    shown.
    """
    part = least_agreeing(comparison)
    most = max(len(part.rows), len(part.columns))
    cell = next(pixels for count, pixels in _CELLS if most <= count)
    width = max(_WIDTH, _left(cell) + cell * (len(part.columns) + 1) + _GAP + _MARGIN)
    text = wrap(verdict(comparison), 20, width - 2 * _MARGIN)
    if part.whole is not None:
        text.append("Rows: face_id. Columns: compare_with.")
    if len(part.rows) < len(comparison.rows) or len(part.columns) < len(comparison.columns):
        text.append(f"Shown are the {most} photos that agree least.")
    top = _MARGIN + _LINE * len(text) + _GAP
    canvas = Image.new("RGB", (width, top + _NUMBER + cell * (1 + len(part.rows)) + _GAP + _MARGIN), PAPER)
    pen = ImageDraw.Draw(canvas)
    agrees = not find_disagreeing(comparison) if comparison.whole is None else comparison.whole >= comparison.threshold
    for line, words in enumerate(text):
        write(pen, (_MARGIN, _MARGIN + _LINE * line), words, 20, INK if line or agrees else ALARM)
    _draw_sides(canvas, pen, part, (row_crops, column_crops), top, cell)
    _draw_cells(pen, part, top, cell)
    return to_tensor(canvas)


def _left(cell: int) -> int:
    """Return where the first column of cells begins."""
    return _MARGIN + _NUMBER + cell + _GAP


def _draw_sides(canvas: Image.Image, pen: ImageDraw.ImageDraw, part: Comparison, crops, top: int, cell: int) -> None:
    """Draw numbers and thumbnails to the left of the rows and above the columns."""
    rows, columns = crops
    marked = {part.rows[row] for row in find_disagreeing(part)}
    for row, number in enumerate(part.rows):
        x, y = _MARGIN + _NUMBER, top + _NUMBER + cell + _GAP + row * cell
        write(pen, (x - 8, y + cell // 2), str(number + 1), 16, ALARM if number in marked else INK, "rm")
        _draw_thumbnail(canvas, pen, rows[number], (x, y), cell, number in marked)
    of_same = part.whole is None
    for column, number in enumerate(part.columns):
        x, y = _left(cell) + column * cell, top + _NUMBER
        alarm = of_same and number in marked
        write(pen, (x + cell // 2, y - 8), str(number + 1), 16, ALARM if alarm else INK, "ms")
        _draw_thumbnail(canvas, pen, columns[number], (x, y), cell, alarm)
    if not len(part.overall):
        return
    x = _left(cell) + len(part.columns) * cell + _GAP
    write(pen, (x + cell // 2, top + _NUMBER + cell - 8), "others" if of_same else "all", 14, anchor="ms")


def _draw_thumbnail(canvas: Image.Image, pen: ImageDraw.ImageDraw, crop, corner, cell: int, marked: bool) -> None:
    x, y = corner
    paste_fitted(canvas, to_pillow(crop), (x + 3, y + 3), cell - 6)
    if marked:
        pen.rectangle((x + 1, y + 1, x + cell - 2, y + cell - 2), outline=ALARM, width=4)


def _draw_cells(pen: ImageDraw.ImageDraw, part: Comparison, top: int, cell: int) -> None:
    marked = find_disagreeing(part)
    size = max(15, cell // 4)
    for row, values in enumerate(part.cosines.tolist()):
        y = top + _NUMBER + cell + _GAP + row * cell
        for column, value in enumerate(values):
            itself = part.whole is None and part.rows[row] == part.columns[column]
            background = GRID if itself else colour(value, part.threshold)
            _draw_cell(pen, (_left(cell) + column * cell, y), cell, "" if itself else digits(value), background, size)
        if len(part.overall):
            x = _left(cell) + len(values) * cell + _GAP
            value = part.overall[row].item()
            background = ALARM if row in marked else colour(value, part.threshold)
            _draw_cell(pen, (x, y), cell, digits(value), background, size)


def _draw_cell(pen: ImageDraw.ImageDraw, corner, cell: int, text: str, background: Colour, size: int) -> None:
    x, y = corner
    pen.rectangle((x + 1, y + 1, x + cell - 2, y + cell - 2), fill=background)
    write(pen, (x + cell // 2, y + cell // 2), text, size, INK if sum(background) > 330 else PAPER, "mm")


def colour(value: float, threshold: float) -> Colour:
    """Return a cell's colour: orange far below the threshold, pale at it, blue towards 1."""
    if value < threshold:
        end, share = _LOW, min(1.0, (threshold - value) / _SPAN)
    else:
        end, share = _HIGH, (value - threshold) / max(1 - threshold, 1e-6)
    return tuple(round(middle + (far - middle) * share) for middle, far in zip(_MIDDLE, end))
