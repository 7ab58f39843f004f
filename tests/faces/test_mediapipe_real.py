"""MediaPipe's real networks from the package registry, on real photographs, beside MediaPipe's own library."""

import json
import shutil

import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from comfy_extras.nodes_mediapipe import FaceLandmarkerModel
from likeness.encoders.arcface_onnx import load_recogniser
from likeness.faces import detector, mediapipe, search
from likeness.faces.host_types import export_landmarks
from likeness.weights import folders
from PIL import Image

folders.register()
LABEL = mediapipe.LANDMARKER_FILE
GOLDEN = ("astronaut", "obama", "obama_partial_face")


@pytest.fixture(scope="module")
def golden(root):
    return json.loads((root / "tests" / "golden" / "mediapipe_faces.json").read_text())


@pytest.fixture(scope="module")
def photo(root, real_photos):
    files = {"astronaut": root / "workflows" / "assets" / "astronaut.png"}
    return lambda name: np.array(Image.open(files.get(name, real_photos / f"{name}.jpg")).convert("RGB"))


@pytest.fixture(scope="module")
def loaded(real_folders):
    return detector.load(LABEL, 0.5, 640)


def distances(points, expected):
    return np.linalg.norm(points - np.array(expected), axis=1)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_landmarks_of_photographs_are_those_of_mediapipes_library(loaded, photo, golden, name):
    (face,) = search.find(loaded, photo(name))
    off = distances(face.landmarks, golden[name]["landmarks"])
    assert off.mean() < 0.2 and off.max() < 1.0, "pixels, of faces with 43 to 106 between the eyes"
    assert {tuple(point) for point in face.points} == {tuple(point) for point in face.landmarks[mediapipe._FIVE]}
    expected = golden[name]["blendshapes"]
    assert face.host["blendshapes"].keys() == expected.keys()
    assert max(abs(face.host["blendshapes"][key] - value) for key, value in expected.items()) < 0.05
    assert face.host["presence"] > 5


@pytest.mark.parametrize("name", GOLDEN)
def test_the_full_range_detector_is_that_of_mediapipes_library(loaded, photo, golden, name):
    (find,) = mediapipe.look(loaded._model, "full", photo(name), 0.5)
    assert distances(find.keypoints, golden[name]["full_range"]).max() < 0.8


def test_its_small_networks_keep_to_one_core(loaded, photo, monkeypatch):
    """On a busy machine several took thirty seconds of waiting for each other, instead of half a second."""
    threads, detector_network = [], loaded._model.models["short"].detector
    handle = detector_network.register_forward_hook(lambda *_: threads.append(torch.get_num_threads()))
    monkeypatch.setattr(mediapipe, "_to_image", lambda *_: pytest.fail("a fault in the middle"))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(pytest.fail.Exception):
            mediapipe.look(loaded._model, "short", photo("astronaut"), 0.5)
        assert threads == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
        handle.remove()


def test_the_mesh_tells_a_face_from_none(loaded, photo):
    network = loaded._model.models["short"].mesh
    assert network.input_size == 256
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_200_748
    stone = torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    assert (network(stone)[1] < 0).all(), "logits: below 0.5 as probabilities"


def test_face_landmarks_are_in_the_units_of_the_hosts_mesh(loaded, photo):
    image = torch.from_numpy(photo("astronaut")).float()[None] / 255
    (face,) = export_landmarks(detector.detect_faces(loaded, image))["frames"][0]
    inside = face["landmarks_3d"][:, :2]
    assert 10 < inside.min() and inside.max() < 182, "the face fills the middle of 192 pixels"
    head = face["transformation_matrix"]
    assert np.allclose(head[:3, :3] @ head[:3, :3].T, np.eye(3) * (head[:3, 0] @ head[:3, 0]), atol=1e-3)
    assert head[2, 3] < -20, "in front of the camera, in centimetres"
    assert loaded.connection_sets["irises"] <= loaded.connection_sets["all"]
    assert len(loaded.connection_sets["contours"]) == 36 + 40 + 2 * 16 + 2 * 8


def test_the_hosts_own_node_refuses_the_larger_mesh_instead_of_running_without_it(real_weights):
    weights = comfy.utils.load_torch_file(str(real_weights / "detection" / mediapipe.LANDMARKER_FILE))
    with pytest.raises(RuntimeError, match="size mismatch for mesh"):
        FaceLandmarkerModel(weights)


@pytest.fixture
def folder(real_weights, tmp_path, monkeypatch):
    """A folder of detectors of the test's own, with the landmarker in it and no full range."""
    shutil.copy(real_weights / "detection" / mediapipe.LANDMARKER_FILE, tmp_path)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "detection", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def test_without_the_full_range_it_says_so_and_finds_near_faces(folder, photo):
    alone = detector.load(LABEL, 0.5, 640)
    assert "(short range, min_score 0.5)" in alone.name
    assert len(search.find(alone, photo("astronaut"))) == 1


def test_the_published_file_goes_first_and_the_full_range_is_no_detector(folder):
    for name in (mediapipe.PUBLISHED_FILE, mediapipe.FULL_RANGE_FILE, "another.safetensors"):
        (folder / name).touch()
    landmarkers = [mediapipe.PUBLISHED_FILE, "another.safetensors", mediapipe.LANDMARKER_FILE]
    labels = [label for label in detector.available() if label.endswith(".safetensors")]
    assert labels == [*landmarkers, *(f"mediapipe: {name}" for name in landmarkers)]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mesh.blocks.3.expand.bias": None}, "the tensor 'mesh.blocks.3.expand.bias' is missing, so .* incomplete"),
        ({"mesh.blocks.3.expand.weight": None}, "cannot be used .* 'blocks.3.expand.weight' is missing, .*incomplete"),
        ({"blendshapes.head.bias": None}, "the tensor 'blendshapes.head.bias' is missing"),
        ({"detector_short.cls_8.weight": None}, "the tensor 'detector_short.cls_8.weight' is missing"),
        ({"detector_short.cls_8.weight": torch.zeros(3)}, "cannot be used as a MediaPipe face landmarker: .*mismatch"),
        ({"mesh.head_presence.bias": torch.tensor([torch.nan])}, "'mesh.head_presence.bias' holds NaN or infinite"),
        ({"mesh.stem.weight": None}, "is not a MediaPipe face landmarker .it lacks mesh.stem.weight.; choose"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_in_a_sentence(folder, change, message):
    file = folder / mediapipe.LANDMARKER_FILE
    weights = comfy.utils.load_torch_file(str(file)) | change
    comfy.utils.save_torch_file({key: value for key, value in weights.items() if value is not None}, str(file))
    with pytest.raises(ValueError, match=message):
        detector.load(LABEL, 0.5, 640)


def test_real_files_of_other_networks_are_refused_in_a_sentence(folder, real_weights):
    yunet, sface = (
        next((real_weights / kind).glob(f"*{name}*.onnx"))
        for kind, name in (("detection", "yunet"), ("insightface", "sface"))
    )
    shutil.copy(sface, folder / "yunet_of_another.onnx")
    shutil.copy(real_weights / "detection" / mediapipe.FULL_RANGE_FILE, folder / "another.safetensors")
    with pytest.raises(
        ValueError, match="yunet_of_another.onnx in models/detection cannot be used as a YuNet detector"
    ):
        detector.load("yunet_of_another.onnx")
    with pytest.raises(ValueError, match="another.safetensors in models/detection is not a MediaPipe face landmarker"):
        detector.load("another.safetensors")
    with pytest.raises(ValueError, match=f"{yunet.name} is no ArcFace recogniser: one input"):
        load_recogniser(str(yunet))
