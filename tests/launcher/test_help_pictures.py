"""The help pages' pictures: every one is drawn by the launcher, and small."""

import re

from likeness.host_process import ROOT
from likeness.launcher import help_pictures
from PIL import Image

import nodes
from likeness import graphics


def test_every_picture_of_the_help_pages_is_made_here():
    files = {file.stem.removeprefix("Likeness") for file in (ROOT / "web" / "docs" / "img").iterdir()}
    assert files == help_pictures.PICTURES.keys() | help_pictures.DIAGRAMS.keys()


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


def test_diagrams_name_what_there_is(executor):
    """Nodes by their names in the editor, inputs by theirs, files by those they are published under."""
    known = {node.GET_SCHEMA().display_name for key, node in nodes.NODE_CLASS_MAPPINGS.items() if key[:8] == "Likeness"}
    for name, (_, columns) in help_pictures.DIAGRAMS.items():
        headings = {heading for column in columns for heading, *_ in column}
        schema = nodes.NODE_CLASS_MAPPINGS[f"Likeness{name}"].GET_SCHEMA()
        assert headings & {schema.display_name, *(socket.id for socket in (*schema.inputs, *schema.outputs))}, name
        named = {heading for heading in headings if re.match("(Load|Apply|Encode|Face|Score) ", heading)}
        assert named <= known, name


def test_boxes_are_joined_by_arrows():
    column = [("one", "a text"), ("two", Image.new("RGB", (96, 96), "red"))]
    drawn = help_pictures.connect([column, [("both", "a text that is longer than a line of a box can be")]])
    assert drawn.width == 2 * help_pictures.BOX + help_pictures.ARROW + 2 * help_pictures.GAP
    between = range(help_pictures.GAP + help_pictures.BOX, help_pictures.GAP + help_pictures.BOX + help_pictures.ARROW)
    assert sum(drawn.getpixel((x, y)) != graphics.PAPER for x in between for y in range(drawn.height)) > 30


def test_a_text_is_printed_as_far_as_it_fits():
    few, many = (help_pictures.print_text("a line\n" * lines) for lines in (1, 100))
    assert few.size == many.size == (help_pictures.WIDTH, help_pictures.HEIGHT)
    assert few.getpixel((help_pictures.GAP + 3, 2 * help_pictures.LINE)) == (255, 255, 255)


def test_a_picture_with_much_detail_is_made_to_fit():
    noise = Image.effect_noise((400, 200), 50).convert("RGB")
    assert len(help_pictures.compress(noise)) < help_pictures.LIMIT
    assert help_pictures.tile([Image.new("RGB", (4, 6))] * 3).size == (8, 12)
