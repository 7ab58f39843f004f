"""Networks that describe whole images: DINO, whose cosines compare images, and Inception, whose features FID reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import torch

from ..patcher import manage_small
from ..weights.files import hash_once
from ..weights.reading import build_network, read_state_dict
from . import dino, inception
from .crops import fit_shorter_side, from_bytes, to_bytes
from .layers import shapes_of
from .text_image import prepare

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for DINO
_DINO_SIDES = 256, 224  # pixels of the resized shorter side and of the square
_BATCH = 16  # images at once


@dataclass(frozen=True)
class ImageNetwork:
    """kind: "dino" or "inception"; name: its file; sha256: of that file; patcher: owns the network."""

    kind: str
    name: str
    sha256: str
    patcher: comfy.model_patcher.ModelPatcher

    @property
    def label(self) -> str:
        """What its scores are called by."""
        return self.kind

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return features [n, d] on the CPU of images [n, H, W, 3] in 0..1, seen in 8 bits, not normalised."""
        comfy.model_management.load_models_gpu([self.patcher])
        features = [self.patcher.model(part.to(self.patcher.load_device)) for part in self._prepare(images)]
        return torch.cat([part.cpu() for part in features])

    def _prepare(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        for part in images.split(_BATCH):
            if self.kind == "dino":
                yield prepare(part, lambda image: fit_shorter_side(image, *_DINO_SIDES), _MEAN, _STD)
            else:
                yield torch.stack([from_bytes(to_bytes(image)) for image in part]).movedim(-1, 1)


def load_image_network(path: str | Path) -> ImageNetwork:
    """Load the network at `path`, whatever the file is called.

    Raises ValueError naming the file when it cannot be read or is neither DINO's ViT nor FID's Inception.
    """
    name, state_dict = Path(path).name, dino.with_published_names(read_state_dict(path))
    if "Mixed_7c.branch1x1.conv.weight" in state_dict:
        kind, network, of, unused = "inception", inception.Inception, shapes_of, inception.UNUSED_KEYS
    elif "cls_token" in state_dict and "patch_embed.proj.weight" in state_dict:
        kind, network, of, unused = "dino", dino.Dino, dino.DinoSizes.of, dino.UNUSED_KEYS
    else:
        raise ValueError(
            f"{name} is neither DINO's ViT ('cls_token', 'patch_embed.proj.weight') nor FID's Inception "
            "('Mixed_7c.branch1x1.conv.weight'): choose dino_deitsmall16_pretrain.pth or "
            "pt_inception-2015-12-05-6726825d.pth."
        )
    weights = {key: tensor for key, tensor in state_dict.items() if not key.startswith(unused)}
    message = f"{name} looks like {kind} but its tensors do not fit together"
    patcher = build_network(message, lambda: manage_small(network, of(weights), weights))
    return ImageNetwork(kind, name, hash_once(path), patcher)
