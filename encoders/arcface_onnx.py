"""ArcFace recognisers as ONNX files: w600k_r50 (buffalo_l), glintr100 (antelopev2) and AuraFace.

onnxruntime is imported when the first file is loaded; without it the rest of the pack works.
"""

from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP

from ..weights import trial
from ..weights.files import file_sha256
from .face_encoder import FaceEncoder

CROP = 112
GPU_PROVIDERS = ("CUDAExecutionProvider", "ROCMExecutionProvider")  # both run where torch says "cuda"


def load_arcface(path: str) -> FaceEncoder:
    """Load the recogniser at `path`, whatever the file is called; features are its embedding as it is, [n, 1, 512].

    Raises ValueError where onnxruntime is missing, or the file is no ONNX file or no recogniser of 112 px crops.
    """
    network = OnnxRecogniser(path)
    patcher = comfy.model_patcher.ModelPatcher(
        network,
        load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
        size=Path(path).stat().st_size,
    )
    patcher.add_callback(CallbacksMP.ON_DETACH, lambda *_: network.release())
    return FaceEncoder("arcface", Path(path).name, file_sha256(path), patcher, CROP)


class OnnxRecogniser(torch.nn.Module):
    """An ONNX session in the place of a network. It is opened when needed and closed when the host unloads models."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        with trial.name_faults(f"{Path(path).name} cannot be used as a recogniser"):
            trial.try_out(path, "onnxruntime")
        self._session = _open_session(path, torch.device("cpu"))  # so that a wrong file is refused at once
        self._device = "cpu"
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) == len(outputs) == 1:
            crop, embedding = inputs[0].shape, outputs[0].shape
            if crop[1:] == [3, CROP, CROP] and len(embedding) == 2 and isinstance(embedding[1], int):
                return
        shapes = f"inputs {[part.shape for part in inputs]} and outputs {[part.shape for part in outputs]}"
        raise ValueError(
            f"{Path(path).name} is no ArcFace recogniser: one input [n, 3, {CROP}, {CROP}] and one output [n, 512] are "
            f"needed, but it has {shapes}. Choose w600k_r50.onnx, glintr100.onnx or AuraFace's glintr100.onnx."
        )

    def identify(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features [n, 1, 512] and embedding [n, 512], the same numbers, of RGB crops [n, 3, S, S] in -1..1."""
        if self._session is None or self._device != pixels.device.type:
            self._session, self._device = _open_session(self.path, pixels.device), pixels.device.type
        session, feed = self._session, self._session.get_inputs()[0].name
        photos = pixels.float().cpu().split(1)  # one by one: some files have a fixed batch of 1
        with trial.name_faults(f"{Path(self.path).name} cannot read a face"):
            answers = [torch.from_numpy(session.run(None, {feed: photo.numpy()})[0]) for photo in photos]
        embedding = torch.cat(answers).to(pixels.device)
        return embedding.unsqueeze(1), embedding

    def release(self) -> None:
        """Close the session and free its memory, on the GPU too."""
        self._session = None


def _open_session(path: str, device: torch.device):
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"{Path(path).name} is an ONNX recogniser, which needs a package that is not installed ({error}): run "
            "'pip install onnxruntime-gpu' in ComfyUI's Python (onnxruntime without a GPU)."
        ) from error
    try:
        return onnxruntime.InferenceSession(path, providers=list_providers(onnxruntime, device))
    except Exception as error:  # its errors have no common class but this one
        raise ValueError(f"{Path(path).name} cannot be read as an ONNX model; download it again.") from error


def list_providers(onnxruntime, device: torch.device) -> list:
    """Return what onnxruntime is to compute with, the best first: the GPU of `device` if it can, then the CPU."""
    present = onnxruntime.get_available_providers()
    number = {"device_id": device.index or 0}
    gpu = [(name, number) for name in GPU_PROVIDERS if name in present and device.type == "cuda"]
    return [*gpu, "CPUExecutionProvider"]
