"""InstantID's picture of five points against pictures of its authors' code."""

import json

import numpy as np
import pytest
from likeness.faces.keypoints import COLOURS, draw_keypoints
from likeness.tests.support.golden_cases import GOLDEN
from PIL import Image

CASES = json.loads((GOLDEN / "instantid_kps.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_pictures(case):
    expected = np.asarray(Image.open(GOLDEN / case["picture"]).convert("RGB"))
    drawn = draw_keypoints([np.array(case["points_xy"])], case["width"], case["height"])
    different = (np.rint(drawn.numpy() * 255) != expected).any(axis=2).sum()
    assert different <= 4, "a polygon's edge rounds otherwise in a pixel or two"


def test_mirrored_points_exchange_the_colours():
    """Points named the other way round are drawn in the image's order; several faces go into one picture."""
    points = np.array(CASES[0]["points_xy"])
    straight, swapped = (draw_keypoints([order], 512, 512) for order in (points, points[[1, 0, 2, 4, 3]]))
    assert (straight == swapped).all()
    pair = draw_keypoints([points, points + [150.0, 60.0]], 512, 512)
    x, y = (points[0] + [150.0, 60.0]).astype(int)
    assert tuple((pair[y, x] * 255).int().tolist()) == COLOURS[0]


def test_nothing_in_sight_is_black():
    assert not draw_keypoints([np.array(CASES[0]["points_xy"]) + 5000], 64, 32).any()
    assert draw_keypoints([], 64, 32).shape == (32, 64, 3)
