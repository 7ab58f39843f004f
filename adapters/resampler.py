"""Perceiver resampler with the parameter names that FACT, IP-Adapter plus and InstantID publish."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ..weights.reading import count_modules

DIM_HEAD = 64  # in every published file


@dataclass(frozen=True)
class ResamplerSizes:
    """Sizes of a resampler: `queries` latents `dim` wide read features `embedding` wide into tokens `output` wide."""

    queries: int
    dim: int
    depth: int
    inner: int
    ff: int
    embedding: int
    output: int

    @classmethod
    def of(cls, state_dict: dict) -> "ResamplerSizes":
        """Read the sizes from a state dict without prefix."""
        _, queries, dim = state_dict["latents"].shape
        return cls(
            queries=queries,
            dim=dim,
            depth=count_modules(state_dict, "layers."),
            inner=state_dict["layers.0.0.to_q.weight"].shape[0],
            ff=state_dict["layers.0.1.1.weight"].shape[0],
            embedding=state_dict["proj_in.weight"].shape[1],
            output=state_dict["proj_out.weight"].shape[0],
        )


class PerceiverAttention(nn.Module):
    """Cross-attention of latents [n, q, dim] to features x and to themselves, [n, m, dim] each -> [n, q, dim]."""

    def __init__(self, dim: int, inner: int, operations, **factory):
        super().__init__()
        self.heads = inner // DIM_HEAD
        self.norm1 = operations.LayerNorm(dim, **factory)
        self.norm2 = operations.LayerNorm(dim, **factory)
        self.to_q = operations.Linear(dim, inner, bias=False, **factory)
        self.to_kv = operations.Linear(dim, 2 * inner, bias=False, **factory)
        self.to_out = operations.Linear(inner, dim, bias=False, **factory)

    def forward(self, x, latents):
        latents = self.norm2(latents)
        q = self.to_q(latents).unflatten(2, (self.heads, -1)).transpose(1, 2)
        kv = self.to_kv(torch.cat((self.norm1(x), latents), dim=1))
        k, v = kv.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.to_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def make_feed_forward(dim: int, hidden: int, operations, **factory) -> nn.Sequential:
    """Build what follows each attention: a norm and two layers, `hidden` wide between, without biases."""
    return nn.Sequential(
        operations.LayerNorm(dim, **factory),
        operations.Linear(dim, hidden, bias=False, **factory),
        nn.GELU(),
        operations.Linear(hidden, dim, bias=False, **factory),
    )


class Resampler(nn.Module):
    """Learned latents that read identity features: [n, tokens, embedding] -> [n, queries, output]."""

    def __init__(self, sizes: ResamplerSizes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.latents = nn.Parameter(torch.empty(1, sizes.queries, sizes.dim, **factory))
        self.proj_in = operations.Linear(sizes.embedding, sizes.dim, **factory)
        self.proj_out = operations.Linear(sizes.dim, sizes.output, **factory)
        self.norm_out = operations.LayerNorm(sizes.output, **factory)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    PerceiverAttention(sizes.dim, sizes.inner, operations, **factory),
                    make_feed_forward(sizes.dim, sizes.ff, operations, **factory),
                )
            )
            for _ in range(sizes.depth)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the learned latents read of x."""
        return self.read(self.latents.to(x).expand(x.shape[0], -1, -1), x)

    def read(self, latents: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Let `latents` [n, queries, dim] read the features x; FaceID-Plus brings other ones."""
        x = self.proj_in(x)
        for attention, feed_forward in self.layers:
            latents = attention(x, latents) + latents
            latents = feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))
