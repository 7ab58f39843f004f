"""Image cross-attention of the IP-Adapter family: the algebra alone."""

from collections.abc import Callable

import torch


def image_cross_attention(
    text: torch.Tensor,
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    strength: float,
    mask: torch.Tensor | None,
    attention: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return O = Attn(Q, K_t, V_t) + s M Attn(Q, K_id, V_id), before the block's to_out (docs/papers.md 4.1).

    text: [b, n, d], the first term; q: [b, n, d], the base model's own queries; keys, values: [b, m, d] of the image
    tokens; mask: [b or 1, n, 1] or None; attention: over [b, tokens, d] tensors, splits the heads itself.
    """
    image = attention(q, keys, values)
    if mask is None:
        return torch.add(text, image, alpha=strength)
    return torch.addcmul(text, image, mask, value=strength)
