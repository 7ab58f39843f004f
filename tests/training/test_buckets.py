"""Shapes of buckets, and what of a photo goes into one: as much as there is, with the face, and not distorted."""

import math
import random

import pytest
from likeness.training.buckets import choose_shape, list_shapes, place_window

WIDTHS = {512: 2048, 576: 1792, 640: 1600, 704: 1472, 768: 1344, 832: 1216, 896: 1152, 960: 1088, 1024: 1024}


def test_at_1024_pixels_the_shapes_are_of_sdxl_s_table():
    shapes = list_shapes(1024, 8)
    assert len(shapes) == 17 and set(shapes) == {
        *WIDTHS.items(),
        *((width, height) for height, width in WIDTHS.items()),
    }


@pytest.mark.parametrize(
    ("size", "cell"), [(512, 8), (1024, 8), (1000, 8), (768, 8), (64, 8), (96, 12), (48, 12), (16, 8)]
)
def test_shapes_are_whole_latents_of_about_as_many_pixels(size, cell):
    shapes = list_shapes(size, cell)
    assert len(set(shapes)) == len(shapes) and sorted(shapes) == sorted(shape[::-1] for shape in shapes)
    for sides in shapes:
        assert all(side % cell == 0 for side in sides) and max(sides) <= 4 * min(sides)
        step = max(size // 16, cell)
        assert size**2 - step * max(sides) <= math.prod(sides) <= size**2


def cases(seed):
    """Photos from 8 to 6000 pixels a side with a face anywhere in them, and the shapes of some size."""
    rng = random.Random(seed)
    for _ in range(400):
        photo = tuple(round(math.exp(rng.uniform(math.log(8), math.log(6000)))) for _ in "hw")
        sides = [rng.uniform(1, side - 1) for side in photo[::-1]]
        x, y = (rng.uniform(0, whole - 1 - side) for whole, side in zip(photo[::-1], sides))
        size, cell = rng.choice([(1024, 8), (512, 8), (96, 12)])
        yield photo, (x, y, x + sides[0], y + sides[1]), list_shapes(size, cell)


@pytest.mark.parametrize("seed", range(5))
def test_a_photo_gives_all_that_the_nearest_shape_takes_and_the_face_is_inside(seed):
    for photo, box, shapes in cases(seed):
        shape = choose_shape(shapes, photo)
        ratio = math.log(photo[0] / photo[1])
        apart = [abs(math.log(height / width) - ratio) for height, width in shapes]
        assert abs(math.log(shape[0] / shape[1]) - ratio) == min(apart)
        top, left, height, width = place_window(photo, shape, [box])
        assert height == photo[0] or width == photo[1], "nothing more could be shown"
        scale = min(photo[0] / shape[0], photo[1] / shape[1])
        assert abs(height - scale * shape[0]) <= 0.5 + 1e-6 and abs(width - scale * shape[1]) <= 0.5 + 1e-6
        for start, part, whole, first, last in (
            (top, height, photo[0], *box[1::2]),
            (left, width, photo[1], *box[::2]),
        ):
            assert 0 <= start <= start + part <= whole
            middle = (whole - part) // 2
            if math.ceil(last) - math.floor(first) < part:
                assert start <= first and last <= start + part - 1, "the face is inside"
                needed = not (middle <= math.floor(first) and math.ceil(last) <= middle + part - 1)
                assert (start != middle) == needed, "the middle, where the face is in it"
            else:
                assert first - 1 < start and start + part - 1 < last + 1, "nothing but face"


def test_what_is_around_the_face_is_shown_if_there_is_room_and_the_face_anyway():
    face = (40, 30, 60, 50)
    assert place_window((300, 100), (100, 100), [face]) == (30, 0, 100, 100)
    assert place_window((300, 100), (100, 100), [(30, 20, 70, 60), face]) == (20, 0, 100, 100)
    assert place_window((300, 100), (100, 100), [(0, -20, 99, 60), face]) == (0, 0, 100, 100)
    assert place_window((300, 100), (50, 100), [(0, 100, 99, 299), (40, 240, 60, 255)]) == (206, 0, 50, 100)
