"""MediaPipe's face landmarker through the host's own torch port: 478 landmarks, no package beyond the host's."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import comfy.model_management
import numpy as np
import torch
from comfy_extras.mediapipe import face_landmarker
from comfy_extras.nodes_mediapipe import FaceLandmarkerModel

from ..patcher import is_finite
from ..weights import folders, trial
from ..weights.reading import build_network, read_state_dict
from .align import in_template_order, measure_roll
from .close_up import Window
from .mediapipe_mesh import FaceMesh256
from .types import SAME_FACE, Face, share

PUBLISHED_FILE = "mediapipe_face_fp32.safetensors"
# What 'weights fetch mediapipe-landmarker' makes; the second is a part of it, and no detector by itself.
LANDMARKER_FILE = "face_landmarker.safetensors"
FULL_RANGE_FILE = "face_detection_full_range_sparse.safetensors"
FILES = (PUBLISHED_FILE, LANDMARKER_FILE)

# Subject's right iris (at the image's left), left iris, nose tip, subject's right and left mouth corner.
_FIVE = [468, 473, 1, 61, 291]
_SIGNATURE = ("detector_short.stem.weight", "mesh.stem.weight", "topology.face_oval", "canonical_vertices")
_HOST_MESH_SIZE = 192  # pixels; the host's nodes want a mesh in these, whatever it was found in
_CANDIDATE = 0.5  # score at which a detector's find is worth a close-up: the published setting
_CLOSE_UP, _WINDOW = 256, 2.0  # pixels a side; in longer sides of the find's box
_LOWEST = 0.3  # score at which a close-up counts at all
_APART = 0.16  # eye distances between the points and those of a close-up, in the mean, at most
_SURE_PROFILE = 0.75  # score of a close-up without a mesh
_SURE_ELSEWHERE = 0.85  # score of a close-up whose mesh is in another place than the find's
_PROFILES_APART = 0.15  # longer sides of the box between a profile's points and those of a close-up, at most
_MOUTH_HALF = 0.45  # half a mouth, in eye distances
_RANGES = {"short": "short range", "full": "full range"}


class LargeMeshModel(FaceLandmarkerModel):
    """The host's networks around the mesh at 256 pixels, of a file that has that one."""

    def __init__(self, state_dict: dict[str, torch.Tensor]):
        prefix = "mesh."
        weights = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        super().__init__({key: value for key, value in state_dict.items() if not key.startswith(prefix)})
        for variant, patcher in self.patchers.items():
            network = self.models[variant]
            network.mesh = FaceMesh256(weights).eval().to(patcher.offload_device)
            network.mesh.load_state_dict(weights, strict=False)  # `_build` looks whether all are there
            patcher.size = comfy.model_management.module_size(network)


@dataclass(frozen=True)
class Find:
    """One answer of a detector to an image, and what the mesh network makes of it.

    host: the face as the host's FACE_LANDMARKS hold it; its "presence" is the logit of a face being there at all.
    keypoints: the detector's own six [6, 2] in pixels of the image: subject's right eye, left eye, nose tip, mouth,
    right ear, left ear. box: the detector's x0, y0, x1, y1.
    """

    host: dict
    keypoints: np.ndarray
    box: np.ndarray


class MediaPipe:
    """Both detectors, for near and for far faces, and the mesh network, whose verdict counts.

    A find in which the mesh network sees no face is dropped, unless a close-up makes the detector itself very sure, as
    it is of full profiles, which no mesh fits: then its own keypoints are the five points, and the face is marked.
    """

    det_size = None  # its networks have sizes of their own

    def __init__(self, file_name: str, min_score: float):
        self._model = _load(file_name)
        ranges = " and ".join(_RANGES[variant] for variant in self._model.models)
        self.name = f"mediapipe: {file_name} ({ranges}, min_score {min_score:g})"
        self.min_score = min_score
        self.connection_sets, self.canonical = self._model.connection_sets, self._model.canonical_data

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces in `image` [H, W, 3] uint8 RGB with their 478 landmarks, then what may be profiles.

        A profile's score is half the detector's, for a close-up to decide.
        """
        finds = self._look(image, min(self.min_score, _CANDIDATE))
        meshes: list[Face] = []  # what both ranges see is the short one's, which is first
        for face in (from_host_landmarks(find.host) for find in finds if has_mesh(find)):
            if all(share(face, other) <= SAME_FACE for other in meshes):
                meshes.append(face)
        return meshes + [_read_profile(find) for find in finds if not has_mesh(find)]

    def look_closer(self, image: np.ndarray, face: Face) -> Face | None:
        """Return a find in `image` as sure as a close-up and its mirror image make it; None under min_score.

        The points stay, since a mesh is read upright as it is; where both readings put them elsewhere, and at one
        place, the close-up's count. A profile is one only where the close-up, too, shows no mesh.
        """
        window, roll = Window(image, face, _CLOSE_UP, _WINDOW), measure_roll(face.points)
        detect = self._detect_any if face.profile else self.detect_meshes
        readings = [window.read(detect, roll, mirrored) for mirrored in (False, True)]
        if not all(readings) or readings[0].profile != readings[1].profile:
            return None
        score = float(np.mean([reading.score for reading in readings]))
        apart = max(np.linalg.norm(reading.points - face.points, axis=1).mean() for reading in readings)
        if readings[0].profile:
            sure = score >= max(self.min_score, _SURE_PROFILE) and apart <= _PROFILES_APART * max(face.sides)
            return replace(face, score=score) if sure else None
        if apart <= _APART * _measure_eyes(face) and not face.profile:
            return replace(face, score=score) if score >= self.min_score else None
        between = np.linalg.norm(readings[0].points - readings[1].points, axis=1).mean()
        sure = score >= max(self.min_score, _SURE_ELSEWHERE) and between <= _APART * _measure_eyes(readings[0])
        return replace(_in_image(readings[0]), score=score) if sure else None

    def detect_meshes(self, pixels: np.ndarray) -> list[Face]:
        """Return the faces in a close-up, [H, W, 3] uint8 RGB, in which the mesh network sees one."""
        return [from_host_landmarks(find.host) for find in self._look(pixels, _LOWEST) if has_mesh(find)]

    def _detect_any(self, pixels: np.ndarray) -> list[Face]:
        """Return the faces in which the mesh network sees one; where there are none, what may be profiles."""
        finds = self._look(pixels, _LOWEST)
        meshes = [from_host_landmarks(find.host) for find in finds if has_mesh(find)]
        return meshes or [replace(_read_profile(find), score=find.host["score"]) for find in finds]

    def _look(self, image: np.ndarray, min_score: float) -> list[Find]:
        with trial.name_faults(f"{self.name} cannot look for faces"):
            return [find for variant in self._model.models for find in look(self._model, variant, image, min_score)]


def _measure_eyes(face: Face) -> float:
    return float(np.hypot(*(face.points[1] - face.points[0])))


def _in_image(reading: Face) -> Face:
    """Return a close-up's reading of a mesh with the host's own coordinates, too, in pixels of the image."""
    box = np.concatenate([reading.landmarks.min(axis=0), reading.landmarks.max(axis=0)]).astype(np.float32)
    landmarks, points = (at.astype(np.float32) for at in (reading.landmarks, reading.points))
    host = {**reading.host, "landmarks_xy": landmarks, "bbox_xyxy": box}
    return replace(reading, points=points, box=tuple(box.tolist()), landmarks=landmarks, host=host)


@contextmanager
def one_core() -> Iterator[None]:
    """Have torch compute on one core of the CPU.

    Networks this small are no faster on several. They have thousands of layers a photograph, and after each of them
    every thread waits, turning, for the others: where other programs work too, half a second became thirty.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def ready_files() -> list[str]:
    """Return the names of the landmarkers that can be had and are in models/detection, the published one first."""
    return [name for name in FILES if folders.find("detection", name)]


def version(name: str) -> tuple[str, int]:
    """Return the path of a file in models/detection and when it was changed."""
    path = folders.path("detection", name)
    return path, os.stat(path).st_mtime_ns


def has_mesh(find: Find) -> bool:
    """Return whether the mesh network sees a face in a detector's find: a presence of a half, or more."""
    return find.host["presence"] >= 0


def _read_profile(find: Find) -> Face:
    """Return the face of a detector's own keypoints, half as sure; the mouth's corners lie beside its middle."""
    right, left, nose, mouth, *_ = find.keypoints
    across = (left - right) * _MOUTH_HALF
    points = np.stack([right, left, nose, mouth - across, mouth + across]).astype(np.float32)
    box = tuple(float(edge) for edge in find.box)
    return Face(in_template_order(points), box, find.host["score"] / 2, profile=True)


def from_host_landmarks(face_dict: dict) -> Face:
    """Make a `Face` of one face of the host's FACE_LANDMARKS (its `landmarks_xy` [478, 2], `bbox_xyxy` and `score`)."""
    landmarks = np.asarray(face_dict["landmarks_xy"], dtype=np.float32)
    box = tuple(float(edge) for edge in face_dict["bbox_xyxy"])
    return Face(in_template_order(landmarks[_FIVE]), box, float(face_dict["score"]), landmarks, face_dict)


def look(model: FaceLandmarkerModel, variant: str, image: np.ndarray, min_score: float) -> list[Find]:
    """Return what one of the `model`'s detectors ("short" or "full") finds in `image` [H, W, 3] uint8 RGB.

    As the host's own `detect_batch`, but for a mesh network of any input size.
    """
    comfy.model_management.load_model_gpu(model.patchers[variant])
    network, (height, width) = model.models[variant], image.shape[:2]
    with torch.no_grad(), one_core():
        (pixels,), ((x, y, side),), _, (detections,) = network.run_detector_batch([image], score_thresh=min_score)
        if not len(detections):
            return []
        # From parts of the square that the detector saw to parts of the image.
        detections[:, 0:16:2] = (x - side * 0.5 + side * detections[:, 0:16:2]) / width
        detections[:, 1:16:2] = (y - side * 0.5 + side * detections[:, 1:16:2]) / height
        areas = [face_landmarker._detection_to_face_rect(detection, width, height) for detection in detections]
        size = getattr(network.mesh, "input_size", _HOST_MESH_SIZE)
        crops = [face_landmarker._warp_face_crop(pixels / 255.0, *area, size) for area in areas]
        meshes, presences = network.mesh(torch.stack(crops))
        shapes = network.blendshapes(meshes[:, network._bs_idx, :2])
    finds = []
    for i, (detection, area, mesh) in enumerate(zip(detections, areas, meshes, strict=True)):
        landmarks = _to_image(mesh, area, size)
        host = {
            "bbox_xyxy": np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)]),
            "blendshapes": dict(zip(face_landmarker.BLENDSHAPE_NAMES, shapes[i].tolist(), strict=True)),
            "landmarks_xy": landmarks,
            "landmarks_3d": (mesh * (_HOST_MESH_SIZE / size)).cpu().numpy(),
            "presence": float(presences[i]),
            "score": float(detection[16]),
        }
        places = detection[:16].reshape(8, 2) * np.float32([width, height])
        finds.append(Find(host, places[2:], places[:2].ravel()))
    return finds


def _to_image(mesh: torch.Tensor, area: tuple[float, ...], size: int) -> np.ndarray:
    """Return landmarks [478, 2] in pixels of the image, of a `mesh` [478, 3] in pixels of the crop of `area`."""
    *edges, angle = area
    numbers = torch.tensor([*edges, math.cos(angle), math.sin(angle)], dtype=mesh.dtype, device=mesh.device)
    x, y, width, height, cos, sin = numbers
    u, v, scale = mesh[:, 0] - size * 0.5, mesh[:, 1] - size * 0.5, 1.0 / size
    moved = [
        x + u * (width * scale * cos) - v * (height * scale * sin),
        y + u * (width * scale * sin) + v * (height * scale * cos),
    ]
    return torch.stack(moved, dim=-1).float().cpu().numpy()


def _load(file_name: str) -> FaceLandmarkerModel:
    """Return the networks of a file in models/detection, and of the full-range detector's file beside it, if any.

    Raises FileNotFoundError where the file is not there, ValueError where it is no whole face landmarker.
    """
    weights = _read(file_name)
    if lacking := [name for name in _SIGNATURE if name not in weights]:
        raise ValueError(
            f"{file_name} in models/detection is not a MediaPipe face landmarker (it lacks {lacking[0]}); choose "
            f"{PUBLISHED_FILE}, {LANDMARKER_FILE} or another detector."
        )
    if "detector_full.stem.weight" not in weights and folders.find("detection", FULL_RANGE_FILE):
        weights |= _read(FULL_RANGE_FILE)
    message = f"{file_name} in models/detection cannot be used as a MediaPipe face landmarker"
    return build_network(message, _build, weights)


def _build(weights: dict[str, torch.Tensor]) -> FaceLandmarkerModel:
    """Return the networks with those detectors that are there.

    Raises KeyError for a missing weight, which the host would make up at random, ValueError for one that is not finite.
    """
    build = LargeMeshModel if "mesh.blocks.0.reduce.weight" in weights else FaceLandmarkerModel
    model = build(dict(weights))  # it takes out what it has read
    for variant in [variant for variant in model.models if f"detector_{variant}.stem.weight" not in weights]:
        del model.models[variant], model.patchers[variant]
    for variant, network in model.models.items():
        for name, weight in network.named_parameters():
            in_file = name.replace("detector.", f"detector_{variant}.", 1)
            if in_file not in weights:
                raise KeyError(in_file)
            if not is_finite(weight):
                raise ValueError(f"its tensor '{in_file}' holds NaN or infinite numbers; download the file again")
    return model


def _read(file_name: str) -> dict[str, torch.Tensor]:
    weights = read_state_dict(folders.path("detection", file_name))
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
