"""TransFace: the ViT face recogniser whose patch tokens FACT conditions on (arXiv 2308.10133; docs/papers.md 2.1).

Published layout: patches without overlap (9 px of a 112 px crop, so the last 4 px are unused), pre-norm blocks with a
ReLU6 MLP, a learned position embedding and no class token.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ..weights.reading import numbered

HEADS = 8  # the same in TransFace-S, -B and -L, and the one size that no tensor tells
UNUSED_KEYS = ("mask_token",)  # training only


@dataclass(frozen=True)
class TransFaceSizes:
    """Sizes of one TransFace network: `tokens` patches of `patch` px, width `dim`, `depth` blocks, MLP width `mlp`."""

    tokens: int
    dim: int
    depth: int
    mlp: int
    patch: int
    embedding: int | None = None  # width of the global vector; None: without its head

    @classmethod
    def of(cls, state_dict: dict) -> "TransFaceSizes":
        """Read the sizes from a published state dict, with or without the head."""
        dim, _, patch, _ = state_dict["patch_embed.proj.weight"].shape
        return cls(
            tokens=state_dict["pos_embed"].shape[1],
            dim=dim,
            depth=numbered(state_dict, "blocks."),
            mlp=state_dict["blocks.0.mlp.fc1.weight"].shape[0],
            patch=patch,
            embedding=state_dict["feature.2.weight"].shape[0] if "feature.2.weight" in state_dict else None,
        )


class Attention(nn.Module):
    def __init__(self, dim: int, operations, **factory):
        super().__init__()
        self.qkv = operations.Linear(dim, 3 * dim, bias=False, **factory)
        self.proj = operations.Linear(dim, dim, **factory)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int, operations, **factory):
        super().__init__()
        self.fc1 = operations.Linear(dim, hidden, **factory)
        self.fc2 = operations.Linear(hidden, dim, **factory)

    def forward(self, x):
        return self.fc2(nn.functional.relu6(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, sizes: TransFaceSizes, operations, **factory):
        super().__init__()
        self.norm1 = operations.LayerNorm(sizes.dim, **factory)
        self.attn = Attention(sizes.dim, operations, **factory)
        self.norm2 = operations.LayerNorm(sizes.dim, **factory)
        self.mlp = Mlp(sizes.dim, sizes.mlp, operations, **factory)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, sizes: TransFaceSizes, operations, **factory):
        super().__init__()
        self.proj = operations.Conv2d(3, sizes.dim, sizes.patch, stride=sizes.patch, **factory)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class TransFace(nn.Module):
    """TransFace of any size; `operations` is a namespace of layers such as `torch.nn` or the host's `comfy.ops`."""

    def __init__(self, sizes: TransFaceSizes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.pos_embed = nn.Parameter(torch.empty(1, sizes.tokens, sizes.dim, **factory))
        self.patch_embed = PatchEmbed(sizes, operations, **factory)
        self.blocks = nn.ModuleList(Block(sizes, operations, **factory) for _ in range(sizes.depth))
        self.norm = operations.LayerNorm(sizes.dim, **factory)
        if sizes.embedding:
            flat = sizes.tokens * sizes.dim
            self.senet = nn.Sequential(
                operations.Linear(flat, sizes.tokens, bias=False, **factory),
                nn.ReLU(),
                operations.Linear(sizes.tokens, sizes.tokens, bias=False, **factory),
                nn.Sigmoid(),
            )
            self.feature = nn.Sequential(
                operations.Linear(flat, sizes.dim, bias=False, **factory),
                nn.BatchNorm1d(sizes.dim, eps=2e-5, **factory),
                operations.Linear(sizes.dim, sizes.embedding, bias=False, **factory),
                nn.BatchNorm1d(sizes.embedding, eps=2e-5, **factory),
            )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the local tokens FACT uses: [n, 3, S, S] RGB in -1..1 -> [n, tokens, dim], after the final norm."""
        x = self.patch_embed(pixels)
        x = x + self.pos_embed.to(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def global_embedding(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the identity vector of `tokens`: each weighted by the squeeze-excite gate, then the recogniser's head.

        [n, tokens, dim] -> [n, embedding], not normalised.
        """
        gate = self.senet(tokens.flatten(1)).unsqueeze(2)
        return self.feature((tokens * gate).flatten(1))

    def identify(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return FACT's tokens and the vector by which photos are compared; without its head, the tokens' mean."""
        tokens = self(pixels)
        return tokens, self.global_embedding(tokens) if hasattr(self, "feature") else tokens.mean(dim=1)
