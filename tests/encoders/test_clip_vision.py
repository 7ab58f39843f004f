"""What CLIP sees, through the host's own CLIP vision model at a small size."""

import comfy.clip_vision
import pytest
import torch
from likeness.encoders.clip_vision import clip_features
from likeness.tests.support import tiny_ip
from likeness.tests.support.golden_recipe import draw

CONFIG = {
    "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 3, "hidden_act": "gelu",
    "image_size": 28, "patch_size": 14, "num_channels": 3, "projection_dim": 16, "model_type": "clip_vision_model",
}  # fmt: skip


@pytest.fixture(scope="module")
def clip_vision():
    clip = comfy.clip_vision.ClipVisionModel(CONFIG)
    clip.load_sd({name: draw(name, tuple(t.shape), 1) for name, t in clip.get_sd().items() if t.is_floating_point()})
    return clip


@pytest.fixture
def pictures():
    return torch.rand(2, 40, 30, 3, generator=torch.Generator().manual_seed(0))


def layers(clip_vision, pixels):
    """Hidden states after each layer of the host's network, [layers + 1, n, tokens, 24]."""
    vision = clip_vision.model.vision_model
    states = [vision.pre_layrnorm(vision.embeddings(pixels))]
    for layer in vision.encoder.layers:
        states.append(layer(states[-1].clone(), None, comfy.ldm.modules.attention.optimized_attention))
    return states


@pytest.mark.parametrize("kind, width", [("embeds", 16), ("penultimate", 24), ("last", 24)])
def test_features_and_their_negative(clip_vision, pictures, kind, width):
    with torch.inference_mode():
        found = clip_features(clip_vision, pictures, kind)
    tokens = () if kind == "embeds" else (5,)
    assert found.kind == kind and found.features.dtype == torch.float32
    assert found.features.shape == (2, *tokens, width) and found.negative.shape == (1, *tokens, width)


@pytest.mark.parametrize("kind, layer", [("penultimate", 2), ("last", 3)])
def test_hidden_states_before_any_norm_and_of_an_empty_picture(clip_vision, pictures, kind, layer):
    """The authors' empty picture is zeros after normalisation, which 8-bit pictures come near: within 0.5 / 255."""
    with torch.inference_mode():
        found = clip_features(clip_vision, pictures, kind)
        pixels = comfy.clip_vision.clip_preprocess(pictures, 28)
        torch.testing.assert_close(found.features, layers(clip_vision, pixels)[layer])
        zeros = layers(clip_vision, torch.zeros(1, 3, 28, 28))[layer]
        black = layers(clip_vision, comfy.clip_vision.clip_preprocess(torch.zeros(1, 28, 28, 3), 28))[layer]
    assert (found.negative - zeros).norm() < 0.02 * zeros.norm() < (black - zeros).norm()


def test_no_embedding_is_zeros(clip_vision, pictures):
    assert not clip_features(clip_vision, pictures, "embeds").negative.any()


@pytest.mark.parametrize("kind", ["ip-adapter", "plus", "faceid-plusv2", "faceid", "pulid", "infinite-id"])
def test_each_adapter_gets_what_it_reads(clip_vision, pictures, kind):
    adapter = tiny_ip.infinite_id() if kind == "infinite-id" else tiny_ip.adapter(kind)
    found = adapter.clip_input(clip_vision, pictures)
    wanted = {"faceid": None, "pulid": None}.get(kind, adapter.format.clip)
    assert (found and found.kind) == wanted
    assert adapter.clip_input(None, pictures) is None and adapter.clip_input(clip_vision, None) is None


def test_tokens_from_pictures(clip_vision, pictures):
    with torch.inference_mode():
        adapter = tiny_ip.adapter("plus")
        assert adapter.tokens(clip=adapter.clip_input(clip_vision, pictures)).shape == (2, 2 * 4, tiny_ip.DIM)
