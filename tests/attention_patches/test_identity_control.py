"""InstantID's ControlNet in the host: numbers of its authors' code, and what others of a chain read."""

import comfy.controlnet
import comfy.model_base
import comfy.model_detection
import pytest
import torch
from likeness.attention_patches.identity_control import apply_identity_control, make_identity_control
from likeness.attention_patches.ip_adapter import ImageAttentionPatch, spread_strengths
from likeness.tests.support.golden_cases import TOLERANCE, Case, error
from likeness.tests.support.golden_unets import make_image_adapter, make_unet

RESIDUALS_TOLERANCE = 5e-6  # of the largest value: they reach 34


class Steps:
    """The host's model sampling where nothing is scaled."""

    def timestep(self, t):
        return t

    def calculate_input(self, t, x):
        return x


@pytest.fixture(scope="module")
def case():
    return Case("instantid_unet_sdxl")


@pytest.fixture
def control_net(case, monkeypatch):
    """The golden ControlNet as the host loads a diffusers file, small as it is."""
    config = case.json("unet_config")
    monkeypatch.setattr(comfy.model_detection, "unet_config_from_diffusers_unet", lambda *_: dict(config))
    weights = case.weights("controlnet_shapes")
    return comfy.controlnet.load_controlnet_state_dict(weights, model_options={"dtype": torch.float32})


def tokens_of(case) -> torch.Tensor:
    return case.input["image_tokens"]


def run(control, case, chunks=(0, 1)):
    """The residuals for the golden batch, whose two rows are the two prompts."""
    control.pre_run(Model, lambda percent: 999.0 * (1 - percent))
    inputs = case.input
    cond = {"c_crossattn": inputs["context"], "y": inputs["y"]}
    options = {"cond_or_uncond": list(chunks), "original_shape": list(inputs["x"].shape)}
    return control.get_control(inputs["x"], inputs["timestep"], cond, len(chunks), options)


class Model:
    model_sampling = Steps()


def chained(control_net, case, strength, mask=None, before=None, hint=None):
    identity = make_identity_control(control_net, tokens_of(case), mask)
    entry = [[None, {"control": before} if before else {}]]
    hint = case.input["hint"].movedim(1, -1) if hint is None else hint
    (conditioning,) = apply_identity_control([entry], identity, hint, strength, (0.0, 1.0))
    return conditioning[0][1].get("control")


@torch.inference_mode()
def test_residuals(case, control_net):
    control = run(chained(control_net, case, 1.0), case)
    residuals = [*control["output"], *control["middle"]]
    expected = [case.output[f"residual.{number}"] for number in range(9)] + [case.output["residual.middle"]]
    assert len(residuals) == len(expected)
    largest = max(float(part.abs().max()) for part in expected)
    for found, wanted in zip(residuals, expected):
        assert error(found, wanted) < RESIDUALS_TOLERANCE * largest


@pytest.mark.slow
@torch.inference_mode()
def test_whole_unet(case, control_net):
    """eps with the ControlNet alone, with the adapter alone, and with both."""
    model, adapter = make_unet(case, torch.device("cpu")), make_image_adapter(case)
    keys_values = adapter.keys_values(tokens_of(case), torch.float32)
    strengths = spread_strengths(adapter.widths, float(case.metadata["scale"]))
    patched = ImageAttentionPatch(adapter, keys_values, strengths).apply(model)
    strength = float(case.metadata["controlnet_strength"])
    for which, name, with_control in (
        (model, "eps_controlnet", True), (patched, "eps_adapter", False), (patched, "eps", True)
    ):  # fmt: skip
        control = run(chained(control_net, case, strength), case) if with_control else None
        options = which.model_options["transformer_options"] | {"cond_or_uncond": [0, 1]}
        inputs = case.input
        eps = which.model.diffusion_model(
            inputs["x"], inputs["timestep"], context=inputs["context"], y=inputs["y"], control=control,
            transformer_options=options,
        )  # fmt: skip
        assert error(eps, case.output[name]) < TOLERANCE, name


@torch.inference_mode()
def test_others_of_the_chain_read_the_prompt(case, control_net, monkeypatch):
    seen = []
    network, forward = control_net.control_model, control_net.control_model.forward

    def record(*args, context, **kwargs):
        seen.append(context)
        return forward(*args, context=context, **kwargs)

    monkeypatch.setattr(network, "forward", record)
    hint = case.input["hint"]
    depth = control_net.copy().set_cond_hint(hint, 0.5)
    alone, behind = run(depth, case), run(chained(control_net, case, 0.8, before=depth), case)
    first = run(chained(control_net, case, 0.8), case)
    last = control_net.copy().set_cond_hint(hint, 0.5).set_previous_controlnet(chained(control_net, case, 0.8))
    other_way = run(last, case)
    prompt, person = case.input["context"], tokens_of(case)
    for context, wanted in zip(seen, (prompt, prompt, person, person, person, prompt)):
        assert torch.equal(context, wanted)
    for part in ("output", "middle"):
        for both, a, b, swapped in zip(*(each[part] for each in (behind, alone, first, other_way))):
            torch.testing.assert_close(both, a + b)
            torch.testing.assert_close(swapped, a + b)


@torch.inference_mode()
def test_rows_follow_their_prompt(case, control_net):
    """The order of the host's chunks does not matter, nor does how many calls it makes of them."""
    together = run(chained(control_net, case, 0.8), case)
    turned = Case("instantid_unet_sdxl")
    turned.input = {key: value.flip(0) if len(value) == 2 else value for key, value in case.input.items()}
    turned.input["image_tokens"] = tokens_of(case)
    swapped = run(chained(control_net, turned, 0.8), turned, chunks=(1, 0))
    for part in ("output", "middle"):
        for a, b in zip(together[part], swapped[part]):
            torch.testing.assert_close(a, b.flip(0), atol=1e-4, rtol=1e-5)


@torch.inference_mode()
def test_a_face_region(case, control_net):
    """White leaves the residuals, a half keeps the other half without, black is no ControlNet at all."""
    whole = run(chained(control_net, case, 0.8), case)
    white = run(chained(control_net, case, 0.8, mask=torch.ones(1, 128, 128)), case)
    half = torch.zeros(1, 128, 128)
    half[..., :64] = 1
    left = run(chained(control_net, case, 0.8, mask=half), case)
    for all_of_it, same, part in zip(*(each["output"] for each in (whole, white, left))):
        assert torch.equal(all_of_it, same)
        width = part.shape[-1]
        assert not part[..., width // 2 + 1 :].any() and part[..., : width // 2].any()
    assert chained(control_net, case, 0.8, mask=torch.zeros(1, 8, 8)) is None
    assert chained(control_net, case, 0.0) is None


def test_positive_and_negative_share_one_control(case, control_net):
    identity = make_identity_control(control_net, tokens_of(case), None)
    hint = case.input["hint"].movedim(1, -1)
    given = [[["a", {}], ["b", {}]], [["c", {}]]]
    positive, negative = apply_identity_control(given, identity, hint, 0.8, (0.1, 0.9))
    controls = {id(entry[1]["control"]) for entry in (*positive, *negative)}
    assert len(controls) == 1 and not given[0][0][1], "the conditionings given stay as they were"
    assert positive[0][1]["control"].timestep_percent_range == (0.1, 0.9)


def test_another_kind_of_control(case, control_net):
    with pytest.raises(ValueError, match=r"the one connected is a T2IAdapter. Load InstantID's ControlNetModel"):
        make_identity_control(comfy.controlnet.T2IAdapter(None, 3, 8, "nearest-exact"), tokens_of(case), None)
    with pytest.raises(ValueError, match=r"tokens are 7 wide, but the connected ControlNet reads prompts 48 wide"):
        make_identity_control(control_net, torch.zeros(2, 16, 7), None)
