"""A loaded expression encoder under the host's memory management."""

from dataclasses import dataclass

import comfy.model_management
import comfy.model_patcher
import torch

from ..faces.types import Faces
from ..patcher import check_finite
from .deep3d import EXPRESSION, cut_aligned


@dataclass(frozen=True, eq=False)
class Expression:
    """The expression of one face.

    coefficients: [1, 64] float32, raw
    crop:         [1, 224, 224, 3] in 0..1, what the encoder saw
    """

    coefficients: torch.Tensor
    crop: torch.Tensor


@dataclass(frozen=True)
class ExpressionEncoder:
    """A Deep3DFaceRecon regressor: `name` is its weight file, `patcher` owns the network."""

    name: str
    patcher: comfy.model_patcher.ModelPatcher

    def encode(self, faces: Faces) -> Expression:
        """Read the expression of the one face in `faces`; raises ValueError where there is not just one."""
        count = len(faces.pairs)
        if count != 1:
            raise ValueError(
                f"Encode Expression reads one face, but {count} came: connect one picture and choose 'largest' in "
                "Detect Faces."
            )
        return self.read(faces)

    def read(self, faces: Faces) -> Expression:
        """Return the expressions of all n faces, at least one: coefficients [n, 64], crop [n, 224, 224, 3]."""
        coefficients, crops = self.regress(faces)
        return Expression(coefficients[:, EXPRESSION], crops)

    def regress(self, faces: Faces) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all coefficients [n, 257] of all n faces, at least one, and their crops [n, 224, 224, 3]."""
        crops = torch.stack([cut_aligned(image, face.points) for image, face in faces.pairs])
        comfy.model_management.load_models_gpu([self.patcher])
        coefficients = self.patcher.model(crops.movedim(-1, 1).to(self.patcher.load_device))
        check_finite(coefficients, f"{self.name} (Load Expression Encoder)", "download the file again")
        device = comfy.model_management.intermediate_device()
        return coefficients.to(device), crops.to(device)
