"""One protocol for every face detector, and the way from a batch of images to `Faces`."""

from collections.abc import Callable

import folder_paths
import numpy as np
import torch

from ..patcher import is_finite
from ..weights import folders
from . import insightface, mediapipe, opencv
from .choose import left_to_right
from .search import FaceDetector, find, in_words
from .types import Faces

_ROWS = 1024  # of pixels that are converted at once
_HAAR = "haar cascade"
MEASURED = -1.0  # as min_score: what was found to be right for the detector
# The lowest scores at which photographs showed their faces and pictures without people none (benchmarks/FACES.md);
# InsightFace's is its authors' own.
MEASURED_SCORES = {"mediapipe": 0.6, "opencv": 0.85, _HAAR: 0.4, "insightface": 0.5}
_REGISTERED: dict[str, Callable[[float], FaceDetector]] = {}  # by label, of other rooms; called with min_score


def register(label: str, make: Callable[[float], FaceDetector]) -> None:
    """Offer a detector of another room under `label`, after all others; `make` makes one of a lowest score."""
    _REGISTERED[label] = make


def available() -> list[str]:
    """Return labels for a combo: what is there, and `folders.NO_FILE` first while MediaPipe's file is not.

    A network in one file is named by that file, which is how the editor lists what a graph lacks. Labels with the
    family before the file, as graphs of earlier versions hold them, come last.
    """
    files = [name for name in folder_paths.get_filename_list("detection") if name.endswith(".safetensors")]
    landmarkers = [name for name in files if name != mediapipe.FULL_RANGE_FILE]
    # The published file goes first.
    landmarkers.sort(key=lambda name: (name != mediapipe.PUBLISHED_FILE, name))
    yunets = list(opencv.yunet_files())
    return [
        *(landmarkers or [folders.NO_FILE]),
        *(f"insightface: {pack}" for pack in sorted(insightface.packs())),
        f"opencv: {_HAAR}",
        *yunets,
        *_REGISTERED,
        *(f"mediapipe: {name}" for name in landmarkers),
        *(f"opencv: {name}" for name in yunets),
    ]


def load(label: str, min_score: float = MEASURED, det_size: int = 640) -> FaceDetector:
    """Make the detector of a label from `available`.

    min_score: 0..1, faces below it are dropped; below 0 it is the one in `MEASURED_SCORES`. det_size: pixels of the
    image's longest side at detection, a multiple of 32; MediaPipe and registered detectors have sizes of their own and
    ignore it. Raises FileNotFoundError where weights are missing, ValueError where a package is missing, a
    file is not what it should be, or the label or det_size is not valid.
    """
    if det_size < 32 or det_size % 32:
        raise ValueError(f"det_size must be a multiple of 32 (640 is usual, more finds smaller faces), not {det_size}.")
    if label in _REGISTERED:
        return _REGISTERED[label](0.5 if min_score < 0 else min_score)
    family, name = _split(label)
    min_score = MEASURED_SCORES[_HAAR if name == _HAAR else family] if min_score < 0 else min_score
    if family == "mediapipe":
        return mediapipe.MediaPipe(name, min_score)
    if family == "insightface":
        return insightface.InsightFace(name, min_score, det_size)
    return opencv.HaarCascade(min_score, det_size) if name == _HAAR else opencv.YuNet(name, min_score, det_size)


def find_files(label: str) -> None:
    """Look for the files of a label without opening them; raise as `load` does where one is missing."""
    family, name = ("", "") if label in _REGISTERED else _split(label)
    if family == "mediapipe":
        folders.path("detection", name)
    if family == "insightface":
        insightface.find_pack(name)
    if family == "opencv" and name != _HAAR:
        opencv.find_yunet(name)


def _split(label: str) -> tuple[str, str]:
    """Return family and name of a label; raise ValueError where it is neither of `available` nor of an old graph."""
    if label == folders.NO_FILE:
        raise FileNotFoundError(
            f"Choose a face detector. {folders.explain('detection', mediapipe.PUBLISHED_FILE)} Then press R in the "
            "editor and choose the file."
        )
    family, parted, name = label.partition(": ")
    if not parted and label.endswith(".safetensors"):
        return "mediapipe", label
    if not parted and label.endswith(".onnx"):
        return "opencv", label
    if family in ("mediapipe", "insightface", "opencv"):
        return family, name
    raise ValueError(f"'{label}' is no face detector; choose one of: {', '.join(available())}.")


def first_detector() -> str:
    """Return the label of the first face detector that is ready; raises ValueError where none is."""
    for label in available():
        try:
            load(label)
        except (ValueError, OSError):
            continue
        return label
    raise ValueError("No face detector is ready: fetch one with 'python3 likeness.py weights'.")


def detect_faces(detector: FaceDetector, images: torch.Tensor, search: str = "thorough", min_size: float = 0) -> Faces:
    """Find the faces in every image of `images` [B, H, W, C], float 0..1 (clamped); grey becomes RGB, alpha goes.

    search, min_size: see `search.find`. Faces come left to right. Points may lie outside the picture, so that a face
    cut by the border still aligns; boxes are clipped to it; faces with points that are not finite are dropped. Raises
    ValueError for an empty batch, images under 2 pixels a side, channels other than grey, RGB or RGBA, and NaN or
    infinite pixels.
    """
    images = as_rgb(images)
    pixels = (as_bytes(image[None])[0] for image in images)  # one by one: a copy of a whole video is large
    per_image = tuple(left_to_right(find(detector, image, search, min_size)) for image in pixels)
    return Faces(images, per_image, in_words(detector, search, min_size), *get_mesh(detector))


def get_mesh(detector: FaceDetector) -> tuple[dict | None, dict | None]:
    """Return the mesh topology and the reference face that MediaPipe's detectors have: `Faces` takes them last."""
    return getattr(detector, "connection_sets", None), getattr(detector, "canonical", None)


def as_bytes(images: torch.Tensor) -> np.ndarray:
    """Return images [B, H, W, 3] of 0..1 as the detectors read them: [B, H, W, 3] uint8.

    Some rows at a time, as a large picture several times over would not fit into memory.
    """
    pixels = torch.empty(images.shape, dtype=torch.uint8)
    for rows, part in zip(images.flatten(0, -3).split(_ROWS), pixels.flatten(0, -3).split(_ROWS)):
        part.copy_((rows * 255).round_())
    return pixels.numpy()


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Check images [B, H, W, C] as `detect_faces` says, and return them as [B, H, W, 3] float 0..1.

    Images that are so already come back without a copy: nobody writes into them.
    """
    if images.ndim != 4 or images.shape[0] == 0:
        raise ValueError(f"Expected at least one picture, [batch, height, width, channels], not {list(images.shape)}.")
    batch, height, width, channels = images.shape
    if min(height, width) < 2:
        raise ValueError(f"A picture of {width} x {height} pixels is too small to hold a face; load a larger one.")
    if channels not in (1, 3, 4):
        raise ValueError(f"Expected pictures with 1, 3 or 4 channels (grey, RGB, RGBA), not {channels}.")
    for i, image in enumerate(images):
        if not is_finite(image):
            raise ValueError(
                f"Picture {i + 1} of {batch} holds NaN or infinite pixels; look at what made it (a VAE in half "
                "precision is the usual cause)."
            )
    images = images[..., :3].expand(batch, height, width, 3).float()
    low, high = torch.aminmax(images)
    return images if low >= 0 and high <= 1 else images.clamp(0, 1)
