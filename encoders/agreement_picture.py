"""The agreement of photos as an image: thumbnails along both sides, a coloured cosine where two of them meet."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .agreement import Comparison, digits, find_disagreeing, least_agreeing, verdict

Colour = tuple[int, int, int]

_PAPER, _INK, _SELF, _ALARM = (250, 249, 246), (34, 34, 34), (222, 220, 214), (200, 30, 40)
# Cells below, at and above the threshold: orange and blue differ for colour-blind eyes too.
_LOW, _MIDDLE, _HIGH = (226, 118, 46), (247, 242, 230), (58, 124, 176)
_SPAN = 0.4  # how far below the threshold a cell is as orange as it gets
_CELLS = ((4, 104), (10, 76), (20, 58), (1000, 46))  # up to so many photos, pixels of a cell
_MARGIN, _GAP, _NUMBER, _WIDTH = 20, 12, 34, 640


def draw(comparison: Comparison, row_crops: torch.Tensor, column_crops: torch.Tensor) -> torch.Tensor:
    """Draw the image [1, H, W, 3] of a comparison; crops: [photos, S, S, 3] in 0..1 of the two identities.

    A photo that disagrees has a red frame, and its overall value is red. Of many photos, those that agree least are
    shown.
    """
    part = least_agreeing(comparison)
    most = max(len(part.rows), len(part.columns))
    cell = next(pixels for count, pixels in _CELLS if most <= count)
    text = _wrap(verdict(comparison), ImageFont.load_default(20), max(_WIDTH, _right(part, cell)) - 2 * _MARGIN)
    if part.whole is not None:
        text.append("Rows: face_id. Columns: compare_with.")
    if len(part.rows) < len(comparison.rows) or len(part.columns) < len(comparison.columns):
        text.append(f"Shown are the {most} photos that agree least.")
    top = _MARGIN + 28 * len(text) + _GAP
    size = max(_WIDTH, _right(part, cell)), top + _NUMBER + cell * (1 + len(part.rows)) + _GAP + _MARGIN
    canvas = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(canvas)
    if comparison.whole is None:
        alarm = bool(find_disagreeing(comparison))
    else:
        alarm = comparison.whole < comparison.threshold
    for line, words in enumerate(text):
        colour = _ALARM if line == 0 and alarm else _INK
        pen.text((_MARGIN, _MARGIN + 28 * line), words, fill=colour, font=ImageFont.load_default(20))
    _draw_sides(canvas, pen, part, (row_crops, column_crops), top, cell)
    _draw_cells(pen, part, top, cell)
    return torch.from_numpy(np.array(canvas, dtype=np.float32) / 255).unsqueeze(0)


def _right(part: Comparison, cell: int) -> int:
    """Return where the image must end for its last column, that of the overall values."""
    return _left(cell) + cell * (len(part.columns) + 1) + _GAP + _MARGIN


def _left(cell: int) -> int:
    return _MARGIN + _NUMBER + cell + _GAP


def _draw_sides(canvas: Image.Image, pen: ImageDraw.ImageDraw, part: Comparison, crops, top: int, cell: int) -> None:
    """Draw numbers and thumbnails to the left of the rows and above the columns."""
    rows, columns = crops
    marked = {part.rows[row] for row in find_disagreeing(part)}
    font = ImageFont.load_default(16)
    for index, number in enumerate(part.rows):
        x, y = _MARGIN + _NUMBER, top + _NUMBER + cell + _GAP + index * cell
        colour = _ALARM if number in marked else _INK
        pen.text((x - 8, y + cell // 2), str(number + 1), fill=colour, font=font, anchor="rm")
        _draw_thumbnail(canvas, pen, rows[number], (x, y), cell, number in marked)
    of_same = part.whole is None
    for index, number in enumerate(part.columns):
        x, y = _left(cell) + index * cell, top + _NUMBER
        alarm = of_same and number in marked
        pen.text((x + cell // 2, y - 8), str(number + 1), fill=_ALARM if alarm else _INK, font=font, anchor="ms")
        _draw_thumbnail(canvas, pen, columns[number], (x, y), cell, alarm)
    if not len(part.overall):
        return
    x = _left(cell) + len(part.columns) * cell + _GAP
    label = "others" if of_same else "all"
    pen.text((x + cell // 2, top + _NUMBER + cell - 8), label, fill=_INK, font=ImageFont.load_default(14), anchor="ms")


def _draw_thumbnail(canvas: Image.Image, pen: ImageDraw.ImageDraw, crop, corner, cell: int, marked: bool) -> None:
    side = cell - 6
    pixels = (crop.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    x, y = corner[0] + 3, corner[1] + 3
    canvas.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS), (x, y))
    if marked:
        pen.rectangle((x - 2, y - 2, x + side + 1, y + side + 1), outline=_ALARM, width=4)


def _draw_cells(pen: ImageDraw.ImageDraw, part: Comparison, top: int, cell: int) -> None:
    marked = find_disagreeing(part)
    font = ImageFont.load_default(max(15, cell // 4))
    for row, values in enumerate(part.cosines.tolist()):
        y = top + _NUMBER + cell + _GAP + row * cell
        for column, value in enumerate(values):
            itself = part.whole is None and part.rows[row] == part.columns[column]
            background = _SELF if itself else colour(value, part.threshold)
            _draw_cell(pen, (_left(cell) + column * cell, y), cell, "" if itself else digits(value), background, font)
        if len(part.overall):
            x = _left(cell) + len(values) * cell + _GAP
            value = part.overall[row].item()
            background = _ALARM if row in marked else colour(value, part.threshold)
            _draw_cell(pen, (x, y), cell, digits(value), background, font)


def _draw_cell(pen: ImageDraw.ImageDraw, corner, cell: int, text: str, background: Colour, font) -> None:
    x, y = corner
    pen.rectangle((x + 1, y + 1, x + cell - 2, y + cell - 2), fill=background)
    ink = _INK if sum(background) > 330 else _PAPER
    pen.text((x + cell // 2, y + cell // 2), text, fill=ink, font=font, anchor="mm")


def colour(value: float, threshold: float) -> Colour:
    """Return a cell's colour: orange far below the threshold, pale at it, blue towards 1."""
    if value < threshold:
        end, share = _LOW, min(1.0, (threshold - value) / _SPAN)
    else:
        end, share = _HIGH, (value - threshold) / max(1 - threshold, 1e-6)
    return tuple(round(middle + (far - middle) * share) for middle, far in zip(_MIDDLE, end))


def _wrap(text: str, font, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
