"""Weights, embeddings and what is computed of them: what is not finite stops with the name of the file."""

import pytest
import torch
from likeness.adapters.face2diffusion import Face2DiffusionAdapter
from likeness.encoders.loading import load_encoder
from likeness.patcher import is_finite
from likeness.tests.support import tiny, tiny_ip
from likeness.tests.support.checkpoints import drawn, mapping_shapes
from likeness.tests.support.strange_files import SMALL, write

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_one_number_that_is_none_is_seen(dtype):
    values = torch.ones(3, 1000)
    assert is_finite(values.to(dtype)) and is_finite(values[:0].to(dtype))
    values[1, 7] = NAN
    assert not is_finite(values.to(dtype))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("family", SMALL)
def test_a_file_with_one_such_weight_is_refused_with_its_name(tmp_path, family, value):
    load, tensors = SMALL[family].load, SMALL[family].tensors()
    name = [name for name in tensors if name.endswith(".weight")][1]
    tensors[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=r"bad\.safetensors .*weight' .*holds NaN or infinite numbers"):
        load(write(tmp_path / "bad.safetensors", tensors))


def test_a_lora_with_such_a_weight_is_refused():
    adapter = tiny_ip.shapes("faceid", lora_rank=4)
    weights = tiny_ip.state_dict(adapter, 1)
    name = next(name for name in weights if "_lora." in name)
    weights[name] = weights[name].clone().fill_(NAN)
    with pytest.raises(ValueError, match="of its LoRA holds NaN"):
        tiny_ip.IpAdapter(weights, "tiny.bin")


def test_an_encoder_that_computes_none_is_named(tmp_path):
    tensors = SMALL["transface"].tensors()
    # Finite, but it has no root.
    tensors["feature.3.running_var"] = torch.full_like(tensors["feature.3.running_var"], -1.0)
    encoder = load_encoder(write(tmp_path / "bad.safetensors", tensors))
    with pytest.raises(ValueError, match=r"What bad\.safetensors \(Load Face Encoder\) computed holds NaN"):
        encoder.encode(torch.rand(1, 112, 112, 3), False)


def test_adapters_that_compute_none_are_named():
    with pytest.raises(ValueError, match=r"tiny_fact\.ckpt \(Load Face Adapter\) computed holds NaN"):
        tiny.adapter().face_tokens(tiny.face_id().features * NAN)
    adapter = tiny_ip.adapter("faceid")
    tokens = adapter.tokens(tiny_ip.face())
    with pytest.raises(ValueError, match=r"tiny_faceid\.bin \(Load Face Adapter\) in torch.float16 computed holds"):
        adapter.keys_values(tokens * 1e7, torch.float16)
    plus = tiny_ip.adapter("plus")
    clip = tiny_ip.clip("penultimate")
    with pytest.raises(ValueError, match="the model of Load CLIP Vision computed holds NaN"):
        plus.tokens(clip=clip._replace(features=clip.features * NAN))


def test_words_of_none_are_named():
    adapter = Face2DiffusionAdapter(drawn(mapping_shapes(6, 4, 8, 8), 1), "mapping.pt")
    face = tiny.FaceId("msid", "msid.pt", "0" * 64, torch.full((1, 1, 6), INF), torch.ones(1, 1), torch.ones(1), False)
    with pytest.raises(ValueError, match=r"mapping\.pt \(Load Face Adapter\) computed holds NaN"):
        adapter.words(face)
