"""Pictures read from files, and images shown to people: one palette, type that knows the text's letters, sheets."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

Colour = tuple[int, int, int]

PAPER, FRAME, GRID = (250, 249, 246), (226, 223, 216), (222, 220, 214)
INK, FAINT, ALARM = (38, 38, 42), (112, 110, 106), (200, 30, 40)
GOLD, PALE_GOLD, BLUE, PALE_BLUE = (255, 205, 70), (255, 232, 160), (111, 168, 220), (190, 214, 240)
# For what Pillow's own font lacks, which is all but English; by the names that Linux, Windows and macOS have. The
# later ones know Chinese, Japanese or Korean as well.
FONTS = (
    "DejaVuSans.ttf", "segoeui.ttf", "Arial Unicode.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf", "msyh.ttc", "meiryo.ttc", "malgun.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc",
)  # fmt: skip
EAST_ASIAN = "\u2e80-\uffef"  # characters from the radicals of Chinese to full-width forms
NO_CHARACTER = "\U0010ffff"  # every font draws for it what it draws for all that it lacks

LONGEST = 6000  # pixels a side, to which larger pictures are made smaller: 144 megapixels would take gigabytes
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for broken files

load_builtin = functools.lru_cache(ImageFont.load_default)  # by size: Pillow decodes its own font anew for every call

COLUMNS = 3  # of a sheet
SIDE = 384  # pixels of a panel's square
GAP = 24
MARGIN = 36
HEADER = 76
LABEL = 34
NOTE_LINE = 24
NOTE_SIZE = 17
ROW_TITLE = 44
CELL = 192  # pixels of an image's square in a row
CELL_LINE = 17
CELL_SIZE = 13
CELL_LINES = 4


def read_image(file: Path | BinaryIO) -> torch.Tensor:
    """Return the picture in `file` as its camera was held: [H, W, 3] in 0..1, H and W at most `LONGEST`.

    Grey becomes RGB, alpha goes, 16 bits become 8 as they look. Raises ValueError naming a file that cannot be read.
    """
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith(("I", "F")):  # Pillow would cut values above 255 off
                pixels = np.asarray(upright, dtype=np.float32)
                limit = 65535 if pixels.max() > 255 else 255
                upright = Image.fromarray((pixels / limit * 255).round().clip(0, 255).astype(np.uint8))
            upright = upright.convert("RGB")
        upright.thumbnail((LONGEST, LONGEST))
        if min(upright.size) < 2:
            raise ValueError("it is less than 2 pixels wide or high")
    except _UNREADABLE as error:
        raise ValueError(f"{file} cannot be read as a picture ({error}).") from error
    return torch.from_numpy(np.array(upright)).float().div_(255)


def to_pillow(image: torch.Tensor) -> Image.Image:
    """Return an image [h, w, 3 or more] in 0..1 as 8-bit RGB; values outside are clamped."""
    return Image.fromarray((image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Return an RGB image as the host's IMAGE [1, h, w, 3] in 0..1."""
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255)[None]


@functools.cache
def find_fonts() -> tuple[str, ...]:
    """Return the paths of those of FONTS that this system has."""
    paths = []
    for name in FONTS:
        try:
            paths.append(ImageFont.truetype(name).path)
        except OSError:  # not here
            continue
    return tuple(paths)


def choose_font(text: str, size: float) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font, or of `find_fonts` the first that knows more of the text's characters."""
    builtin = load_builtin(size)
    if text.isascii():
        return builtin
    fonts = [builtin, *(ImageFont.truetype(path, size) for path in find_fonts())]
    return max(fonts, key=lambda font: count_known(font, text))


def count_known(font: ImageFont.FreeTypeFont, text: str) -> int:
    """Return how many of the text's characters the font has a glyph for."""
    unknown = bytes(font.getmask(NO_CHARACTER))
    return sum(bytes(font.getmask(character)) != unknown for character in text)


def split_scripts(text: str, size: float) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Return the East Asian and the other parts of a text, in their order, each with its font."""
    return [(part, choose_font(part, size)) for part in re.findall(f"[{EAST_ASIAN}]+|[^{EAST_ASIAN}]+", text)]


def write(
    pen: ImageDraw.ImageDraw,
    position: tuple[float, float],
    text: str,
    size: float,
    colour: Colour = INK,
    anchor: str = "la",
) -> None:
    """Draw one line of text, `size` pixels high.

    anchor: which point of it is at `position`, as Pillow names them: left, middle or right, and ascender, middle or
    base line.
    """
    x, y = position
    ascent, descent = choose_font("", size).getmetrics()
    x -= {"l": 0, "m": 0.5, "r": 1}[anchor[0]] * measure(text, size)
    y += {"a": ascent, "m": (ascent - descent) / 2, "s": 0}[anchor[1]]
    for part, font in split_scripts(text, size):
        pen.text((x, y), part, fill=colour, font=font, anchor="ls")
        x += font.getlength(part)


def measure(text: str, size: float) -> int:
    """Return how many pixels wide a line of text is."""
    return round(sum(font.getlength(part) for part, font in split_scripts(text, size)))


def wrap(text: str, size: float, width: float) -> list[str]:
    """Return the lines of a text that is to be `width` pixels wide at most; longer words stand alone and reach out."""
    lines = []
    for word in text.split():
        if lines and measure(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def paste_fitted(canvas: Image.Image, image: Image.Image, corner: tuple[int, int], side: int) -> None:
    """Paste an image of any size, as large as fits and in the middle, into the square of `side` pixels at `corner`."""
    fitted = ImageOps.contain(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    left, top = corner
    canvas.paste(fitted, (left + (side - fitted.width) // 2, top + (side - fitted.height) // 2))


def draw_sheet(title: str, panels: Sequence[tuple[str, Image.Image]], note: str = "") -> Image.Image:
    """Return the sheet of `panels` (label, image), row by row, each in a square of the same size."""
    width = 2 * MARGIN + COLUMNS * SIDE + (COLUMNS - 1) * GAP
    sheet, pen = _open_sheet(title, width, -(-len(panels) // COLUMNS) * (SIDE + LABEL + GAP), note)
    for index, (label, image) in enumerate(panels):
        left, top = panel_corner(index)
        pen.rectangle((left - 1, top - 1, left + SIDE, top + SIDE), fill=FRAME)
        paste_fitted(sheet, image, (left, top), SIDE)
        write(pen, (left, top + SIDE + LABEL // 2), label, 19, anchor="lm")
    return sheet


def panel_corner(index: int) -> tuple[int, int]:
    """Return the left and top pixel of the square of panel `index`."""
    row, column = divmod(index, COLUMNS)
    return MARGIN + column * (SIDE + GAP), HEADER + row * (SIDE + LABEL + GAP)


def draw_rows(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, Image.Image]]]], note: str = "") -> Image.Image:
    """Return the sheet of `rows` (title, cells); of a cell (label, image) the label is wrapped to CELL_LINES lines."""
    width = 2 * MARGIN + max(len(cells) for _, cells in rows) * (CELL + GAP) - GAP
    pitch = ROW_TITLE + CELL + CELL_LINES * CELL_LINE + GAP
    sheet, pen = _open_sheet(title, width, len(rows) * pitch, note)
    for row, (heading, cells) in enumerate(rows):
        top = HEADER + row * pitch
        write(pen, (MARGIN, top + ROW_TITLE // 2), heading, 20, anchor="lm")
        for column, (label, image) in enumerate(cells):
            left, bottom = MARGIN + column * (CELL + GAP), top + ROW_TITLE + CELL
            paste_fitted(sheet, image, (left, bottom - CELL), CELL)
            lines = [line for part in label.split("\n") for line in wrap(part, CELL_SIZE, CELL)]
            for index, line in enumerate(lines[:CELL_LINES]):
                position = left, bottom + (index + 0.75) * CELL_LINE
                write(pen, position, line, CELL_SIZE, FAINT if index else INK, "lm")
    return sheet


def stack(sheets: Sequence[Image.Image]) -> Image.Image:
    """Return sheets one below the other, each at the left."""
    page = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), PAPER)
    top = 0
    for sheet in sheets:
        page.paste(sheet, (0, top))
        top += sheet.height
    return page


def _open_sheet(title: str, width: int, height: int, note: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a sheet, and a pen for it, with `height` pixels left between its title and its note."""
    lines = wrap(note, NOTE_SIZE, width - 2 * MARGIN)
    sheet = Image.new("RGB", (width, HEADER + height + NOTE_LINE * len(lines) + MARGIN // 2), PAPER)
    pen = ImageDraw.Draw(sheet)
    write(pen, (MARGIN, HEADER // 2), title, 30, anchor="lm")
    for index, line in enumerate(lines):
        write(pen, (MARGIN, HEADER + height + (index + 0.5) * NOTE_LINE), line, NOTE_SIZE, FAINT, "lm")
    return sheet, pen


def amplify_difference(first: Image.Image, second: Image.Image) -> tuple[Image.Image, int]:
    """Return the absolute difference of two images of one size, made visible, and the factor it was multiplied by.

    The factor is the largest power of two, 64 at most, at which 99 of 100 values stay within the range.
    """
    a, b = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (first, second))
    difference = np.abs(a - b)
    bright = np.percentile(difference, 99)
    factor = next((factor for factor in (64, 32, 16, 8, 4, 2) if bright * factor <= 255), 1)
    return Image.fromarray((difference * factor).clip(0, 255).astype(np.uint8)), factor
