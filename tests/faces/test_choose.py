"""Which face is kept, and what happens to pictures without one."""

import numpy as np
import pytest
import torch
from likeness.faces.align import align_faces, template
from likeness.faces.choose import apply_policy, choose, whole_picture
from likeness.faces.geometry import similarity
from likeness.faces.types import Face, Faces

SIZE = (100, 200)


def _face(box, score=1.0):
    return Face(template(112).astype(np.float32), box, score)


LEFT, MIDDLE, RIGHT = _face((5, 5, 25, 25)), _face((80, 40, 100, 60)), _face((120, 10, 180, 70))
FOUND = (RIGHT, LEFT, MIDDLE)


@pytest.mark.parametrize(
    "rule, index, kept",
    [
        ("largest", 0, (RIGHT,)),
        ("most central", 0, (MIDDLE,)),
        ("left to right", 0, (LEFT,)),
        ("left to right", 2, (RIGHT,)),
        ("all", 0, (LEFT, MIDDLE, RIGHT)),
    ],
)
def test_rules(rule, index, kept):
    assert choose(FOUND, rule, index, SIZE) == kept
    assert choose((), rule, index, SIZE) == ()


def test_equal_faces_resolve_to_the_leftmost():
    first, second = _face((0, 0, 20, 20)), _face((180, 0, 200, 20))
    assert choose((second, first), "largest", 0, SIZE) == (first,)


@pytest.mark.parametrize("index", [3, -1])
def test_index_out_of_reach_names_how_many_there_are(index):
    with pytest.raises(ValueError, match=r"there are only 3 faces \(index 0 to 2\)"):
        choose(FOUND, "left to right", index, SIZE)


def test_index_error_names_the_picture():
    faces = Faces(torch.zeros(2, *SIZE, 3), (FOUND, (LEFT,)))
    with pytest.raises(ValueError, match=r"Picture 2 of 2: .*1 face \(index 0\)"):
        apply_policy(faces, "left to right", 1, "error")


@pytest.fixture
def mixed():
    images = torch.arange(3.0)[:, None, None, None].expand(3, *SIZE, 3) / 2
    return Faces(images, ((), FOUND, ()), "haar, then again with a border")


def test_error_names_pictures_detector_and_remedy(mixed):
    with pytest.raises(ValueError, match=r"picture 1, 3 of 3 \(searched with haar, then again .* Lower min_score"):
        apply_policy(mixed, "largest", 0, "error")


def test_skip_drops_pictures_from_both(mixed):
    kept = apply_policy(mixed, "largest", 0, "skip")
    assert torch.equal(kept.images, mixed.images[1:2])
    assert kept.found == ((RIGHT,),)


def test_skip_of_everything_is_an_error(mixed):
    with pytest.raises(ValueError, match="picture 1 of 1"):
        apply_policy(Faces(mixed.images[:1], ((),)), "all", 0, "skip")


def test_whole_picture_keeps_the_batch(mixed):
    kept = apply_policy(mixed, "left to right", 2, "whole picture")
    assert torch.equal(kept.images, mixed.images)
    assert [len(found) for found in kept.found] == [1, 1, 1]
    assert kept.found[1] == (RIGHT,) and kept.found[0][0].score == 0


@pytest.mark.parametrize("size", [(224, 224), (300, 500), (90, 40)])
def test_whole_picture_is_the_centred_square(size):
    centre = (size[1] - 1) / 2, (size[0] - 1) / 2
    matrix = similarity(whole_picture(size).points, template(112))
    assert np.allclose(matrix[:, :2], np.eye(2) * 112 / min(size), atol=1e-5)
    assert np.allclose(matrix @ [*centre, 1], [55.5, 55.5], atol=1e-4)


def test_whole_picture_of_crop_size_is_the_picture():
    picture = torch.rand(1, 112, 112, 3, generator=torch.Generator().manual_seed(0))
    crop = align_faces(Faces(picture, ((whole_picture((112, 112)),),)), 112)
    assert torch.allclose(crop, picture, atol=1e-5)


def test_all_faces_are_kept_in_order_when_every_picture_has_some():
    faces = Faces(torch.zeros(1, *SIZE, 3), (FOUND,))
    assert apply_policy(faces, "all", 0, "error").found == ((LEFT, MIDDLE, RIGHT),)
