"""The MediaPipe backend through the host's own networks, with drawn weights in the published file's layout."""

import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from comfy_extras.mediapipe.face_geometry import transformation_matrix_from_detection
from comfy_extras.nodes_mediapipe import FaceLandmarkerModel, MediaPipeFaceLandmarker
from likeness.faces import detector
from likeness.faces.host_types import export_boxes, export_landmarks
from likeness.faces.mediapipe import MediaPipe, from_host_landmarks
from likeness.tests.support import mediapipe_file
from likeness.tests.support.mediapipe_file import FILE, FIVE
from likeness.weights import folders
from PIL import Image

folders.register()


@pytest.fixture(scope="module")
def image(root):
    return torch.from_numpy(np.array(Image.open(root / "workflows" / "assets" / "astronaut.png"))).float()[None] / 255


@pytest.fixture(scope="module")
def states(image):
    return mediapipe_file.drawn_states(image)


def _write(folder, states, silent=()):
    mediapipe_file.write(folder / FILE, states, silent)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    # Drawn networks see their one place in one very picture, so not in a close-up of it.
    monkeypatch.setattr(MediaPipe, "look_closer", lambda _, image, face: face)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "detection", ([str(tmp_path)], {".safetensors"}))
    return tmp_path


def _host_node(folder, image, variant):
    """FACE_LANDMARKS and BOUNDING_BOX of the host's own node."""
    model = FaceLandmarkerModel(comfy.utils.load_torch_file(str(folder / FILE)))
    with torch.no_grad():
        return MediaPipeFaceLandmarker.execute(model, image, variant, 0, 0.5, "empty").result


def _host_answer(folder, image, variant):
    return _host_node(folder, image, variant)[0]["frames"][0]


@pytest.mark.parametrize("silent, variant", [(("full",), "short"), (("short",), "full")])
def test_same_landmarks_as_the_hosts_node_of_either_range(folder, states, image, silent, variant):
    _write(folder, states, silent)
    assert detector.available()[0] == FILE and f"mediapipe: {FILE}" in detector.available()
    loaded = detector.load(f"mediapipe: {FILE}", 0.5, 640)
    (face,) = loaded.detect((image[0] * 255).round().byte().numpy())
    (expected,) = _host_answer(folder, image, variant)
    assert face.landmarks.shape == (478, 2) and np.array_equal(face.landmarks, expected["landmarks_xy"])
    assert face.score == expected["score"] > 0.99
    assert {tuple(point) for point in face.points} == {tuple(point) for point in expected["landmarks_xy"][FIVE]}
    assert np.allclose(face.box, expected["bbox_xyxy"])


def _same(ours, theirs):
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return np.array_equal(ours, theirs)


def test_face_landmarks_and_boxes_are_those_of_the_hosts_node(folder, states, image):
    _write(folder, states, silent=("full",))
    faces = detector.detect_faces(detector.load(f"mediapipe: {FILE}", 0.5, 640), image, "quick")
    landmarks, boxes = _host_node(folder, image, "short")  # of one picture: a batch rounds otherwise
    ours = export_landmarks(faces)
    assert ours["frames"][0][0]["transformation_matrix"].shape == (4, 4)
    assert _same(ours, landmarks)
    assert _same(export_boxes(faces), boxes), "this face lies within the picture, so nothing is clipped"


def test_face_landmarks_after_the_border_are_in_pixels_of_the_image(folder, image):
    bordered = torch.nn.functional.pad(image, (0, 0, 128, 128, 128, 128))
    mediapipe_file.write(folder / FILE, mediapipe_file.drawn_states(bordered), silent=("full",))
    loaded = detector.load(f"mediapipe: {FILE}", 0.5, 640)
    blind, loaded.detect = loaded.detect, lambda pixels: blind(pixels) if pixels.shape[0] == 768 else []
    (face,) = export_landmarks(detector.detect_faces(loaded, image))["frames"][0]
    (there,) = _host_answer(folder, bordered, "short")
    assert np.array_equal(face["landmarks_xy"], there["landmarks_xy"] - 128)
    assert np.array_equal(face["bbox_xyxy"], there["bbox_xyxy"] - 128)
    assert _same(face["blendshapes"], there["blendshapes"]) and _same(face["landmarks_3d"], there["landmarks_3d"])
    # The pose is that of a face at this place in this picture, so it is worked out anew.
    expected = transformation_matrix_from_detection(face, 512, 512, loaded.canonical)
    assert np.array_equal(face["transformation_matrix"], expected)
    assert not np.allclose(expected, there["transformation_matrix"])


def test_nothing_found_by_both(folder, states, image):
    _write(folder, states, silent=("short", "full"))
    faces = detector.detect_faces(detector.load(f"mediapipe: {FILE}", 0.5, 640), image, "quick")
    assert faces.per_image == ((),) and "short range and full range" in faces.tried


def test_other_file_in_the_folder_is_refused(folder):
    comfy.utils.save_torch_file({"weight": torch.zeros(1)}, str(folder / "depth.safetensors"))
    with pytest.raises(ValueError, match="depth.safetensors .* is not a MediaPipe face landmarker"):
        detector.load("mediapipe: depth.safetensors", 0.5, 640)


def test_missing_file_says_where_to_get_it(folder):
    assert detector.available()[0] == "no file yet" and not any("mediapipe" in label for label in detector.available())
    for label in (FILE, f"mediapipe: {FILE}", "no file yet"):
        for find in (detector.find_files, lambda label: detector.load(label, 0.5, 640)):
            with pytest.raises(FileNotFoundError, match="Comfy-Org/mediapipe"):
                find(label)


def _face_dict(points):
    landmarks = np.zeros((478, 2), np.float32)
    landmarks[FIVE] = points
    return {"landmarks_xy": landmarks, "bbox_xyxy": np.array([1, 2, 3, 4], np.float32), "score": 0.75}


POINTS = np.array([[203, 101], [246.5, 103], [223, 127], [203.5, 140], [247, 138.5]], np.float32)


def test_five_points_are_the_published_indices():
    face = from_host_landmarks(_face_dict(POINTS))
    assert np.array_equal(face.points, POINTS) and face.points.dtype == np.float32
    assert face.box == (1, 2, 3, 4) and face.score == 0.75 and face.landmarks.shape == (478, 2)


def test_mirrored_landmarks_keep_the_first_eye_at_the_images_left():
    mirrored = POINTS * np.float32([-1, 1]) + np.float32([511, 0])
    face = from_host_landmarks(_face_dict(mirrored))
    assert np.array_equal(face.points, mirrored[[1, 0, 2, 4, 3]])
    assert face.points[0, 0] < face.points[1, 0]
