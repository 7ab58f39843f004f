"""Places of people: parts, boxes, heads, and rims that sum to at most one."""

import pytest
import torch
from likeness.faces.places import PARTS, blend_places, fill_box, fill_head, resize_mask
from likeness.tests.support.face_at import face_at

SIZE = (64, 96)


def test_parts_and_boxes():
    halves = [fill_box(PARTS[name], SIZE) for name in ("left half", "right half")]
    assert torch.equal(halves[0] + halves[1], torch.ones(SIZE)) and halves[0][:, 0].all()
    thirds = sum(fill_box(PARTS[name], SIZE) for name in ("left third", "middle third", "right third"))
    assert torch.equal(thirds, torch.ones(SIZE))
    box = fill_box((25, 50, 50, 80), SIZE)
    assert box.sum() == 48 * 32 and box[32:, 24:72].all(), "cut at the border"


@pytest.mark.parametrize("percent", [0.0, 8.0, 50.0])
def test_neighbours_share_their_rim(percent):
    places = torch.stack([fill_box(PARTS[name], SIZE) for name in ("left half", "right half")])
    left, right = blend_places(places, percent)
    assert torch.allclose(left + right, torch.ones(SIZE), atol=1e-6)
    reach = round(percent / 200 * 64)
    assert torch.equal(left[:, : 48 - reach], torch.ones(64, 48 - reach)) and not left[:, 48 + reach :].any()
    assert (left.diff(dim=1) <= 1e-6).all()


def test_overlaps_sum_to_one_and_the_rest_to_nothing():
    places = torch.stack([fill_box((0, 0, 60, 100), SIZE), fill_box((40, 0, 40, 100), SIZE)])
    masks = blend_places(places, 0.0)
    total = masks.sum(dim=0)
    assert total.max() == 1 and not total[:, 77:].any()
    assert (masks[:, :, 45] == 0.5).all() and (masks[0, :, 10] == 1).all()
    # What does not touch stays by itself: a place elsewhere changes nothing here.
    other = torch.stack([fill_box((0, 0, 30, 100), SIZE), fill_box((70, 0, 20, 50), SIZE)])
    moved = torch.stack([other[0], fill_box((60, 50, 20, 50), SIZE)])
    assert torch.equal(blend_places(other, 8.0)[0], blend_places(moved, 8.0)[0])


def test_a_head_of_another_picture():
    """The head comes along where the picture is scaled, and has room around it."""
    face = face_at(60, 60)
    mask = fill_head(face, (120, 120), (240, 240))
    x0, y0, x1, y1 = (round(2 * edge) for edge in face.box)
    assert mask[y0:y1, x0:x1].mean() > 0.95 and (y1 - y0) * (x1 - x0) < mask.sum() < 240 * 240
    assert not fill_head(face_at(600, 60), (120, 120), (240, 240)).any()


def test_masks_of_any_size():
    mask = torch.zeros(10, 10)
    mask[:, :5] = 1
    stretched = resize_mask(mask, SIZE)
    assert stretched.shape == SIZE and stretched[:, :40].min() == 1 and stretched[:, 56:].max() == 0
