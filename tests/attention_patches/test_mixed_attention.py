"""Mixed attention and AdaIN-mean: the algebra's oracles."""

import torch
from likeness.attention_patches.mixed_attention import adain, adain_mean, mixed_keys_values


def rows(tokens, seed, batch=2, dim=12):
    return torch.randn(batch, tokens, dim, generator=torch.Generator().manual_seed(seed)) * (seed + 1) + seed


def test_adain_mean_takes_the_mean_and_keeps_the_variance():
    x, target = rows(9, 1), rows(5, 2)
    result = adain_mean(x, target)
    torch.testing.assert_close(result.mean(dim=1), target.mean(dim=1))
    torch.testing.assert_close(result.var(dim=1), x.var(dim=1))
    torch.testing.assert_close(adain_mean(result, target), result)
    heads = [adain_mean(a, b) for a, b in zip(x.split(4, dim=2), target.split(4, dim=2))]
    torch.testing.assert_close(torch.cat(heads, dim=2), result)


def test_full_adain_takes_mean_and_deviation():
    result = adain(rows(9, 1), rows(5, 2))
    torch.testing.assert_close(result.mean(dim=1), rows(5, 2).mean(dim=1))
    torch.testing.assert_close(result.std(dim=1, correction=0), rows(5, 2).std(dim=1, correction=0))


def test_doubled_keys_and_values_leave_attention_as_it_is():
    q, k, v = rows(7, 0), rows(5, 1), rows(5, 2)
    attend = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(attend(q, *mixed_keys_values(k, v, k, v)), attend(q, k, v))
