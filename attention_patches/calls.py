"""What patches share in one UNet call: whether one is on, whose row is whose, where its region lies, the attention."""

import math

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch.nn.functional import interpolate


def attend(q, k, v, extra_options: dict, **options):
    """The attention that the host would have run in this block, with its precision and overrides."""
    return optimized_attention(
        q,
        k,
        v,
        extra_options["n_heads"],
        attn_precision=extra_options["attn_precision"],
        transformer_options=extra_options,
        **options,
    )


def scheduled(sigma_range: tuple[float, float], sigmas: torch.Tensor) -> bool:
    """Whether the call's noise level lies in (from, to), from >= to; both ends belong to it."""
    first, last = sigma_range
    if math.isinf(first) and last == 0:
        return True  # reading sigma would wait for the GPU
    return last <= float(sigmas[0]) <= first


def branch_rows(chunks: list[int], batch: int, device: torch.device) -> torch.Tensor:
    """0 for conditional and 1 for other rows of a batch that holds one chunk after the other, [batch].

    chunks: the host's `cond_or_uncond`, 0 being conditional; more than two and repeated ones are possible.
    """
    kinds = torch.tensor([min(kind, 1) for kind in chunks], device=device)
    return kinds.repeat_interleave(batch // len(chunks))


def token_mask(mask: torch.Tensor, size: tuple[int, int], chunks: int, batch: int, like: torch.Tensor) -> torch.Tensor:
    """The region averaged over each token's area, [1 or batch, h w, 1], as dtype and on the device of `like`.

    mask: [1 or pictures, H, W]; size: (h, w) of the tokens. A batch longer than the mask repeats it.
    """
    mask = mask.to(like.device, torch.float32).unsqueeze(1)
    mask = interpolate(mask, size=size, mode="area").flatten(2).transpose(1, 2).to(like.dtype)
    if mask.shape[0] == 1:
        return mask
    pictures = torch.arange(batch // chunks, device=like.device) % mask.shape[0]
    return mask[pictures.repeat(chunks)]


def transformer_blocks(unet) -> dict[tuple[str, int, int], torch.nn.Module]:
    """The transformer blocks of a UNet by the host's names of them (place, number, index); empty for other models."""
    names = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
    blocks = {}
    for path, module in unet.named_modules():
        steps = path.split(".")
        if steps[0] in names and steps[-2:-1] == ["transformer_blocks"] and hasattr(module, "attn2"):
            number = 0 if steps[0] == "middle_block" else int(steps[1])
            blocks[names[steps[0]], number, int(steps[-1])] = module
    return blocks
