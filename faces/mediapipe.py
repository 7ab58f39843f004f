"""MediaPipe's face landmarker through the host's own torch port: 478 landmarks, no package beyond the host's."""

import numpy as np
import torch
from comfy_extras.nodes_mediapipe import FaceLandmarkerModel

from ..patcher import is_finite
from ..weights import folders, trial
from ..weights.reading import build_network, read_state_dict
from .align import in_template_order
from .types import Face

PUBLISHED_FILE = "mediapipe_face_fp32.safetensors"

# Subject's right iris (at the image's left), left iris, nose tip, subject's right and left mouth corner.
_FIVE = [468, 473, 1, 61, 291]
_SIGNATURE = {"detector_short.stem.weight", "detector_full.stem.weight", "mesh.stem.weight", "topology.face_oval"}


class MediaPipe:
    """The short-range network first; where that finds no face, the full-range one for smaller, farther faces."""

    det_size = None  # its two networks have sizes of their own

    def __init__(self, file_name: str, min_score: float):
        self.name = f"mediapipe: {file_name} (short range, then full range, min_score {min_score:g})"
        self.min_score = min_score
        state_dict = read_state_dict(folders.path("detection", file_name))
        if not _SIGNATURE <= state_dict.keys():
            raise ValueError(
                f"{file_name} in models/detection is not a MediaPipe face landmarker (it lacks "
                f"{sorted(_SIGNATURE - state_dict.keys())[0]}); choose {PUBLISHED_FILE} or another detector."
            )
        message = f"{file_name} in models/detection cannot be used as a MediaPipe face landmarker"
        self._model = build_network(message, _build, state_dict)
        self.connection_sets, self.canonical = self._model.connection_sets, self._model.canonical_data

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return every face in `image` [H, W, 3] uint8 RGB, with the 478 landmarks."""
        for variant in ("short", "full"):
            with torch.no_grad(), trial.name_faults(f"{self.name} cannot look for faces"):
                (faces,) = self._model.detect_batch([image], num_faces=0, score_thresh=self.min_score, variant=variant)
            if faces:
                break
        return [from_host_landmarks(face) for face in faces]


def _build(state_dict: dict) -> FaceLandmarkerModel:
    """Return the host's networks; raises KeyError for a missing weight, which the host would make up at random."""
    model = FaceLandmarkerModel(dict(state_dict))  # it takes out what it has read
    for variant, network in model.models.items():
        for name, weight in network.named_parameters():
            in_file = name.replace("detector.", f"detector_{variant}.", 1)
            if in_file not in state_dict and not name.startswith("blendshapes."):  # which nothing here reads
                raise KeyError(in_file)
            if not is_finite(weight):
                raise ValueError(f"its tensor '{name}' holds NaN or infinite numbers; download the file again")
    return model


def from_host_landmarks(face_dict: dict) -> Face:
    """Make a `Face` of one face of the host's FACE_LANDMARKS (its `landmarks_xy` [478, 2], `bbox_xyxy` and `score`)."""
    landmarks = np.asarray(face_dict["landmarks_xy"], dtype=np.float32)
    box = tuple(float(edge) for edge in face_dict["bbox_xyxy"])
    return Face(in_template_order(landmarks[_FIVE]), box, float(face_dict["score"]), landmarks, face_dict)
