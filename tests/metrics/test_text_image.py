"""CLIP and SigLIP by transformers' own pipeline on the same tiny weights."""

import json
import logging
from pathlib import Path

import comfy.sd1_clip
import pytest
import torch
import transformers
from likeness.metrics.crops import to_bytes
from likeness.metrics.text_image import load_text_image
from likeness.tests.support import tiny_text_image
from torch.nn.functional import normalize

IMAGES = torch.rand(3, 96, 61, 3, generator=torch.Generator().manual_seed(4))
TEXTS = ["a photo of a Woman, (smiling:1.4)!", "a man"]
TOKENIZER = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_text_image.make_clip(tmp_path_factory.mktemp("clip-tiny"))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return tiny_text_image.make_siglip(tmp_path_factory.mktemp("siglip-tiny"))


@torch.inference_mode()
def test_clip_is_transformers_own(clip):
    loaded, network = load_text_image(clip), transformers.CLIPModel.from_pretrained(clip).eval()
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    pixels = processor(list(map(to_bytes, IMAGES)), return_tensors="pt").pixel_values
    expected = normalize(network.get_image_features(pixels).pooler_output, dim=-1)
    torch.testing.assert_close(loaded.embed_images(IMAGES), expected, atol=1e-5, rtol=0)
    tokens = transformers.CLIPTokenizer.from_pretrained(TOKENIZER)(TEXTS, padding=True, return_tensors="pt")
    expected = normalize(network.get_text_features(**tokens).pooler_output, dim=-1)
    torch.testing.assert_close(loaded.embed_texts(TEXTS), expected, atol=1e-5, rtol=0)
    assert (loaded.kind, loaded.side, len(loaded.sha256)) == ("clip", 32, 64)


@torch.inference_mode()
def test_siglip_is_transformers_own(siglip):
    loaded, network = load_text_image(siglip), transformers.SiglipModel.from_pretrained(siglip).eval()
    processor = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=3)
    pixels = processor(list(map(to_bytes, IMAGES)), return_tensors="pt").pixel_values
    tokenizer = transformers.SiglipTokenizer(str(siglip / "spiece.model"))
    tokens = tokenizer(TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    output = network(input_ids=tokens.input_ids, pixel_values=pixels)
    images, texts = loaded.embed_images(IMAGES), loaded.embed_texts(TEXTS)
    torch.testing.assert_close(images, output.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, output.text_embeds, atol=1e-5, rtol=0)
    probability = loaded.probability(images @ texts.T)
    torch.testing.assert_close(probability, output.logits_per_image.sigmoid(), atol=1e-5, rtol=0)


def test_a_long_prompt_is_cut_with_a_warning(clip, caplog):
    loaded = load_text_image(clip)
    with caplog.at_level(logging.WARNING):
        long, cut = loaded.embed_texts(["tree " * 90, "tree " * 75])
    assert torch.equal(long, cut) and "reads the first 77 tokens of the prompt 'tree" in caplog.text
    assert caplog.text.count("reads the first") == 1


def test_what_is_missing_is_named(clip, siglip, tmp_path):
    with pytest.raises(ValueError, match="holds no CLIP or SigLIP: a config.json"):
        load_text_image(tmp_path)
    config = json.loads((clip / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((clip / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(ValueError, match="whose model_type is clip or siglip"):
        load_text_image(tmp_path)
    config["vision_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit its config.json: the tensor 'vision_model.*layers.2"):
        load_text_image(tmp_path)
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(ValueError, match="is no JSON"):
        load_text_image(tmp_path)
    (siglip / "spiece.model").rename(siglip / "away")
    with pytest.raises(ValueError, match="lacks SigLIP's spiece.model"):
        load_text_image(siglip)
    (siglip / "away").rename(siglip / "spiece.model")


def test_images_are_seen_in_8_bits(clip):
    image = (IMAGES[:1] * 254).round() / 255
    first, second = load_text_image(clip).embed_images(torch.cat([image, image + 0.4 / 255]))
    assert torch.equal(first, second)
