"""FACE_LANDMARKS, BOUNDING_BOX and MASK: what is read from them, what is refused, what is given."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from likeness.faces import host_types
from likeness.faces.align import template
from likeness.faces.choose import whole_image
from likeness.faces.geometry import similarity
from likeness.faces.types import Face, Faces

SIZE = (120, 200)
IMAGES = torch.zeros(2, *SIZE, 3)
FIVE = np.array([[203, 101], [246.5, 103], [223, 127], [203.5, 140], [247, 138.5]])  # the astronaut's, off the photo


def mesh_face(shift=0.0, score=0.75):
    """A face as the host gives it: 478 points around (80, 60), the five in their places."""
    landmarks = np.random.default_rng(5).uniform([60, 40], [100, 80], (478, 2)).astype(np.float32)
    landmarks[[468, 473, 1, 61, 291]] = template(112) / 4 + [66, 46]
    landmarks[:, 0] += shift
    box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
    return {"landmarks_xy": landmarks, "landmarks_3d": np.zeros((478, 3), np.float32), "bbox_xyxy": box,
            "blendshapes": {}, "presence": 3.0, "score": score, "transformation_matrix": np.eye(4)}  # fmt: skip


def face_landmarks(*frames, size=SIZE):
    return {"frames": list(frames), "image_size": size, "connection_sets": {"face_oval": frozenset({(0, 1)})}}


def box(x=60, y=40, width=40, height=50, **more):
    return {"x": x, "y": y, "width": width, "height": height, **more}


def test_landmarks_are_taken_exactly_and_given_back_the_same():
    given = face_landmarks([mesh_face(40), mesh_face(0)], [mesh_face(5, score=0.5)])
    faces = host_types.import_faces(IMAGES, landmarks=given)
    assert [len(present) for present in faces.per_image] == [2, 1]
    left, right = faces.per_image[0]
    assert left.box[0] < right.box[0], "left to right"
    assert np.array_equal(right.landmarks, given["frames"][0][0]["landmarks_xy"]) and right.score == 0.75
    assert np.allclose(left.points, template(112) / 4 + [66, 46])
    back = host_types.export_landmarks(faces)
    assert back["frames"][0][1] == given["frames"][0][0] and back["frames"][1] == given["frames"][1]
    assert back["frames"][0][1] is not given["frames"][0][0], "so that no node changes another's"
    assert back["image_size"] == SIZE and back["connection_sets"] == given["connection_sets"]


@pytest.mark.parametrize(
    "given, message",
    [
        (face_landmarks([], size=(64, 64)), "of 1 pictures of 64 x 64, the image is 2 of 200 x 120"),
        (face_landmarks([]), "of 1 pictures of 200 x 120, the image is 2 of 200 x 120"),
        (
            face_landmarks([{**mesh_face(), "landmarks_xy": np.zeros((468, 2))}], []),
            r"shape \[468, 2\], not \[478, 2\]",
        ),
        ({"faces": []}, "not what Detect Face Landmarks .MediaPipe. gives"),
        ([], "not what Detect Face Landmarks .MediaPipe. gives"),
    ],
)
def test_landmarks_of_other_images_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        host_types.import_faces(IMAGES, landmarks=given)


@pytest.mark.parametrize("given", [{}, {"bboxes": box(), "mask": torch.ones(1, *SIZE)}])
def test_exactly_one_source(given):
    with pytest.raises(ValueError, match=f"exactly one of .*; {len(given)} are connected"):
        host_types.import_faces(IMAGES, **given)


def test_faces_without_a_mesh_are_no_face_landmarks():
    face = Face(template(112).astype(np.float32), (0.0, 0.0, 9.0, 9.0), 0.5)
    with pytest.raises(ValueError, match=r"no MediaPipe mesh .they were found with haar.* choose a mediapipe detector"):
        host_types.export_landmarks(Faces(IMAGES[:1], ((face,),), "haar"))
    mixed = host_types.import_faces(IMAGES, landmarks=face_landmarks([mesh_face()], [mesh_face()]))
    with pytest.raises(ValueError, match="no MediaPipe mesh"):
        host_types.export_landmarks(Faces(IMAGES, (mixed.per_image[0], (face,)), "both", mixed.connection_sets))


def test_a_stand_in_has_no_mesh_and_leaves_its_frame_empty():
    present = host_types.import_faces(IMAGES, landmarks=face_landmarks([mesh_face()], []))
    faces = Faces(IMAGES, (present.per_image[0], (whole_image(SIZE),)), "", present.connection_sets)
    assert [len(frame) for frame in host_types.export_landmarks(faces)["frames"]] == [1, 0]


@pytest.mark.parametrize(
    "given, counts",
    [
        (box(), (1, 1)),
        ([box(), box(x=120)], (2, 2)),
        ([[box(), box(x=120)]], (2, 2)),
        ([[box()], [box(), box(x=120)]], (1, 2)),
        ([[], [box()]], (0, 1)),
        (([box()], (box(),)), (1, 1)),
    ],
)
def test_every_form_of_boxes_the_hosts_nodes_take(given, counts):
    faces = host_types.import_faces(IMAGES, bboxes=given)
    assert tuple(map(len, faces.per_image)) == counts


class Segment(NamedTuple):
    """What the Impact Pack's SEGS hold of a face, as far as it is read."""

    bbox: object
    confidence: object
    label: str = "face"


CORNERS, SIZED = [60, 40, 100, 90], [60, 40, 40, 50]  # of the same box: 60 + 40 = 100 would be no right edge of 40


@pytest.mark.parametrize(
    "given, counts",
    [
        (CORNERS, (1, 1)),
        ([CORNERS], (1, 1)),
        ([SIZED], (1, 1)),
        (np.array([CORNERS]), (1, 1)),
        (torch.tensor([SIZED]).float(), (1, 1)),
        ([CORNERS, CORNERS], (1, 1)),
        ([[CORNERS], [CORNERS]], (1, 1)),
        ([[], [tuple(CORNERS)]], (0, 1)),
        ([np.array([SIZED]), []], (1, 0)),
        ((SIZE, [Segment(np.array(CORNERS), np.array([0.7]))]), (1, 1)),
        ((SIZE, (Segment(CORNERS, 0.7),)), (1, 1)),
    ],
)
def test_boxes_and_segments_of_other_packs(given, counts):
    faces = host_types.import_faces(IMAGES, bboxes=given)
    assert tuple(map(len, faces.per_image)) == counts
    assert {one.box for _, one in faces.pairs} == {(60, 40, 100, 90)}
    assert {one.score for _, one in faces.pairs} == {0.7 if isinstance(given, tuple) else 1.0}


@pytest.mark.parametrize(
    "given, message",
    [
        (((99, 200), [Segment(CORNERS, 0.7)]), "SEGS of a picture of 200 x 99, the image is 200 x 120"),
        ((SIZE, []), "holds no box|must be a box"),
        (7, "must be a box, a list of boxes"),
        ("boxes", "must be a box, a list of boxes"),
        (None, "exactly one of"),
        ([[1, 2, 3]], "not a box"),
        ([[float("nan")] * 4], "no box"),
    ],
)
def test_what_is_no_box_of_another_pack_is_refused_in_a_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        host_types.import_faces(IMAGES, bboxes=given)


def test_boxes_keep_position_and_score_come_left_to_right_and_are_clipped():
    faces = host_types.import_faces(IMAGES[:1], bboxes=[box(x=150, width=80, score=0.3), box(), box(x=5, score=0.0)])
    assert [one.box for one in faces.per_image[0]] == [(5, 40, 45, 90), (60, 40, 100, 90), (150, 40, 199, 90)]
    assert [one.score for one in faces.per_image[0]] == [0, 1, 0.3]
    (given,) = host_types.export_boxes(faces)
    assert given[1] == box(label="face", score=1.0)
    again = host_types.import_faces(IMAGES[:1], bboxes=[given])
    assert [one.box for one in again.per_image[0]] == [one.box for one in faces.per_image[0]]


@pytest.mark.parametrize(
    "given, message",
    [
        ([], "holds no box"),
        ([[], []], "holds no box"),
        ([[box()]] * 3, "boxes for 3 pictures, the image has 2"),
        ([box(), box(x=300)], r"box 2 of picture 1, 40 x 50 at \(300, 40\), lies outside the picture of 200 x 120"),
        ([[box()], [box(y=-60)]], "box 1 of picture 2, .* lies outside"),
        (box(width=0), "is 0 x 50 pixels at .*no box"),
        (box(x=float("nan")), "no box"),
        ([{"x": 1, "y": 2}], "box 1 of picture 1 is not a box with x, y, width and height"),
        ([["face"], [box()]], "not a box"),
        ([[box()], 7], "must be a box, a list of boxes, or a list of such lists"),
    ],
)
def test_boxes_that_are_none_are_refused_in_a_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        host_types.import_faces(IMAGES, bboxes=given)


@pytest.mark.parametrize("tight", [(180, 72, 75, 95), (174.2, 64.2, 99, 98)], ids=["hairline to chin", "Haar's"])
def test_points_estimated_from_a_box_give_nearly_the_true_crop(tight):
    x, y, width, height = tight
    (face,) = host_types.import_faces(torch.zeros(1, 512, 512, 3), bboxes=box(x, y, width, height)).per_image[0]
    landed, wanted = (
        similarity(points, template(112)) @ np.vstack([FIVE.T, np.ones(5)]) for points in (face.points, FIVE)
    )
    assert np.linalg.norm(landed - wanted, axis=0).max() < 12  # of 112: an estimate, good for a crop, not for a mesh
    across = face.points[1] - face.points[0]
    assert across[0] > 0 and abs(across[1]) < 1, "upright"


def mask_of(*patches):
    mask = torch.zeros(SIZE)
    for top, bottom, left, right in patches:
        mask[top:bottom, left:right] = 1
    return mask


def test_every_patch_of_a_mask_is_a_face_and_specks_are_not():
    masks = torch.stack([mask_of((20, 70, 110, 150), (30, 70, 10, 40), (100, 103, 80, 84)), mask_of((20, 70, 50, 90))])
    faces = host_types.import_faces(IMAGES, mask=masks)
    assert [[one.box for one in present] for present in faces.per_image] == [
        [(10, 30, 39, 69), (110, 20, 149, 69)],
        [(50, 20, 89, 69)],
    ]
    assert faces.per_image[0][0].score == 1
    for one in (masks[1], masks[1:], masks[1][None, None]):
        assert [len(present) for present in host_types.import_faces(IMAGES, mask=one).per_image] == [1, 1]


def test_a_image_whose_mask_is_empty_has_no_face_there():
    faces = host_types.import_faces(IMAGES, mask=torch.stack([mask_of((20, 70, 50, 90)), mask_of()]))
    assert [len(present) for present in faces.per_image] == [1, 0]


@pytest.mark.parametrize(
    "mask, message",
    [
        (torch.ones(1, 64, 64), "mask has 1 pictures of 64 x 64, the image has 2 of 200 x 120"),
        (torch.ones(3, *SIZE), "mask has 3 pictures of 200 x 120, the image has 2"),
        (torch.zeros(1, *SIZE), "mask is empty"),
        (torch.full((2, *SIZE), 0.5), "mask is empty"),
        (mask_of((20, 90, 50, 51)), "mask is empty"),
    ],
)
def test_masks_that_do_not_fit_are_refused_in_a_sentence(mask, message):
    with pytest.raises(ValueError, match=message):
        host_types.import_faces(IMAGES, mask=mask)


class Dots:
    """Sees a face 20 x 20 around every pixel with green above 100, with that as its score in 1/255."""

    name, min_score, det_size = "dots", 0.5, None

    def __init__(self):
        self.shapes = []

    def detect(self, image):
        self.shapes.append(image.shape[:2])
        rows, columns = np.nonzero(image[..., 1] > 100)
        return [
            Face((template(112) * 20 / 112 + [x - 10, y - 10]).astype(np.float32), (x - 10.0, y - 10, x + 10, y + 10),
                 float(image[y, x, 1]) / 255)
            for x, y in zip(columns.tolist(), rows.tolist())
        ]  # fmt: skip


def draw_dots(*dots):
    images = torch.zeros(1, *SIZE, 3)
    for x, y, score in dots:
        images[0, y, x, 1] = score
    return images


def test_a_detector_looks_into_each_box_and_keeps_the_best_face_whose_centre_is_inside():
    images = draw_dots((75, 60, 0.6), (85, 55, 0.8), (110, 60, 1.0), (20, 20, 1.0))
    detector = Dots()
    faces = host_types.import_faces(images, bboxes=[box(60, 40, 40, 50), box(150, 20, 30, 30)], detector=detector)
    (face,) = faces.per_image[0]  # 110 is seen in the margin but lies outside the box; the other box holds nothing
    assert face.box == (75, 45, 95, 65) and face.score == pytest.approx(0.8, abs=0.003)
    assert np.allclose(face.points, template(112) * 20 / 112 + [75, 45], atol=1e-4)
    assert detector.shapes[0] == (101, 81), "half a box more on every side"
    assert faces.tried.startswith("the boxes of another node, and in them dots, turned by 90, 180 and 270 degrees too")


def test_boxes_at_the_edge_and_two_boxes_on_one_face():
    images = draw_dots((5, 6, 0.9))
    boxes = [box(-20, -20, 40, 40), box(0, 0, 16, 16)]
    faces = host_types.import_faces(images, bboxes=boxes, detector=Dots())
    assert [one.box for one in faces.per_image[0]] == [(0, 0, 15, 16)]


def test_a_detector_looks_into_the_patches_of_a_mask():
    faces = host_types.import_faces(draw_dots((75, 60, 0.9)), mask=mask_of((30, 90, 50, 100)), detector=Dots())
    assert [one.box for one in faces.per_image[0]] == [(65, 50, 85, 70)]
