"""FACT's training: the paper's losses by their oracles, and an adapter that draws as it learned to."""

from dataclasses import replace

import pytest
import torch
from likeness.adapters.fact import FactAdapter
from likeness.attention_patches.fact import apply_fact
from likeness.encoders.identity import FaceId
from likeness.tests.support import tiny_frozen
from likeness.training import fact
from likeness.training.fact import (
    DENOMINATORS,
    FaceBlockPatch,
    Fact,
    FactSettings,
    fair,
    shuffle_share,
    step_loss,
)
from likeness.training.frozen import mean_in_mask, prediction_error, sample_noise

TINY = {"steps": 3, "batch": 2, "queries": 3, "dim": 64, "depth": 1, "precision": "float32"}


@pytest.fixture(scope="module")
def base():
    return tiny_frozen.frozen_base()


@pytest.fixture(scope="module")
def portraits():
    return tiny_frozen.portraits(transface=(9, 24))


def opened(adapter: Fact) -> Fact:
    """The same with its gates open, every one another way."""
    for number, site in enumerate(adapter.sites):
        site.alpha_attn.data.fill_(0.5 + 0.05 * number)
        site.alpha_dense.data.fill_(0.3 - 0.02 * number)
    return adapter


def fresh(base, seed=1, **settings) -> Fact:
    torch.manual_seed(seed)
    return Fact(base, 24, FactSettings(**TINY | settings))


def loss_of(base, adapter, portraits, settings, step=0, seed=2):
    return step_loss(base, adapter, portraits, settings, step, torch.Generator().manual_seed(seed))


def tokens_of(seed: int, pictures=2) -> torch.Tensor:
    return torch.randn(pictures, 6, 4, generator=torch.Generator().manual_seed(seed))


HALF = torch.tensor([[1.0, 1.0, 0.9, 0.5, 0.2, 0.0]] * 2)  # M is 1 1 1 0 0 0


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_no_increment_outside_the_face_costs_nothing(denominator):
    x = tokens_of(1)
    assert fair(torch.zeros_like(x), x, HALF, denominator) == 0
    assert fair(tokens_of(2) * (HALF > 0.5)[..., None], x, HALF, denominator) == 0


def test_fair_by_hand_and_in_proportion():
    increment, x = tokens_of(2), tokens_of(1)
    norm = torch.linalg.vector_norm
    by_hand = [norm(increment[i, 3:]) / norm(x[i, 3:]) for i in range(2)]
    assert torch.allclose(fair(increment, x, HALF), sum(by_hand) / 2)
    assert torch.allclose(fair(3 * increment, x, HALF), 3 * fair(increment, x, HALF))
    shares = [norm(increment[i, 3:]) / norm(increment[i]) for i in range(2)]
    for scale in (1, 3):
        assert torch.allclose(fair(scale * increment, x, HALF, "increment"), sum(shares) / 2)


def test_a_picture_that_is_all_face_does_not_count():
    increment, x = tokens_of(2), tokens_of(1)
    mask = torch.stack((HALF[0], torch.ones(6)))
    assert torch.allclose(fair(increment, x, mask), fair(increment[:1], x[:1], HALF[:1]))
    assert fair(increment, x, torch.ones(2, 6)) == 0


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_the_gradient_is_finite_where_there_is_no_increment(denominator):
    increment = torch.zeros(2, 6, 4, requires_grad=True)
    fair(increment, tokens_of(1), HALF, denominator).backward()
    assert increment.grad.isfinite().all()


def test_closed_gates_are_the_base_and_only_they_can_open(base, portraits):
    settings = FactSettings(**TINY, caption_drop=0.0)
    adapter = fresh(base)
    loss = loss_of(base, adapter, portraits, settings)
    loss.backward()
    for name, each in adapter.named_parameters():
        reached = each.grad is not None and each.grad.abs().max() > 0
        assert reached == ("alpha_" in name), name
    assert all(each.grad is None for each in base.model.diffusion_model.parameters())
    assert loss.item() == pytest.approx(plain_loss(base, portraits, settings), rel=1e-5)


def plain_loss(base, portraits, settings, seed=2) -> float:
    """The masked loss of the base alone, of the batch that a step draws."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(portraits), (settings.batch,), generator=generator)
    torch.rand(settings.batch, generator=generator)
    fact.others(portraits, drawn, generator)
    for _ in ("drop", "caption_drop"):
        torch.rand(settings.batch, generator=generator)
    batch = sample_noise(base, portraits.latents[drawn], generator)
    context = base.context(base.embeddings(base.tokens([portraits.captions[i] for i in drawn])))
    with torch.no_grad():
        denoised = base.denoise(batch.z_t, batch.sigma, context, {})
    square = prediction_error(base, denoised, batch.z_0, batch.sigma).square()
    return mean_in_mask(square, portraits.faces[drawn].float()).item()


def test_outside_of_the_face_counts_as_much_as_is_asked_for(base, portraits):
    losses = [
        loss_of(base, fresh(base), portraits, FactSettings(**TINY, outside=outside)).item() for outside in (0, 0.5, 1)
    ]
    inside, outside = losses[0], 2 * losses[2] - losses[0]  # there are as many latents outside as inside
    assert losses[1] == pytest.approx((inside + 0.5 * outside) / 1.5, rel=1e-5)


@pytest.mark.parametrize("cfg_face", [True, False])
def test_an_adapter_in_use_is_the_one_in_training(base, portraits, cfg_face):
    """Strength 1, a cond and an uncond row in one call: the uncond row sees no face, or the same."""
    adapter = opened(fresh(base))
    features = portraits.features["transface"][:1].float()
    other = torch.zeros_like(features) if cfg_face else features
    batch = sample_noise(base, portraits.latents[:2], torch.Generator().manual_seed(3))
    context = base.context(base.embeddings(base.tokens(portraits.captions[:2])))
    with torch.inference_mode():
        site = FaceBlockPatch(
            adapter.by_block, adapter.projector(torch.cat((features, other))), portraits.faces[:2].float(), "outside"
        )
        trained = base.denoise(batch.z_t, batch.sigma, context, {"patches": {"middle_patch": [site]}})
        plain = base.denoise(batch.z_t, batch.sigma, context, {})
        used = in_use(adapter, features, cfg_face, batch, context)
    assert len(site.fair) == 16 and (trained - plain).norm() > 0.05 * plain.norm()
    assert torch.allclose(used, trained, atol=1e-4)


def in_use(adapter, features, cfg_face, batch, context):
    model, _ = tiny_frozen.host()
    face = FaceId("transface", "tiny", "0" * 64, features, features.mean(dim=1), torch.zeros(1, 8, 8, 3), True)
    loaded = FactAdapter({name: each.clone() for name, each in adapter.state().items()}, "tiny.safetensors")
    patched = apply_fact(model, loaded, face, strength=1.0, cfg_face=cfg_face)
    options = patched.model_options["transformer_options"] | {"cond_or_uncond": [0, 1]}
    return patched.model.apply_model(batch.z_t, batch.sigma, c_crossattn=context, transformer_options=options)


def test_a_dropped_face_is_zeros_before_the_projector(base, portraits):
    adapter, seen = opened(fresh(base)), []
    adapter.projector.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    for drop in (1.0, 0.0):
        loss_of(base, adapter, portraits, FactSettings(**TINY, drop=drop))
    assert seen[0].eq(0).all() and seen[1].ne(0).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_shuffled_face_is_of_another_photo_of_the_same_person(base, portraits, share):
    adapter, seen = fresh(base), []
    adapter.projector.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    settings = FactSettings(**TINY | {"batch": 16}, shuffle=(share, share), drop=0.0)
    loss_of(base, adapter, portraits, settings, seed=3)
    drawn = torch.randint(len(portraits), (16,), generator=torch.Generator().manual_seed(3))
    features = portraits.features["transface"].float()
    shown = [int((features == each).flatten(1).all(dim=1).nonzero()) for each in seen[0]]
    assert portraits.people[shown].tolist() == portraits.people[drawn].tolist()
    several = portraits.shelves.counts[portraits.shelves.person[drawn]] > 1
    assert ((torch.tensor(shown) != drawn) == (several if share else torch.zeros(16, dtype=bool))).all()


def test_the_curriculum_rises_evenly():
    settings = FactSettings(steps=100)
    assert [round(shuffle_share(settings, step), 6) for step in (0, 25, 50, 100)] == [0.2, 0.3, 0.4, 0.6]


def test_an_unknown_denominator_is_refused(base, portraits):
    with pytest.raises(ValueError, match="'inside' is no denominator of FACT's L_FAIR; choose one of outside, inc"):
        tiny_frozen.train(fact, base, (portraits,), FactSettings(**TINY, denominator="inside"))


def test_a_training_goes_on_as_if_never_stopped(base, portraits, tmp_path):
    settings = FactSettings(**TINY, lr=1e-2, gates=10.0, shuffle=(0.3, 0.3))
    whole, progress = tiny_frozen.train(fact, base, (portraits,), settings)
    for until in (replace(settings, steps=1), settings):
        resumed, again = tiny_frozen.train(fact, base, (portraits,), until, tmp_path / "fact.pt")
    assert again.resumed_at == 1 and again.losses == progress.losses
    assert all(torch.equal(each, whole.state()[name]) for name, each in resumed.state().items())
    assert max(site.alpha_attn.abs() for site in whole.sites) > 0.05  # the gates' own rate
