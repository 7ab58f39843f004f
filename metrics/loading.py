"""Recognise a network that scores by its tensors."""

from pathlib import Path

from ..encoders.face_encoder import FaceEncoder
from ..encoders.loading import load_encoder
from ..patcher import manage_small
from ..weights.files import hash_once
from ..weights.reading import build_network, read_state_dict
from . import adaface, facenet, sphereface
from .crops import align_in_image, cut_boxes
from .image_features import ImageNetwork, load_image_network
from .layers import shapes_of
from .text_image import MODEL_FILES, TextImageNetwork, load_text_image

# Prefixes of AdaFace's tensors: none or Lightning's in the authors' files, with "net." in CVLFace's, which are RGB.
_PREFIXES = ("model.net.", "net.", "model.", "")
_ADAFACE_KEY = "input_layer.0.weight"


def load_recogniser(path: str) -> FaceEncoder:
    """Load the recogniser at `path`, whatever the file is called: FaceNet, SphereFace, AdaFace or a face encoder.

    Raises ValueError as `load_encoder`.
    """
    if Path(path).suffix == ".onnx":
        return load_encoder(path)
    state_dict = read_state_dict(path)
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}{_ADAFACE_KEY}" in state_dict), None)
    if prefix is not None:
        network = adaface.AdaFaceRgb if "net." in prefix else adaface.AdaFace
        weights = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
        return _load(path, "adaface", "AdaFace", network, weights, adaface)
    if "conv2d_1a.conv.weight" in state_dict:
        return _load(path, "facenet", "FaceNet", facenet.FaceNet, state_dict, facenet)
    if "conv1_1.weight" in state_dict and "fc5.weight" in state_dict:
        return _load(path, "sphereface", "SphereFace", sphereface.SphereFace, state_dict, sphereface)
    return load_encoder(path)


def load_image_scorer(path: str) -> ImageNetwork | TextImageNetwork:
    """Load DINO, or the CLIP or SigLIP whose config.json lies beside the weights at `path`.

    Raises ValueError as the loaders do, and for FID's Inception, which says nothing about one image.
    """
    if (Path(path).parent / "config.json").is_file() and Path(path).name in MODEL_FILES:
        return load_text_image(Path(path).parent)
    network = load_image_network(path)
    if network.kind == "inception":
        raise ValueError(
            f"{network.name} is the Inception of FID, which compares two sets of many pictures and says nothing about "
            "one: 'python3 likeness.py evaluate' reads it. Choose DINO, a CLIP or a SigLIP here."
        )
    return network


def _load(path: str, kind: str, family: str, network, state_dict: dict, module) -> FaceEncoder:
    name, align = Path(path).name, cut_boxes if kind == "facenet" else align_in_image
    weights = {key: tensor for key, tensor in state_dict.items() if not key.startswith(module.UNUSED_KEYS)}
    message = f"{name} looks like {family} but its tensors do not fit together"
    patcher = build_network(message, lambda: manage_small(network, shapes_of(weights), weights))
    return FaceEncoder(kind, name, hash_once(path), patcher, module.CROP, align)
