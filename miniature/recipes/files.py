"""The finished weights, where the nodes find them."""

import shutil

import torch
from safetensors.torch import save_file

from ...weights.reading import read_metadata
from ..models import base_model
from ..models.base_model import WEIGHTS
from ..models.recogniser import Recogniser, in_bytes
from .common import OUTPUT, keep, kept
from .onnx_file import export as export_onnx

# Where a file goes, by the name that its recipe left it under.
PLACES = {
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
    for name, place in PLACES.items():
        if (OUTPUT / f"{name}.safetensors").is_file():
            target = WEIGHTS / f"{place}.safetensors"
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(name, target)
    if (OUTPUT / "arcface.safetensors").is_file():
        target = WEIGHTS / "insightface" / "miniature_arcface.onnx"
        target.parent.mkdir(exist_ok=True)
        export_onnx(Recogniser.of(kept("arcface")), target)
    total = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    print(f"{total / 1e6:.1f} MB in {WEIGHTS}")


def restore() -> None:
    """On a new machine: the shipped weights as what the recipes left, so that the parts after them can be made anew.

    The recogniser that is shipped as ONNX is not among them; `arcface` trains it again.
    """
    for name, place in PLACES.items():
        source, target = WEIGHTS / f"{place}.safetensors", OUTPUT / f"{name}.safetensors"
        if source.is_file() and not target.is_file():
            shutil.copy(source, target)
    weights = {name: each for name, each in kept("base").items() if name.startswith(base_model.PICTURE)}
    keep("autoencoder", {name.removeprefix(base_model.PICTURE): each.float() for name, each in weights.items()})


def _copy(name: str, target) -> None:
    source = OUTPUT / f"{name}.safetensors"
    weights = kept(name)
    if read_metadata(source) or all(each.dtype != torch.float32 for each in weights.values()):
        shutil.copy(source, target)
        return
    small = {}
    for key, each in weights.items():
        if name == "scorer" and each.is_floating_point() and each.ndim > 1:
            small |= in_bytes(key, each)
        elif not key.startswith(_LEFT_OUT.get(name, "-")):
            small[key] = each.half() if each.is_floating_point() else each
    save_file(small, target)
