"""Eq. 2 on the host's real UNet: what it is made of, what it moves, and that it does what the paper says it does."""

import contextlib

import comfy.model_base
import comfy.model_management
import pytest
import torch
from likeness.adapters.facea import ATTRIBUTES, REGIONS, FaceaIdentity, apply_lora
from likeness.tests.support import tiny_facea
from likeness.training import loop
from likeness.training.facea import add_noise, eps_theta, facea_loss, step_loss
from likeness.training.inpainting import Inpainting
from likeness.training.lora import lower, make_lora, state_dict


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_loss_is_the_sum_of_plain_errors():
    eps, face, attribute = (tiny_facea.drawn(2, 4, 3, 3, seed=seed) for seed in range(3))
    expected = ((face - eps) ** 2).mean() + ((attribute - eps) ** 2).mean()
    assert torch.allclose(facea_loss(eps, face, attribute), expected)
    assert torch.allclose(facea_loss(eps, face), ((face - eps) ** 2).mean())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_before_the_first_step_it_is_the_base_models(checkpointing):
    model, data = tiny_facea.loaded_model(), tiny_facea.data()
    learned = tiny_facea.learned(model)
    seen = {}
    with tiny_facea.training(model, learned, checkpointing) as unet:
        seen["trained"] = step_loss(unet, learned, data, generator(), 3).detach()
        with torch.no_grad():
            for branch in learned.lora.values():
                branch.up.normal_(generator=generator(1))
            seen["moved"] = step_loss(unet, learned, data, generator(), 3)
    with torch.no_grad():  # outside of the training nothing stands beside the layers
        seen["base"] = step_loss(model.model, learned, data, generator(), 3)
    assert torch.equal(seen["trained"], seen["base"]) and not torch.equal(seen["moved"], seen["base"])


@pytest.mark.parametrize("stopped", [False, True])
def test_training_leaves_the_host_as_it_was(stopped):
    model = tiny_facea.loaded_model()

    def forwards():
        return {name: layer.forward for name, layer in model.model.named_modules()}

    before, learned = forwards(), tiny_facea.learned(model)
    with contextlib.suppress(KeyboardInterrupt), tiny_facea.training(model, learned, checkpointing=True):
        assert comfy.model_management.in_training and forwards() != before
        if stopped:
            raise KeyboardInterrupt
    assert not comfy.model_management.in_training and forwards() == before


def gradients(checkpointing=False, **options):
    model, data = tiny_facea.loaded_model(), tiny_facea.data()
    learned = tiny_facea.learned(model)
    with tiny_facea.training(model, learned, checkpointing) as unet:
        step_loss(unet, learned, data, generator(), 4, **options).backward()
    assert all(weight.grad is None for weight in model.model.parameters()), "the base model does not learn"
    features = {region: each.grad for region, each in learned.features.items()}
    return features, {layer: (branch.up.grad, branch.down.grad) for layer, branch in learned.lora.items()}


@pytest.mark.slow
def test_only_the_drawn_features_and_the_lora_learn():
    features, lora = gradients(attributes=("nose",))
    assert {region for region, grad in features.items() if grad is not None} == {"face", "nose"}
    assert all(features[region].abs().amax(dim=1).min() > 0 for region in ("face", "nose")), "each of the rows"
    assert all(up.abs().sum() > 0 for up, _ in lora.values())
    assert all((down == 0).all() for _, down in lora.values()), "as long as the ups are zero"
    assert len(lora) == 16 * 8, "q, k, v and out of both attentions of SD1.5's sixteen blocks"
    features, _ = gradients(attributes=("mouth",), with_face=False)
    assert {region for region, grad in features.items() if grad is not None} == {"mouth"}, "attribute transfer"


@pytest.mark.slow
def test_checkpointing_gives_the_same_gradients():
    plain, again = gradients(), gradients(checkpointing=True)
    for region, grad in plain[0].items():
        assert grad is again[0][region] is None or torch.allclose(grad, again[0][region], atol=1e-7)
    assert all(torch.allclose(up, again[1][layer][0], atol=1e-6) for layer, (up, _) in plain[1].items())


def test_a_step_holds_every_photos_global_term_and_one_local_one():
    """What the UNet receives: each photo twice with one noise, under its two masks and prompts; never mirrored."""
    model, data = tiny_facea.loaded_model(), tiny_facea.data()
    learned = tiny_facea.learned(model)
    contexts = {region: learned.context([region])[0].detach() for region in REGIONS}
    drawn, photos = set(), set()
    with tiny_facea.unet_inputs(model.model) as seen, tiny_facea.training(model, learned) as unet, torch.no_grad():
        for seed in range(6):
            step_loss(unet, learned, data, generator(seed), 4)
    for x, t, context in seen:
        assert len(x) == 8 and torch.equal(x[:4, :4], x[4:, :4]) and torch.equal(t[:4], t[4:])
        for row in range(4):
            assert torch.equal(context[row], contexts["face"])
            (v,) = (each for each in ATTRIBUTES if torch.equal(context[4 + row], contexts[each]))
            (photo,) = (i for i in range(3) if torch.equal(x[row, 4:], data.conditions["face"][i]))
            assert torch.equal(x[4 + row, 4:], data.conditions[v][photo])
            drawn.add(v)
            photos.add(photo)
    assert drawn == set(ATTRIBUTES) and photos == {0, 1, 2}
    assert any(len({v.numpy().tobytes() for v in context[4:]}) > 1 for *_, context in seen), "each photo draws its own"


def test_photos_are_never_mirrored():
    model = tiny_facea.loaded_model()
    data = tiny_facea.data()
    loud = Inpainting(data.latents * 1e6, data.conditions)  # beside which the noise is nothing
    learned = tiny_facea.learned(model)
    with tiny_facea.unet_inputs(model.model) as seen, torch.no_grad():
        for seed in range(4):
            step_loss(model.model, learned, loud, generator(seed), 4)
    for x, *_ in seen:
        for row in x[:, :4] / x[:, :4].flatten(1).norm(dim=1)[:, None, None, None]:
            assert any(torch.allclose(row, each / each.norm(), atol=1e-4) for each in data.latents)


def test_what_is_trained_is_what_the_host_applies():
    """The branch beside the layers, and the LoRA in them, with an alpha that is not the rank."""
    model, data = tiny_facea.loaded_model(), tiny_facea.data()
    lora = make_lora(model, 4, 3)
    lora = {key: torch.tensor(2.0) if key.endswith("alpha") else value for key, value in lora.items()}
    learned = tiny_facea.learned(model, lora=lora)
    with torch.no_grad():
        for branch in learned.lora.values():
            branch.up.normal_(std=0.1, generator=generator(1))
    with tiny_facea.training(model, learned) as unet, torch.no_grad():
        trained = step_loss(unet, learned, data, generator(), 3)
    features = {region: each.detach() for region, each in learned.features.items()}
    identity = FaceaIdentity(state_dict(learned.lora), features, "output", "man", "", "", {})
    patched = apply_lora(model, identity, 1.0)
    comfy.model_management.load_models_gpu([patched])
    with torch.no_grad():
        applied = step_loss(patched.model, learned, data, generator(), 3)
    comfy.model_management.unload_all_models()
    with torch.no_grad():
        plain = step_loss(model.model, learned, data, generator(), 3)
    assert applied.item() == pytest.approx(trained.item(), rel=1e-4) and abs(plain - trained) > 1e-3


def test_the_noise_is_the_hosts():
    model = tiny_facea.loaded_model().model
    z_0, eps = tiny_facea.drawn(2, 4, 8, 8), tiny_facea.drawn(2, 4, 8, 8, seed=1)
    t = torch.tensor([100, 900])
    sigma = model.model_sampling.sigmas[t]
    x = model.model_sampling.calculate_input(sigma, add_noise(model, z_0, sigma, eps))
    kept = (1 / (1 + sigma**2))[:, None, None, None]  # the diffusion's alpha bar
    assert torch.allclose(x, kept.sqrt() * z_0 + (1 - kept).sqrt() * eps, atol=1e-5)
    assert torch.equal(model.model_sampling.timestep(sigma), t)


def test_a_base_that_predicts_v():
    model = tiny_facea.loaded_model().model
    model.model_sampling = comfy.model_base.model_sampling(model.model_config, comfy.model_base.ModelType.V_PREDICTION)
    outputs = []
    handle = model.diffusion_model.register_forward_hook(lambda module, args, output: outputs.append(output))
    z_t, condition = tiny_facea.drawn(2, 4, 8, 8) * 3, tiny_facea.drawn(2, 5, 8, 8, seed=1)
    sigma = model.model_sampling.sigmas[torch.tensor([300, 700])]
    eps = eps_theta(model, z_t, sigma, condition, tiny_facea.drawn(2, 77, 48))
    handle.remove()
    scale = (1 / (1 + sigma**2)).sqrt()[:, None, None, None]
    expected = scale * outputs[0] + sigma[:, None, None, None] * scale * (z_t * scale)
    assert torch.allclose(eps, expected, atol=1e-4)


@pytest.mark.slow
def test_less_precision_keeps_what_is_learned_in_float32():
    model, data = tiny_facea.loaded_model(), tiny_facea.data()
    model.set_model_compute_dtype(torch.bfloat16)
    learned = tiny_facea.learned(model)
    with tiny_facea.unet_inputs(model.model) as seen, tiny_facea.training(model, learned) as unet:
        loss = step_loss(unet, learned, data, generator(), 2)
        loss.backward()
        exact = step_loss(tiny_facea.loaded_model().model, learned, data, generator(), 2)
    assert seen[0][0].dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(branch.up.grad.dtype == torch.float32 for branch in learned.lora.values())


def test_one_cast_serves_all_layers():
    """Parameters and gradients are those of a cast for each layer, and lie side by side."""
    model = tiny_facea.loaded_model()
    branches = dict(list(tiny_facea.learned(model).lora.items())[:2])
    first, second = branches.values()
    x, wide = torch.randn(3, 5, first.down.shape[1], dtype=torch.bfloat16), (3, 5, first.up.shape[0])
    with torch.no_grad():
        first.up.normal_(generator=generator(1))
    lower(branches, torch.bfloat16)
    assert first.lowered[0].untyped_storage().data_ptr() == second.lowered[1].untyped_storage().data_ptr()
    seen = first.bypass_forward(lambda x: x.new_zeros(wide), x)
    expected = x @ first.down.to(x).T @ first.up.to(x).T * (first.alpha / len(first.down))
    torch.testing.assert_close(seen, expected)
    got, wanted = (torch.autograd.grad(y.sum(), (first.up, first.down)) for y in (seen, expected))
    torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02)
    assert {grad.dtype for grad in got} == {torch.float32}
    lower(branches, torch.float32)
    assert first.lowered == (first.up, first.down)


def test_a_lora_goes_on_where_it_stood():
    model = tiny_facea.loaded_model()
    learned = tiny_facea.learned(model)
    with torch.no_grad():
        for branch in learned.lora.values():
            branch.up.normal_(generator=generator(1))
    saved = state_dict(learned.lora)
    again = tiny_facea.learned(model, lora=saved)
    assert state_dict(again.lora).keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in state_dict(again.lora).items())


# The paper's claim, in small: 100 steps on three photos


def region_losses(model, learned, data, unet) -> dict[str, float]:
    """The error within each region under its own mask and prompt, at noise that no training saw."""
    losses = {}
    sigmas = unet.model_sampling.sigmas
    with torch.no_grad():
        for region in REGIONS:
            area, errors = tiny_facea.mask(region), []
            for seed in range(8):
                eps = tiny_facea.drawn(len(data.latents), 4, *area.shape, seed=9000 + seed)
                sigma = sigmas[torch.full((len(eps),), 100 + 110 * seed)]
                z_t = add_noise(unet, data.latents, sigma, eps)
                context = learned.context([region] * len(eps))
                predicted = eps_theta(unet, z_t, sigma, data.conditions[region], context)
                errors.append(((predicted - eps) ** 2 * area).sum() / (area.sum() * 4 * len(eps)))
            losses[region] = torch.stack(errors).mean().item()
    return losses


def trained_losses(steps, attributes) -> dict[str, float]:
    model, data = tiny_facea.loaded_model(), tiny_facea.data()
    learned = tiny_facea.learned(model, rank=8)
    groups = [
        loop.Group({f"{k}.{n}": p for k, b in learned.lora.items() for n, p in b.named_parameters()}, 4e-3),
        loop.Group(dict(learned.features), 2e-2),
    ]
    with tiny_facea.training(model, learned) as unet:
        loop.train(
            groups,
            lambda g, step: step_loss(unet, learned, data, g, 2, attributes),
            loop.TrainingSettings(steps=steps),
            torch.device("cpu"),
        )
        return region_losses(model, learned, data, unet)


@pytest.mark.slow
def test_a_hundred_steps_lower_the_masked_losses_and_local_terms_their_own():
    before = trained_losses(0, ())
    both, face_only = trained_losses(100, ATTRIBUTES), trained_losses(100, ())
    assert all(both[region] < before[region] / 1.6 for region in REGIONS), (before, both)
    assert all(both[v] < 0.95 * face_only[v] for v in ATTRIBUTES), (both, face_only)
