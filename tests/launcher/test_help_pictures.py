"""The help pages' pictures: every one is drawn by the launcher, and small."""

from likeness.host_process import ROOT
from likeness.launcher import help_pictures
from PIL import Image


def test_every_picture_of_the_help_pages_is_made_here():
    files = {file.stem.removeprefix("Likeness") for file in (ROOT / "web" / "docs" / "img").iterdir()}
    assert files == set(help_pictures.PICTURES)


def test_images_stand_in_a_row_each_over_its_label():
    red, blue = Image.new("RGB", (96, 96), "red"), Image.new("RGB", (1000, 100), "blue")
    row = help_pictures.compose([("a", red), ("b", blue), ("c", red)])
    side, gap = help_pictures.HEIGHT, help_pictures.GAP
    assert row.size == (2 * side + help_pictures.WIDTH + 4 * gap, side + gap + help_pictures.LABEL)
    assert row.getpixel((gap + 1, gap + 1)) == (255, 0, 0) and row.getpixel((2 * gap + side + 1, gap + side // 2)) == (
        0,
        0,
        255,
    )


def test_a_picture_with_much_detail_is_made_to_fit():
    noise = Image.effect_noise((400, 200), 50).convert("RGB")
    assert len(help_pictures.compress(noise)) < help_pictures.LIMIT
    assert help_pictures.tile([Image.new("RGB", (4, 6))] * 3).size == (8, 12)
