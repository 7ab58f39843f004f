"""SCRFD and the 106 landmarks of an insightface pack, from a local folder only.

Works with insightface 0.7.3 and 2.x. The packs' weights are for non-commercial research only.
"""

from pathlib import Path

import folder_paths
import numpy as np

from ..weights import manifest, trial
from .types import Face


class InsightFace:
    """SCRFD and, where the pack has it, the 106-point landmark network; the recogniser is not kept."""

    def __init__(self, pack: str, min_score: float, det_size: int):
        self.name = f"insightface: {pack} (det_size {det_size}, min_score {min_score:g})"
        self._analysis = _load(pack)
        # Left open, det_size means one size in insightface 0.7 and two in 2.x.
        self._analysis.prepare(ctx_id=0, det_thresh=min_score, det_size=(det_size, det_size))
        self.min_score = min_score
        # A network exported for one size keeps to that whatever it is told.
        self.det_size = det_size if tuple(self._analysis.det_model.input_size) == (det_size, det_size) else None

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return every face in `image` [H, W, 3] uint8 RGB, with 106 landmarks where the pack gives them."""
        if self.det_size is not None:
            # `prepare` changes the size once only; 0.7 reads the first of these at every call, 2.x the second.
            size = (self.det_size, self.det_size)
            self._analysis.det_model.input_size, self._analysis.det_model.input_sizes = size, [size]
        bgr = np.ascontiguousarray(image[..., ::-1])  # insightface swaps the channels itself, as for OpenCV pictures
        with trial.name_faults(f"{self.name} cannot look for faces"):
            answers = self._analysis.get(bgr)
        return [self._to_face(values) for values in answers]

    def _to_face(self, values: dict) -> Face:
        if values["kps"] is None:
            raise ValueError(f"{self.name}: this pack's detector gives no five points; choose buffalo_l or antelopev2.")
        box = tuple(float(edge) for edge in values["bbox"])
        points = np.asarray(values["kps"], dtype=np.float32)
        return Face(points, box, float(values["det_score"]), values.get("landmark_2d_106"))


def packs() -> dict[str, Path]:
    """Return the packs present below models/insightface/models: name -> the folder that holds its .onnx files.

    antelopev2.zip holds a folder of its own, so unpacked in place it lies one level deeper than the others.
    """
    present = {}
    for models in _model_folders():
        for folder in sorted(models.glob("*")):
            for candidate in (folder, folder / folder.name):
                if any(candidate.glob("*.onnx")):
                    present.setdefault(folder.name, candidate)
    return present


def _model_folders() -> list[Path]:
    return [Path(root, "models") for root in folder_paths.get_folder_paths("insightface")]


def find_pack(pack: str) -> Path:
    """Return the folder of a pack; raise FileNotFoundError that says where to get it."""
    present = packs()
    if pack not in present:
        folders = [str(folder) for folder in _model_folders()]
        message = manifest.explain_missing("insightface/models", f"{pack}.zip", folders, sorted(present))
        raise FileNotFoundError(f"{message} Unpack it so that its .onnx files lie in {Path(folders[0], pack)}.")
    return present[pack]


def _load(pack: str):
    folder = find_pack(pack)  # insightface downloads a pack it does not find, so it is not asked for one
    try:
        from insightface.app import FaceAnalysis
    except ImportError as error:
        raise ValueError(
            f"The insightface detector needs packages that are not installed ({error}): run "
            "'pip install insightface onnxruntime-gpu' in ComfyUI's Python (onnxruntime without a GPU), or choose "
            "another detector."
        ) from error
    for file in sorted(folder.glob("*.onnx")):
        with trial.name_faults(f"{file.name} of the insightface pack '{pack}' cannot be used"):
            trial.try_out(file, "onnxruntime")
    try:
        with trial.name_faults(f"The insightface pack '{pack}' cannot be used", but=(AssertionError, KeyError)):
            return FaceAnalysis(name=str(folder), allowed_modules=["detection", "landmark_2d_106"])
    except (AssertionError, KeyError) as error:
        raise ValueError(
            f"The insightface pack '{pack}' in {folder} holds no face detector (det_10g.onnx or "
            "scrfd_10g_bnkps.onnx); unpack the whole pack there or choose another."
        ) from error
