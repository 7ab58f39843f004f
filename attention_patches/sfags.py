"""SFAGS, FACT's gated self-attention between self-attention and text cross-attention: the algebra alone."""

from collections.abc import Callable

import torch
from torch import nn


def project_face(site: nn.Module, face: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the face rows' keys and values at one site, [b, m, 768] -> two of [b, m, d].

    They depend on the identity alone, so that one projection serves a whole sampling run: the norm is per token, and
    face rows are never queries whose output is kept.
    """
    rows = site.norm1(site.linear(face))
    return site.attn.to_k(rows), site.attn.to_v(rows)


def gated_self_attention(
    x: torch.Tensor,
    face_keys: torch.Tensor,
    face_values: torch.Tensor,
    site: nn.Module,
    gate_attn: torch.Tensor,
    gate_dense: torch.Tensor,
    attention: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Let the visual tokens look at themselves and at the face (FACT, "face adapter with gated self-attention").

        x <- x + g_attn  SA(LN1([x ; f]))[: n]      g = s tanh(alpha), times the region's mask where there is one
        x <- x + g_dense FF(LN2(x))

    x: [b, n, d]; face_keys, face_values: [b, m, d] of `project_face`; gates: scalars or [b or 1, n, 1];
    attention: softmax attention over [b, tokens, d] tensors that splits the heads itself.
    """
    rows = site.norm1(x)
    keys = torch.cat((site.attn.to_k(rows), face_keys), dim=1)
    values = torch.cat((site.attn.to_v(rows), face_values), dim=1)
    x = torch.addcmul(x, gate_attn, site.attn.to_out(attention(site.attn.to_q(rows), keys, values)))
    return torch.addcmul(x, gate_dense, site.ff(site.norm2(x)))
