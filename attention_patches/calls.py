"""What patches ask of one UNet call: whether they are on, whose row is whose, where a region lies, the attention."""

import math

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch.nn.functional import interpolate


def attend(q, k, v, extra_options: dict, **options):
    """Run the attention that the host would have run in this block, with its precision and overrides."""
    return optimized_attention(
        q,
        k,
        v,
        extra_options["n_heads"],
        attn_precision=extra_options["attn_precision"],
        transformer_options=extra_options,
        **options,
    )


def find_sigma_range(model, start_percent: float, end_percent: float) -> tuple[float, float]:
    """Return the noise levels (from, to) of a part of the sampling, given in 0..1; its two ends are open."""
    sampling = model.get_model_object("model_sampling")
    first = float(sampling.percent_to_sigma(start_percent)) if start_percent > 0 else math.inf
    last = float(sampling.percent_to_sigma(end_percent)) if end_percent < 1 else 0.0
    return first, last


def is_scheduled(sigma_range: tuple[float, float], sigmas: torch.Tensor) -> bool:
    """Return whether the call's noise level lies in (from, to), from >= to; both ends belong to it."""
    first, last = sigma_range
    if math.isinf(first) and last == 0:
        return True  # reading sigma would wait for the GPU
    return last <= float(sigmas[0]) <= first


def expand_rows(part: torch.Tensor, chunks: list[int], rows: int) -> torch.Tensor:
    """Give every row of a batch its own of (conditional, other), [2, ...] -> [rows, ...].

    chunks: the host's `cond_or_uncond`, 0 being conditional; more than two and repeated ones are possible, and each
    has `rows` / chunks images.
    """
    images = rows // len(chunks)
    if chunks == [0, 1] and images == 1:
        return part
    kinds = (part[min(chunk, 1)] for chunk in chunks)
    return torch.cat([kind.expand(images, *kind.shape) for kind in kinds])


def make_token_mask(
    mask: torch.Tensor, size: tuple[int, int], chunks: int, batch: int, like: torch.Tensor
) -> torch.Tensor:
    """Return the region averaged over each token's area, [1 or batch, h w, 1], in dtype and on the device of `like`.

    mask: [1 or images, H, W]; size: (h, w) of the tokens. A batch longer than the mask repeats it.
    """
    mask = mask.to(like.device, torch.float32).unsqueeze(1)
    mask = interpolate(mask, size=size, mode="area").flatten(2).transpose(1, 2).to(like.dtype)
    if mask.shape[0] == 1:
        return mask
    images = torch.arange(batch // chunks, device=like.device) % mask.shape[0]
    return mask[images.repeat(chunks)]
