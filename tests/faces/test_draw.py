"""The overlay shows every face where it is, and survives any picture size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from likeness.faces.choose import whole_picture
from likeness.faces.draw import overlay
from likeness.faces.types import Face, Faces

POINTS = np.array([[120, 110], [160, 110], [140, 130], [125, 150], [155, 150]], dtype=np.float32)
FACE = Face(POINTS, (100.0, 90.0, 180.0, 170.0), 0.87)


def test_box_points_and_label_are_drawn_and_the_rest_is_untouched():
    images = torch.full((2, 256, 256, 3), 0.25)
    drawn = overlay(Faces(images, ((FACE,), ())))
    assert drawn.shape == images.shape
    changed = (drawn[0] - images[0]).abs().amax(dim=2) > 0.1
    assert changed[130, 100] and changed[90, 140] and changed[170, 140]  # frame
    assert all(changed[int(y), int(x)] for x, y in POINTS)
    assert changed[80:90, 100:130].float().mean() > 0.5  # label above the box
    assert not changed[:, :95].any() and not changed[180:].any() and not changed[100:108, 110:170].any()
    assert (drawn[1] - images[1]).abs().max() < 0.5 / 255


def test_numbers_differ_between_faces():
    other = Face(POINTS + np.float32([90, 0]), (190.0, 90.0, 270.0, 170.0), 0.87)
    drawn = overlay(Faces(torch.zeros(1, 256, 380, 3), ((FACE, other),)))[0]
    first, second = drawn[74:90, 100:150], drawn[74:90, 190:240]
    assert (first - second).abs().max() > 0.2


def test_a_person_followed_through_a_video_keeps_the_number():
    first, second = (replace(FACE, number=number) for number in (0, 3))
    drawn = overlay(Faces(torch.zeros(2, 256, 256, 3), ((first,), (second,))))
    unnumbered = overlay(Faces(torch.zeros(1, 256, 256, 3), ((FACE,),)))
    assert torch.equal(drawn[0], unnumbered[0]) and not torch.equal(drawn[1], unnumbered[0])


def test_lines_grow_with_the_picture():
    small, large = (
        overlay(Faces(torch.zeros(1, 200 * k, 200 * k, 3), ((Face(POINTS * k, tuple(k * v for v in FACE.box), 1.0),),)))
        for k in (1, 8)
    )
    frame = [int((picture[0, 130 * k, : 110 * k].amax(dim=1) > 0.5).sum()) for picture, k in ((small, 1), (large, 8))]
    assert frame == [1, 6]


@pytest.mark.parametrize("size", [(16, 16), (1, 40), (40, 1), (2, 2)])
def test_tiny_pictures(size):
    drawn = overlay(Faces(torch.zeros(1, *size, 3), ((whole_picture(size),),)))
    assert drawn.shape == (1, *size, 3)
    assert drawn.max() > 0.5
