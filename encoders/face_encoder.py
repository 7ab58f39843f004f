"""A loaded face encoder under the host's memory management."""

from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_management
import comfy.model_patcher
import torch

from ..faces.align import align_faces
from ..faces.types import Faces
from ..patcher import check_finite
from .identity import FaceId

_REMEDY = "download the file again, or choose another face encoder"


@dataclass(frozen=True)
class FaceEncoder:
    """A network that reads identities from aligned crops, and what it wants to see.

    kind:       what family it is, e.g. "transface"; adapters ask for a kind
    name:       its weight file
    sha256:     of that file
    patcher:    owns the network, whose `identify` turns pixels [n, 3, S, S] in -1..1 into identity features
                [n, tokens, dim] and an embedding [n, d] of any length
    crop_size:  S, pixels a side of its crops
    align:      how they are cut, called as `align_faces`, which cuts most
    """

    kind: str
    name: str
    sha256: str
    patcher: comfy.model_patcher.ModelPatcher
    crop_size: int = 112
    align: Callable[[Faces, int, torch.Tensor | None], torch.Tensor] = align_faces

    def encode_faces(self, faces: Faces, masks: torch.Tensor | None = None) -> FaceId:
        """Encode the crops of all faces; masks [n, H, W], one a face, keep what is not to be blackened."""
        return self.encode(self.align(faces, self.crop_size, masks), masks is not None)

    def encode(self, crops: torch.Tensor, masked: bool) -> FaceId:
        """Encode crops [n, S, S, 3] in 0..1; `masked` records whether their background was blackened.

        Raises ValueError, naming the weight file, where what comes out is not finite.
        """
        comfy.model_management.load_models_gpu([self.patcher])
        pixels = crops.movedim(-1, 1).to(self.patcher.load_device, torch.float32) * 2 - 1
        features, embedding = self.patcher.model.identify(pixels)
        check_finite(torch.cat((features.flatten(1), embedding), dim=1), f"{self.name} (Load Face Encoder)", _REMEDY)
        device = comfy.model_management.intermediate_device()
        embedding = torch.nn.functional.normalize(embedding, dim=1).to(device)
        return FaceId(self.kind, self.name, self.sha256, features.to(device), embedding, crops, masked)
