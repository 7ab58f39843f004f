"""Recognise an encoder file by its tensors."""

from pathlib import Path

import comfy.model_management
import comfy.ops
import torch

from ..weights.hashing import file_sha256
from ..weights.reading import read_state_dict
from .face_encoder import FaceEncoder, managed
from .transface import UNUSED_KEYS, TransFace, TransFaceSizes

TRANSFACE_KEYS = (
    "pos_embed",
    "patch_embed.proj.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.mlp.fc1.weight",
    "norm.weight",
)


def load_encoder(path: str) -> FaceEncoder:
    """Load the face encoder at `path`, whatever the file is called.

    Raises ValueError naming the file when it cannot be read, is no TransFace, or is one in another layout.
    """
    state_dict = read_state_dict(path)
    name = Path(path).name
    missing = [key for key in TRANSFACE_KEYS if key not in state_dict]
    if missing or "cls_token" in state_dict:
        why = f"the tensor '{missing[0]}' is missing" if missing else "it has a class token, which TransFace has not"
        raise ValueError(f"{name} is not a TransFace encoder: {why}. Choose another file in Load Face Encoder.")
    try:
        return FaceEncoder("transface", name, file_sha256(path), transface(state_dict))
    except RuntimeError as error:
        reason = str(error).replace("\n\t", " ")
        raise ValueError(f"{name} looks like TransFace but its tensors do not fit together: {reason}") from error


def transface(state_dict: dict):
    """The patcher of a TransFace. It computes in float32: the network is small, and its tokens steer the picture."""
    weights = {key: value.float() for key, value in state_dict.items() if key not in UNUSED_KEYS}
    offload_device = comfy.model_management.text_encoder_offload_device()
    network = TransFace(TransFaceSizes.of(weights), comfy.ops.manual_cast, torch.float32, offload_device)
    return managed(network, weights, offload_device)
