"""SFAGS, FACT's gated self-attention between self-attention and text cross-attention: the algebra alone."""

from collections.abc import Callable

import torch
from torch import nn


def project_face(weights: nn.Module, face: torch.Tensor) -> torch.Tensor:
    """Return the face rows' keys and values at one face block, side by side, [b, m, 768] -> [b, m, 2 d].

    They depend on the identity alone, so that one projection serves a whole sampling run: the norm is per token, and
    no output is read of queries of face rows.
    """
    return weights.attn.project(weights.norm1(weights.linear(face)))[1]


def project_visual(weights: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the queries of visual tokens x [b, n, d], and their keys and values side by side [b, n, 2 d].

    They are the same for every face.
    """
    return weights.attn.project(weights.norm1(x))


def gated_self_attention(
    x: torch.Tensor,
    face: torch.Tensor,
    weights: nn.Module,
    gate_attn: torch.Tensor,
    gate_dense: torch.Tensor,
    attention: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    tokens: torch.Tensor | None = None,
    visual: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Let the visual tokens look at themselves and at the face (FACT, "face adapter with gated self-attention").

        x <- x + g_attn  SA(LN1([x ; f]))[: n]      g = s tanh(alpha), times the region's mask where there is one
        x <- x + g_dense FF(LN2(x))

    x: [b, n, d]; face: f's keys and values [b, m, 2 d] of `project_face`; gates: scalars or [b or 1, n or t, 1];
    attention: softmax attention over [b, tokens, d] tensors that splits the heads itself;
    tokens: [t], the visual tokens at which a gate is open, which the others look at no matter what; None: all;
    visual: of `project_visual`, where it has been worked out already
    """
    queries, keys_values = visual or project_visual(weights, x)
    keys, values = torch.cat((keys_values, face), dim=1).chunk(2, dim=-1)
    inside, queries = (x, queries) if tokens is None else (x[:, tokens], queries[:, tokens])
    changed = weights.attn.to_out(attention(queries, keys, values))
    inside = torch.addcmul(inside, gate_attn, changed)
    inside = torch.addcmul(inside, gate_dense, weights.ff(weights.norm2(inside)))
    return inside if tokens is None else x.index_copy(1, tokens, inside)
