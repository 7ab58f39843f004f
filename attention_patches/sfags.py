"""SFAGS, FACT's gated self-attention between self-attention and text cross-attention: the algebra alone."""

from collections.abc import Callable

import torch
from torch import nn


def project_face(weights: nn.Module, face: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the face rows' keys and values at one face block, [b, m, 768] -> two of [b, m, d].

    They depend on the identity alone, so that one projection serves a whole sampling run: the norm is per token, and
    no output is read of queries of face rows.
    """
    rows = weights.norm1(weights.linear(face))
    return weights.attn.to_k(rows), weights.attn.to_v(rows)


def project_visual(weights: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the normalised visual tokens x [b, n, d], their keys and their values: the same for every face."""
    rows = weights.norm1(x)
    return rows, weights.attn.to_k(rows), weights.attn.to_v(rows)


def gated_self_attention(
    x: torch.Tensor,
    face_keys: torch.Tensor,
    face_values: torch.Tensor,
    weights: nn.Module,
    gate_attn: torch.Tensor,
    gate_dense: torch.Tensor,
    attention: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    tokens: torch.Tensor | None = None,
    visual: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Let the visual tokens look at themselves and at the face (FACT, "face adapter with gated self-attention").

        x <- x + g_attn  SA(LN1([x ; f]))[: n]      g = s tanh(alpha), times the region's mask where there is one
        x <- x + g_dense FF(LN2(x))

    x: [b, n, d]; face_keys, face_values: [b, m, d] of `project_face`; gates: scalars or [b or 1, n or t, 1];
    attention: softmax attention over [b, tokens, d] tensors that splits the heads itself;
    tokens: [t], the visual tokens at which a gate is open, which the others look at no matter what; None: all;
    visual: of `project_visual`, where it has been worked out already
    """
    rows, keys, values = visual or project_visual(weights, x)
    keys, values = torch.cat((keys, face_keys), dim=1), torch.cat((values, face_values), dim=1)
    inside, rows = (x, rows) if tokens is None else (x[:, tokens], rows[:, tokens])
    changed = weights.attn.to_out(attention(weights.attn.to_q(rows), keys, values))
    inside = torch.addcmul(inside, gate_attn, changed)
    inside = torch.addcmul(inside, gate_dense, weights.ff(weights.norm2(inside)))
    return inside if tokens is None else x.index_copy(1, tokens, inside)
