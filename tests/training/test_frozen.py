"""A frozen base in training predicts, and is told, exactly what it is when it samples."""

import pytest
import torch
from likeness.tests.support import tiny_frozen
from likeness.training.frozen import NoisyBatch, mean_in_mask, prediction_error, sample_noise


@pytest.fixture(scope="module")
def base():
    return tiny_frozen.frozen_base()


def noise(base, seed=4, pictures=3) -> NoisyBatch:
    return sample_noise(base, tiny_frozen.portraits().latents[:pictures], torch.Generator().manual_seed(seed))


def conditioning(base, captions):
    with torch.no_grad():
        return base.context(base.embeddings(base.tokens(captions)))


@pytest.mark.parametrize("caption", [tiny_frozen.CAPTIONS[1], "", "a man and " * 40])
def test_the_rows_are_the_hosts_conditioning(base, caption):
    rows = conditioning(base, [caption])
    host = base.clip.encode_from_tokens(base.clip.tokenize(caption))
    assert rows.shape == (1, 77, 128) and torch.allclose(rows, host[:, :77], atol=1e-5)


def test_tokens_keep_their_captions(base):
    tokens = base.tokens(["a man", "", "a man"])
    assert tokens.dtype == torch.int32 and torch.equal(tokens[0], tokens[2]) and not torch.equal(tokens[0], tokens[1])


def test_a_prediction_is_the_hosts_own(base):
    model, _ = tiny_frozen.host()
    batch, rows = noise(base), conditioning(base, tiny_frozen.CAPTIONS)
    with torch.no_grad():
        own = base.denoise(batch.z_t, batch.sigma, rows, {})
        host = model.model.apply_model(batch.z_t, batch.sigma, c_crossattn=rows, transformer_options={})
    assert own.dtype == torch.float32 and torch.allclose(own, host, atol=1e-5)


def test_nothing_of_the_base_learns_and_gradients_pass_through_it(base):
    batch = noise(base)
    embeddings = base.embeddings(base.tokens(tiny_frozen.CAPTIONS)).requires_grad_()
    base.denoise(batch.z_t, batch.sigma, base.context(embeddings), {}).square().mean().backward()
    assert embeddings.grad.abs().max() > 0
    for part in (base.model.diffusion_model, base.text):
        assert all(each.grad is None and not each.requires_grad for each in part.parameters())


@pytest.mark.parametrize("predicts", ["v", "eps"])
def test_an_error_is_that_of_what_the_model_predicts(predicts):
    """The target's own v or eps, by the host's way from a prediction to the clean latents, is the truth."""
    base = tiny_frozen.frozen_base() if predicts == "v" else tiny_frozen.predicting_eps(tiny_frozen.frozen_base())
    batch, sampling = noise(base), base.model.model_sampling
    eps = (batch.z_t - batch.z_0) / batch.sigma[:, None, None, None]
    a = 1 / (1 + batch.sigma.square())[:, None, None, None]
    truth = eps if predicts == "eps" else a.sqrt() * eps - (1 - a).sqrt() * batch.z_0
    made = torch.randn(truth.shape, generator=torch.Generator().manual_seed(5))
    denoised = sampling.calculate_denoised(batch.sigma, made, batch.z_t)
    error = prediction_error(base, denoised, batch.z_0, batch.sigma)
    assert torch.allclose(error, made - truth, atol=1e-3)


def test_noise_levels_stay_exact_whatever_the_base_computes_in():
    base, exact = tiny_frozen.frozen_base("bfloat16"), tiny_frozen.frozen_base()
    assert base.model.get_dtype_inference() == torch.bfloat16
    batch, rows = noise(base), conditioning(base, tiny_frozen.CAPTIONS)
    assert {each.dtype for each in (batch.sigma, batch.z_t, batch.z_0)} == {torch.float32}
    assert torch.equal(batch.sigma, noise(exact).sigma)
    assert torch.isin(batch.sigma, base.model.model_sampling.sigmas).all()
    with torch.no_grad(), base.autocast():
        low = base.denoise(batch.z_t, batch.sigma, rows, {})
    with torch.no_grad(), exact.autocast():
        high = exact.denoise(batch.z_t, batch.sigma, rows, {})
    assert low.dtype == torch.float32 and 0 < (low - high).norm() < 0.15 * high.norm()


def test_the_masked_mean_by_hand():
    square = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]], [[[5.0, 6.0]], [[7.0, 8.0]]]])  # 2 pictures, 2 channels, 1 x 2
    mask = torch.tensor([[[1.0, 0.0]], [[0.5, 0.0]]])
    assert mean_in_mask(square, mask) == pytest.approx((1 + 3 + 0.5 * (5 + 7)) / (2 * 1.5))
    assert mean_in_mask(square, torch.ones(2, 1, 2)) == pytest.approx(square.mean())
    assert mean_in_mask(square, torch.zeros(2, 1, 2)) == 0
