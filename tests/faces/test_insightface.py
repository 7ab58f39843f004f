"""The insightface backend through the real package, on a synthetic pack; never a download."""

import copy
import importlib.util
import sys

import folder_paths
import numpy as np
import pytest
import torch
from likeness.faces import detector
from likeness.tests.support import onnx_packs

needs_insightface = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("insightface", "onnxruntime", "cv2"))),
    reason="insightface is not installed",
)


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "insightface", ([str(tmp_path)], {".onnx"}))
    return tmp_path / "models"


def _detect(label, image, det_size=640):
    return detector.detect_faces(detector.load(label, 0.5, det_size), torch.from_numpy(image)[None] / 255).per_image[0]


@needs_insightface
def test_red_cell_is_the_face_and_blue_is_not(models):
    onnx_packs.write_insightface_pack(models / "buffalo_l")
    (face,) = _detect("insightface: buffalo_l", onnx_packs.red_cell_picture(7, 4))
    assert np.allclose(face.box, (128, 224, 160, 256), atol=1e-3) and face.score > 0.99
    assert np.allclose(face.points, [128, 224] + 32 * onnx_packs.POINTS_IN_CELL, atol=1e-3)
    # With the channels the wrong way round the network would see blue as red.
    assert _detect("insightface: buffalo_l", onnx_packs.red_cell_picture(7, 4, (0, 0, 255))) == ()


@needs_insightface
def test_landmarks_come_in_image_pixels(models):
    onnx_packs.write_insightface_pack(models / "buffalo_l")
    (face,) = _detect("insightface: buffalo_l", onnx_packs.red_cell_picture(7, 4))
    # The landmark network sees 1.5 boxes around the box's centre.
    expected = np.array([144, 240]) + 0.75 * 32 * onnx_packs.LANDMARKS_106
    assert face.landmarks.shape == (106, 2) and np.allclose(face.landmarks, expected, atol=0.01)


@needs_insightface
def test_pack_without_landmarks_and_larger_image(models):
    onnx_packs.write_insightface_pack(models / "own_pack", landmarks=False)
    assert "insightface: own_pack" in detector.available()
    wide = onnx_packs.red_cell_picture(3, 4)[:320].repeat(2, axis=0).repeat(2, axis=1)
    (face,) = _detect("insightface: own_pack", wide)
    assert face.landmarks is None
    assert np.allclose(face.points, [256, 192] + 64 * onnx_packs.POINTS_IN_CELL, atol=1e-3)


@needs_insightface
def test_the_search_at_other_sizes_reaches_the_network(models):
    """A face of one cell's size at 1280 is half a cell at 640, where this network is blind."""
    onnx_packs.write_insightface_pack(models / "buffalo_l")
    large = onnx_packs.red_cell_picture(7, 4, side=1280)
    loaded = detector.load("insightface: buffalo_l", 0.5, 640)
    assert loaded.det_size == 640
    assert loaded.detect(large) == []
    double = copy.copy(loaded)
    double.det_size = 1280
    (face,) = double.detect(large)
    assert np.allclose(face.box, (128, 224, 160, 256), atol=1e-3)
    assert loaded.detect(large) == [], "and the loaded detector still looks at its own size"


@needs_insightface
def test_recogniser_is_not_kept(models):
    onnx_packs.write_insightface_pack(models / "buffalo_l")
    loaded = detector.load("insightface: buffalo_l", 0.5, 640)
    assert set(loaded._analysis.models) == {"detection", "landmark_2d_106"}


@needs_insightface
def test_antelopev2_unpacked_one_level_too_deep(models):
    onnx_packs.write_insightface_pack(models / "antelopev2" / "antelopev2")
    assert len(_detect("insightface: antelopev2", onnx_packs.red_cell_picture(7, 4))) == 1


@needs_insightface
def test_pack_without_a_detector_says_so(models):
    onnx_packs.write_insightface_pack(models / "auraface")
    (models / "auraface" / "det_10g.onnx").unlink()
    with pytest.raises(ValueError, match="pack 'auraface' .* holds no face detector"):
        detector.load("insightface: auraface", 0.5, 640)


@needs_insightface
def test_detector_without_points_says_so(models):
    onnx_packs.write_insightface_pack(models / "boxes", landmarks=False, points=False)
    with pytest.raises(ValueError, match="insightface: boxes .*gives no five points"):
        _detect("insightface: boxes", onnx_packs.red_cell_picture(7, 4))


@pytest.mark.parametrize("pack", ["buffalo_l", "../elsewhere"])
def test_missing_pack_is_never_downloaded(models, pack):
    (models / "buffalo_l").mkdir(parents=True)  # an empty folder is a missing pack
    onnx_packs.write_insightface_pack(models.parent / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"{pack}.zip' is missing.*Unpack it so that its .onnx files lie in"):
        detector.load(f"insightface: {pack}", 0.5, 640)
    assert list((models / "buffalo_l").iterdir()) == []


def test_packs_are_offered_once_they_are_there(models):
    assert not any("insightface" in label for label in detector.available())
    with pytest.raises(FileNotFoundError, match="buffalo_l.zip' is missing"):
        detector.find_files("insightface: buffalo_l")
    onnx_packs.write_insightface_pack(models / "buffalo_l")
    assert "insightface: buffalo_l" in detector.available()
    detector.find_files("insightface: buffalo_l")


def test_missing_package_says_what_to_install(models, monkeypatch):
    onnx_packs.write_insightface_pack(models / "buffalo_l")
    monkeypatch.setitem(sys.modules, "insightface", None)
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(ValueError, match="pip install insightface onnxruntime-gpu"):
        detector.load("insightface: buffalo_l", 0.5, 640)
