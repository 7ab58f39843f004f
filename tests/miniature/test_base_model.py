"""The miniature's base as the host's own objects, with drawn weights."""

import comfy.cli_args
import pytest
import torch
from likeness.adapters.unet_blocks import transformer_blocks
from likeness.miniature.models import base_model
from likeness.miniature.models.autoencoder import Autoencoder, AutoencoderSizes
from likeness.tests.support.tiny_miniature import WORDS, drawn, prefixed, text, unet
from safetensors.torch import save_file

import nodes


@pytest.fixture(scope="module", params=[16, 33], ids=["text-to-image", "inpainting"])
def checkpoint(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "miniature.safetensors"
    picture = prefixed(base_model.FIRST_STAGE, drawn(Autoencoder(AutoencoderSizes())))
    parts = unet(request.param) | prefixed(base_model.TEXT_ENCODER, text(2)) | picture
    save_file({name: weight.contiguous() for name, weight in parts.items()} | {base_model.TOKENS: WORDS}, path)
    return path, request.param


@torch.inference_mode()
def test_the_stock_nodes_make_a_picture(checkpoint):
    path, channels = checkpoint
    model, clip, vae = base_model.load_base(str(path))
    assert len(transformer_blocks(model.model.diffusion_model)) == 16
    positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a man", ""))
    assert positive[0][0].shape == (1, 77, base_model.TEXT["hidden_size"])
    latent = nodes.EmptyLatentImage().generate(96, 96)[0]
    if channels == 33:
        pixels = torch.rand(1, 96, 96, 3, generator=torch.Generator().manual_seed(2))
        mask = torch.zeros(1, 96, 96)
        mask[:, 24:72, 24:72] = 1
        positive, negative, latent = nodes.InpaintModelConditioning().encode(positive, negative, pixels, vae, mask)
    (result,) = nodes.common_ksampler(model, 1, 2, 3.0, "ddim", "normal", positive, negative, latent)
    assert result["samples"].shape == (1, base_model.CHANNELS, 8, 8) and result["samples"].isfinite().all()
    picture = vae.decode(result["samples"])
    assert picture.shape == (1, 96, 96, 3) and 0 <= picture.min() and picture.max() <= 1


@torch.inference_mode()
@pytest.mark.parametrize("option", ["fp8_e4m3fn_unet", "fp8_e5m2_unet", "bf16_unet"])
def test_weights_in_a_precision_that_cannot_compute_are_cast(monkeypatch, checkpoint, option):
    """As the host's own loader does where it is started with --fp8_e4m3fn-unet."""
    exact, latent = base_model.load_unet(str(checkpoint[0])), {"samples": torch.zeros(1, base_model.CHANNELS, 8, 8)}
    monkeypatch.setattr(comfy.cli_args.args, option, True)
    stored = base_model.load_unet(str(checkpoint[0]))
    assert stored.model.diffusion_model.dtype != torch.float32
    prompt = [[torch.randn(1, 77, base_model.TEXT["hidden_size"], generator=torch.Generator().manual_seed(3)), {}]]
    expected, result = (
        nodes.common_ksampler(given, 1, 2, 3.0, "euler", "normal", prompt, prompt, latent)[0]["samples"]
        for given in (exact, stored)
    )
    assert result.isfinite().all() and (result - expected).norm() < 0.5 * expected.norm()


def test_only_the_words_of_the_file_have_an_embedding(checkpoint):
    _, clip, _ = base_model.load_base(str(checkpoint[0]))
    embedding = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    assert embedding[WORDS].ne(0).all(dim=1).any() and embedding.ne(0).any(dim=1).sum() == len(WORDS)


def test_the_autoencoders_sizes_are_read_from_its_tensors():
    sizes = AutoencoderSizes(4, (16, 24), (32, 16))
    network = Autoencoder(sizes)
    assert AutoencoderSizes.of(network.state_dict()) == sizes
    latents = network.encode(torch.zeros(1, 3, 48, 48))
    assert latents.shape == (1, 4, 8, 8) and network.decode(latents).shape == (1, 3, 48, 48)
