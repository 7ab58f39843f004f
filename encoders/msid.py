"""MSID, Face2Diffusion's encoder: a face recogniser's ViT, read at several depths (docs/papers.md 3.1).

Its shallow taps keep how a face looks, its deep ones whose it is. Published layout: patches of 8 px, a class token,
pre-norm blocks with biases everywhere; the class token after each tapped block goes through a BatchNorm and a LayerNorm
of its own.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import gelu

from ..weights.reading import count_modules
from .vit import PatchEmbed, TransformerBlock

HEAD_WIDTH = 32  # of the published 12 heads of 384; no tensor tells
USED_KEYS = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norms.")  # besides a final norm and maybe a head
EPS = 1e-6  # of the blocks' norms; the taps' have 1e-5


@dataclass(frozen=True)
class MsidSizes:
    """Sizes of one MSID network: `tokens` patches of `patch` px, width `dim`, `depth` blocks, MLP width `mlp`.

    taps: the blocks, counted from 0, after which the class token is read.
    """

    tokens: int
    dim: int
    depth: int
    mlp: int
    patch: int
    taps: tuple[int, ...]

    @classmethod
    def of(cls, state_dict: dict) -> "MsidSizes":
        """Read the sizes from a published state dict."""
        dim, _, patch, _ = state_dict["patch_embed.proj.weight"].shape
        return cls(
            tokens=state_dict["pos_embed"].shape[1] - 1,
            dim=dim,
            depth=count_modules(state_dict, "blocks."),
            mlp=state_dict["blocks.0.mlp.fc1.weight"].shape[0],
            patch=patch,
            taps=tuple(
                sorted(
                    {int(key.split(".")[1].removeprefix("layer_")) for key in state_dict if key.startswith("norms.")}
                )
            ),
        )

    @property
    def crop_size(self) -> int:
        """Pixels a side of the crops."""
        return math.isqrt(self.tokens) * self.patch


class Msid(nn.Module):
    """MSID of any size; `operations` is a namespace of layers such as `torch.nn` or the host's `comfy.ops`."""

    def __init__(self, sizes: MsidSizes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.crop_size = sizes.crop_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.dim, **factory))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + sizes.tokens, sizes.dim, **factory))
        self.patch_embed = PatchEmbed(sizes.dim, sizes.patch, operations, **factory)
        heads = sizes.dim // HEAD_WIDTH
        block = {"heads": heads, "bias": True, "activation": gelu, "eps": EPS, "operations": operations, **factory}
        self.blocks = nn.ModuleList(TransformerBlock(sizes.dim, sizes.mlp, **block) for _ in range(sizes.depth))
        self.norms = nn.ModuleDict(
            {
                f"layer_{tap}": nn.Sequential(
                    nn.BatchNorm1d(sizes.dim, **factory), operations.LayerNorm(sizes.dim, **factory)
                )
                for tap in sizes.taps
            }
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the identity vector: [n, 3, S, S] RGB in -1..1 -> [n, taps * dim], the shallowest tap first."""
        patches = self.patch_embed(pixels)
        cls_token = self.cls_token.to(patches).expand(len(patches), -1, -1)
        x = torch.cat((cls_token, patches), dim=1) + self.pos_embed.to(patches)
        taps = []
        for index, block in enumerate(self.blocks):
            x = self.run(block, x)
            if f"layer_{index}" in self.norms:
                taps.append(self.norms[f"layer_{index}"](x[:, 0]))
        return torch.cat(taps, dim=1)

    def run(self, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Return what a block makes of the tokens; a training may compute it twice."""
        return block(x)

    def identify(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the identity vector as one token, [n, 1, taps * dim], and as what photos are compared by."""
        vector = self(pixels)
        return vector.unsqueeze(1), vector
