"""TransFace: the ViT face recogniser whose patch tokens FACT conditions on (arXiv 2308.10133; docs/papers.md 2.1).

Published layout: patches without overlap (9 px of a 112 px crop, so the last 4 px are unused), pre-norm blocks with a
ReLU6 MLP, a learned position embedding and no class token.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import relu6

from ..weights.reading import count_modules
from .vit import PatchEmbed, TransformerBlock

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
            depth=count_modules(state_dict, "blocks."),
            mlp=state_dict["blocks.0.mlp.fc1.weight"].shape[0],
            patch=patch,
            embedding=state_dict["feature.2.weight"].shape[0] if "feature.2.weight" in state_dict else None,
        )


class TransFace(nn.Module):
    """TransFace of any size; `operations` is a namespace of layers such as `torch.nn` or the host's `comfy.ops`."""

    def __init__(self, sizes: TransFaceSizes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.pos_embed = nn.Parameter(torch.empty(1, sizes.tokens, sizes.dim, **factory))
        self.patch_embed = PatchEmbed(sizes.dim, sizes.patch, operations, **factory)
        block = {"heads": HEADS, "bias": False, "activation": relu6, "eps": 1e-5, "operations": operations, **factory}
        self.blocks = nn.ModuleList(TransformerBlock(sizes.dim, sizes.mlp, **block) for _ in range(sizes.depth))
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
