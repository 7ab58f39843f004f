"""PuLID's projectors, versions 1 and 1.1, against numbers of their authors' code (every 8th channel of them)."""

import pytest
import torch
from likeness.adapters.ip_projectors import IdFormerTokens, PulidTokens
from likeness.attention_patches.ip_adapter import ImageAttentionPatch, spread_strengths
from likeness.encoders.pulid import add_zero_tokens
from likeness.tests.support.golden_cases import TOLERANCE, Case, error
from likeness.tests.support.golden_unets import make_image_adapter, make_unet

pytestmark = pytest.mark.slow  # 55 and 151 million weights are drawn


def build(network: type, case: Case, prefix: str) -> torch.nn.Module:
    weights = {key.removeprefix(prefix): value for key, value in case.weights().items()}
    projector = network(weights).eval()
    projector.load_state_dict(weights)
    return projector


@torch.inference_mode()
def test_version_1():
    case = Case("pulid_idencoder")
    projector = build(PulidTokens, case, "image_proj.")
    face, eva = case.input["face"], torch.stack([case.input[f"hidden.{index}"] for index in range(5)], dim=1)
    assert error(projector(face, eva)[..., ::8], case.output["tokens"]) < TOLERANCE
    nothing = projector(torch.zeros_like(face[:1]), torch.zeros_like(eva[:1]))
    assert error(nothing[..., ::8], case.output["negative_tokens"]) < TOLERANCE


@torch.inference_mode()
def test_version_1_1_with_one_photo_and_with_two():
    case = Case("pulid_idformer")
    projector = build(IdFormerTokens, case, "id_adapter.")
    face = case.input["face"][0]
    eva = torch.stack([case.input[f"hidden.{index}"][0].unflatten(0, (2, -1)) for index in range(5)], dim=1)
    assert error(projector(face[:1], eva[:1])[..., ::8], case.output["tokens"]) < TOLERANCE
    both = projector(face, eva)
    assert error(both[..., ::8], case.output["tokens_of_two_photos"]) < TOLERANCE
    assert error(projector(face.flip(0), eva.flip(0)), both) < TOLERANCE, "the order of the photos does not matter"
    nothing = projector(torch.zeros_like(face[:1]), torch.zeros_like(eva[:1]))
    assert error(nothing[..., ::8], case.output["negative_tokens"]) < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("mode", ["neutral", "fidelity", "style", "fidelity_v1_1"])
def test_whole_unet(mode):
    case = Case("pulid_unet_sdxl")
    settings = case.json("modes")[mode]
    model, adapter = make_unet(case, torch.device("cpu")), make_image_adapter(case)
    tokens = add_zero_tokens(case.input["image_tokens"], settings["num_zero"])
    strengths = spread_strengths(adapter.widths, float(case.metadata["scale"]))
    patch = ImageAttentionPatch(
        adapter, adapter.keys_values(tokens, torch.float32), strengths, method=settings["projection"]
    )
    patched = patch.apply(model)
    options = patched.model_options["transformer_options"] | {"cond_or_uncond": [0, 1]}
    inputs = case.input
    eps = patched.model.diffusion_model(
        inputs["x"], inputs["timestep"], context=inputs["context"], y=inputs["y"], transformer_options=options
    )
    assert error(eps, case.output[f"eps_{mode}"]) < TOLERANCE
    assert error(case.output["eps_base"], case.output[f"eps_{mode}"]) > 1e-2
