"""What every detector is given and what is made of its answer, with a detector that answers as told."""

import numpy as np
import pytest
import torch
from likeness.faces import detector
from likeness.faces.align import template
from likeness.faces.types import Face
from likeness.weights import folders

folders.register()

POINTS = template(112).astype(np.float32)


class Scripted:
    """Answers with the given faces, and keeps the pictures it was shown."""

    name, min_score, det_size = "scripted", 0.5, None

    def __init__(self, *answers):
        self.answers, self.shown = list(answers), []

    def detect(self, image):
        self.shown.append(image)
        return self.answers[min(len(self.shown), len(self.answers)) - 1]


def _face(x=0.0, box=(0.0, 0.0, 60.0, 60.0), landmarks=None):
    return Face(POINTS + np.float32([x, 0]), tuple(np.add(box, [x, 0, x, 0]).tolist()), 0.9, landmarks)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((0, 64, 64, 3), "at least one picture"),
        ((64, 64, 3), "at least one picture"),
        ((1, 0, 64, 3), "too small"),
        ((1, 64, 1, 3), "1 x 64 pixels is too small"),
        ((1, 64, 64, 2), "grey, RGB, RGBA"),
    ],
)
def test_shapes_are_checked(shape, message):
    with pytest.raises(ValueError, match=message):
        detector.detect_faces(Scripted([]), torch.zeros(shape))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_name_the_image(bad):
    images = torch.zeros(3, 8, 8, 3)
    images[1, 4, 4, 0] = bad
    with pytest.raises(ValueError, match="Picture 2 of 3"):
        detector.detect_faces(Scripted([]), images)


def test_grey_is_repeated_alpha_dropped_values_clamped_and_rounded():
    image = torch.tensor([-0.5, 0.2, 0.5, 2.0]).reshape(1, 2, 2, 1)
    expected = np.array([0, 51, 128, 255], dtype=np.uint8).reshape(2, 2)
    grey, rgba = Scripted([_face()]), Scripted([_face()])
    faces = detector.detect_faces(grey, image)
    detector.detect_faces(rgba, torch.cat([image, image, image, torch.zeros_like(image)], dim=3))
    for shown in (grey.shown[0], rgba.shown[0]):
        assert shown.dtype == np.uint8 and np.array_equal(shown, np.repeat(expected[..., None], 3, axis=2))
    assert faces.images.shape == (1, 2, 2, 3) and faces.images.max() == 1 and faces.images.min() == 0


def test_faces_come_left_to_right_in_every_image():
    answer = [_face(80), _face(0), _face(40)]
    faces = detector.detect_faces(Scripted(answer), torch.zeros(2, 200, 200, 3))
    assert [[face.box[0] for face in present] for present in faces.per_image] == [[0, 40, 80]] * 2


def test_boxes_are_clipped_and_points_are_not():
    face = detector.detect_faces(Scripted([_face(-30)]), torch.zeros(1, 50, 100, 3)).per_image[0][0]
    assert face.box == (0, 0, 30, 49)
    assert np.array_equal(face.points, POINTS - np.float32([30, 0]))


def test_broken_and_outside_faces_are_dropped():
    broken = Face(np.full((5, 2), np.nan, np.float32), (0.0, 0.0, 9.0, 9.0), 0.9)
    unbounded = Face(POINTS, (0.0, 0.0, float("nan"), 9.0), 0.9)
    faces = detector.detect_faces(Scripted([broken, unbounded, _face(500)]), torch.zeros(1, 200, 200, 3))
    assert faces.per_image == ((),)


def test_mirrored_naming_is_put_in_image_order():
    mirrored = Face(POINTS * np.float32([-1, 1]) + np.float32([111, 0]), (0.0, 0.0, 60.0, 60.0), 0.9)
    face = detector.detect_faces(Scripted([mirrored]), torch.zeros(1, 112, 112, 3)).per_image[0][0]
    assert face.points[0, 0] < face.points[1, 0] and face.points[3, 0] < face.points[4, 0]


def test_second_look_has_a_border_and_its_answer_is_moved_back():
    landmarks = np.array([[30, 40], [50, 60]], dtype=np.float32)
    script = Scripted([], [_face(box=(20.0, 20.0, 70.0, 70.0), landmarks=landmarks)])
    faces = detector.detect_faces(script, torch.ones(1, 64, 100, 3), "quick")
    assert [shown.shape for shown in script.shown] == [(64, 100, 3), (114, 150, 3)]
    assert script.shown[1][:25].max() == 0 and script.shown[1][25:-25, 25:-25].min() == 255
    face = faces.per_image[0][0]
    assert face.box == (0, 0, 45, 45)
    assert np.array_equal(face.points, POINTS - 25) and np.array_equal(face.landmarks, landmarks - 25)
    assert faces.tried.startswith("scripted, then again with a black border around the picture")


def test_search_and_min_size_reach_every_image():
    script = Scripted([_face()], [])
    faces = detector.detect_faces(script, torch.zeros(2, 64, 64, 3), "quick", min_size=60)
    assert [len(present) for present in faces.per_image] == [1, 0] and len(script.shown) == 3
    assert faces.tried.endswith("picture; faces under 60 pixels (min_size) do not count")


def test_no_second_look_where_the_first_found_something():
    script = Scripted([_face()])
    detector.detect_faces(script, torch.zeros(1, 64, 64, 3), "quick")
    assert len(script.shown) == 1


@pytest.mark.parametrize(
    "label, det_size, message",
    [("opencv: haar cascade", 500, "multiple of 32"), ("opencv: haar cascade", 0, "multiple of 32"),
     ("telepathy", 640, "is no face detector; choose one of: .*haar cascade")],
)  # fmt: skip
def test_load_refuses_what_it_does_not_know(label, det_size, message):
    with pytest.raises(ValueError, match=message):
        detector.load(label, 0.5, det_size)
