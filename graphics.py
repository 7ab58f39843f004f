"""Draw a contact sheet: labelled pictures in a grid or in titled rows, with a title above and a note below."""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

COLUMNS = 3
SIDE = 384  # pixels of a panel's square
GAP = 24
MARGIN = 36
HEADER = 76
LABEL = 34
NOTE_LINE = 24
NOTE_CHARACTERS = 145
ROW_TITLE = 44
CELL = 192  # pixels of a picture's square in a row
CELL_LINE = 17
CELL_CHARACTERS = 32
CELL_LINES = 4

PAPER = (250, 249, 246)
FRAME = (226, 223, 216)
INK = (38, 38, 42)
FAINT = (112, 110, 106)


def draw(title: str, panels: Sequence[tuple[str, Image.Image]], note: str = "") -> Image.Image:
    """Return the sheet of `panels` (label, picture), row by row; pictures of any size are fitted into equal squares."""
    width = 2 * MARGIN + COLUMNS * SIDE + (COLUMNS - 1) * GAP
    rows = -(-len(panels) // COLUMNS)
    lines = textwrap.wrap(note, NOTE_CHARACTERS)
    height = HEADER + rows * (SIDE + LABEL + GAP) + NOTE_LINE * len(lines) + MARGIN // 2
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, HEADER // 2), title, fill=INK, font=ImageFont.load_default(size=30), anchor="lm")
    for index, (label, picture) in enumerate(panels):
        _panel(sheet, pen, panel_corner(index), label, picture)
    for index, line in enumerate(lines):
        top = HEADER + rows * (SIDE + LABEL + GAP) + index * NOTE_LINE
        pen.text((MARGIN, top), line, fill=FAINT, font=ImageFont.load_default(size=17))
    return sheet


def draw_rows(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, Image.Image]]]], note: str = "") -> Image.Image:
    """The sheet of `rows` (title, cells); of a cell (label, picture) the label is wrapped to CELL_LINES lines."""
    width = 2 * MARGIN + max(len(cells) for _, cells in rows) * (CELL + GAP) - GAP
    pitch = ROW_TITLE + CELL + CELL_LINES * CELL_LINE + GAP
    lines = textwrap.wrap(note, NOTE_CHARACTERS)
    sheet = Image.new("RGB", (width, HEADER + len(rows) * pitch + NOTE_LINE * len(lines) + MARGIN // 2), PAPER)
    pen = ImageDraw.Draw(sheet)
    _text(pen, (MARGIN, HEADER // 2), title, INK, 30)
    for row, (heading, cells) in enumerate(rows):
        top = HEADER + row * pitch
        _text(pen, (MARGIN, top + ROW_TITLE // 2), heading, INK, 20)
        for column, (label, picture) in enumerate(cells):
            _cell(sheet, pen, (MARGIN + column * (CELL + GAP), top + ROW_TITLE), label, picture)
    for index, line in enumerate(lines):
        _text(pen, (MARGIN, HEADER + len(rows) * pitch + (index + 0.5) * NOTE_LINE), line, FAINT, 17)
    return sheet


def _text(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: tuple, size: int) -> None:
    """A line of text, its middle at the height of `place`."""
    pen.text(place, text, fill=colour, font=ImageFont.load_default(size=size), anchor="lm")


def _cell(sheet: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], label: str, picture: Image.Image):
    left, top = corner
    sheet.paste(picture.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS), corner)
    lines = [line for part in label.split("\n") for line in textwrap.wrap(part, CELL_CHARACTERS)]
    for index, line in enumerate(lines[:CELL_LINES]):
        _text(pen, (left, top + CELL + (index + 0.75) * CELL_LINE), line, FAINT if index else INK, 13)


def panel_corner(index: int) -> tuple[int, int]:
    """Left and top pixel of the picture square of panel `index`."""
    row, column = divmod(index, COLUMNS)
    return MARGIN + column * (SIDE + GAP), HEADER + row * (SIDE + LABEL + GAP)


def amplified_difference(first: Image.Image, second: Image.Image) -> tuple[Image.Image, int]:
    """Absolute difference of two pictures of one size, made visible, and the factor it was multiplied by.

    The factor is the largest power of two, 64 at most, at which 99 of 100 values stay within the range.
    """
    a, b = (np.asarray(picture.convert("RGB"), dtype=np.int16) for picture in (first, second))
    difference = np.abs(a - b)
    bright = np.percentile(difference, 99)
    factor = next((factor for factor in (64, 32, 16, 8, 4, 2) if bright * factor <= 255), 1)
    return Image.fromarray((difference * factor).clip(0, 255).astype(np.uint8)), factor


def _panel(sheet: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], label: str, picture: Image.Image):
    left, top = corner
    pen.rectangle((left - 1, top - 1, left + SIDE, top + SIDE), fill=FRAME)
    fitted = ImageOps.contain(picture.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    sheet.paste(fitted, (left + (SIDE - fitted.width) // 2, top + (SIDE - fitted.height) // 2))
    pen.text((left, top + SIDE + LABEL // 2), label, fill=INK, font=ImageFont.load_default(size=19), anchor="lm")
