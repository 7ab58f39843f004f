"""Recognisers as ONNX files: ArcFace (w600k_r50 of buffalo_l, glintr100 of antelopev2, AuraFace) and OpenCV's SFace.

Their tensors make a torch network (`onnx_network`). A file with operations that it does not know runs in onnxruntime,
which is imported then; without it the rest of the pack works.
"""

from itertools import combinations
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.patcher_extension import CallbacksMP
from torch.nn.functional import interpolate

from ..patcher import manage
from ..weights import trial
from ..weights.files import hash_once
from .agreement import cosines
from .face_encoder import FaceEncoder
from .onnx_file import OnnxGraph, read_onnx
from .onnx_network import OnnxNetwork, UnknownOperationError, largest_pixel

CROP = 112
KINDS = {512: "arcface", 128: "sface"}  # by the embedding's width
GPU_PROVIDERS = ("CUDAExecutionProvider", "ROCMExecutionProvider")  # both run where torch says "cuda"
# Above this cosine even the least alike of `unlike_crops` are the same to a network. With the pixels that they were
# trained with, SFace has 0.06, the miniature's recogniser 0.49 and a MobileFaceNet of ArcFace's loss (192 wide, from a
# package for phones) 0.68, though it tells people apart; with pixels of another range SFace has 0.94 and that one 0.96.
_SAME = 0.9


def load_recogniser(path: str) -> FaceEncoder:
    """Load the recogniser at `path`, whatever the file is called; features are its embedding as it is, [n, 1, d].

    Raises ValueError where the file is no ONNX file or no recogniser of 112 px crops, cannot tell crops apart, or
    needs onnxruntime and that is missing.
    """
    name = Path(path).name
    with trial.name_faults(f"{name} cannot be used as a recogniser"):
        graph = read_onnx(path)
    width = _embedding_width(name, graph)
    try:
        with trial.name_faults(f"{name} cannot be used as a recogniser", (UnknownOperationError,)):
            patcher = _manage_torch(name, graph)
    except UnknownOperationError:
        patcher = _manage_session(path, graph)
    encoder = FaceEncoder(KINDS[width], name, hash_once(path), patcher, CROP)
    _check_sight(encoder)
    return encoder


def _embedding_width(name: str, graph: OnnxGraph) -> int:
    if len(graph.inputs) == len(graph.outputs) == 1:
        (crop,), (embedding,) = graph.inputs.values(), graph.outputs.values()
        if crop[1:] == [3, CROP, CROP] and len(embedding) == 2 and embedding[1] in KINDS:
            return embedding[1]
    raise ValueError(
        f"{name} is no ArcFace recogniser: one input [n, 3, {CROP}, {CROP}] and one output [n, 512] (SFace's is "
        f"[n, 128]) are needed, but it has inputs {[*graph.inputs.values()]} and outputs {[*graph.outputs.values()]}. "
        "Choose w600k_r50.onnx, glintr100.onnx, AuraFace's glintr100.onnx or face_recognition_sface_2021dec.onnx."
    )


def _manage_torch(name: str, graph: OnnxGraph) -> comfy.model_patcher.ModelPatcher:
    offload_device = comfy.model_management.text_encoder_offload_device()
    network = OnnxNetwork(graph, comfy.ops.manual_cast, dtype=torch.float32, device=offload_device)
    recogniser = Recogniser(name, network, largest_pixel(graph))
    return manage(recogniser, recogniser.state_dict(), offload_device)


def _manage_session(path: str, graph: OnnxGraph) -> comfy.model_patcher.ModelPatcher:
    session = Session(path)
    patcher = comfy.model_patcher.ModelPatcher(
        Recogniser(Path(path).name, session, largest_pixel(graph)),
        load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
        size=Path(path).stat().st_size,
    )
    patcher.add_callback(CallbacksMP.ON_DETACH, lambda *_: session.release())
    return patcher


def unlike_crops() -> torch.Tensor:
    """Return crops [4, 112, 112, 3] of random colours in patches of four sizes, alike to no recogniser."""
    generator = torch.Generator().manual_seed(0)
    patches = [torch.rand(1, 3, size, size, generator=generator) for size in (2, 4, 28, CROP)]
    return torch.cat([interpolate(image, (CROP, CROP), mode="bilinear") for image in patches]).movedim(1, -1)


def _check_sight(encoder: FaceEncoder) -> None:
    """Raise ValueError where all crops are the same to an encoder: everybody would be the same person."""
    embedding = encoder.encode(unlike_crops(), masked=False).embedding
    matrix = cosines(embedding, embedding)
    least = min(float(matrix[i, j]) for i, j in combinations(range(len(matrix)), 2))
    if not least <= _SAME:
        raise ValueError(
            f"{encoder.name} cannot tell faces apart: of four crops that have nothing in common the least alike have a "
            f"cosine of {least:.2f}, so everybody would be the same person. Its weights are not trained, or it wants "
            "pixels of another range than it says; choose another recogniser in Load Face Encoder."
        )


class Recogniser(torch.nn.Module):
    """A network of pixels in 0..`largest`, or in -1..1 where that is None, behind the protocol of the encoders."""

    def __init__(self, name: str, network: torch.nn.Module, largest: float | None):
        super().__init__()
        self.name = name
        self.network = network
        self.largest = largest

    def identify(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features [n, 1, d] and embedding [n, d], the same numbers, of RGB crops [n, 3, S, S] in -1..1."""
        crops = pixels if self.largest is None else (pixels + 1) * (self.largest / 2)
        # One by one: some files have a batch of 1 written into them.
        with trial.name_faults(f"{self.name} cannot read a face"):
            embedding = torch.cat([self.network(crop) for crop in crops.split(1)])
        return embedding.unsqueeze(1), embedding


class Session(torch.nn.Module):
    """An onnxruntime session as a network. It is opened when needed and closed when the host unloads models."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        _import_onnxruntime(path)
        with trial.name_faults(f"{Path(path).name} cannot be used as a recogniser"):
            trial.try_out(path, "onnxruntime")
        self._session = _open_session(path, torch.device("cpu"))  # so that a wrong file is refused at once
        self._device = "cpu"

    def forward(self, crop: torch.Tensor) -> torch.Tensor:
        if self._session is None or self._device != crop.device.type:
            self._session, self._device = _open_session(self.path, crop.device), crop.device.type
        feed = {self._session.get_inputs()[0].name: crop.float().cpu().numpy()}
        return torch.from_numpy(self._session.run(None, feed)[0]).to(crop.device)

    def release(self) -> None:
        """Close the session and free its memory, on the GPU too."""
        self._session = None


def _import_onnxruntime(path: str):
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"{Path(path).name} is an ONNX recogniser of an unusual kind, which needs a package that is not installed "
            f"({error}): run 'pip install onnxruntime-gpu' in ComfyUI's Python (onnxruntime without a GPU)."
        ) from error
    return onnxruntime


def _open_session(path: str, device: torch.device):
    onnxruntime = _import_onnxruntime(path)
    with trial.name_faults(f"{Path(path).name} cannot be used as a recogniser"):
        return onnxruntime.InferenceSession(path, providers=list_providers(onnxruntime, device))


def list_providers(onnxruntime, device: torch.device) -> list:
    """Return what onnxruntime is to compute with, the best first: the GPU of `device` if it can, then the CPU."""
    present = onnxruntime.get_available_providers()
    number = {"device_id": device.index or 0}
    gpu = [(name, number) for name in GPU_PROVIDERS if name in present and device.type == "cuda"]
    return [*gpu, "CPUExecutionProvider"]
