"""What the miniature makes known to the rooms below it, which know nothing of it."""

from ..faces import detector as detectors
from ..training import inpainting
from ..weights import folders
from . import detector
from .models import base_model

KINDS = ("facechain_fact", "face2diffusion", "insightface", "ipadapter", "facea")  # of files in sub-folders of WEIGHTS
NETWORKS = {
    "base": base_model.BASE,
    "transface": "facechain_fact/miniature_transface.safetensors",
    "msid": "face2diffusion/miniature_msid.safetensors",
    "expression": "face2diffusion/miniature_expression.safetensors",
    "arcface": "insightface/miniature_arcface.onnx",
    "clip_vision": base_model.PAIR,
}


def register() -> None:
    """Make known the face detector, the model folders and the latents; calling it again changes nothing."""
    detectors.register(detector.LABEL, detector.MiniatureFinder)
    folders.register_shipped(base_model.WEIGHTS, KINDS)
    inpainting.register_latents(base_model.MiniatureLatents)


def register_base() -> None:
    """Make known the base model, to train adapters for."""
    from ..training import bases

    bases.BUILT_IN["miniature"] = bases.BuiltInBase(
        "the drawn world's base",
        base_model.VISION["image_size"],
        detector.LABEL,
        lambda name: base_model.weight_file(base_model.WEIGHTS, NETWORKS[name]),
        lambda: base_model.load_miniature(base_model.WEIGHTS),
        lambda: base_model.load_miniature(base_model.WEIGHTS, inpainting=True),
        lambda: base_model.load_pair(base_model.WEIGHTS)[1],
    )
