"""The networks against numbers of the authors' own code."""

import pytest
import torch
from likeness.adapters.fact import FACE_BLOCKS
from likeness.adapters.resampler import Resampler, ResamplerSizes
from likeness.attention_patches.fact import FactPatch
from likeness.encoders.transface import TransFace, TransFaceSizes
from likeness.faces.bisenet import UNUSED_KEYS, BiSeNet, BiSeNetSizes
from likeness.tests.support.golden_cases import TOLERANCE, Case, error
from likeness.tests.support.golden_unets import make_face_blocks, make_unet


@pytest.mark.slow
@torch.inference_mode()
def test_transface_tokens_and_global_embedding():
    case = Case("transface_s")
    weights = case.weights()
    network = TransFace(TransFaceSizes.of(weights)).eval()
    network.load_state_dict({key: value for key, value in weights.items() if key != "mask_token"})
    tokens = network(case.input["image"])
    assert error(tokens, case.output["local_tokens"]) < TOLERANCE
    assert error(network.global_embedding(tokens), case.output["global_embedding"]) < TOLERANCE


@torch.inference_mode()
def test_projector_tokens_and_negative_tokens():
    case = Case("fact_resampler")
    weights = {key.removeprefix("local_fac_prj."): value for key, value in case.weights().items()}
    projector = Resampler(ResamplerSizes.of(weights))
    projector.load_state_dict(weights)
    tokens = case.input["local_tokens"]
    assert error(projector(tokens), case.output["face_tokens"]) < TOLERANCE
    assert error(projector(torch.zeros_like(tokens[:1])), case.output["negative_face_tokens"]) < TOLERANCE


@torch.inference_mode()
def test_face_parsing_logits():
    case = Case("bisenet_face_parsing")
    weights = {key: value for key, value in case.weights().items() if not key.startswith(UNUSED_KEYS)}
    network = BiSeNet(BiSeNetSizes.of(weights)).eval()
    network.load_state_dict(weights)
    logits = case.output["logits"]
    assert error(network(case.input["image"]), logits) < TOLERANCE * float(logits.std())
    pair = case.input["image"].expand(2, -1, -1, -1)
    assert error(network.train()(pair)[:1], logits) > 0.1 * float(logits.std()), "batch norms in training mode show"


@pytest.fixture(scope="module")
def fact_unet():
    """The host's UNet and the 16 sites of the golden case, each in a real ModelPatcher."""
    case, cpu = Case("fact_unet"), torch.device("cpu")
    return case, make_unet(case, cpu), make_face_blocks(case, cpu)


@torch.inference_mode()
def eps(case, model):
    options = model.model_options["transformer_options"] | {"cond_or_uncond": [0]}
    inputs = case.input
    return model.model.diffusion_model(
        inputs["x"], inputs["timestep"], context=inputs["context"], transformer_options=options
    )


def test_host_unet_without_adapter(fact_unet):
    case, model, _ = fact_unet
    assert error(eps(case, model), case.output["eps_base"]) < TOLERANCE


@pytest.mark.parametrize(
    "tokens, strength, expected",
    [
        ("face_tokens", 1.0, "eps_scale1"),
        ("face_tokens", 0.5, "eps_scale05"),
        ("face_tokens_two_images", 0.7, "eps_two_images_scale07"),
    ],
)
def test_sfags_in_the_host_unet(fact_unet, tokens, strength, expected):
    case, model, sites = fact_unet
    blocks = [site.block for site in FACE_BLOCKS]
    pictures = []
    for face in case.input[tokens]:  # the golden batch holds two identities; a patch holds (cond, uncond) of one
        patch = FactPatch(sites, blocks, face.expand(2, -1, -1), strength)
        pictures.append(eps(case, patch.apply(model))[len(pictures)])
    assert error(torch.stack(pictures), case.output[expected]) < TOLERANCE
    assert error(case.output["eps_base"], case.output[expected]) > 1e-2
