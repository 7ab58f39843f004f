"""Images through a CLIP vision model of the host, as image adapters read them."""

from typing import NamedTuple

import torch

_OUTPUTS = {"embeds": "image_embeds", "penultimate": "penultimate_hidden_states", "last": "last_hidden_state"}


class ClipFeatures(NamedTuple):
    """What CLIP sees in n images.

    kind:      "embeds" [n, D], or the hidden states "penultimate" and "last" [n, tokens, D]
    negative:  the same for no image: zeros for embeddings, one empty image for hidden states
    """

    kind: str
    features: torch.Tensor
    negative: torch.Tensor


def clip_features(clip_vision, images: torch.Tensor, kind: str) -> ClipFeatures:
    """Encode images [n, H, W, 3] in 0..1, of which CLIP sees the middle square; clip_vision: the host's CLIP_VISION."""
    features = encode_images(clip_vision, images, kind)
    negative = torch.zeros_like(features[:1]) if kind == "embeds" else encode_nothing(clip_vision, kind)
    return ClipFeatures(kind, features, negative)


def encode_images(clip_vision, images: torch.Tensor, kind: str) -> torch.Tensor:
    """Return what CLIP sees in images [n, H, W, 3] alone, as `ClipFeatures` has it."""
    return clip_vision.encode_image(images)[_OUTPUTS[kind]].float()


def encode_nothing(clip_vision, kind: str) -> torch.Tensor:
    """Return the hidden states [1, tokens, D] of an empty image.

    That is the one that is zero after CLIP's normalisation (to half an 8-bit step, to which the host rounds): grey, as
    the authors of IP-Adapter have it, and not black.
    """
    size = clip_vision.image_size
    return encode_images(clip_vision, torch.tensor(clip_vision.image_mean).expand(1, size, size, 3), kind)
