"""Built-in miniature weights: files of a few hundred kilobytes that the host's stock loaders accept as real models.

Every large tensor is an overlapping strided view into a small pool of random numbers, which a .ckpt, .pt or .pth keeps
when it is saved and read with `weights_only=True`. So the text encoders, TransFace and the FACT projector have their
true sizes, and the UNets have the true block layout while all their blocks are 320 wide. The weights are random:
pictures show coloured texture, never a person.

torch, the host and onnx (of the dev extra) are imported inside functions, because a call that finds every file in place
needs none of them.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

SEED = 2
ROW_STEP = 5  # pool numbers between the first entries of neighbouring rows; no multiple of 3, the side of a kernel
SLACK = 1009  # pool numbers by which tensors of one scale may start apart

# Standard deviations of what is looked up instead of multiplied with.
SPREADS = {
    "token_embedding": 1.0,
    "position": 0.3,
    "class_embedding": 1.0,
    "pos_embed": 0.5,
    "mask_token": 0.02,
    "latents": 1.0,
}
# Factors on 1/sqrt(fan_in), first match wins. Sharp queries and keys: with flat attention every prompt and every face
# averages out to the same values. Loud adapters, so that what they do shows in a few steps.
GAINS = {
    "_lora": 0.5,
    "to_q": 2.0,
    "to_k": 2.0,
    "taesd": 0.5,
    "processor.attn.to_out": 3.0,
    "zero_convs": 3.0,
    "middle_block_out": 3.0,
}


def fact_sites() -> list[str]:
    """The 16 transformer blocks of an SD1.5 UNet in diffusers' spelling, in the order in which it runs them."""
    down = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)]
    up = [f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)]
    return [f"{site}.transformer_blocks.0" for site in (*down, "mid_block.attentions.0", *up)]


def _norm(prefix: str, width: int) -> Shapes:
    return {f"{prefix}.weight": (width,), f"{prefix}.bias": (width,)}


def _batch_norm(prefix: str, width: int) -> Shapes:
    statistics = {f"{prefix}.running_mean": (width,), f"{prefix}.running_var": (width,)}
    return _norm(prefix, width) | statistics | {f"{prefix}.num_batches_tracked": ()}


def _linear(prefix: str, inputs: int, outputs: int) -> Shapes:
    return {f"{prefix}.weight": (outputs, inputs), f"{prefix}.bias": (outputs,)}


def transface_shapes(
    dim: int = 512, depth: int = 12, tokens: int = 144, patch: int = 9, embedding: int = 512
) -> Shapes:
    """Names and shapes of a TransFace state dict; the defaults are TransFace-S as published.

    `dim` is the token width, `patch` the patch side in pixels, `embedding` the length of the identity vector.
    """
    shapes = {"mask_token": (1, 1, dim), "pos_embed": (1, tokens, dim)}
    shapes |= {"patch_embed.proj.weight": (dim, 3, patch, patch), "patch_embed.proj.bias": (dim,)}
    for block in (f"blocks.{i}" for i in range(depth)):
        shapes |= _norm(f"{block}.norm1", dim) | {f"{block}.attn.qkv.weight": (3 * dim, dim)}
        shapes |= _linear(f"{block}.attn.proj", dim, dim) | _norm(f"{block}.norm2", dim)
        shapes |= _linear(f"{block}.mlp.fc1", dim, 4 * dim) | _linear(f"{block}.mlp.fc2", 4 * dim, dim)
    shapes |= _norm("norm", dim)
    shapes |= {"feature.0.weight": (dim, tokens * dim)} | _batch_norm("feature.1", dim)
    shapes |= {"feature.2.weight": (embedding, dim)} | _batch_norm("feature.3", embedding)
    return shapes | {"senet.0.weight": (tokens, tokens * dim), "senet.2.weight": (tokens, tokens)}


def _resampler_shapes(
    prefix: str, token_dim: int, features: int, dim: int, inner: int, tokens: int, depth: int
) -> Shapes:
    """A resampler of features [n, features] to [tokens, token_dim]; with `tokens` 0 it has no latents of its own."""
    shapes = {f"{prefix}.latents": (1, tokens, dim)} if tokens else {}
    shapes |= _linear(f"{prefix}.proj_in", features, dim)
    for attention, feed in ((f"{prefix}.layers.{i}.0", f"{prefix}.layers.{i}.1") for i in range(depth)):
        shapes |= _norm(f"{attention}.norm1", dim) | _norm(f"{attention}.norm2", dim)
        shapes |= {f"{attention}.to_q.weight": (inner, dim), f"{attention}.to_kv.weight": (2 * inner, dim)}
        shapes |= {f"{attention}.to_out.weight": (dim, inner)} | _norm(f"{feed}.0", dim)
        shapes |= {f"{feed}.1.weight": (4 * dim, dim), f"{feed}.3.weight": (dim, 4 * dim)}
    return shapes | _linear(f"{prefix}.proj_out", dim, token_dim) | _norm(f"{prefix}.norm_out", token_dim)


def _sfags_shapes(prefix: str, width: int, token_dim: int) -> Shapes:
    shapes = _linear(f"{prefix}.linear", token_dim, width)
    shapes |= {f"{prefix}.attn.to_{name}.weight": (width, width) for name in "qkv"}
    shapes |= _linear(f"{prefix}.attn.to_out.0", width, width)
    shapes |= _linear(f"{prefix}.ff.net.0.proj", width, 8 * width) | _linear(f"{prefix}.ff.net.2", 4 * width, width)
    shapes |= _norm(f"{prefix}.norm1", width) | _norm(f"{prefix}.norm2", width)
    return shapes | {f"{prefix}.alpha_attn": (), f"{prefix}.alpha_dense": ()}


def fact_shapes(
    widths: list[int],
    token_dim: int = 768,
    face_dim: int = 512,
    dim: int = 1024,
    inner: int = 768,
    tokens: int = 16,
    depth: int = 4,
) -> Shapes:
    """Names and shapes of a FACT v1 file in its published spelling (projector and 16 SFAGS blocks).

    `widths` are the UNet's token widths by transformer_index; the rest sizes the projector: face tokens [n, face_dim]
    to [tokens, token_dim] through `depth` layers that are `dim` wide with `inner` = heads x head width.
    """
    shapes = _resampler_shapes("local_fac_prj", token_dim, face_dim, dim, inner, tokens, depth)
    for site, width in zip(fact_sites(), widths, strict=True):
        shapes |= _sfags_shapes(f"{site}.attn2.processor", width, token_dim)
    return shapes


def ip_adapter_shapes(widths: list[int], token_dim: int) -> Shapes:
    """Names and shapes of an IP-Adapter's cross-attentions; `widths` of the UNet's in the published order."""
    numbers = range(1, 2 * len(widths), 2)
    return {
        f"ip_adapter.{number}.to_{part}_ip.weight": (width, token_dim)
        for number, width in zip(numbers, widths)
        for part in "kv"
    }


def faceid_lora_shapes(widths: list[int], token_dim: int, rank: int = 128) -> Shapes:
    """Names and shapes of the LoRA in a FaceID file, on every self- and cross-attention."""
    shapes = {}
    for number, width in enumerate(width for width in widths for _ in ("attn1", "attn2")):
        for part in ("q", "k", "v", "out"):
            prefix = f"ip_adapter.{number}.to_{part}_lora"
            inputs = token_dim if number % 2 and part in "kv" else width
            shapes |= {f"{prefix}.down.weight": (rank, inputs), f"{prefix}.up.weight": (width, rank)}
    return shapes


def resampler_tokens_shapes(features: int, token_dim: int, dim: int = 1280, tokens: int = 16) -> Shapes:
    """Names and shapes of the projector of IP-Adapter plus (features 1280) and InstantID (512); published for SDXL."""
    return _resampler_shapes("image_proj", token_dim, features, dim, dim, tokens, depth=4)


def faceid_plus_shapes(token_dim: int, face: int = 512, clip: int = 1280, tokens: int = 4) -> Shapes:
    """Names and shapes of the projector of FaceID-Plus and PlusV2."""
    shapes = _linear("image_proj.proj.0", face, 2 * face) | _linear("image_proj.proj.2", 2 * face, tokens * token_dim)
    prefix = "image_proj.perceiver_resampler"
    shapes |= _norm("image_proj.norm", token_dim)
    return shapes | _resampler_shapes(prefix, token_dim, clip, token_dim, token_dim, 0, depth=4)


def _conv(prefix: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    return {f"{prefix}.weight": (outputs, inputs, kernel, kernel)}


def _conv_bn(prefix: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    return _conv(f"{prefix}.conv", inputs, outputs, kernel) | _batch_norm(f"{prefix}.bn", outputs)


def _resnet_shapes(prefix: str, blocks: tuple[int, ...], widths: tuple[int, ...]) -> Shapes:
    shapes = _conv(f"{prefix}.conv1", 3, widths[0], 7) | _batch_norm(f"{prefix}.bn1", widths[0])
    inputs = widths[0]
    for layer, (count, width) in enumerate(zip(blocks, widths), 1):
        for block in (f"{prefix}.layer{layer}.{i}" for i in range(count)):
            shapes |= _conv(f"{block}.conv1", inputs, width, 3) | _batch_norm(f"{block}.bn1", width)
            shapes |= _conv(f"{block}.conv2", width, width, 3) | _batch_norm(f"{block}.bn2", width)
            if block.endswith(".0") and layer > 1:
                shapes |= _conv(f"{block}.downsample.0", inputs, width, 1)
                shapes |= _batch_norm(f"{block}.downsample.1", width)
            inputs = width
    return shapes


def bisenet_shapes(
    blocks: tuple[int, ...] = (2, 2, 2, 2),
    widths: tuple[int, ...] = (64, 128, 256, 512),
    context: int = 128,
    fused: int = 256,
    classes: int = 19,
) -> Shapes:
    """Names and shapes of a BiSeNet face parser; the defaults (ResNet-18) are 79999_iter.pth as published.

    `blocks` and `widths` are those of the ResNet's four layers; `context` and `fused` the widths of what joins them.
    """
    shapes = _resnet_shapes("cp.resnet", blocks, widths)
    for arm, inputs in (("cp.arm16", widths[2]), ("cp.arm32", widths[3])):
        shapes |= _conv_bn(f"{arm}.conv", inputs, context, 3) | _conv(f"{arm}.conv_atten", context, context, 1)
        shapes |= _batch_norm(f"{arm}.bn_atten", context)
    shapes |= _conv_bn("cp.conv_head32", context, context, 3) | _conv_bn("cp.conv_head16", context, context, 3)
    shapes |= _conv_bn("cp.conv_avg", widths[3], context, 1)
    shapes |= _conv_bn("ffm.convblk", widths[1] + context, fused, 1)
    shapes |= _conv("ffm.conv1", fused, fused // 4, 1) | _conv("ffm.conv2", fused // 4, fused, 1)
    for head, inputs, inner in (("conv_out", fused, fused), ("conv_out16", context, 64), ("conv_out32", context, 64)):
        shapes |= _conv_bn(f"{head}.conv", inputs, inner, 3) | _conv(f"{head}.conv_out", inner, classes, 1)
    return shapes


def msid_shapes(
    dim: int = 384, depth: int = 12, tokens: int = 196, patch: int = 8, taps: tuple[int, ...] = (2, 5, 8, 11)
) -> Shapes:
    """Names and shapes of an MSID state dict; the defaults are as published, with the final norm that nothing reads."""
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, 1 + tokens, dim)}
    shapes |= {"patch_embed.proj.weight": (dim, 3, patch, patch), "patch_embed.proj.bias": (dim,)}
    for block in (f"blocks.{i}" for i in range(depth)):
        shapes |= _norm(f"{block}.norm1", dim) | _linear(f"{block}.attn.qkv", dim, 3 * dim)
        shapes |= _linear(f"{block}.attn.proj", dim, dim) | _norm(f"{block}.norm2", dim)
        shapes |= _linear(f"{block}.mlp.fc1", dim, 4 * dim) | _linear(f"{block}.mlp.fc2", 4 * dim, dim)
    shapes |= _norm("norm", dim)
    for tap in taps:
        shapes |= _batch_norm(f"norms.layer_{tap}.0", dim) | _norm(f"norms.layer_{tap}.1", dim)
    return shapes


def mapping_shapes(identity: int = 1536, expression: int = 64, hidden: int = 1536, word: int = 768) -> Shapes:
    """Names and shapes of Face2Diffusion's mapping network; the defaults are as published."""
    shapes = {"null_exp": (expression,)}
    for words in ("i2t_first", "i2t_last"):
        shapes |= _linear(f"{words}.layers.0.0", identity + expression, hidden)
        shapes |= _linear(f"{words}.layers.1.0", hidden, hidden) | _linear(f"{words}.fc_out", hidden, word)
    return shapes


def deep3d_shapes(
    stem: int = 64,
    stages: tuple[tuple[int, int], ...] = ((3, 64), (4, 128), (6, 256), (3, 512)),
    heads: tuple[int, ...] = (80, 64, 80, 3, 27, 2, 1),
) -> Shapes:
    """Names and shapes of Deep3DFaceRecon's regressor: a ResNet of `stages` (blocks, inner width) with linear heads."""
    shapes = {"backbone.conv1.weight": (stem, 3, 7, 7)} | _batch_norm("backbone.bn1", stem)
    inputs = stem
    for stage, (blocks, width) in enumerate(stages, 1):
        for prefix in (f"backbone.layer{stage}.{block}" for block in range(blocks)):
            shapes |= {f"{prefix}.conv1.weight": (width, inputs, 1, 1)} | _batch_norm(f"{prefix}.bn1", width)
            shapes |= {f"{prefix}.conv2.weight": (width, width, 3, 3)} | _batch_norm(f"{prefix}.bn2", width)
            shapes |= {f"{prefix}.conv3.weight": (4 * width, width, 1, 1)} | _batch_norm(f"{prefix}.bn3", 4 * width)
            if inputs != 4 * width:
                shapes |= {f"{prefix}.downsample.0.weight": (4 * width, inputs, 1, 1)}
                shapes |= _batch_norm(f"{prefix}.downsample.1", 4 * width)
            inputs = 4 * width
    for head, width in enumerate(heads):
        shapes |= {f"final_layers.{head}.weight": (width, inputs, 1, 1), f"final_layers.{head}.bias": (width,)}
    return shapes


def eva02_shapes(dim: int = 64, depth: int = 24, grid: int = 6, mlp: int = 96, output: int = 768) -> Shapes:
    """Names and shapes of EVA02-CLIP's vision tower; published are 1024, 24, 24, 2730 and 768."""
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, 1 + grid * grid, dim)}
    shapes |= {"patch_embed.proj.weight": (dim, 3, 14, 14), "patch_embed.proj.bias": (dim,)}
    for block in (f"blocks.{i}" for i in range(depth)):
        shapes |= (
            _norm(f"{block}.norm1", dim) | _norm(f"{block}.norm2", dim) | _norm(f"{block}.attn.inner_attn_ln", dim)
        )
        shapes |= {f"{block}.attn.{part}_proj.weight": (dim, dim) for part in "qkv"}
        shapes |= {f"{block}.attn.{part}_bias": (dim,) for part in "qv"} | _linear(f"{block}.attn.proj", dim, dim)
        shapes |= _linear(f"{block}.mlp.w1", dim, mlp) | _linear(f"{block}.mlp.w2", dim, mlp)
        shapes |= _norm(f"{block}.mlp.ffn_ln", mlp) | _linear(f"{block}.mlp.w3", mlp, dim)
    shapes |= _norm("norm", dim) | _linear("head", dim, output)
    return {f"visual.{name}": shape for name, shape in shapes.items()}


def _three_layers(prefix: str, inputs: int, hidden: int, outputs: int) -> Shapes:
    shapes = _linear(f"{prefix}.0", inputs, hidden) | _norm(f"{prefix}.1", hidden)
    shapes |= _linear(f"{prefix}.3", hidden, hidden) | _norm(f"{prefix}.4", hidden)
    return shapes | _linear(f"{prefix}.6", hidden, outputs)


def pulid_shapes(token_dim: int = 2048, eva: int = 64, hidden: int = 64) -> Shapes:
    """Names and shapes of PuLID 1's projector; published are eva and hidden 1024."""
    shapes = _three_layers("image_proj.body", 1280, hidden, 5 * token_dim)
    for name in (f"image_proj.mapping_{part}{i}" for i in range(5) for part in ("", "patch_")):
        shapes |= _three_layers(name, eva, hidden, token_dim)
    return shapes


def _constant(name: str, shape: tuple[int, ...]) -> float | None:
    """The value of a tensor that is not random at heart (norms, biases, gates), else None."""
    if name.endswith(("alpha_attn", "alpha_dense")):
        return 0.5 + zlib.crc32(name.encode()) % 5 / 10
    if name.endswith("logit_scale"):
        return math.log(100)
    if name.endswith(("bias", "running_mean", "num_batches_tracked", "vae_shift")):
        return 0.0
    if name.endswith(("running_var", "vae_scale")) or (len(shape) == 1 and name.endswith("weight")):
        return 1.0
    return None


def _spread(name: str, shape: tuple[int, ...]) -> float:
    for part, spread in SPREADS.items():
        if part in name:
            return spread
    gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
    return gain / math.sqrt(math.prod(shape[1:]))


def _noise(count: int, seed: int) -> Tensor:
    """Unit-variance numbers; uniform, as torch draws those alike on every processor."""
    import torch

    uniform = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    return (uniform * 2 - 1) * math.sqrt(3)


def drawn(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Dense float32 tensors of these shapes for tests of small sizes; norms, biases and gates vary a little too.

    A tensor depends on its name and the seed only, not on which others are drawn with it.
    """
    import torch

    tensors = {}
    for name, shape in shapes.items():
        noise = _noise(math.prod(shape), seed + zlib.crc32(name.encode())).reshape(shape)
        constant = _constant(name, shape)
        tensors[name] = noise * _spread(name, shape) if constant is None else constant + 0.1 * noise
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(0)
    return tensors


def _pool_length(shape: tuple[int, ...]) -> int:
    return SLACK + ROW_STEP * shape[0] + math.prod(shape[1:])


def pooled(shapes: Shapes, seed: int = SEED) -> dict[str, Tensor]:
    """float16 tensors of these shapes that share one small storage per scale, for files of true sizes."""
    import torch

    spreads = {name: _spread(name, shape) for name, shape in shapes.items() if _constant(name, shape) is None}
    lengths = {}
    for name, spread in spreads.items():
        lengths[spread] = max(lengths.get(spread, 0), _pool_length(shapes[name]))
    pools = {spread: (_noise(length, seed) * spread).half() for spread, length in lengths.items()}
    constants = {}
    tensors = {}
    for name, shape in shapes.items():
        if name in spreads:
            strides = [ROW_STEP, *(math.prod(shape[axis + 1 :]) for axis in range(1, len(shape)))]
            tensors[name] = pools[spreads[name]].as_strided(shape, strides, zlib.crc32(name.encode()) % SLACK)
            continue
        value = _constant(name, shape)
        dtype = torch.int64 if name.endswith("num_batches_tracked") else torch.float16
        tensors[name] = constants.setdefault((value, dtype), torch.tensor(value, dtype=dtype)).expand(shape)
    return tensors


SD15_LAYOUT = {
    "context_dim": 768,
    "use_linear_in_transformer": False,
    "num_heads": 8,
    "num_res_blocks": [2] * 4,
    "channel_mult": [1] * 4,
    "transformer_depth": [1] * 6 + [0] * 2,
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
}
SDXL_LAYOUT = {
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "num_head_channels": 64,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
    "num_res_blocks": [2] * 3,
    "channel_mult": [1] * 3,
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0] * 3 + [2] * 3 + [10] * 3,
    "transformer_depth_middle": 10,
}
# What the host recognises both families by, besides the above.
SHARED = {"image_size": 32, "model_channels": 320, "use_spatial_transformer": True, "legacy": False}
LOUDNESS = 16.0  # of the input against what the blocks add to it, on its way through the UNet
KEPT = 0.87  # brings the input back to nearly its own size, whatever the loudness: a norm precedes the last layer


def _shapes_of(network, *args, **kwargs) -> Shapes:
    """Names and shapes of one of the host's networks, built without memory for its weights."""
    import torch

    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in network(*args, **kwargs).state_dict().items()}


def _mirror(shape: tuple[int, ...], kernel: Tensor) -> Tensor:
    """Convolution weights that apply `kernel` [k, k] to every channel and return the last channels first.

    A mirror and not the identity, because only a mirror has positive strides over a few numbers.
    """
    size = kernel.numel()
    line = kernel.new_zeros(shape[0] + shape[1] - 1, size)
    line[shape[1] - 1] = kernel.flatten()
    return line.flatten().as_strided(shape, (size, size, kernel.shape[1], 1))


def _carry(entry: Tensor, exit_: Tensor, channels: int, loudness: float, kept: float) -> tuple[Tensor, Tensor]:
    """The first and last convolution of a network, changed to hand its first `channels` inputs on to its outputs.

    Between them lies an odd number of mirrors. Each channel travels with both signs, as
    relu(x) - relu(-x) = silu(x) - silu(-x) = x.
    """
    entry, exit_ = entry.clone(), exit_.clone()
    entry[: 2 * channels] = 0
    exit_[:channels] = 0
    for channel in range(channels):
        for row, sign in ((2 * channel, 1), (2 * channel + 1, -1)):
            entry[row, channel, 1, 1] = sign * loudness
            exit_[channel, -1 - row, 1, 1] = sign * kept
    return entry, exit_


def _denoising(unet: dict[str, Tensor]) -> dict[str, Tensor]:
    """The convolutions through which a UNet's input reaches its output, so that sampling takes the noise away.

    Random weights alone would leave the noise, 15 times the size of a latent, in the picture.
    """
    import torch

    last = max(int(name.split(".")[1]) for name in unet if name.startswith("output_blocks."))
    skip = f"output_blocks.{last}.0.skip_connection.weight"
    names = "input_blocks.0.0.weight", "out.2.weight"
    entry, exit_ = _carry(unet[names[0]], torch.zeros_like(unet[names[1]]), 4, LOUDNESS, KEPT)
    return {names[0]: entry, skip: _mirror(unet[skip].shape, entry.new_ones(1, 1)), names[1]: exit_}


def _unet(layout: dict, in_channels: int) -> dict[str, Tensor]:
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    layout = SHARED | layout | {"in_channels": in_channels, "out_channels": 4}
    unet = pooled(_shapes_of(UNetModel, **layout, operations=comfy.ops.disable_weight_init))
    return unet | _denoising(unet)


def _coder(vae: dict[str, Tensor], prefix: str, kernel: Tensor, kept: float) -> dict[str, Tensor]:
    """One half of a TAESD that carries three channels through; `kernel` is what it does wherever it changes size."""
    outer = [name for name in vae if name.startswith(prefix) and "conv" not in name and name.endswith("weight")]
    first, *resizing, last = outer
    entry, exit_ = _carry(vae[first], vae[last], 3, 1.0, kept)
    return {first: entry, last: exit_} | {name: _mirror(vae[name].shape, kernel) for name in resizing}


def _vae(scale: float) -> dict[str, Tensor]:
    """A TAESD whose first three latent channels are the colours in eighth size, -2..2 as the UNet sees them."""
    import torch
    from comfy.taesd.taesd import TAESD

    vae = pooled(_shapes_of(TAESD, latent_channels=4))
    corner = torch.tensor([0, 0.5, 0.5]).half()
    hill = torch.tensor([0.25, 0.5, 0.25]).half()
    vae |= _coder(vae, "taesd_encoder.", corner.outer(corner), 4.0)
    vae |= _coder(vae, "taesd_decoder.", hill.outer(hill), 0.25)
    vae["taesd_encoder.14.bias"] = torch.tensor([-2.0, -2.0, -2.0, 0.0])
    vae["taesd_decoder.19.bias"] = torch.full((3,), 0.5)
    return vae | {"vae_scale": torch.tensor(scale)}


def _checkpoint(unet: dict[str, Tensor], clip: dict[str, Tensor], vae: dict[str, Tensor]) -> bytes:
    parts = {f"model.diffusion_model.{name}": tensor for name, tensor in unet.items()}
    parts |= clip | {f"first_stage_model.{name}": tensor for name, tensor in vae.items()}
    return _torch_file({"state_dict": parts})


def _clip(family, network) -> dict[str, Tensor]:
    """All text encoders of a model family, with the names that its checkpoints use."""
    import torch

    with torch.device("meta"):
        tensors = family.process_clip_state_dict_for_saving(network().state_dict())
    return pooled({name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith("position_ids")})


def _sd15(in_channels: int) -> bytes:
    from comfy.sd1_clip import SD1ClipModel
    from comfy.supported_models import SD15

    family = SD15(SD15_LAYOUT)
    vae = _vae(family.latent_format.scale_factor)
    return _checkpoint(_unet(SD15_LAYOUT, in_channels), _clip(family, SD1ClipModel), vae)


def _sdxl() -> bytes:
    from comfy.sdxl_clip import SDXLClipModel
    from comfy.supported_models import SDXL

    family = SDXL(SDXL_LAYOUT)
    vae = _vae(family.latent_format.scale_factor)
    return _checkpoint(_unet(SDXL_LAYOUT, in_channels=4), _clip(family, SDXLClipModel), vae)


def _controlnet(base: dict) -> bytes:
    import comfy.ops
    from comfy.cldm.cldm import ControlNet

    layout = SHARED | base | {"in_channels": 4, "hint_channels": 3}
    return _torch_file(pooled(_shapes_of(ControlNet, **layout, operations=comfy.ops.disable_weight_init)))


def _clip_half(network: str, config: str) -> bytes:
    """One half of a CLIP with its projection: `network` of comfy.clip_model, sized by a `config` of the host's."""
    import json

    import comfy.clip_model
    import comfy.ops
    import torch

    sizes = json.loads(Path(comfy.clip_model.__file__).with_name(config).read_text())
    args = sizes, torch.float16, "meta", comfy.ops.disable_weight_init
    return _torch_file(pooled(_shapes_of(getattr(comfy.clip_model, network), *args)))


def _lora() -> bytes:
    """Rank 2 on the values and outputs of every attention, alpha = rank, as kohya's trainer spells them."""
    import safetensors.torch
    import torch

    shapes = {}
    for site in fact_sites():
        for attention, source in (("attn1", 320), ("attn2", 768)):
            prefix = f"lora_unet_{site}.{attention}".replace(".", "_")
            for module, inputs in (("to_v", source), ("to_out_0", 320)):
                shapes[f"{prefix}_{module}.lora_down.weight"] = (2, inputs)
                shapes[f"{prefix}_{module}.lora_up.weight"] = (320, 2)
    tensors = {name: tensor.half() for name, tensor in drawn(shapes, SEED).items()}
    alphas = {name.replace("lora_up.weight", "alpha"): torch.tensor(2.0) for name in shapes if "lora_up" in name}
    return safetensors.torch.save(tensors | alphas)


def _transface() -> bytes:
    return _torch_file(pooled(transface_shapes()))


def _fact() -> bytes:
    """FACT for 320 wide blocks, with the copies of the base model's norm2 that a diffusers-side save contains."""
    shapes = fact_shapes([320] * 16)
    for site in fact_sites():
        shapes |= _norm(f"{site}.attn2.processor.ln", 320)
    return _torch_file(pooled(shapes))


def _bisenet() -> bytes:
    return _torch_file(pooled(bisenet_shapes()))


def _of(shapes: Callable[[], Shapes]) -> bytes:
    return _torch_file(pooled(shapes()))


def _image_adapter(projector: Shapes) -> bytes:
    """An image adapter for the built-in SDXL, all of whose blocks are 320 wide."""
    return _torch_file(pooled(projector | ip_adapter_shapes([320] * 70, 2048)))


def _faceid_plusv2() -> bytes:
    return _image_adapter(faceid_plus_shapes(2048) | faceid_lora_shapes([320] * 70, 2048))


def _image_resampler(features: int) -> bytes:
    return _image_adapter(resampler_tokens_shapes(features, 2048))


def _arcface() -> bytes:
    """A recogniser that weighs the colours of every 28 px cell of the crop, 512 times."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = drawn({"cells": (8, 3, 28, 28), "head.weight": (512, 8 * 16)}, SEED)
    nodes = [
        helper.make_node("Conv", ["input.1", "cells"], ["features"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["features"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head.weight"], ["embedding"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "likeness_builtin_arcface",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["batch", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 512])],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _torch_file(tensors: dict) -> bytes:
    """What torch.save writes; through memory, because it would put the name of a file on disk into the archive."""
    import torch

    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "checkpoints/likeness_builtin_sd15.ckpt": partial(_sd15, in_channels=4),
    "checkpoints/likeness_builtin_sd15_inpaint.ckpt": partial(_sd15, in_channels=9),
    "checkpoints/likeness_builtin_sdxl.ckpt": _sdxl,
    "controlnet/likeness_builtin_controlnet_sd15.pth": partial(_controlnet, SD15_LAYOUT),
    "controlnet/likeness_builtin_controlnet_sdxl.pth": partial(_controlnet, SDXL_LAYOUT),
    "clip_vision/likeness_builtin_clip_vision_h.pt": partial(
        _clip_half, "CLIPVisionModelProjection", "clip_vision_config_h.json"
    ),
    "clip_vision/likeness_builtin_clip_vision_l.pt": partial(
        _clip_half, "CLIPVisionModelProjection", "clip_vision_config_vitl.json"
    ),
    "text_encoders/likeness_builtin_clip_l.pt": partial(_clip_half, "CLIPTextModel", "sd1_clip_config.json"),
    "loras/likeness_builtin_lora_sd15.safetensors": _lora,
    "facechain_fact/likeness_builtin_transface.pt": _transface,
    "facechain_fact/likeness_builtin_fact.ckpt": _fact,
    "face2diffusion/likeness_builtin_msid.pt": partial(_of, msid_shapes),
    "face2diffusion/likeness_builtin_mapping.pt": partial(_of, mapping_shapes),
    "face2diffusion/likeness_builtin_deep3d.pth": partial(_of, deep3d_shapes),
    "face_parsing/likeness_builtin_bisenet.pth": _bisenet,
    "insightface/likeness_builtin_arcface.onnx": _arcface,
    "ipadapter/likeness_builtin_faceid_plusv2_sdxl.bin": _faceid_plusv2,
    "ipadapter/likeness_builtin_plus_face_sdxl.bin": partial(_image_resampler, features=1280),
    "text_encoders/likeness_builtin_eva02.pt": partial(_of, eva02_shapes),
    "pulid/likeness_builtin_pulid.bin": lambda: _image_adapter(pulid_shapes()),
    "instantid/likeness_builtin_instantid.bin": partial(_image_resampler, features=512),
}


def _open_host(comfy: Path) -> None:
    """Make the host importable, on the CPU: it picks its device from the command line when first imported."""
    if "comfy.cli_args" in sys.modules:
        return
    if importlib.util.find_spec("comfy") is None:
        sys.path.insert(0, str(comfy))
    import comfy.options

    comfy.options.enable_args_parsing()
    arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
    import comfy.cli_args  # noqa: F401

    sys.argv = arguments


def ensure(models: Path, comfy: Path) -> list[Path]:
    """Make the built-in files missing below `models` and return those made; `comfy` is the host's source folder.

    The same versions of this file, torch and the host give the same bytes everywhere.
    """
    missing = [name for name in FILES if not (models / name).is_file()]
    if missing:
        _open_host(comfy)
    for name in missing:
        path = models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_bytes(FILES[name]())
        part.replace(path)
    return [models / name for name in missing]
