"""OpenCV's detectors: the Haar cascade on a real photo, YuNet through a synthetic network in its layout."""

import copy
import sys

import folder_paths
import numpy as np
import pytest
import torch
from likeness.faces import detector, opencv
from likeness.faces.align import template
from likeness.faces.choose import apply_policy
from likeness.faces.geometry import similarity
from likeness.tests.support import onnx_packs
from likeness.weights import folders
from PIL import Image

folders.register()
cv2 = pytest.importorskip("cv2")
needs_cascade = pytest.mark.skipif(not hasattr(cv2, "CascadeClassifier"), reason="OpenCV 5 has no Haar cascade")

# Read off the photo at eight times its size, to about a pixel: irises, nose tip, mouth corners. (The points of
# golden/alignment.json are input to an arithmetic test; they lie about ten pixels lower.)
POINTS = np.array([[203, 101], [246.5, 103], [223, 127], [203.5, 140], [247, 138.5]])


@pytest.fixture(scope="module")
def astronaut(root):
    pixels = np.array(Image.open(root / "workflows" / "assets" / "astronaut.png"))
    return torch.from_numpy(pixels).float()[None] / 255


@pytest.fixture(scope="module")
def haar():
    return detector.load("opencv: haar cascade", 0.5, 640)


def _shrunk(images, side):
    return torch.nn.functional.interpolate(images.movedim(-1, 1), (side, side), mode="area").movedim(1, -1)


def _errors(face, points):
    return np.linalg.norm(face.points - points, axis=1)


@needs_cascade
def test_astronaut_is_found_once_near_the_true_points(haar, astronaut):
    (face,) = detector.detect_faces(haar, astronaut).per_image[0]
    assert 0.8 < face.score < 1
    assert np.allclose(face.box, (174, 65, 273, 162), atol=7)
    errors = _errors(face, POINTS)
    assert errors[:2].max() < 3 and errors[2] < 3  # eyes and nose
    assert errors.mean() < 5 and errors.max() < 12  # the smile pulls the mouth corners from an average face's
    # What counts in the end: where the true points land in the crop, in template pixels.
    landed = similarity(face.points, template(112)) @ np.vstack([POINTS.T, np.ones(5)])
    wanted = similarity(POINTS, template(112)) @ np.vstack([POINTS.T, np.ones(5)])
    assert np.linalg.norm(landed - wanted, axis=0).max() < 5


@needs_cascade
def test_average_eyes_stand_in_when_none_are_seen():
    points = np.array([174.5, 64.5]) + 98 * opencv.lay_on_eyes(opencv._AVERAGE_EYES)
    assert np.linalg.norm(points - POINTS, axis=1).max() < 8


@needs_cascade
def test_mirrored_photo_gives_mirrored_points(haar, astronaut):
    (face,) = detector.detect_faces(haar, astronaut.flip(2)).per_image[0]
    mirrored = (POINTS * [-1, 1] + [511, 0])[[1, 0, 2, 4, 3]]
    assert _errors(face, mirrored)[:3].max() < 3 and _errors(face, mirrored).mean() < 5
    assert face.points[0, 0] < face.points[1, 0] and face.points[3, 0] < face.points[4, 0]


@needs_cascade
@pytest.mark.parametrize("side", [256, 84])  # the face is 49 and 16 pixels wide
def test_smaller_photo_gives_smaller_points(haar, astronaut, side):
    (face,) = detector.detect_faces(haar, _shrunk(astronaut, side)).per_image[0]
    scale = side / 512
    assert _errors(face, (POINTS + 0.5) * scale - 0.5).mean() < 5 * scale


@needs_cascade
def test_two_people_come_left_to_right(haar, astronaut):
    present = detector.detect_faces(haar, torch.cat([astronaut, astronaut.flip(2)], dim=2)).per_image[0]
    assert [round(face.points[2, 0] / 100) for face in present] == [2, 8]


@needs_cascade
@pytest.mark.parametrize(
    "window, whole",
    [((slice(None), slice(200, None)), (-0.5, 20)), ((slice(90, None), slice(None)), (175, -1)),
     ((slice(80, 165), slice(175, 270)), (-1, -1))],
    ids=["cut at the left eye", "cut at the brows", "nothing but the face"],
)  # fmt: skip
def test_cut_faces_need_the_second_look(haar, astronaut, window, whole):
    image = astronaut[:, window[0], window[1]]
    assert all(face.score < 0.1 for face in haar.detect((image[0] * 255).round().byte().numpy()))
    (face,) = detector.detect_faces(haar, image).per_image[0]
    origin = [window[1].start or 0, window[0].start or 0]
    assert _errors(face, POINTS - origin).mean() < 8
    assert 0 <= face.box[0] and face.box[2] <= image.shape[2] - 1


@needs_cascade
@pytest.mark.parametrize("size", [(64, 64), (16, 16), (2, 300)])
def test_no_face_is_an_error_with_a_remedy(haar, size):
    faces = detector.detect_faces(haar, torch.full((1, *size, 3), 0.5))
    assert faces.per_image == ((),)
    with pytest.raises(ValueError, match="haar cascade .det_size 640, min_score 0.5.* Lower min_score"):
        apply_policy(faces, "largest", 0, "error")


@needs_cascade
def test_eye_roll_reaches_the_points(haar, astronaut):
    turn = cv2.getRotationMatrix2D((225, 120), 10, 1)
    turned = cv2.warpAffine((astronaut[0] * 255).byte().numpy(), turn, (512, 512))
    (face,) = detector.detect_faces(haar, torch.from_numpy(turned).float()[None] / 255).per_image[0]
    across = face.points[1] - face.points[0]
    # The eyes are level to 2.6 degrees in the photo; turned by 10 the other way they lie at -7.4.
    assert abs(np.degrees(np.arctan2(across[1], across[0])) + 7.4) < 3


def test_score_is_increasing_and_even_at_the_border_to_false_alarms():
    scores = [opencv.haar_score(weight) for weight in (-3, 0, 2, 4.5, 6, 9)]
    assert scores == sorted(scores) and scores[0] > 0 and scores[-1] < 1
    assert scores[3] == 0.5


@needs_cascade
def test_min_score_decides(astronaut):
    strict = detector.load("opencv: haar cascade", 0.999, 640)
    assert detector.detect_faces(strict, astronaut, "quick").per_image == ((),)


def test_missing_package_and_missing_cascade_say_what_to_install(monkeypatch):
    monkeypatch.delattr(cv2, "CascadeClassifier", raising=False)
    with pytest.raises(ValueError, match=r"has no Haar cascade.*opencv-python>=4.9,<5"):
        detector.load("opencv: haar cascade", 0.5, 640)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"not installed.*opencv-python>=4.9,<5.*5.x has no Haar cascade"):
        detector.load("opencv: haar cascade", 0.5, 640)


@pytest.fixture
def detection_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "detection", ([str(tmp_path)], {".safetensors"}))
    return tmp_path


def test_yunet_reads_bgr_and_its_points_come_back_in_image_pixels(detection_folder):
    onnx_packs.write_yunet(detection_folder / "my_yunet_2023.onnx")
    assert {"my_yunet_2023.onnx", "opencv: my_yunet_2023.onnx"} <= set(detector.available())
    assert detector.load("my_yunet_2023.onnx", 0.5, 640).name.startswith("opencv: my_yunet_2023.onnx")
    yunet = detector.load("opencv: my_yunet_2023.onnx", 0.5, 640)
    red, blue = (onnx_packs.red_cell_picture(7, 4, colour) for colour in ((255, 0, 0), (0, 0, 255)))
    (face,) = yunet.detect(red)
    assert np.allclose(face.box, (128, 224, 160, 256), atol=1e-3) and face.score > 0.99
    assert np.allclose(face.points, [128, 224] + 32 * onnx_packs.POINTS_IN_CELL, atol=1e-3)
    assert yunet.detect(blue) == []


def test_yunet_scales_to_det_size_and_back(detection_folder):
    onnx_packs.write_yunet(detection_folder / "yunet.onnx")
    yunet = detector.load("opencv: yunet.onnx", 0.5, 640)
    wide = onnx_packs.red_cell_picture(3, 4)[:320].repeat(2, axis=0).repeat(2, axis=1)
    (face,) = yunet.detect(wide)
    assert np.allclose(face.box, (256, 192, 320, 256), atol=1e-3)
    assert np.allclose(face.points, [256, 192] + 64 * onnx_packs.POINTS_IN_CELL, atol=1e-3)


def test_the_search_at_other_sizes_reaches_yunet(detection_folder):
    onnx_packs.write_yunet(detection_folder / "yunet.onnx")
    yunet = detector.load("opencv: yunet.onnx", 0.5, 320)
    image = onnx_packs.red_cell_picture(7, 4)
    assert yunet.detect(image) == []
    double = copy.copy(yunet)
    double.det_size = 640
    (face,) = double.detect(image)
    assert np.allclose(face.box, (128, 224, 160, 256), atol=1e-3) and yunet.detect(image) == []


def test_missing_yunet_names_the_folder(detection_folder):
    assert not any("yunet" in label for label in detector.available())
    for label in ("face_detection_yunet_2023mar.onnx", "opencv: face_detection_yunet_2023mar.onnx"):
        for find in (detector.find_files, lambda label: detector.load(label, 0.5, 640)):
            with pytest.raises(FileNotFoundError, match="face_detection_yunet_2023mar.onnx.*is missing") as error:
                find(label)
            assert str(detection_folder) in str(error.value)
