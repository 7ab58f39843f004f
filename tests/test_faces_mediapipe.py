"""The MediaPipe backend through the host's own networks, with drawn weights in the published file's layout."""

import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from comfy_extras.mediapipe import face_landmarker
from comfy_extras.nodes_mediapipe import FaceLandmarkerModel, MediaPipeFaceLandmarker
from likeness.faces import detector
from likeness.faces.mediapipe import from_host_landmarks
from likeness.weights import folders
from PIL import Image

folders.register()

FILE = "mediapipe_face_fp32.safetensors"
FIVE = [468, 473, 1, 61, 291]
RINGS = ("face_oval", "left_eye", "right_eye", "left_eyebrow", "right_eyebrow", "lips", "irises", "nose", "tesselation")


@pytest.fixture(scope="module")
def picture(root):
    return torch.from_numpy(np.array(Image.open(root / "workflows" / "assets" / "astronaut.png"))).float()[None] / 255


@pytest.fixture(scope="module")
def states(picture):
    """The two detectors with drawn weights, each sharpened until exactly one anchor of the photo is a face."""
    torch.manual_seed(7)
    drawn = {variant: face_landmarker.FaceLandmarker(detector_variant=variant) for variant in ("short", "full")}
    pixels = (picture[0] * 255).round().movedim(-1, 0)
    with torch.no_grad():
        _fire_once(drawn["short"].detector, pixels, 128, ["cls_16", "cls_8"], ["reg_16", "reg_8"])
        _fire_once(drawn["full"].detector, pixels, 192, ["cls_dw"], ["reg_dw"])
    return {variant: landmarker.state_dict() for variant, landmarker in drawn.items()}


def _fire_once(network, pixels, side, class_heads, box_heads):
    best, second = network(face_landmarker._blazeface_input_warp(pixels, side)[0][None])[1].flatten().topk(2).values
    sharpness = 20 / (best - second)
    for head in map(network.get_submodule, class_heads):
        head.weight *= sharpness
        head.bias.sub_((best + second) / 2).mul_(sharpness)
    # Every anchor answers with the same box around itself and eyes level: width, height and keypoints in input pixels.
    box = torch.tensor([0, 0, side / 3, side / 3, -side / 12, -side / 12, side / 12, -side / 12] + 8 * [0.0])
    for head in map(network.get_submodule, box_heads):
        head.weight.zero_()
        head.bias.copy_(box.repeat(len(head.bias) // 16))


def _write(folder, states, silent=()):
    """The published layout; the detectors in `silent` never see a face."""
    tensors = {key: value for key, value in states["short"].items() if not key.startswith("detector.")}
    for variant, state in states.items():
        for key, value in state.items():
            if key.startswith("detector."):
                tensors[f"detector_{variant}.{key[9:]}"] = value.clone()
    for key in [key for key in tensors if key.startswith(tuple(f"detector_{variant}.cls" for variant in silent))]:
        tensors[key] = torch.full_like(tensors[key], -1000.0 if key.endswith("bias") else 0.0)
    tensors |= {f"topology.{name}": torch.tensor([[0, 1], [1, 2], [2, 0]], dtype=torch.int32) for name in RINGS}
    tensors["canonical_vertices"] = torch.randn(478, 3, generator=torch.Generator().manual_seed(0))
    tensors["procrustes_indices"] = torch.arange(30, dtype=torch.int32)
    tensors["procrustes_weights"] = torch.ones(30)
    comfy.utils.save_torch_file({key: value.contiguous() for key, value in tensors.items()}, str(folder / FILE))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "detection", ([str(tmp_path)], {".safetensors"}))
    return tmp_path


def _host_answer(folder, picture, variant):
    model = FaceLandmarkerModel(comfy.utils.load_torch_file(str(folder / FILE)))
    with torch.no_grad():
        return MediaPipeFaceLandmarker.execute(model, picture, variant, 0, 0.5, "empty").result[0]["frames"][0]


@pytest.mark.parametrize("silent, variant", [((), "short"), (("short",), "full")])
def test_same_landmarks_as_the_hosts_node_short_range_first(folder, states, picture, silent, variant):
    _write(folder, states, silent)
    assert f"mediapipe: {FILE}" in detector.available()
    loaded = detector.load(f"mediapipe: {FILE}", 0.5, 640)
    (face,) = loaded.detect((picture[0] * 255).round().byte().numpy())
    (expected,) = _host_answer(folder, picture, variant)
    assert face.landmarks.shape == (478, 2) and np.array_equal(face.landmarks, expected["landmarks_xy"])
    assert face.score == expected["score"] > 0.99
    assert {tuple(point) for point in face.points} == {tuple(point) for point in expected["landmarks_xy"][FIVE]}
    assert np.allclose(face.box, expected["bbox_xyxy"])


def test_nothing_found_by_both(folder, states, picture):
    _write(folder, states, silent=("short", "full"))
    faces = detector.detect_faces(detector.load(f"mediapipe: {FILE}", 0.5, 640), picture)
    assert faces.found == ((),) and "short range, then full range" in faces.tried


def test_other_file_in_the_folder_is_refused(folder):
    comfy.utils.save_torch_file({"weight": torch.zeros(1)}, str(folder / "depth.safetensors"))
    with pytest.raises(ValueError, match="depth.safetensors .* is not a MediaPipe face landmarker"):
        detector.load("mediapipe: depth.safetensors", 0.5, 640)


def test_missing_file_says_where_to_get_it(folder):
    assert f"mediapipe: {FILE}" in detector.available()
    with pytest.raises(FileNotFoundError, match="Comfy-Org/mediapipe"):
        detector.load(f"mediapipe: {FILE}", 0.5, 640)


def _face_dict(points):
    landmarks = np.zeros((478, 2), np.float32)
    landmarks[FIVE] = points
    return {"landmarks_xy": landmarks, "bbox_xyxy": np.array([1, 2, 3, 4], np.float32), "score": 0.75}


POINTS = np.array([[203, 101], [246.5, 103], [223, 127], [203.5, 140], [247, 138.5]], np.float32)


def test_five_points_are_the_published_indices():
    face = from_host_landmarks(_face_dict(POINTS))
    assert np.array_equal(face.points, POINTS) and face.points.dtype == np.float32
    assert face.box == (1, 2, 3, 4) and face.score == 0.75 and face.landmarks.shape == (478, 2)


def test_mirrored_landmarks_keep_the_first_eye_at_the_pictures_left():
    mirrored = POINTS * np.float32([-1, 1]) + np.float32([511, 0])
    face = from_host_landmarks(_face_dict(mirrored))
    assert np.array_equal(face.points, mirrored[[1, 0, 2, 4, 3]])
    assert face.points[0, 0] < face.points[1, 0]
