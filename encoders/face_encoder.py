"""A loaded face encoder under the host's memory management."""

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch

from .identity import FaceId
from .transface import HEAD_KEYS, UNUSED_KEYS, TransFace, TransFaceSizes


class FaceEncoder:
    """TransFace and what it wants to see: ArcFace-aligned crops of `crop_size` px, the background black.

    Computes in float32: the network is small, and its tokens steer the whole picture.
    """

    kind = "transface"
    crop_size = 112

    def __init__(self, state_dict: dict, name: str):
        self.name = name
        weights = {
            key: value.float()
            for key, value in state_dict.items()
            if not key.startswith(HEAD_KEYS) and key not in UNUSED_KEYS
        }
        offload_device = comfy.model_management.text_encoder_offload_device()
        network = TransFace(TransFaceSizes.of(weights), comfy.ops.manual_cast, torch.float32, offload_device)
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            network.eval().requires_grad_(False),
            load_device=comfy.model_management.text_encoder_device(),
            offload_device=offload_device,
        )
        network.load_state_dict(weights, assign=self.patcher.is_dynamic())

    def encode(self, crops: torch.Tensor) -> FaceId:
        """Encode aligned crops [n, S, S, 3] in 0..1, S = `crop_size`."""
        comfy.model_management.load_models_gpu([self.patcher])
        pixels = crops.movedim(-1, 1).to(self.patcher.load_device, torch.float32) * 2 - 1
        features = self.patcher.model(pixels).to(comfy.model_management.intermediate_device())
        return FaceId(self.kind, self.name, features, crops)
