"""The same photo through every detector gives the same crop.

Only the Haar cascade brings real weights. The others run their whole code path (scaling, channel order, decoding, the
host's or the packages' own arithmetic) on networks made to see one marked cell of the photo, and in it the face's five
points as they were read off the photo.
"""

import importlib.util

import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from comfy_extras.nodes_mediapipe import FaceLandmarkerModel
from likeness.faces import detector, mediapipe, opencv
from likeness.faces.align import align_faces, template
from likeness.faces.geometry import similarity
from likeness.faces.types import Face, Faces
from likeness.tests.support import mediapipe_file, onnx_packs
from likeness.weights import folders
from PIL import Image

folders.register()
cv2 = pytest.importorskip("cv2")

POINTS = np.array([[203, 101], [246.5, 103], [223, 127], [203.5, 140], [247, 138.5]])  # read off the photo
MARK = 32  # the top left cell of the photo at the detectors' working size of 640

# What is allowed: how far the true points land apart in the crop, in pixels of 112, and the crops' mean difference in
# 1/255. Networks told the truth lose only float32's rounding on the way. The Haar cascade sees no nose and no mouth: an
# average face stands in for a broad smile, which moves and turns the crop by 4 to 5 pixels (of a face 75 pixels wide).
EXACT = (0.002, 0.01)
HAAR = (5.0, 25.0)


@pytest.fixture(scope="module")
def photo(root):
    """The astronaut with a red square in the top left corner."""
    pixels = np.array(Image.open(root / "workflows" / "assets" / "astronaut.png").convert("RGB"))
    side = MARK * 512 // 640 + 1
    pixels[:side, :side] = (255, 0, 0)
    return torch.from_numpy(pixels).float()[None] / 255


def _in_cell():
    """The true points in cells from the marked cell's corner, at the working size."""
    return POINTS * 640 / 512 / MARK


def _mediapipe(folder, photo):
    """A file whose mesh is the truth, whichever region of the photo its detector hands it."""
    states = mediapipe_file.drawn_states(photo)
    path = folder / mediapipe_file.FILE
    mediapipe_file.write(path, states, silent=("full",))
    image = (photo[0] * 255).round().byte().numpy()
    network = FaceLandmarkerModel(comfy.utils.load_torch_file(str(path)))
    with torch.no_grad():
        (face,) = network.detect_batch([image], 0, 0.5, "short")[0]
    # The way from the mesh network's 192 pixels to the photo's, from this face, and the truth taken back along it.
    mesh = np.concatenate([face["landmarks_3d"][:, :2], np.ones((478, 1))], axis=1).astype(np.float64)
    way = np.linalg.lstsq(mesh, face["landmarks_xy"].astype(np.float64), rcond=None)[0]
    answer = face["landmarks_3d"].copy()
    answer[mediapipe_file.FIVE, :2] = (POINTS - way[2]) @ np.linalg.inv(way[:2])
    mediapipe_file.write(path, states, ("full",), mesh=torch.from_numpy(answer))
    return f"mediapipe: {mediapipe_file.FILE}"


def _insightface(folder, photo):
    if not all(map(importlib.util.find_spec, ("insightface", "onnxruntime"))):
        pytest.skip("insightface is not installed")
    onnx_packs.write_insightface_pack(folder / "models" / "buffalo_l", in_cell=_in_cell())
    return "insightface: buffalo_l"


def _yunet(folder, photo):
    onnx_packs.write_yunet(folder / "yunet.onnx", in_cell=_in_cell())
    return "opencv: yunet.onnx"


def _haar(folder, photo):
    if not hasattr(cv2, "CascadeClassifier"):
        pytest.skip("OpenCV 5 has no Haar cascade")
    return "opencv: haar cascade"


@pytest.mark.parametrize(
    "backend, allowed", [(_mediapipe, EXACT), (_insightface, EXACT), (_yunet, EXACT), (_haar, HAAR)]
)
def test_the_same_crop(tmp_path, monkeypatch, photo, backend, allowed):
    for kind, endings in (("detection", {".safetensors"}), ("insightface", {".onnx"})):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], endings))
    for made_up in (mediapipe.MediaPipe, opencv.YuNet):  # networks that see their cell in this very picture only
        monkeypatch.setattr(made_up, "look_closer", lambda _, image, face: face)
    faces = detector.detect_faces(detector.load(backend(tmp_path, photo), 0.3, 640), photo, "quick")
    (face,) = faces.per_image[0]
    truth = Face(POINTS.astype(np.float32), face.box, 1.0)
    ours, true = (similarity(one.points, template(112)) @ np.vstack([POINTS.T, np.ones(5)]) for one in (face, truth))
    crop, true_crop = (align_faces(Faces(photo, ((one,),)), 112) for one in (face, truth))
    apart, difference = np.linalg.norm(ours - true, axis=0).max(), 255 * float((crop - true_crop).abs().mean())
    assert apart < allowed[0] and difference < allowed[1], (apart, difference)
