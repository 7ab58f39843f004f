"""FACT adapters and TransFace encoders as files: what is read, what is refused and why."""

import pickle
from dataclasses import replace

import comfy.model_management
import pytest
import torch
from likeness.adapters.fact import FACE_BLOCKS, FactAdapter, GatedSelfAttention
from likeness.adapters.loading import load_adapter
from likeness.adapters.resampler import Resampler, ResamplerSizes
from likeness.encoders.identity import join
from likeness.encoders.loading import load_encoder
from likeness.encoders.transface import TransFace, TransFaceSizes
from likeness.tests.support import tiny
from likeness.tests.support.checkpoints import drawn, fact_shapes, transface_shapes
from safetensors.torch import save_file

SD15_WIDTHS = [320, 320, 640, 640] + [1280] * 6 + [640] * 3 + [320] * 3


def fact(widths=tiny.WIDTHS):
    return drawn(fact_shapes(widths, token_dim=48, face_dim=24, dim=64, inner=64, tokens=4, depth=2), seed=1)


def saved(tmp_path, state_dict, name="adapter.ckpt"):
    torch.save(state_dict, tmp_path / name)
    return str(tmp_path / name)


def original_spelling(state_dict):
    """The GLIGEN-style names of the same tensors."""
    renamed = dict(state_dict)
    for site in FACE_BLOCKS:
        for key in list(renamed):
            if key.startswith(site.diffusers):
                renamed[site.original + key.removeprefix(site.diffusers)] = renamed.pop(key)
    return renamed


def weights_of(adapter: FactAdapter) -> dict:
    return {**adapter.projector.model.state_dict(), **adapter.face_blocks().model.state_dict()}


def test_published_sizes_have_the_published_parameter_counts():
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    sites = [count(GatedSelfAttention(width, 768, device="meta")) for width in SD15_WIDTHS]
    assert {width: n for width, n in zip(SD15_WIDTHS, sites)} == {320: 1888962, 640: 7054722, 1280: 27216642}
    assert sum(sites) == 208018272
    projector = Resampler(ResamplerSizes(16, 1024, 4, 768, 4096, 512, 768), device="meta")
    assert count(projector) == 47492352
    transface = TransFace(TransFaceSizes(144, 512, 12, 2048, 9, embedding=512), device="meta")
    assert count(transface) + 512 == 86660864  # the mask token is training's


def test_places_of_the_sites():
    """Published name, original name and the host's block of each site, in the order in which the UNet runs them."""
    assert [site.block for site in FACE_BLOCKS] == [
        *(("input", i) for i in (1, 2, 4, 5, 7, 8)),
        ("middle", 0),
        *(("output", i) for i in range(3, 12)),
    ]
    assert FACE_BLOCKS[5].diffusers == "down_blocks.2.attentions.1.transformer_blocks.0.attn2.processor."
    assert FACE_BLOCKS[5].original == "input_blocks.8.1.transformer_blocks.0.fuser."
    assert FACE_BLOCKS[6].diffusers == "mid_block.attentions.0.transformer_blocks.0.attn2.processor."
    assert FACE_BLOCKS[6].original == "middle_block.1.transformer_blocks.0.fuser."
    assert FACE_BLOCKS[15].diffusers == "up_blocks.3.attentions.2.transformer_blocks.0.attn2.processor."
    assert FACE_BLOCKS[15].original == "output_blocks.11.1.transformer_blocks.0.fuser."


def test_both_spellings_give_the_same_adapter(tmp_path):
    one = load_adapter(saved(tmp_path, fact(), "one.ckpt"))
    other = load_adapter(saved(tmp_path, {"state_dict": original_spelling(fact())}, "other.ckpt"))
    assert list(one.widths.values()) == tiny.WIDTHS and one.widths == other.widths
    expected = weights_of(one)
    for key, value in weights_of(other).items():
        assert torch.equal(value, expected[key]), key


def test_the_copy_of_the_base_models_norm_is_ignored(tmp_path):
    with_norm = fact() | {f"{FACE_BLOCKS[0].diffusers}ln.{part}": torch.full((32,), 9.0) for part in ("weight", "bias")}
    one, other = load_adapter(saved(tmp_path, fact(), "a.ckpt")), load_adapter(saved(tmp_path, with_norm, "b.ckpt"))
    assert weights_of(one).keys() == weights_of(other).keys()


def test_safetensors_of_any_name(tmp_path):
    save_file(fact(), tmp_path / "whatever.pt")
    assert load_adapter(str(tmp_path / "whatever.pt")).name == "whatever.pt"


def test_half_precision_file_on_the_cpu_computes_in_float32(tmp_path):
    half = {key: value.half() for key, value in fact().items()}
    adapter = load_adapter(saved(tmp_path, half))
    assert adapter.face_tokens(torch.zeros(1, 9, 24)).dtype == torch.float32


def without(state_dict, part):
    return {key: value for key, value in state_dict.items() if part not in key}


@pytest.mark.parametrize(
    "state_dict, message",
    [
        (
            lambda: {"down_blocks.0.weight": torch.zeros(3)},
            "is not a face adapter: .* first tensor is 'down_blocks.0.weight'",
        ),
        (lambda: without(fact(), "latents"), r"v0 adapters \(196 tokens"),
        (lambda: without(fact(), ".linear."), "16 of its 16 sites lack 'linear.weight'"),
        (lambda: without(fact(), "mid_block"), "1 of its 16 sites lack .* mid_block"),
        (lambda: without(fact(), "up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.attn.to_k"), "to_k"),
        (lambda: without(fact(), "local_fac_prj.proj_out.bias"), "proj_out.bias"),
        (lambda: fact() | {f"{FACE_BLOCKS[3].diffusers}attn.to_q.weight": torch.zeros(8, 8)}, "size mismatch"),
        (lambda: without(fact(), "local_fac_prj.proj_in.weight"), "proj_in.weight"),
    ],
)
def test_what_is_not_a_fact_adapter_says_why(tmp_path, state_dict, message):
    with pytest.raises(ValueError, match=message) as error:
        load_adapter(saved(tmp_path, state_dict(), "strange.ckpt"))
    assert "strange.ckpt" in str(error.value) and "\n" not in str(error.value)


def test_truncated_file(tmp_path):
    whole = saved(tmp_path, fact())
    data = open(whole, "rb").read()
    (tmp_path / "cut.ckpt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut.ckpt"):
        load_adapter(str(tmp_path / "cut.ckpt"))


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.mark.parametrize("load", [load_adapter, load_encoder])
def test_a_pickle_that_runs_code_is_refused(tmp_path, load):
    marker = tmp_path / "it_ran"
    torch.save({"local_fac_prj.latents": Malicious(str(marker))}, tmp_path / "evil.ckpt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"pos_embed": Malicious(str(marker))}))
    for name in ("evil.ckpt", "evil.pt"):
        with pytest.raises(ValueError, match=f"{name}.*"):
            load(str(tmp_path / name))
    assert not marker.exists()


def transface(dim=64, depth=2):
    return drawn(transface_shapes(dim=dim, depth=depth), seed=3)


@pytest.mark.parametrize("dim, depth", [(64, 2), (96, 5)])
def test_encoder_sizes_come_from_the_tensors(tmp_path, dim, depth):
    encoder = load_encoder(saved(tmp_path, {f"module.{k}": v for k, v in transface(dim, depth).items()}, "any.name"))
    crops = torch.rand(3, 112, 112, 3, generator=torch.Generator().manual_seed(0))
    face_id = encoder.encode(crops, True)
    assert face_id.features.shape == (3, 144, dim) and face_id.encoder == "transface" and face_id.file == "any.name"
    assert torch.equal(encoder.encode(crops[1:2], True).crops, crops[1:2])
    torch.testing.assert_close(encoder.encode(crops[1:2], True).features, face_id.features[1:2], atol=1e-5, rtol=0)


def test_the_encoder_sees_rgb_in_minus_one_to_one(tmp_path):
    """Against the network on pixels prepared here."""
    state_dict = transface()
    encoder = load_encoder(saved(tmp_path, state_dict))
    network = TransFace(TransFaceSizes.of(state_dict)).eval()
    network.load_state_dict(state_dict, strict=False)
    crops = torch.rand(1, 112, 112, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network((crops.permute(0, 3, 1, 2) - 0.5) / 0.5)
        flipped = network((crops.flip(3).permute(0, 3, 1, 2) - 0.5) / 0.5)
    actual = encoder.encode(crops, True).features
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
    assert (actual - flipped).abs().max() > 0.01


def test_photos_are_compared_by_the_head_where_the_file_has_one(tmp_path):
    state_dict = transface()
    headless = {key: value for key, value in state_dict.items() if not key.startswith(("feature.", "senet."))}
    crops = torch.rand(2, 112, 112, 3, generator=torch.Generator().manual_seed(1))
    with_head, without_head = (
        load_encoder(saved(tmp_path, weights)).encode(crops, False) for weights in (state_dict, headless)
    )
    assert torch.equal(with_head.features, without_head.features)
    assert with_head.embedding.shape == (2, 512) and without_head.embedding.shape == (2, 64)
    torch.testing.assert_close(with_head.embedding.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(without_head.embedding, normalize(without_head.features.mean(dim=1)))
    network = TransFace(TransFaceSizes.of(state_dict)).eval()
    network.load_state_dict(state_dict, strict=False)
    with torch.inference_mode():
        expected = normalize(network.global_embedding(with_head.features))
    torch.testing.assert_close(with_head.embedding, expected, atol=1e-5, rtol=0)


def normalize(rows):
    return torch.nn.functional.normalize(rows, dim=1)


@pytest.mark.parametrize(
    "state_dict, message",
    [
        (fact, "is not a TransFace encoder: the tensor 'pos_embed' is missing"),
        (lambda: transface() | {"cls_token": torch.zeros(1, 1, 64)}, "class token"),
        (lambda: without(transface(), "blocks.1.mlp.fc2"), "blocks.1.mlp.fc2.weight"),
        (lambda: transface() | {"pos_embed": torch.zeros(1, 144, 32)}, "size mismatch"),
    ],
)
def test_what_is_not_transface_says_why(tmp_path, state_dict, message):
    with pytest.raises(ValueError, match=message) as error:
        load_encoder(saved(tmp_path, state_dict(), "strange.pt"))
    assert "strange.pt" in str(error.value) and "\n" not in str(error.value)


def test_identities_of_different_encoders_are_not_joined():
    one, other = (replace(tiny.face_id(), file=file, sha256=sha256) for file, sha256 in (("a.pt", "a"), ("b.pt", "b")))
    renamed = replace(one, file="c.pt")
    assert join(one, renamed).features.shape == (2, 9, 24)
    with pytest.raises(ValueError, match="a.pt .* b.pt"):
        join(one, other)


def test_networks_are_in_evaluation_mode_and_owned_by_patchers(tmp_path):
    adapter, encoder = load_adapter(saved(tmp_path, fact())), load_encoder(saved(tmp_path, transface(), "t.pt"))
    for patcher in (adapter.projector, adapter.face_blocks(), encoder.patcher):
        assert not patcher.model.training
        assert not any(parameter.requires_grad for parameter in patcher.model.parameters())
        assert patcher.offload_device == torch.device("cpu")
    comfy.model_management.unload_all_models()


def test_face_blocks_in_the_other_half_precision_are_copied_once():
    """As on a GPU, where the file's float16 is kept and a checkpoint may be bfloat16."""
    adapter = FactAdapter(fact(), "adapter.ckpt")
    stored = adapter.face_blocks()
    stored.model.half()
    adapter._face_blocks = {torch.float16: stored}
    low = adapter.face_blocks(torch.bfloat16)
    assert low is not stored and adapter.face_blocks(torch.bfloat16) is low
    assert all(
        torch.equal(copy, weight.bfloat16())
        for copy, weight in zip(low.model.parameters(), stored.model.parameters(), strict=True)
    )
    assert adapter.face_blocks(torch.float16) is adapter.face_blocks(torch.float32) is stored
