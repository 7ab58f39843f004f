"""DINO's ViT as published in facebookresearch/dino, with its parameter names (those of timm)."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import gelu

from ..encoders.vit import PatchEmbed, TransformerBlock
from ..weights.reading import count_modules

UNUSED_KEYS = ("head.", "pooler.")
_HEAD = 64  # width of an attention head
# Names of the hub's port and those of timm: query, key and value are one matrix here.
_PORTED = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer.": "blocks.",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm": "norm",
}


def with_published_names(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict with DINO's own names, also where it has those of transformers' port."""
    named = {}
    for key, tensor in state_dict.items():
        for ported, published in _PORTED.items():
            key = key.replace(ported, published)
        named[key] = tensor
    for key in [key for key in named if ".attention.attention.query." in key]:
        parts = [named.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        named[key.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return named


@dataclass(frozen=True)
class DinoSizes:
    """Sizes of one ViT: `tokens` with the class token, patches of `patch` px, width `dim`, `depth` blocks, `mlp`."""

    tokens: int
    patch: int
    dim: int
    depth: int
    mlp: int

    @classmethod
    def of(cls, state_dict: dict) -> "DinoSizes":
        """Read the sizes from a published state dict."""
        return cls(
            tokens=state_dict["pos_embed"].shape[1],
            patch=state_dict["patch_embed.proj.weight"].shape[-1],
            dim=state_dict["cls_token"].shape[-1],
            depth=count_modules(state_dict, "blocks."),
            mlp=state_dict["blocks.0.mlp.fc1.weight"].shape[0],
        )


class Dino(nn.Module):
    """The backbone without its head."""

    def __init__(self, sizes: DinoSizes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.dim, **factory))
        self.pos_embed = nn.Parameter(torch.empty(1, sizes.tokens, sizes.dim, **factory))
        self.patch_embed = PatchEmbed(sizes.dim, sizes.patch, operations, **factory)
        block = {"heads": max(sizes.dim // _HEAD, 1), "bias": True, "activation": gelu, "eps": 1e-6}
        block |= {"operations": operations, **factory}
        self.blocks = nn.ModuleList(TransformerBlock(sizes.dim, sizes.mlp, **block) for _ in range(sizes.depth))
        self.norm = operations.LayerNorm(sizes.dim, eps=1e-6, **factory)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the class token's feature [n, 384] of images [n, 3, 224, 224] normalised as published."""
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.to(x).expand(len(x), -1, -1), x], dim=1) + self.pos_embed.to(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])
