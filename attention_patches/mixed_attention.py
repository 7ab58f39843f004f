"""Infinite-ID's mixed attention and AdaIN-mean (arXiv 2403.11781): the algebra alone.

Keys and values are [rows, tokens, dim]; the subscripts are the paper's: `id` the identity stream, `t` the text stream.
"""

import torch


def adain_mean(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """AdaIN_m(x, target) = x - mu(x) + mu(target), with mu the mean over tokens of every channel; x keeps its variance.

    x: [rows, n, dim]; target: [rows, m, dim]. Returns [rows, n, dim].
    """
    return x - x.mean(dim=1, keepdim=True) + target.mean(dim=1, keepdim=True)


def adain(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The full AdaIN of the paper's ablation: mean and standard deviation over tokens become the target's."""
    scale = target.std(dim=1, keepdim=True, correction=0) / (x.std(dim=1, keepdim=True, correction=0) + 1e-6)
    return (x - x.mean(dim=1, keepdim=True)) * scale + target.mean(dim=1, keepdim=True)


def mixed_keys_values(k_id, v_id, k_t, v_t) -> tuple[torch.Tensor, torch.Tensor]:
    """K^ = [K_id; K_t] and V^ = [V_id; V_t], what the identity stream's queries attend to: [rows, n + m, dim] each."""
    return torch.cat((k_id, k_t), dim=1), torch.cat((v_id, v_t), dim=1)
