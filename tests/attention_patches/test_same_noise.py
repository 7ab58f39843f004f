"""The same noise for both halves of a batch: all ways of drawing it."""

import comfy.k_diffusion.sampling as k_diffusion
import pytest
import torch
from likeness.attention_patches.same_noise import SameNoise

WAYS = {
    "randn of numbers": lambda x: torch.randn(*x.shape),
    "randn of a list": lambda x: torch.randn(list(x.shape)),
    "randn of a size": lambda x: torch.randn(x.size(), dtype=x.dtype, device=x.device),
    "randn by name": lambda x: torch.randn(size=x.shape, generator=torch.Generator().manual_seed(3)),
    "rand": lambda x: torch.rand(x.shape),
    "randn_like": torch.randn_like,
    "rand_like": torch.rand_like,
    "normal_": lambda x: torch.empty_like(x).normal_(1.0, 2.0),
    "uniform_": lambda x: torch.empty_like(x).uniform_(),
    "default": lambda x: k_diffusion.default_noise_sampler(x, seed=3)(None, None),
    "Brownian": lambda x: k_diffusion.BrownianTreeNoiseSampler(x, torch.tensor(0.1), torch.tensor(9.0), seed=3)(
        torch.tensor(5.0), torch.tensor(2.0)
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_both_halves_have_the_noise_of_half_the_batch(way):
    torch.manual_seed(1)
    alone = [WAYS[way](torch.zeros(3, 4, 5)), torch.randn(3)]
    torch.manual_seed(1)
    with SameNoise(6):
        whole = [WAYS[way](torch.zeros(6, 4, 5)), torch.randn(3)]
    assert torch.equal(whole[0], alone[0].repeat(2, 1, 1))
    assert torch.equal(whole[1], alone[1]), "what is drawn next"


def test_other_sizes_and_what_the_model_draws_are_let_alone():
    torch.manual_seed(1)
    expected = [torch.randn(4, 2, 2), torch.randn(6, 2), torch.randn(6, 2, 2), torch.randn(())]
    torch.manual_seed(1)
    with SameNoise(6) as noise:
        found = [torch.randn(4, 2, 2), torch.randn(6, 2)]
        with noise.paused():
            found.append(torch.randn(6, 2, 2))
        found.append(torch.randn(()))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert torch.equal(*torch.randn(6, 2, 2).chunk(2))
    assert not torch.equal(*torch.randn(6, 2, 2).chunk(2))
