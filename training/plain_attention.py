"""Attention for training on few tokens, in the place the host has for another attention."""

import torch


def plain_attention(q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False, **kwargs) -> torch.Tensor:
    """Return softmax attention [b, n, d] in three plain steps, quickest on a CPU for a few dozen tokens."""
    batch, _, width = q.shape
    q, k, v = (part.view(batch, -1, heads, width // heads).transpose(1, 2) for part in (q, k, v))
    weights = (q * (width // heads) ** -0.5) @ k.transpose(-1, -2)
    weights = weights if mask is None else weights + mask
    return (weights.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def quick_on(device: torch.device) -> dict:
    """Return the host's transformer options with which attention over few tokens is quickest on `device`."""
    if device.type != "cpu":
        return {}
    return {"optimized_attention_override": lambda original, *args, **kwargs: plain_attention(*args, **kwargs)}
