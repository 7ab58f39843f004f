"""What images shown to people share: type, fitted images, contact sheets."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from likeness import graphics

DEJAVU = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
RED, GREEN = (200, 30, 30), (30, 160, 60)


def panel(page: Image.Image, index: int) -> np.ndarray:
    left, top = graphics.panel_corner(index)
    return np.asarray(page.crop((left, top, left + graphics.SIDE, top + graphics.SIDE)))


def test_sheet_has_a_square_for_every_image():
    colours = [(40 * index, 250 - 40 * index, 128) for index in range(6)]
    sizes = [(512, 512), (64, 64), (112, 112), (256, 256), (900, 900), (33, 33)]
    page = graphics.draw_sheet("Six", [(f"No {i}", Image.new("RGB", sizes[i], colours[i])) for i in range(6)])
    assert page.size == (2 * 36 + 3 * 384 + 2 * 24, 76 + 2 * (384 + 34 + 24) + 18)
    for index, colour in enumerate(colours):
        assert (panel(page, index) == colour).all()


def test_images_keep_their_proportions():
    panels = [("wide", Image.new("RGB", (200, 100), RED)), ("tall", Image.new("RGB", (10, 40), GREEN))]
    page = graphics.draw_sheet("Proportions", panels)
    wide, tall = panel(page, 0), panel(page, 1)
    assert (wide[96:288] == RED).all() and (wide[:96] == graphics.FRAME).all() and (wide[288:] == graphics.FRAME).all()
    assert (tall[:, 144:240] == GREEN).all() and (tall[:, :144] == graphics.FRAME).all()


def test_labels_title_and_note_are_written():
    image = Image.new("RGB", (64, 64), RED)
    plain = graphics.draw_sheet("", [("", image)])
    noted = graphics.draw_sheet("Title", [("Label", image)], "A note. " * 30)
    assert noted.height == plain.height + 2 * graphics.NOTE_LINE
    left, bottom = graphics.MARGIN, graphics.HEADER + graphics.SIDE + 1
    for area in ((left, 0, 700, graphics.HEADER - 1), (left, bottom, 700, bottom + graphics.LABEL)):
        assert len(plain.crop(area).getcolors()) == 1
        assert len(noted.crop(area).getcolors()) > 5
    note = noted.crop((0, bottom + graphics.LABEL + graphics.GAP, noted.width, noted.height))
    ink = np.argwhere(np.asarray(note.convert("L")) < 160)
    assert ink[:, 1].max() < noted.width - graphics.MARGIN


@pytest.mark.parametrize(("step", "factor"), [(0, 64), (3, 64), (5, 32), (60, 4), (100, 2), (200, 1)])
def test_difference_is_amplified_as_far_as_it_goes(step, factor):
    dark = Image.new("RGB", (20, 20), (10, 10, 10))
    light = Image.new("RGB", (20, 20), (10 + step, 10, 10))
    difference, amplified = graphics.amplify_difference(dark, light)
    assert amplified == factor
    assert difference.getpixel((3, 3)) == (step * factor, 0, 0)


def test_single_bright_pixels_do_not_set_the_factor():
    first = Image.new("RGB", (20, 20))
    second = Image.new("RGB", (20, 20), (2, 2, 2))
    second.putpixel((0, 0), (255, 255, 255))
    difference, factor = graphics.amplify_difference(first, second)
    assert factor == 64
    assert difference.getpixel((0, 0)) == (255, 255, 255)


def test_rows_have_their_images_titles_and_labels():
    blue = (30, 60, 200)
    cells = [("0.50\na label of several words that has to be cut in two", Image.new("RGB", (96, 96), blue))] * 3
    page = graphics.draw_rows("Title", [("First", cells), ("Second", cells[:1])], "A note.")
    assert page.width == 2 * graphics.MARGIN + 3 * graphics.CELL + 2 * graphics.GAP
    assert (np.asarray(page) == blue).all(axis=-1).sum() == 4 * graphics.CELL**2
    left, top = graphics.MARGIN, graphics.HEADER + graphics.ROW_TITLE + graphics.CELL + graphics.CELL_LINE // 4
    right = left + graphics.CELL
    inks = [line.convert("L").getextrema()[0] for line in (page.crop((left, y, right, y + graphics.CELL_LINE))
            for y in range(top, top + 4 * graphics.CELL_LINE, graphics.CELL_LINE))]  # fmt: skip
    assert max(inks[:3]) < 180 and inks[3] > 240, "the score, two lines of label, and nothing"


def test_the_font_is_the_first_that_knows_the_most_letters(monkeypatch):
    monkeypatch.setattr(graphics, "find_fonts", lambda: (DEJAVU,))
    builtin = ImageFont.load_default(17).getname()
    texts = ("plain: 0.5", "face 1 · word 2", "é", "Łódź", "你")
    names = {text: graphics.choose_font(text, 17).getname() for text in texts}
    assert [name for name, font in names.items() if font == builtin] == ["plain: 0.5", "face 1 · word 2", "你"]
    assert names["é"] == names["Łódź"] == ("DejaVu Sans", "Book")
    monkeypatch.setattr(graphics, "find_fonts", tuple)
    assert graphics.choose_font("é", 17).getname() == builtin, "a box, where no font has it"


def test_east_asian_letters_have_a_font_of_their_own(monkeypatch):
    monkeypatch.setattr(graphics, "find_fonts", lambda: (DEJAVU,))
    parts = graphics.split_scripts("André, 你好 x", 17)
    assert [part for part, _ in parts] == ["André, ", "你好", " x"]
    assert graphics.measure("André, 你好 x", 17) == round(sum(font.getlength(part) for part, font in parts))


@pytest.mark.parametrize("anchor", ["la", "lm", "mm", "rm", "ms"])
def test_text_stands_at_its_anchor(anchor):
    canvas = Image.new("L", (120, 80))
    graphics.write(ImageDraw.Draw(canvas), (60, 40), "HHH", 20, 255, anchor)
    expected = Image.new("L", (120, 80))
    font = ImageFont.load_default(20)
    ImageDraw.Draw(expected).text((60, 40), "HHH", fill=255, font=font, anchor=anchor)
    boxes = [image.getbbox() for image in (canvas, expected)]
    assert np.abs(np.subtract(*boxes)).max() <= 1, "where Pillow puts it"


def test_fonts_of_this_system_can_be_opened():
    assert all(ImageFont.truetype(path, 12) for path in graphics.find_fonts())


def test_text_is_wrapped_by_its_width():
    text = "Photos 2 and 6 disagree with the others; 0.30 is asked."
    lines = graphics.wrap(text, 20, 200)
    assert " ".join(lines) == text and len(lines) > 2
    assert max(graphics.measure(line, 20) for line in lines) <= 200
    assert graphics.wrap("a-word-that-is-too-long b", 20, 50) == ["a-word-that-is-too-long", "b"]
    assert graphics.wrap("", 20, 50) == []


def test_images_come_back_from_pillow_as_they_were():
    image = torch.randint(256, (5, 7, 3), generator=torch.Generator().manual_seed(0)).float() / 255
    assert torch.equal(graphics.to_tensor(graphics.to_pillow(image))[0], image)
    assert graphics.to_pillow(torch.full((2, 3, 4), 7.0)).getcolors() == [(6, (255, 255, 255))]


def test_sheets_are_stacked_whole():
    sheets = [Image.new("RGB", size, colour) for size, colour in (((30, 10), (1, 2, 3)), ((20, 15), (4, 5, 6)))]
    page = graphics.stack(sheets)
    assert page.size == (30, 25)
    assert [page.getpixel(at) for at in ((29, 9), (19, 24), (29, 24))] == [(1, 2, 3), (4, 5, 6), graphics.PAPER]
