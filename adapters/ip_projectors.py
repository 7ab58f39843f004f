"""The networks that turn images and faces into image tokens, with the parameter names of the published files.

Every network takes features of n photos and returns [n, tokens, D], D being the base model's text width. Sizes are read
from the tensors.
"""

import torch
from torch import nn

from ..weights.reading import count_modules
from .resampler import PerceiverAttention, Resampler, ResamplerSizes, make_feed_forward


class ImageTokens(nn.Module):
    """IP-Adapter base: the projected image embedding [n, 1024] in one linear layer."""

    def __init__(self, weights: dict, operations=nn, **factory):
        super().__init__()
        rows, width = weights["proj.weight"].shape
        self.dim = len(weights["norm.weight"])
        self.proj = operations.Linear(width, rows, **factory)
        self.norm = operations.LayerNorm(self.dim, **factory)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(embedding).unflatten(1, (-1, self.dim)))


class FullTokens(nn.Module):
    """IP-Adapter full-face: each of the hidden states [n, 257, 1280] becomes a token of its own."""

    def __init__(self, weights: dict, operations=nn, **factory):
        super().__init__()
        hidden, width = weights["proj.0.weight"].shape
        dim = len(weights["proj.3.weight"])
        self.proj = nn.Sequential(
            operations.Linear(width, hidden, **factory),
            nn.GELU(),
            operations.Linear(hidden, dim, **factory),
            operations.LayerNorm(dim, **factory),
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.proj(hidden_states)


class FaceTokens(nn.Module):
    """FaceID and FaceID-Portrait: a face embedding [n, 512] through two layers, 4 or 16 tokens."""

    def __init__(self, weights: dict, operations=nn, **factory):
        super().__init__()
        hidden, width = weights["proj.0.weight"].shape
        self.dim = len(weights["norm.weight"])
        self.proj = nn.Sequential(
            operations.Linear(width, hidden, **factory),
            nn.GELU(),
            operations.Linear(hidden, len(weights["proj.2.weight"]), **factory),
        )
        self.norm = operations.LayerNorm(self.dim, **factory)

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(face).unflatten(1, (-1, self.dim)))


class TokenResampler(Resampler):
    """A resampler without latents of its own: the tokens it is given read the features."""

    def __init__(self, weights: dict, operations=nn, **factory):
        latents = weights["proj_in.weight"].new_empty(1, 0, weights["proj_in.weight"].shape[0])
        super().__init__(ResamplerSizes.of(weights | {"latents": latents}), operations, **factory)
        del self.latents

    def forward(self, tokens: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return self.read(tokens, features)


class FacePlusTokens(FaceTokens):
    """FaceID-Plus: the four face tokens read CLIP's hidden states; with `shortcut` (PlusV2) they are kept and added to.

    Both have the same tensors, so `shortcut` cannot be told from them.
    """

    def __init__(self, weights: dict, operations=nn, shortcut=False, **factory):
        super().__init__(weights, operations, **factory)
        self.shortcut = shortcut
        self.perceiver_resampler = TokenResampler(_part(weights, "perceiver_resampler."), operations, **factory)

    def forward(self, face: torch.Tensor, hidden_states: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        tokens = super().forward(face)
        read = self.perceiver_resampler(tokens, hidden_states)
        return tokens + scale * read if self.shortcut else read


class PulidTokens(nn.Module):
    """PuLID v1: five tokens of face and image embedding, and one of each of five hidden layers of EVA-CLIP."""

    def __init__(self, weights: dict, operations=nn, **factory):
        super().__init__()
        self.dim = len(weights["mapping_0.6.weight"])
        self.body = _build_three_layers(_part(weights, "body."), operations, **factory)
        self.layers = sum(key.startswith("mapping_") and key.endswith(".6.bias") for key in weights) // 2
        for layer in range(self.layers):
            for name in (f"mapping_{layer}", f"mapping_patch_{layer}"):
                self.add_module(name, _build_three_layers(_part(weights, f"{name}."), operations, **factory))

    def forward(self, face: torch.Tensor, eva: torch.Tensor) -> torch.Tensor:
        """Return the tokens of raw ArcFace and unit image embedding [n, 512 + 768] and of `eva`, class token first.

        eva: [n, 5, 577, 1024]
        """
        tokens = self.body(face).unflatten(1, (-1, self.dim))
        layers = [
            self.get_submodule(f"mapping_{i}")(states[:, :1])
            + self.get_submodule(f"mapping_patch_{i}")(states[:, 1:]).mean(dim=1, keepdim=True)
            for i, states in enumerate(eva.unbind(1))
        ]
        return torch.cat((tokens, *layers), dim=1)


class IdFormerTokens(nn.Module):
    """PuLID v1.1: 32 latents and five tokens of a photo read each hidden layer of EVA-CLIP in turn (IDFormer)."""

    def __init__(self, weights: dict, operations=nn, **factory):
        super().__init__()
        _, queries, dim = weights["latents"].shape
        self.dim = dim
        self.latents = nn.Parameter(torch.empty(1, queries, dim, **factory))
        self.proj_out = nn.Parameter(torch.empty(weights["proj_out"].shape, **factory))
        self.id_embedding_mapping = _build_three_layers(_part(weights, "id_embedding_mapping."), operations, **factory)
        self.taps = len({key.split(".")[0] for key in weights if key.startswith("mapping_")})
        for tap in range(self.taps):
            self.add_module(
                f"mapping_{tap}", _build_three_layers(_part(weights, f"mapping_{tap}."), operations, **factory)
            )
        inner, hidden = weights["layers.0.0.to_q.weight"].shape[0], weights["layers.0.1.1.weight"].shape[0]
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    PerceiverAttention(dim, inner, operations, **factory),
                    make_feed_forward(dim, hidden, operations, **factory),
                )
            )
            for _ in range(count_modules(weights, "layers."))
        )

    def forward(self, face: torch.Tensor, eva: torch.Tensor) -> torch.Tensor:
        """Return a person's tokens [1, 32, D] of n photos read together: face [n, 1280], eva [n, 5, 577, 1024]."""
        photos = self.id_embedding_mapping(face).unflatten(1, (-1, self.dim)).flatten(0, 1)[None]
        rows = torch.cat((self.latents.to(photos), photos), dim=1)
        layers_a_tap = len(self.layers) // self.taps
        for number, (attention, feed_forward) in enumerate(self.layers):
            if number % layers_a_tap == 0:
                tap = number // layers_a_tap
                states = self.get_submodule(f"mapping_{tap}")(eva[:, tap].flatten(0, 1)[None])
                context = torch.cat((photos, states), dim=1)
            rows = rows + attention(context, rows)
            rows = rows + feed_forward(rows)
        return rows[:, : self.latents.shape[1]] @ self.proj_out.to(rows)


class InfiniteIdTokens(nn.Module):
    """Infinite-ID: c_id = [M_clip(hidden states) ; M_face(face embedding)] along the tokens.

    M_clip is a resampler, or projects each hidden state to a token of its own, whichever the weights are.
    """

    def __init__(self, weights: dict, operations=nn, **factory):
        super().__init__()
        clip = _part(weights, "clip_mapper.")
        self.clip_mapper = (
            FullTokens(clip, operations, **factory)
            if "proj.0.weight" in clip
            else Resampler(ResamplerSizes.of(clip), operations, **factory)
        )
        self.face_mapper = FaceTokens(_part(weights, "face_mapper."), operations, **factory)

    def forward(self, face: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.clip_mapper(hidden_states), self.face_mapper(face)), dim=1)


def make_resampler(weights: dict, operations=nn, **factory) -> Resampler:
    """Build the resampler of IP-Adapter plus (hidden states [n, 257, 1280]) and of InstantID (raw face [n, 1, 512])."""
    return Resampler(ResamplerSizes.of(weights), operations, **factory)


def _build_three_layers(weights: dict, operations, **factory) -> nn.Sequential:
    layers = []
    for index in (0, 3):
        hidden, width = weights[f"{index}.weight"].shape
        linear = operations.Linear(width, hidden, **factory)
        layers += [linear, operations.LayerNorm(hidden, **factory), nn.LeakyReLU()]
    rows, width = weights["6.weight"].shape
    return nn.Sequential(*layers, operations.Linear(width, rows, **factory))


def _part(weights: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
