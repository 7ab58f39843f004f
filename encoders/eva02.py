"""EVA02-CLIP's vision tower, whose hidden states PuLID reads (arXiv 2303.15389; docs/papers.md 4.6).

Published layout: patches and a class token with a learned position embedding; pre-norm blocks whose queries and keys
are rotated by the patch's row and column, with a norm before the projection and inside a gated MLP; no other norm.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

from ..weights.reading import count_modules
from .vit import PatchEmbed

HEAD_WIDTH = 64
EPS = 1e-6
PREFIX = "visual."  # of the published file, which holds a text tower too
SIGNATURE = ("patch_embed.proj.weight", "blocks.0.attn.inner_attn_ln.weight", "blocks.0.mlp.w3.weight")
_TRAINING_GRID = 16  # patches a side in pretraining, to which positions are scaled
_TAP_EVERY = 4  # blocks


@dataclass(frozen=True)
class Eva02Sizes:
    """Sizes of one tower: `grid` patches of `patch` px a side, width `dim`, `depth` blocks, MLP `mlp`, `output`."""

    grid: int
    patch: int
    dim: int
    depth: int
    mlp: int
    output: int

    @classmethod
    def of(cls, state_dict: dict) -> "Eva02Sizes":
        """Read the sizes from `read_weights`."""
        dim, _, patch, _ = state_dict["patch_embed.proj.weight"].shape
        return cls(
            grid=math.isqrt(state_dict["pos_embed"].shape[1] - 1),
            patch=patch,
            dim=dim,
            depth=count_modules(state_dict, "blocks."),
            mlp=state_dict["blocks.0.mlp.w3.weight"].shape[1],
            output=state_dict["head.weight"].shape[0],
        )


def read_weights(state_dict: dict) -> dict:
    """Return the vision tower's weights of a published state dict, by the names of `Eva02`.

    Text tower and stored rotations are left out; the biases of queries and values move to their layers.
    """
    prefix = PREFIX if any(key.startswith(PREFIX) for key in state_dict) else ""
    vision = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    return {
        key.replace("q_bias", "q_proj.bias").replace("v_bias", "v_proj.bias"): value
        for key, value in vision.items()
        if "rope." not in key
    }


def rotate_pairs(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn every pair (a, b) of neighbouring channels into (a cos - b sin, b cos + a sin); all are [..., tokens, d]."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-b, a), dim=-1).flatten(-2) * sin


def make_angles(grid: int, device=None) -> torch.Tensor:
    """Return the angles [grid^2, HEAD_WIDTH] of the patches, row by row: half by the row, half by the column.

    Each half holds p 10000^(-2j/32) twice for j = 0..15, p being the row or column scaled to the grid of pretraining.
    """
    quarter = HEAD_WIDTH // 4
    frequencies = 10000 ** -(torch.arange(quarter, device=device, dtype=torch.float64) / quarter)
    places = torch.arange(grid, device=device, dtype=torch.float64) / grid * _TRAINING_GRID
    line = (places[:, None] * frequencies).repeat_interleave(2, dim=1)
    rows, columns = line[:, None].expand(-1, grid, -1), line[None].expand(grid, -1, -1)
    return torch.cat((rows, columns), dim=-1).flatten(0, 1).float()


class RotaryAttention(nn.Module):
    """Self-attention of a class token and patches, whose queries and keys are rotated, with a norm after it."""

    def __init__(self, dim: int, operations, **factory):
        super().__init__()
        self.q_proj = operations.Linear(dim, dim, **factory)
        self.k_proj = operations.Linear(dim, dim, bias=False, **factory)
        self.v_proj = operations.Linear(dim, dim, **factory)
        self.inner_attn_ln = operations.LayerNorm(dim, eps=EPS, **factory)
        self.proj = operations.Linear(dim, dim, **factory)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).unflatten(2, (-1, HEAD_WIDTH)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (torch.cat((part[:, :, :1], rotate_pairs(part[:, :, 1:], cos, sin)), dim=2) for part in (q, k))
        return self.proj(self.inner_attn_ln(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


class GatedMlp(nn.Module):
    """w3(LN(SiLU(w1 x) * w2 x))."""

    def __init__(self, dim: int, hidden: int, operations, **factory):
        super().__init__()
        self.w1 = operations.Linear(dim, hidden, **factory)
        self.w2 = operations.Linear(dim, hidden, **factory)
        self.ffn_ln = operations.LayerNorm(hidden, eps=EPS, **factory)
        self.w3 = operations.Linear(hidden, dim, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w3(self.ffn_ln(silu(self.w1(x)) * self.w2(x)))


class Eva02Block(nn.Module):
    def __init__(self, dim: int, mlp: int, operations, **factory):
        super().__init__()
        self.norm1 = operations.LayerNorm(dim, eps=EPS, **factory)
        self.attn = RotaryAttention(dim, operations, **factory)
        self.norm2 = operations.LayerNorm(dim, eps=EPS, **factory)
        self.mlp = GatedMlp(dim, mlp, operations, **factory)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Eva02(nn.Module):
    """The vision tower of any size; `operations` is a namespace of layers such as `torch.nn` or `comfy.ops`."""

    def __init__(self, sizes: Eva02Sizes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.grid, self.image_size = sizes.grid, sizes.grid * sizes.patch
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.dim, **factory))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + sizes.grid**2, sizes.dim, **factory))
        self.patch_embed = PatchEmbed(sizes.dim, sizes.patch, operations, **factory)
        self.blocks = nn.ModuleList(Eva02Block(sizes.dim, sizes.mlp, operations, **factory) for _ in range(sizes.depth))
        self.norm = operations.LayerNorm(sizes.dim, eps=EPS, **factory)
        self.head = operations.Linear(sizes.dim, sizes.output, **factory)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embedding [n, output] of normalised pixels [n, 3, S, S], and the hidden states PuLID reads.

        hidden states: [n, taps, 1 + grid^2, dim], as they enter every fourth block but the first, class token first.
        """
        patches = self.patch_embed(pixels)
        x = torch.cat((self.cls_token.to(patches).expand(len(patches), -1, -1), patches), dim=1)
        x = x + self.pos_embed.to(x)
        angles = make_angles(self.grid, x.device)
        cos, sin = angles.cos().to(x), angles.sin().to(x)
        taps = []
        for index, block in enumerate(self.blocks):
            if index and index % _TAP_EVERY == 0:
                taps.append(x)
            x = block(x, cos, sin)
        return self.head(self.norm(x)[:, 0]), torch.stack(taps, dim=1)
