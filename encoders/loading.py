"""Recognise an encoder file by its tensors; an ONNX file by its inputs and outputs."""

from pathlib import Path

from ..patcher import manage_small
from ..weights.files import hash_once
from ..weights.reading import build_network, read_state_dict
from .arcface_onnx import load_recogniser
from .deep3d import COEFFICIENTS, Regressor, RegressorSizes
from .eva02 import SIGNATURE as EVA_KEYS
from .eva02 import Eva02, Eva02Sizes, read_weights
from .expression import ExpressionEncoder
from .face_encoder import FaceEncoder
from .msid import USED_KEYS, Msid, MsidSizes
from .transface import UNUSED_KEYS, TransFace, TransFaceSizes

TRANSFACE_KEYS = (
    "pos_embed",
    "patch_embed.proj.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.mlp.fc1.weight",
    "norm.weight",
)
REGRESSOR_KEYS = ("backbone.conv1.weight", "backbone.layer1.0.conv1.weight", "final_layers.0.weight")


def load_encoder(path: str) -> FaceEncoder:
    """Load the face encoder at `path`, whatever the file is called.

    Raises ValueError naming the file when it cannot be read, is neither TransFace nor MSID nor, as .onnx, a
    recogniser, or has another layout.
    """
    if Path(path).suffix == ".onnx":
        return load_recogniser(path)
    state_dict = read_state_dict(path)
    name = Path(path).name
    if "cls_token" in state_dict and any(key.startswith("norms.layer_") for key in state_dict):
        patcher = _build(name, "MSID", msid, state_dict)
        return FaceEncoder("msid", name, hash_once(path), patcher, patcher.model.crop_size)
    missing = [key for key in TRANSFACE_KEYS if key not in state_dict]
    if missing or "cls_token" in state_dict:
        why = f"the tensor '{missing[0]}' is missing" if missing else "it has a class token, which TransFace has not"
        raise ValueError(
            f"{name} is not a TransFace encoder: {why}. Nor is it MSID, which has 'cls_token' and 'norms.layer_2'. "
            "Choose another file in Load Face Encoder."
        )
    return FaceEncoder("transface", name, hash_once(path), _build(name, "TransFace", transface, state_dict))


def load_expression_encoder(path: str) -> ExpressionEncoder:
    """Load the expression encoder at `path`; raises ValueError naming the file when it is no Deep3DFaceRecon."""
    state_dict = read_state_dict(path)
    name = Path(path).name
    missing = [key for key in REGRESSOR_KEYS if key not in state_dict]
    if missing:
        raise ValueError(
            f"{name} is not a Deep3DFaceRecon network: the tensor '{missing[0]}' is missing. Choose another file in "
            "Load Expression Encoder."
        )
    patcher = _build(name, "Deep3DFaceRecon", regressor, state_dict)
    outputs = sum(patcher.model.heads)
    if outputs != COEFFICIENTS:
        raise ValueError(
            f"{name} gives {outputs} coefficients, but Deep3DFaceRecon's own are {COEFFICIENTS}: use epoch_20.pth."
        )
    return ExpressionEncoder(name, patcher)


def load_eva(path: str) -> tuple:
    """Load EVA02-CLIP's vision tower; returns its patcher, the file's name and its sha256.

    Raises ValueError naming the file when it is something else.
    """
    name, weights = Path(path).name, read_weights(read_state_dict(path))
    missing = [key for key in EVA_KEYS if key not in weights]
    if missing:
        raise ValueError(
            f"{name} is not EVA02-CLIP, whose hidden states PuLID reads: the tensor '{missing[0]}' is missing. Choose "
            "EVA02_CLIP_L_336_psz14_s6B.pt in Load PuLID Encoder."
        )
    patcher = _build(name, "EVA02-CLIP", lambda weights: manage_small(Eva02, Eva02Sizes.of(weights), weights), weights)
    return patcher, name, hash_once(path)


def transface(state_dict: dict):
    """Return the patcher of a TransFace."""
    weights = {key: value for key, value in state_dict.items() if key not in UNUSED_KEYS}
    return manage_small(TransFace, TransFaceSizes.of(weights), weights)


def msid(state_dict: dict):
    """Return the patcher of an MSID; its final norm and a classifier head, which nothing reads, are left out."""
    weights = {key: value for key, value in state_dict.items() if key.startswith(USED_KEYS)}
    return manage_small(Msid, MsidSizes.of(weights), weights)


def regressor(state_dict: dict):
    """Return the patcher of a Deep3DFaceRecon regressor."""
    return manage_small(Regressor, RegressorSizes.of(state_dict), state_dict)


def _build(name: str, family: str, build, state_dict: dict):
    return build_network(f"{name} looks like {family} but cannot be loaded", build, state_dict)
