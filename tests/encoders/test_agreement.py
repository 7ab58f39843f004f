"""How far photos agree: the cosines, which photos are marked, the table as text and as a picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from likeness.encoders import agreement_picture
from likeness.encoders.agreement import (
    agreement,
    between_identities,
    between_photos,
    cosines,
    find_disagreeing,
    least_agreeing,
    table,
    verdict,
)
from likeness.graphics import ALARM
from likeness.tests.support import tiny
from torch.nn.functional import normalize

RED = torch.tensor(ALARM) / 255


def person(photos, seed=1, wrong=()):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(1, 256, generator=generator) + 0.5 * torch.randn(photos, 256, generator=generator)
    for photo in wrong:
        embedding[photo] = torch.randn(256, generator=generator)
    return replace(tiny.face_id(photos, seed), embedding=normalize(embedding, dim=1))


def test_cosines_and_leave_one_out_by_hand():
    embedding = person(5, wrong=(3,)).embedding
    vectors = embedding.double().numpy()
    for i in range(5):
        others = np.delete(vectors, i, axis=0).mean(axis=0)
        expected = vectors[i] @ others / np.linalg.norm(others)
        assert agreement(embedding)[i].item() == pytest.approx(expected, abs=1e-12)
        for j in range(5):
            assert cosines(embedding, embedding)[i, j].item() == pytest.approx(vectors[i] @ vectors[j], abs=1e-7)
    assert cosines(embedding, embedding).max() <= 1


def test_the_wrong_photo_is_the_one_that_disagrees():
    compared = between_photos(person(9, wrong=(4,)), 0.3)
    assert find_disagreeing(compared) == [4]
    assert verdict(compared).startswith(f"Photo 5 ({compared.overall[4]:.2f}) disagrees with the others; 0.30")
    lines = table(compared).splitlines()
    assert [line[:6].split() for line in lines[1:10]] == [[str(n), "!"] if n == 5 else [str(n)] for n in range(1, 10)]
    assert len({len(line) for line in lines[:10]}) == 1, "the columns stand below each other"
    values = np.array([line[6:].split() for line in lines[1:10]], dtype=float)
    assert np.abs(values[:, :9] - compared.cosines.numpy()).max() <= 0.005001
    assert np.abs(values[:, 9] - compared.overall.numpy()).max() <= 0.005001


def test_sentences_for_one_two_and_all():
    assert verdict(between_photos(person(1), 0.3)) == "One photo: there is nothing to compare it with."
    assert verdict(between_photos(person(2), 0.3)).startswith("The two photos agree: 0.")
    assert find_disagreeing(between_photos(person(2, wrong=(1,)), 0.3)) == [0, 1], "which of the two, nobody can tell"
    assert verdict(between_photos(person(2, wrong=(1,)), 0.3)).startswith("The two photos disagree: ")
    assert verdict(between_photos(person(4), 0.3)) == "All 4 photos agree: each at least 0.30 with the others."
    assert "Photos 2 (" in verdict(between_photos(person(6, wrong=(1, 5)), 0.3))
    assert "-0.00" not in table(between_photos(replace(person(2), embedding=torch.tensor([[1, -0.001], [0, 1]])), 0.3))


def test_two_identities():
    one, same, other = person(3, 1), person(2, 1), person(2, 2)
    near, far = between_identities(one, same, 0.3), between_identities(one, other, 0.3)
    assert near.cosines.shape == (3, 2) and near.whole > 0.8 and abs(far.whole) < 0.3
    assert find_disagreeing(near) == [] and find_disagreeing(far) == [0, 1, 2]
    assert "The two identities agree: 0.9" in table(near) and "disagree" in verdict(far)
    means = [normalize(identity.embedding.mean(dim=0), dim=0) for identity in (one, other)]
    assert far.whole == pytest.approx(float(means[0] @ means[1]), abs=1e-6)
    with pytest.raises(ValueError, match="cannot be joined or compared"):
        between_identities(one, replace(other, sha256="1" * 64), 0.3)


def test_of_many_photos_the_least_agreeing_are_shown_in_order():
    compared = between_photos(person(100, wrong=(7, 93)), 0.3)
    part = least_agreeing(compared)
    assert len(part.rows) == 40 and part.rows == part.columns == sorted(part.rows) and {7, 93} <= {*part.rows}
    assert torch.equal(part.cosines, compared.cosines[part.rows][:, part.rows])
    lines = table(compared).splitlines()
    assert len(lines) == 44 and "Only the 40 photos" in lines[41] and "Photos 8 (" in lines[43]
    mixed = least_agreeing(between_identities(person(50), person(3), 0.3))
    assert mixed.cosines.shape == (40, 3) and len(mixed.overall) == 40


def draw_image(compared, rows, columns):
    canvas = agreement_picture.draw(compared, rows, columns)
    assert canvas.shape[0] == 1 and canvas.shape[3] == 3 and 0 <= canvas.min() and canvas.max() <= 1
    return canvas[0]


def reds(canvas):
    """Rows and columns of pixels that hold the red of frames and marked cells, without the red headline."""
    red = (canvas - RED).abs().amax(dim=2) < 1e-3
    red[:60] = False
    return red


@pytest.mark.parametrize("photos", [1, 2, 9, 30, 60])
def test_a_image_for_any_number_of_photos_without_red_where_all_agree(photos):
    identity = person(photos)
    canvas = draw_image(between_photos(identity, 0.3), identity.crops, identity.crops)
    assert not reds(canvas).any() and canvas.shape[0] < 2100 and canvas.shape[1] < 2100
    assert canvas.std() > 0.05


def test_the_wrong_photo_has_a_red_frame_on_both_sides_and_a_red_value():
    identity = replace(person(5, wrong=(3,)), crops=torch.full((5, 8, 8, 3), 0.5))
    red = reds(draw_image(between_photos(identity, 0.3), identity.crops, identity.crops))
    cell = next(pixels for count, pixels in agreement_picture._CELLS if 5 <= count)
    left = agreement_picture._left(cell)
    top = agreement_picture._MARGIN + agreement_picture._LINE + agreement_picture._GAP
    first_row = top + agreement_picture._NUMBER + cell + agreement_picture._GAP
    across, down = red.any(dim=0).nonzero().flatten() - left, red.any(dim=1).nonzero().flatten() - first_row
    assert {int(x) // cell for x in across if 0 <= x < 5 * cell} == {3}
    assert {int(y) // cell for y in down if 0 <= y} == {3}
    value = red[first_row + 3 * cell : first_row + 4 * cell, left + 5 * cell + agreement_picture._GAP :]
    assert value.float().mean() > 0.3, "the overall value's cell is filled"


def test_thumbnails_and_cells_have_their_colours():
    crops = torch.stack([torch.full((8, 8, 3), value) for value in (0.2, 0.6)])
    canvas = draw_image(between_photos(person(2), 0.3), crops, crops)
    cell = agreement_picture._CELLS[0][1]
    x, y = agreement_picture._MARGIN + agreement_picture._NUMBER + cell // 2, canvas.shape[0]
    bottom = y - agreement_picture._MARGIN - agreement_picture._GAP - cell // 2
    assert torch.allclose(canvas[bottom, x], torch.tensor(0.6), atol=0.01)
    assert torch.allclose(canvas[bottom - cell, x], torch.tensor(0.2), atol=0.01)
    low, at, high = (agreement_picture.colour(value, 0.3) for value in (-0.5, 0.3, 1.0))
    assert (low, at, high) == (agreement_picture._LOW, agreement_picture._MIDDLE, agreement_picture._HIGH)
    assert agreement_picture.colour(1.0, 1.0) == agreement_picture._MIDDLE


def test_two_identities_as_a_image():
    one, other = person(3, 1), person(6, 2)
    canvas = draw_image(between_identities(one, other, 0.3), one.crops, other.crops)
    red = reds(canvas)
    assert red.any() and canvas.shape[1] > canvas.shape[0]
