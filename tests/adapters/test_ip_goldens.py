"""Image adapters against numbers of their authors' code: nine projectors, and whole UNets with and without LoRA."""

import pytest
import torch
from likeness.adapters.ip_adapter import recognise
from likeness.adapters.unet_blocks import BLOCKS, number_attentions
from likeness.attention_patches.ip_adapter import ImageAttentionPatch, spread_strengths
from likeness.tests.support.golden_cases import TOLERANCE, Case, error
from likeness.tests.support.golden_unets import make_image_adapter, make_unet

pytestmark = pytest.mark.slow

PROJECTORS = {
    "sd15": "ip-adapter",
    "plus_face_sd15": "plus",
    "plus_face_sdxl": "plus",
    "faceid_sd15": "faceid",
    "faceid_sdxl": "faceid",
    "faceid_plus_sd15": "faceid-plus",
    "faceid_plusv2_sd15": "faceid-plusv2",
    "faceid_plusv2_sdxl": "faceid-plusv2",
    "instantid": "instantid",
}


SLOW = {"faceid_plusv2_sdxl", "plus_face_sdxl"}  # 200 and 80 million weights are drawn


@torch.inference_mode()
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in PROJECTORS]
)
def test_projectors(name):
    """Recognised by the tensors; the one pair without a difference by the file's name."""
    case = Case(f"ip_image_proj_{name}")
    weights = {key.removeprefix("image_proj."): value for key, value in case.weights().items()}
    found = recognise(case.weights() | {"ip_adapter.1.to_k_ip.weight": torch.zeros(1)}, f"ip-adapter-{name}.bin")
    assert found.name == PROJECTORS[name]
    projector = found.projector(weights)
    projector.load_state_dict(weights)
    settings = {key: value for key, value in case.json("kwargs").items() if key != "shortcut"}
    tokens = projector(*(case.input[key] for key in sorted(case.input)), **settings)
    assert error(tokens, case.output["tokens"]) < TOLERANCE


@torch.inference_mode()
def eps(case: Case, model) -> torch.Tensor:
    """The golden batch as two conditional chunks."""
    inputs = case.input
    options = model.model_options["transformer_options"] | {"cond_or_uncond": [0, 1]}
    model.patch_model(torch.device("cpu"))
    try:
        return model.model.diffusion_model(
            inputs["x"],
            inputs["timestep"],
            context=inputs["context"],
            y=inputs.get("y"),
            transformer_options=options,
        )
    finally:
        model.unpatch_model(torch.device("cpu"))


@pytest.mark.parametrize("name", ["sd15_plain", "sdxl_plain", "sd15_faceid_lora", "sdxl_faceid_lora"])
def test_image_cross_attention_in_the_host_unet(name):
    case = Case(f"ip_unet_{name}")
    model, adapter = make_unet(case, torch.device("cpu")), make_image_adapter(case)
    assert adapter.base == {"sd15": "SD1.5", "sdxl": "SDXL"}[name.split("_")[0]]
    assert error(eps(case, model), case.output["eps_base"]) < TOLERANCE

    with torch.inference_mode():
        keys_values = adapter.keys_values(case.input["image_tokens"], torch.float32)  # of each picture of the batch
    strengths = spread_strengths(adapter.widths, float(case.metadata["scale"]))
    patched = ImageAttentionPatch(adapter, keys_values, strengths).apply(model)
    if "lora" in name:
        assert patched.add_patches(adapter.lora, float(case.metadata["lora_scale"]))
    assert error(eps(case, patched), case.output["eps"]) < TOLERANCE
    assert error(case.output["eps"], case.output["eps_base"]) > 1e-2


def test_published_numbers():
    """The order of the published layers: down, up, middle; 16 and 70 of them (docs/papers.md 4.3)."""
    sd15, sdxl = number_attentions("SD1.5"), number_attentions("SDXL")
    assert (len(sd15), len(sdxl)) == (16, 70) == (len(set(BLOCKS["SD1.5"])), len(set(BLOCKS["SDXL"])))
    assert [sd15[n] for n in (1, 11, 13, 29, 31)] == [
        ("input", 1, 0), ("input", 8, 0), ("output", 3, 0), ("output", 11, 0), ("middle", 0, 0),
    ]  # fmt: skip
    assert [sdxl[n] for n in (1, 7, 9, 47, 49, 107, 109, 119, 121, 139)] == [
        ("input", 4, 0), ("input", 5, 1), ("input", 7, 0), ("input", 8, 9), ("output", 0, 0), ("output", 2, 9),
        ("output", 3, 0), ("output", 5, 1), ("middle", 0, 0), ("middle", 0, 9),
    ]  # fmt: skip
