"""PuLID's projections, by what defines them."""

import math

import torch
from likeness.attention_patches.orthogonal_attention import make_orthogonal, project, weigh_leading


def sample(*shape) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def test_what_ortho_adds_stands_upright_on_the_text():
    """sum_n T (I - P) = 0 for every channel; a channel in which the text says nothing lets the face in whole."""
    text, image = sample(2, 12, 8), sample(2, 12, 8).flip(1)
    text[:, :, 3] = 0
    added = make_orthogonal("ortho", image, text, None, None, 2)
    assert float((text * added).sum(dim=1).abs().max()) < 1e-5
    assert torch.equal(added[:, :, 3], image[:, :, 3])
    assert float((image - added).abs().max()) > 0.1


def test_ortho_v2_lies_between_the_two_others():
    text, image, q = sample(2, 12, 8), sample(2, 12, 8).flip(1), sample(2, 12, 8) * 0.1
    keys = sample(2, 18, 8)
    keys[:, 5:] = 0
    a = weigh_leading(q, keys, 2)
    assert a.shape == (2, 12, 1) and 0 < float(a.min()) and float(a.max()) < 1
    along = project(image, text)
    assert torch.allclose(make_orthogonal("ortho_v2", image, text, q, keys, 2), image + (a - 1) * along, atol=1e-6)
    assert torch.equal(make_orthogonal("none", image, text, q, keys, 2), image)


def test_weight_on_the_first_five_by_hand():
    """Two heads one wide: softmax of q k without a scale, the mean over the heads."""
    q = torch.tensor([[[1.0, 2.0]]])
    keys = torch.zeros(1, 6, 2)
    keys[0, 0] = torch.tensor([1.0, 0.5])
    assert math.isclose(float(weigh_leading(q, keys, 2)), (math.e + 4) / (math.e + 5), rel_tol=1e-6)
