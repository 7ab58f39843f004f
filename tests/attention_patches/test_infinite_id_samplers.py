"""Infinite-ID's two streams under every sampler that the host offers, by name and by node."""

import comfy.samplers
import pytest
import torch
from likeness.attention_patches.infinite_id import apply_infinite_id
from likeness.tests.support import tiny

import nodes

pytestmark = pytest.mark.slow

ROUNDING = 2e-5
COARSE = {"rtol": 1.0, "atol": 1.0}  # or adaptive steps become many
NOISY = [
    ("euler", {"s_churn": 1.0}), ("heun", {"s_churn": 1.0}), ("dpm_2", {"s_churn": 1.0}), ("heunpp2", {"s_churn": 1.0}),
    ("dpm_adaptive", {"eta": 1.0, **COARSE}), ("euler_ancestral", {"eta": 0.3}),
    ("dpmpp_2m_sde", {"solver_type": "heun"}), ("lcm", {"s_noise": 0.0}),
]  # fmt: skip


def difference(a, b) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


@pytest.fixture(scope="module")
def models():
    base = tiny.model()
    return base, apply_infinite_id(base)


@torch.inference_mode()
def sample(model, sampler, steps=3):
    """Two images, half of each painted anew: ddim has noise of its own for the rest."""
    start, kept = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6))
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, ..., 4:], mask[1, :, 2:] = 1, 1
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny.conditioning(3), tiny.conditioning(4))
    guider.set_cfg(3.0)
    torch.manual_seed(7)  # as the host's node does when it draws the start
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    return guider.sample(start, kept, sampler, sigmas, mask, disable_pbar=True, seed=7)


@pytest.mark.parametrize("name", comfy.samplers.SAMPLER_NAMES)
def test_two_equal_streams_are_the_stock_pictures(models, name):
    """Bit-equal noise for both streams, and the noise that the pictures have without a second stream."""
    base, mixed = models
    sampler = comfy.samplers.sampler_object(name)
    sampler.extra_options = sampler.extra_options | (COARSE if name == "dpm_adaptive" else {})
    stock = sample(base, sampler)
    assert difference(sample(mixed, sampler), stock) < ROUNDING


@pytest.mark.parametrize("name, options", NOISY, ids=str)
def test_so_they_are_with_options_that_add_noise(models, name, options):
    base, mixed = models
    sampler = comfy.samplers.ksampler(name, dict(options))
    stock = sample(base, sampler)
    assert difference(sample(mixed, sampler), stock) < ROUNDING
    assert sampler.extra_options == options, "the sampler is the user's"


def test_so_they_are_with_every_node_that_makes_a_sampler(models, executor):
    """From the host's registry; those that sample no SD1.5 at all fail on the bare model, too."""
    base, mixed = models
    tried = {}
    for name, node in nodes.NODE_CLASS_MAPPINGS.items():
        if list(getattr(node, "RETURN_TYPES", ())) != ["SAMPLER"]:
            continue
        sampler = make(node, model=base, scale_ratio=1.5, eta=1.0, **COARSE)
        try:
            stock = sample(base, sampler)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            continue
        tried[name] = difference(sample(mixed, sampler), stock)
    assert {"SamplerDPMAdaptative", "SamplerER_SDE", "SamplerSASolver", "KSamplerSelect"} <= set(tried)
    assert {name: found for name, found in tried.items() if not found < ROUNDING} == {}


def make(node, **settings):
    """What a node makes of its default values and of those settings that it knows."""
    values = {}
    for group in node.INPUT_TYPES().values():
        for name, (kind, *options) in group.items():
            options = options[0] if options else {}
            choices = kind if isinstance(kind, list) else options.get("options", [None])
            values[name] = settings.get(name, options.get("default", choices[0]))
    if hasattr(node, "EXECUTE_NORMALIZED"):
        return node.EXECUTE_NORMALIZED(**values).args[0]
    return getattr(node(), node.FUNCTION)(**values)[0]
