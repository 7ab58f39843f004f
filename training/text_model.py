"""The host's CLIP text model in training: its rows, differentiable, and the words that stand for a person."""

import torch
from comfy.ldm.modules.attention import optimized_attention_for_device
from torch import nn

NAME = "f l"  # the two words that stand for a person, as in Face2Diffusion's prompts


def layers_of(encoder: nn.Module, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return x [b, n, d] after the blocks of one of the host's CLIP encoders, without its in-place additions, which
    autograd cannot use.
    """
    attention = optimized_attention_for_device(x.device, mask=mask is not None, small_input=True)
    for layer in encoder.layers:
        x = x + layer.self_attn(layer.layer_norm1(x), mask, attention)
        x = x + layer.mlp(layer.layer_norm2(x))
    return x


def text_rows(text: nn.Module, embeddings: torch.Tensor) -> torch.Tensor:
    """Return the rows [b, n, d] of the host's CLIP text model for word embeddings with positions [b, n, d]."""
    n = embeddings.shape[1]
    causal = embeddings.new_full((n, n), -torch.finfo(embeddings.dtype).max).triu(1)
    return text.final_layer_norm(layers_of(text.encoder, embeddings, causal))
