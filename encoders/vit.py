"""The parts of a vision transformer that the encoders share, with the parameter names of timm."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class PatchEmbed(nn.Module):
    """Square patches of an image as tokens."""

    def __init__(self, dim: int, patch: int, operations, **factory):
        super().__init__()
        self.proj = operations.Conv2d(3, dim, patch, stride=patch, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens of images: [n, 3, H, W] -> [n, tokens, dim]; pixels that fill no patch are left out."""
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with `heads` heads; bias: of the queries, keys and values."""

    def __init__(self, dim: int, heads: int, bias: bool, operations, **factory):
        super().__init__()
        self.heads = heads
        self.qkv = operations.Linear(dim, 3 * dim, bias=bias, **factory)
        self.proj = operations.Linear(dim, dim, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with an activation between them."""

    def __init__(self, dim: int, hidden: int, activation: Callable, operations, **factory):
        super().__init__()
        self.activation = activation
        self.fc1 = operations.Linear(dim, hidden, **factory)
        self.fc2 = operations.Linear(hidden, dim, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class TransformerBlock(nn.Module):
    """A pre-norm block: attention, then the MLP, `mlp` wide inside, each added to what came in. eps: of the norms."""

    def __init__(
        self,
        dim: int,
        mlp: int,
        *,
        heads: int,
        bias: bool,
        activation: Callable,
        eps: float,
        operations,
        **factory,
    ):
        super().__init__()
        self.norm1 = operations.LayerNorm(dim, eps=eps, **factory)
        self.attn = Attention(dim, heads, bias, operations, **factory)
        self.norm2 = operations.LayerNorm(dim, eps=eps, **factory)
        self.mlp = Mlp(dim, mlp, activation, operations, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
