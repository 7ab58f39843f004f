"""Infinite-ID's mixed attention and AdaIN-mean (arXiv 2403.11781): the algebra alone.

Keys and values are [rows, tokens, dim]; the subscripts are the paper's: `id` the identity stream, `t` the text stream.
"""

import torch


def adain_mean(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return AdaIN_m(x, target) = x - mu(x) + mu(target), mu being the mean over tokens of every channel.

    x: [rows, n, dim], which keeps its variance; target: [rows, m, dim]. Returns [rows, n, dim].
    """
    return x - x.mean(dim=1, keepdim=True) + target.mean(dim=1, keepdim=True)


def adain(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return x with mean and standard deviation over tokens of the target: the full AdaIN of the paper's ablation.

    x: [rows, n, dim]; target: [rows, m, dim]. Returns [rows, n, dim].
    """
    scale = target.std(dim=1, keepdim=True, correction=0) / (x.std(dim=1, keepdim=True, correction=0) + 1e-6)
    return (x - x.mean(dim=1, keepdim=True)) * scale + target.mean(dim=1, keepdim=True)


def mixed_keys_values(k_id, v_id, k_t, v_t) -> tuple[torch.Tensor, torch.Tensor]:
    """Return K^ = [K_id; K_t] and V^ = [V_id; V_t], [rows, n + m, dim] each, for the identity stream's queries."""
    return torch.cat((k_id, k_t), dim=1), torch.cat((v_id, v_t), dim=1)
