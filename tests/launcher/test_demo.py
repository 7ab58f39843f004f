"""The demo's sheet, and how the demo fits its graph to the files at hand."""

import numpy as np
import pytest
from likeness.launcher import demo
from PIL import Image

from likeness import graphics

RED, GREEN = (200, 30, 30), (30, 160, 60)


def panel(page: Image.Image, index: int) -> np.ndarray:
    left, top = graphics.panel_corner(index)
    return np.asarray(page.crop((left, top, left + graphics.SIDE, top + graphics.SIDE)))


def test_sheet_has_a_square_for_every_picture():
    colours = [(40 * index, 250 - 40 * index, 128) for index in range(6)]
    sizes = [(512, 512), (64, 64), (112, 112), (256, 256), (900, 900), (33, 33)]
    page = graphics.draw("Six", [(f"No {i}", Image.new("RGB", sizes[i], colours[i])) for i in range(6)])
    assert page.size == (2 * 36 + 3 * 384 + 2 * 24, 76 + 2 * (384 + 34 + 24) + 18)
    for index, colour in enumerate(colours):
        assert (panel(page, index) == colour).all()


def test_pictures_keep_their_proportions():
    pictures = [("wide", Image.new("RGB", (200, 100), RED)), ("tall", Image.new("RGB", (10, 40), GREEN))]
    page = graphics.draw("Proportions", pictures)
    wide, tall = panel(page, 0), panel(page, 1)
    assert (wide[96:288] == RED).all() and (wide[:96] == graphics.FRAME).all() and (wide[288:] == graphics.FRAME).all()
    assert (tall[:, 144:240] == GREEN).all() and (tall[:, :144] == graphics.FRAME).all()


def test_labels_title_and_note_are_written():
    picture = Image.new("RGB", (64, 64), RED)
    plain, noted = graphics.draw("", [("", picture)]), graphics.draw("Title", [("Label", picture)], "A note. " * 30)
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
    difference, found = graphics.amplified_difference(dark, light)
    assert found == factor
    assert difference.getpixel((3, 3)) == (step * factor, 0, 0)


def test_single_bright_pixels_do_not_set_the_factor():
    first = Image.new("RGB", (20, 20))
    second = Image.new("RGB", (20, 20), (2, 2, 2))
    second.putpixel((0, 0), (255, 255, 255))
    difference, factor = graphics.amplified_difference(first, second)
    assert factor == 64
    assert difference.getpixel((0, 0)) == (255, 255, 255)


def test_rows_have_their_pictures_titles_and_labels():
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


def graph() -> dict[str, dict]:
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
        "2": {"class_type": "LikenessLoadFaceEncoder", "inputs": {"encoder_name": "encoder.pt"}},
        "3": {"class_type": "LikenessLoadFaceAdapter", "inputs": {"adapter_name": "fact.pt"}},
        "4": {"class_type": "LikenessApplyFACT", "inputs": {"strength": 0.8, "model": ["1", 0]}},
        "5": {"class_type": "LikenessLoadFaceDetector", "inputs": {"detector": "mediapipe: face.safetensors"}},
    }


def test_what_is_missing_of_the_published_files():
    present = {"sd15.safetensors", "encoder.pt", "fact.pt", "face.safetensors", "miniature_fact.safetensors"}
    assert demo.missing_weights(graph(), present) == []
    assert demo.missing_weights(graph(), present - {"fact.pt"}) == ["fact.pt"]
    rewritten = present - {"encoder.pt", "fact.pt"} | {"encoder.safetensors", "fact.safetensors"}
    assert demo.missing_weights(graph(), rewritten) == [], "what was fetched may have been rewritten"


def test_a_missing_detector_is_replaced_alone():
    prompt = graph()
    demo.use_free_detector(prompt, {"face.safetensors"})
    assert prompt == graph()
    demo.use_free_detector(prompt, {"sd15.safetensors", "encoder.pt", "fact.pt"})
    assert prompt.pop("5")["inputs"] == {"detector": "opencv: haar cascade"}
    assert prompt == {key: graph()[key] for key in "1234"}


def test_adapter_off_changes_nothing_but_the_strength():
    prompt = graph()
    off = demo.without_adapter(prompt)
    assert off["4"]["inputs"] == {"strength": 0.0, "model": ["1", 0]}
    assert prompt == graph()
    assert {key: off[key] for key in "123"} == {key: prompt[key] for key in "123"}
