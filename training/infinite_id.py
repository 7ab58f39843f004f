"""Infinite-ID's training (docs/papers.md 5.4): the text is out, a face is learned from pairs of photos."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import normalize

from ..adapters.ip_projectors import InfiniteIdTokens
from ..adapters.unet_blocks import BLOCKS, transformer_blocks
from ..attention_patches.calls import attend
from . import loop
from .frozen import Condition, Frozen, mean_in_mask, prediction_error, sample_noise
from .portraits import Portraits, draw, others
from .settings import AdapterSettings, Count, Share, Weight
from .watch import Loss

CLIP_MAPPERS = ("resampler", "tokens")
_PARTS = ("to_k", "to_v")


@dataclass(frozen=True)
class InfiniteIdSettings(AdapterSettings):
    """clip_mapper: one of CLIP_MAPPERS: a resampler, or two layers that make a token of each of CLIP's hidden states.
    queries, dim, depth: sizes of the resampler; face_tokens: how many the face vector becomes.

    drop: how often there is no face, which the unconditional branch needs. text_off: whether the cross-attention to
    text is out in training; False is the paper's ablation. focus: how many times as much an error inside the face
    counts as one outside; 1 as published.
    """

    clip_mapper: Literal[CLIP_MAPPERS] = CLIP_MAPPERS[0]
    queries: Count = 16
    dim: Count = 1280
    depth: Count = 4
    face_tokens: Count = 4
    drop: Share = 0.1
    text_off: bool = True
    focus: Weight = 1.0


class InfiniteId(nn.Module):
    """Mappers and image cross-attentions in training."""

    def __init__(self, base: Frozen, clip_width: int, face_width: int, settings: InfiniteIdSettings):
        super().__init__()
        blocks = transformer_blocks(base.model.diffusion_model)
        self.width = width = base.width
        self.mapper = InfiniteIdTokens(_shapes(width, clip_width, face_width, settings))
        if settings.clip_mapper == "resampler":
            nn.init.normal_(self.mapper.clip_mapper.latents, std=settings.dim**-0.5)
        attentions = {block: blocks[block].attn2 for block in BLOCKS[base.kind]}
        self.attentions = nn.ModuleDict(
            {_name(block): _like_text(attention) for block, attention in attentions.items()}
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Return the weights as Likeness's Infinite-ID files hold them."""
        keys = {name.replace("-", "."): tensor for name, tensor in self.attentions.state_dict().items()}
        return self.mapper.state_dict() | {f"image_attention.{name}": tensor for name, tensor in keys.items()}


def _like_text(attention: nn.Module) -> nn.ModuleDict:
    """Return layers for keys and values that begin as the base model's own of text, as IP-Adapter's do."""
    parts = nn.ModuleDict()
    for part in _PARTS:
        weight = getattr(attention, part).weight.detach().float()
        parts[part] = nn.Linear(*weight.shape[::-1], bias=False)
        parts[part].weight.data.copy_(weight)
    return parts


def _name(block) -> str:
    return "-".join(map(str, block))


def _shapes(width: int, clip: int, face: int, settings: InfiniteIdSettings) -> dict[str, torch.Tensor]:
    """Return tensors of the shapes from which `InfiniteIdTokens` reads its sizes."""
    inner, dim = max(64, settings.dim // 64 * 64), settings.dim
    shapes = {
        "face_mapper.proj.0.weight": (2 * face, face),
        "face_mapper.proj.2.weight": (settings.face_tokens * width, 2 * face),
        "face_mapper.norm.weight": (width,),
    }
    if settings.clip_mapper == "tokens":
        shapes |= {"clip_mapper.proj.0.weight": (clip, clip), "clip_mapper.proj.3.weight": (width,)}
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    shapes |= {
        "clip_mapper.latents": (1, settings.queries, dim),
        "clip_mapper.proj_in.weight": (dim, clip),
        "clip_mapper.proj_out.weight": (width, dim),
    }
    for layer in range(settings.depth):
        shapes[f"clip_mapper.layers.{layer}.0.to_q.weight"] = (inner, dim)
        shapes[f"clip_mapper.layers.{layer}.1.1.weight"] = (4 * dim, dim)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def attention_patches(base: Frozen, adapter: InfiniteId, tokens: torch.Tensor, text_off: bool) -> dict:
    """Return the host's attn2 replacements in a training step: image attention over `tokens` [b, m, d], alone or with
    text.
    """

    def at(block):
        parts = adapter.attentions[_name(block)]
        keys, values = (parts[part](tokens) for part in _PARTS)

        def replace(q, k, v, extra_options):
            attention = partial(attend, extra_options=extra_options)
            image = attention(q, keys, values)
            return image if text_off else attention(q, k, v) + image

        return replace

    return {"patches_replace": {"attn2": {block: at(block) for block in BLOCKS[base.kind]}}}


def step_loss(
    base: Frozen, adapter: InfiniteId, data, settings: InfiniteIdSettings, generator: torch.Generator
) -> torch.Tensor:
    """Return |eps - eps(z_t, t, c_id)|^2 of a sampled batch, c_id of another photo of the person, weighted by `focus`.

    data: (portraits, what CLIP sees in an empty picture [m, d]).
    """
    portraits, nothing = data
    indices = draw(portraits, settings.batch, generator)
    pairs = others(portraits, indices, generator)
    clip, face = (portraits.features[name][pairs].to(base.device, torch.float32) for name in ("clip", "arcface"))
    dropped = torch.rand(settings.batch, generator=generator) < settings.drop
    face = normalize(face.flatten(1), dim=1)
    clip[dropped], face[dropped] = nothing.to(clip), 0
    tokens = None if settings.text_off else base.tokens([portraits.captions[row] for row in indices.tolist()])
    condition = _tell(base, adapter, portraits, indices, face, clip, tokens)
    batch = sample_noise(base, portraits.latents[indices], generator)
    denoised = base.denoise(batch.z_t, batch.sigma, *condition)
    square = prediction_error(base, denoised, batch.z_0, batch.sigma).square()
    face = portraits.faces[indices].to(base.device, torch.float32)
    return mean_in_mask(square, 1 + (settings.focus - 1) * face)


def _tell(base: Frozen, adapter: InfiniteId, portraits: Portraits, rows, face, clip, tokens) -> Condition:
    """Return what the model is told of faces and CLIP states, `rows` [b] giving sizes; tokens: None for no text."""
    context = clip.new_zeros(len(rows), 1, adapter.width)  # for a cross-attention that is out one row is enough
    if tokens is not None:
        context = base.context(base.embeddings(tokens))
    height, width = (8 * side for side in portraits.measure(rows))
    unknown = torch.tensor([[height, width, 0, 0]]).expand(len(rows), -1)
    sizes = unknown if portraits.sizes is None else portraits.sizes[rows]
    options = attention_patches(base, adapter, adapter.mapper(face, clip), tokens is None)
    return Condition(context, options, base.size_condition(sizes, height, width))


def conditions(base: Frozen, adapter: InfiniteId, data: tuple, rows: torch.Tensor, settings: InfiniteIdSettings):
    """Return the `Condition`s of drawing some rows [b] of the portraits: with the face, and without.

    data: (portraits, what CLIP sees in an empty picture). As in training: with the text out the caption says nothing.
    """
    portraits, nothing = data
    clip, face = (portraits.features[name][rows].to(base.device, torch.float32) for name in ("clip", "arcface"))
    texts = [portraits.captions[row] for row in rows.tolist()], [""] * len(rows)
    tokens = (None, None) if settings.text_off else tuple(map(base.tokens, texts))
    face = normalize(face.flatten(1), dim=1)
    shown = _tell(base, adapter, portraits, rows, face, clip, tokens[0])
    empty = nothing.to(clip).expand_as(clip)
    return shown, _tell(base, adapter, portraits, rows, torch.zeros_like(face), empty, tokens[1])


def make(base: Frozen, portraits: Portraits, settings: InfiniteIdSettings) -> InfiniteId:
    """Return a fresh adapter for `base` and "clip" [n, m, d] and "arcface" [n, 1, d] features.

    Raises ValueError for SDXL with its text.
    """
    if base.kind == "SDXL" and not settings.text_off:
        raise ValueError("text_off = false, an ablation, is there for SD1.x only: leave it out for SDXL.")
    torch.manual_seed(settings.seed)
    widths = (portraits.features[name].shape[-1] for name in ("clip", "arcface"))
    return InfiniteId(base, *widths, settings).to(base.device)


def make_loss(
    base: Frozen, adapter: InfiniteId, portraits: Portraits, nothing: torch.Tensor, settings: InfiniteIdSettings
) -> Loss:
    """Return the loss of batches sampled from `portraits`, a function of generator and step.

    nothing: CLIP's features [m, d] of an empty picture.
    """

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        with base.autocast():
            return step_loss(base, adapter, (portraits, nothing), settings, generator)

    return loss


def make_groups(adapter: InfiniteId, settings: InfiniteIdSettings) -> list[loop.Group]:
    """Return what learns at which rate."""
    return [loop.Group(dict(adapter.named_parameters()), settings.lr)]
