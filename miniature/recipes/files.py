"""The finished weights, where the nodes find them."""

import shutil

import torch
from safetensors.torch import save_file

from ...weights.reading import read_metadata
from ..models import base_model
from ..models.base_model import WEIGHTS
from ..models.recogniser import Recogniser, in_bytes
from .common import OUTPUT, load_tensors, save_tensors
from .onnx_file import export as export_onnx

# Where a file goes, by the name that its recipe left it under.
PATHS = {
    "base": "base", "inpainting": "inpainting", "clip": "clip", "finder": "finder", "scorer": "scorer",
    "transface": "facechain_fact/miniature_transface", "fact": "facechain_fact/miniature_fact",
    "msid": "face2diffusion/miniature_msid", "face2diffusion": "face2diffusion/miniature_face2diffusion",
    "expression": "face2diffusion/miniature_expression", "infinite_id": "ipadapter/miniature_infinite_id",
    "facea_person": "facea/miniature_facea",
}  # fmt: skip

# What the miniature does without, so that all of it stays below 60 MB: FACT reads TransFace's tokens, not its head.
_LEFT_OUT = {"transface": ("feature.", "senet.")}


def export() -> None:
    """Put what stands into miniature/weights; files of adapters keep what they say of themselves."""
    for name, path in PATHS.items():
        if (OUTPUT / f"{name}.safetensors").is_file():
            target = WEIGHTS / f"{path}.safetensors"
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(name, target)
    if (OUTPUT / "arcface.safetensors").is_file():
        target = WEIGHTS / "insightface" / "miniature_arcface.onnx"
        target.parent.mkdir(exist_ok=True)
        export_onnx(Recogniser.of(load_tensors("arcface")), target)
    total = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    print(f"{total / 1e6:.1f} MB in {WEIGHTS}")


def restore() -> None:
    """Copy the shipped weights to where recipes leave theirs, so that single parts can be made anew.

    The recogniser that is shipped as ONNX is not among them; `arcface` trains it again.
    """
    for name, path in PATHS.items():
        source, target = WEIGHTS / f"{path}.safetensors", OUTPUT / f"{name}.safetensors"
        if source.is_file() and not target.is_file():
            shutil.copy(source, target)
    weights = {name: tensor for name, tensor in load_tensors("base").items() if name.startswith(base_model.FIRST_STAGE)}
    save_tensors(
        "autoencoder", {name.removeprefix(base_model.FIRST_STAGE): tensor.float() for name, tensor in weights.items()}
    )


def _copy(name: str, target) -> None:
    source = OUTPUT / f"{name}.safetensors"
    weights = load_tensors(name)
    if read_metadata(source) or all(tensor.dtype != torch.float32 for tensor in weights.values()):
        shutil.copy(source, target)
        return
    small = {}
    for key, tensor in weights.items():
        if name == "scorer" and tensor.is_floating_point() and tensor.ndim > 1:
            small |= in_bytes(key, tensor)
        elif not key.startswith(_LEFT_OUT.get(name, "-")):
            small[key] = tensor.half() if tensor.is_floating_point() else tensor
    save_file(small, target)
