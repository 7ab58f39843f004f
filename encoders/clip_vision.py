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
    """Encode images [n, H, W, 3] in 0..1, of which CLIP sees the middle square.

    clip_vision is the host's CLIP_VISION. The empty image is the one that is zero after CLIP's normalisation (to half
    an 8-bit step, to which the host rounds): grey, as the authors of IP-Adapter have it, and not black.
    """
    features = clip_vision.encode_image(images)[_OUTPUTS[kind]].float()
    if kind == "embeds":
        return ClipFeatures(kind, features, torch.zeros_like(features[:1]))
    size = clip_vision.image_size
    empty = torch.tensor(clip_vision.image_mean).expand(1, size, size, 3)
    return ClipFeatures(kind, features, clip_vision.encode_image(empty)[_OUTPUTS[kind]].float())
