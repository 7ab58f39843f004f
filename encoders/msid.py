"""MSID, Face2Diffusion's encoder: a face recogniser's ViT, read at several depths (docs/papers.md 3.1).

Its shallow taps keep how a face looks, its deep ones who it is. Published layout: patches of 8 px, a class token,
pre-norm blocks with biases everywhere; the class token after each tapped block goes through a BatchNorm and a LayerNorm
of its own.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from ..weights.reading import numbered

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
            depth=numbered(state_dict, "blocks."),
            mlp=state_dict["blocks.0.mlp.fc1.weight"].shape[0],
            patch=patch,
            taps=tuple(sorted({_tap(key) for key in state_dict if key.startswith("norms.")})),
        )

    @property
    def crop_size(self) -> int:
        """Pixels a side of the crops."""
        return math.isqrt(self.tokens) * self.patch


def _tap(key: str) -> int:
    return int(key.split(".")[1].removeprefix("layer_"))


class Attention(nn.Module):
    def __init__(self, dim: int, operations, **factory):
        super().__init__()
        self.heads = dim // HEAD_WIDTH
        self.qkv = operations.Linear(dim, 3 * dim, **factory)
        self.proj = operations.Linear(dim, dim, **factory)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int, operations, **factory):
        super().__init__()
        self.fc1 = operations.Linear(dim, hidden, **factory)
        self.fc2 = operations.Linear(hidden, dim, **factory)

    def forward(self, x):
        return self.fc2(gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, sizes: MsidSizes, operations, **factory):
        super().__init__()
        self.norm1 = operations.LayerNorm(sizes.dim, eps=EPS, **factory)
        self.attn = Attention(sizes.dim, operations, **factory)
        self.norm2 = operations.LayerNorm(sizes.dim, eps=EPS, **factory)
        self.mlp = Mlp(sizes.dim, sizes.mlp, operations, **factory)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, sizes: MsidSizes, operations, **factory):
        super().__init__()
        self.proj = operations.Conv2d(3, sizes.dim, sizes.patch, stride=sizes.patch, **factory)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Msid(nn.Module):
    """MSID of any size; `operations` is a namespace of layers such as `torch.nn` or the host's `comfy.ops`."""

    def __init__(self, sizes: MsidSizes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.crop_size = sizes.crop_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.dim, **factory))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + sizes.tokens, sizes.dim, **factory))
        self.patch_embed = PatchEmbed(sizes, operations, **factory)
        self.blocks = nn.ModuleList(Block(sizes, operations, **factory) for _ in range(sizes.depth))
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
            x = block(x)
            if f"layer_{index}" in self.norms:
                taps.append(self.norms[f"layer_{index}"](x[:, 0]))
        return torch.cat(taps, dim=1)

    def identify(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the identity vector as one token, [n, 1, taps * dim], and as what photos are compared by."""
        vector = self(pixels)
        return vector.unsqueeze(1), vector
