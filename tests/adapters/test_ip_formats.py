"""Image adapter files: recognised by their tensors, what each reads, and what is refused."""

import re

import pytest
import safetensors.torch
import torch
from likeness.adapters.ip_adapter import (
    FORMATS,
    INFINITE_ID_METADATA,
    VARIANTS,
    IpAdapter,
    check_ip_adapter,
    is_ip_adapter,
    recognise,
)
from likeness.adapters.ip_projectors import PulidTokens
from likeness.adapters.unet_blocks import BLOCKS, list_lora_targets
from likeness.encoders.pulid import pack
from likeness.tests.support import tiny, tiny_ip
from likeness.tests.support.golden_recipe import state_dict
from likeness.weights.reading import read_state_dict

READS = {
    "ip-adapter": (None, "embeds"),
    "full-face": (None, "penultimate"),
    "plus": (None, "penultimate"),
    "faceid": ("unit", None),
    "faceid-plus": ("unit", "penultimate"),
    "faceid-plusv2": ("unit", "penultimate"),
    "faceid-portrait": ("unit", None),
    "faceid-portrait-unnorm": ("raw", None),
    "instantid": ("raw", None),
    "pulid": ("pulid", None),
    "pulid-v1.1": ("pulid", None),
}
TOKENS = {"full-face": 9, "faceid-portrait": 16}  # else 4
PULID = ("pulid", "pulid-v1.1")


def weights(kind, base="SD1.5", **options):
    return state_dict(tiny_ip.shapes(kind, base, **options), 1)


def inputs(adapter, photos=1):
    found = adapter.format
    return {
        "face": (tiny_ip.pulid_face if found.face == "pulid" else tiny_ip.face)(photos) if found.face else None,
        "clip": tiny_ip.clip(found.clip, photos) if found.clip else None,
    }


@torch.inference_mode()
def tokens(adapter, **given):
    return adapter.tokens(**given)


def test_every_published_format_is_here():
    assert FORMATS.keys() == READS.keys() | {"infinite-id"}
    assert {name: (entry.face, entry.clip) for name, entry in FORMATS.items() if name in READS} == READS
    assert VARIANTS == ("by file name", "faceid-plus", "faceid-plusv2", "instantid", "faceid-portrait-unnorm")


@pytest.mark.parametrize("base", ["SD1.5", "SDXL"])
@pytest.mark.parametrize("kind", READS)
def test_recognised_by_its_tensors(kind, base):
    """Whatever it is called, but for the two pairs that have the same tensors."""
    adapter = tiny_ip.adapter(kind, base)
    assert (adapter.format.name, adapter.base, adapter.token_dim) == (kind, base, tiny_ip.DIM)
    assert list(adapter.widths) == list(BLOCKS[base]) and list(adapter.widths.values()) == tiny_ip.WIDTHS[base]
    assert adapter.lora == {}


@pytest.mark.parametrize("kind", [kind for kind in READS if kind not in PULID])
def test_tokens_of_both_branches(kind):
    """Two photos are concatenated; the unconditional branch sees zeros, or CLIP's view of an empty picture."""
    adapter = tiny_ip.adapter(kind)
    given = inputs(adapter, photos=2)
    both = tokens(adapter, **given)
    count = TOKENS.get(kind, 4)
    assert both.shape == (2, 2 * count, tiny_ip.DIM)
    one = tokens(adapter, **{k: v and _photo(v, 1) for k, v in given.items()})
    torch.testing.assert_close(both[:, count:], one)
    torch.testing.assert_close(both[1, :count], both[1, count:])
    assert not torch.allclose(both[0, :count], both[0, count:])

    empty = {"face": given["face"] and _face_of_zeros(), "clip": given["clip"] and _negative(given["clip"])}
    torch.testing.assert_close(tokens(adapter, **empty)[0], both[1, :count])


def _photo(features, number):
    if hasattr(features, "negative"):
        return features._replace(features=features.features[number:])
    taken = tiny_ip.face()
    for name in ("features", "embedding"):
        object.__setattr__(taken, name, getattr(features, name)[number:])
    return taken


def _face_of_zeros():
    face = tiny_ip.face()
    for name in ("features", "embedding"):
        object.__setattr__(face, name, torch.zeros_like(getattr(face, name)))
    return face


def _negative(clip):
    return clip._replace(features=clip.negative)


@pytest.mark.parametrize("kind, raw", [("faceid", False), ("faceid-portrait", False), ("instantid", True)])
def test_faces_of_length_one_or_as_they_are(kind, raw):
    adapter, face = tiny_ip.adapter(kind), tiny_ip.face()
    first = tokens(adapter, face=face)
    object.__setattr__(face, "features", 3 * face.features)
    assert torch.equal(tokens(adapter, face=face), first) != raw


def test_shortcut_of_plusv2():
    """PlusV2 adds what it reads to the face, Plus replaces it: the same tensors, so the user or the name decides."""
    plus, v2 = tiny_ip.adapter("faceid-plus"), tiny_ip.adapter("faceid-plusv2")
    given = inputs(plus)
    face_only = tokens(v2, **given, shortcut_scale=0.0)
    torch.testing.assert_close(tokens(v2, **given), face_only + tokens(plus, **given))
    torch.testing.assert_close(tokens(v2, **given, shortcut_scale=0.5), face_only + 0.5 * tokens(plus, **given))


@pytest.mark.parametrize("name, variant, expected", [
    ("ip-adapter-faceid-plusv2_sdxl.bin", "by file name", "faceid-plusv2"),
    ("ip-adapter-faceid-plus_sd15.bin", "by file name", "faceid-plus"),
    ("renamed.safetensors", "faceid-plusv2", "faceid-plusv2"),
    ("ip-adapter-faceid-plusv2_sdxl.bin", "faceid-plus", "faceid-plus"),
])  # fmt: skip
def test_the_user_overrules_the_name(name, variant, expected):
    assert recognise(weights("faceid-plusv2"), name, variant).name == expected


def test_a_variant_the_tensors_contradict_is_refused():
    with pytest.raises(ValueError, match="its tensors are those of 'faceid', not of 'faceid-plusv2'"):
        IpAdapter(weights("faceid"), "x.bin", "faceid-plusv2")


def test_files_of_other_kinds_are_not_ours():
    fact = {"local_fac_prj.latents": torch.zeros(1)}
    assert recognise(fact) is None and not is_ip_adapter(fact) and is_ip_adapter(weights("plus"))


def test_lora_of_a_faceid_file():
    """Four to each attention, self and cross: 4 x 32 or 4 x 140 weights of the UNet (docs/papers.md 4.5)."""
    for base, count in (("SD1.5", 128), ("SDXL", 560)):
        adapter = tiny_ip.adapter("faceid", base, lora_rank=2)
        assert len(adapter.lora) == count == len(list_lora_targets(base))
    assert "diffusion_model.middle_block.1.transformer_blocks.9.attn1.to_out.0.weight" in adapter.lora


def test_infinite_id_layout():
    adapter = tiny_ip.infinite_id()
    assert (adapter.format.name, adapter.base, adapter.token_dim) == ("infinite-id", "SDXL", tiny_ip.DIM)
    both = tokens(adapter, face=tiny_ip.face(), clip=tiny_ip.clip("last"))
    assert both.shape == (2, 8, tiny_ip.DIM)  # four of CLIP, four of the face
    weight = state_dict(tiny_ip.infinite_id_shapes(), 1)["image_attention.output.5.1.to_k.weight"]
    assert torch.equal(adapter.attentions.model[list(adapter.widths).index(("output", 5, 1))].to_k.weight, weight)


def test_keys_and_values_of_every_place():
    adapter = tiny_ip.adapter("faceid")
    with torch.inference_mode():
        given = adapter.tokens(face=tiny_ip.face())
        layers = adapter.split(adapter.keys_values(given, torch.float32))
    assert list(layers) == list(BLOCKS["SD1.5"])
    file = weights("faceid")
    for number, place in ((1, ("input", 1, 0)), (13, ("output", 3, 0)), (31, ("middle", 0, 0))):
        for part, found in zip("kv", layers[place]):
            torch.testing.assert_close(found, given @ file[f"ip_adapter.{number}.to_{part}_ip.weight"].T)


def test_half_precision_files_keep_their_size():
    half = {key: value.half() for key, value in weights("plus").items()}
    adapter = IpAdapter(half, "half.safetensors")
    assert {p.dtype for p in adapter.attentions.model.parameters()} == {torch.float16}
    given, full = inputs(adapter), tiny_ip.adapter("plus")
    torch.testing.assert_close(tokens(adapter, **given), tokens(full, **given), atol=0.05, rtol=0.05)


@torch.inference_mode()
def test_pulids_identity_encoder():
    """Five tokens of face and picture, and one of each hidden layer: of its class token and the mean of its patches."""
    own = {key.removeprefix("image_proj."): value for key, value in weights("pulid").items() if "image_proj." in key}
    projector = PulidTokens(own)
    projector.load_state_dict(own)
    face, eva = torch.ones(1, tiny_ip.FACE + 768), torch.randn(1, 5, 7, tiny_ip.CLIP)
    result = projector(face, eva)
    assert result.shape == (1, 10, tiny_ip.DIM)
    layer = eva[:, 3]
    expected = projector.mapping_3(layer[:, 0]) + projector.mapping_patch_3(layer[:, 1:]).mean(dim=1)
    torch.testing.assert_close(result[:, 5 + 3], expected)


def test_pulids_tokens_of_several_photos():
    """Version 1: all ten of the first photo and five of each other; 1.1 reads all photos together."""
    one, two = (tokens(tiny_ip.adapter("pulid"), face=tiny_ip.pulid_face(photos)) for photos in (1, 2))
    assert one.shape == (2, 10, tiny_ip.DIM) and two.shape == (2, 15, tiny_ip.DIM)
    torch.testing.assert_close(two[:, 10:][1], one[1, :5])
    one, two = (tokens(tiny_ip.adapter("pulid-v1.1"), face=tiny_ip.pulid_face(photos)) for photos in (1, 2))
    assert one.shape == two.shape == (2, 6, tiny_ip.DIM)
    torch.testing.assert_close(two[1], one[1])
    assert not torch.allclose(two[0], one[0])


@pytest.mark.parametrize("kind", PULID)
def test_pulids_own_files(kind):
    """As their authors publish them and as others converted them."""
    converted = weights(kind, "SDXL")
    raw = {
        re.sub(r"^ip_adapter\.(\d+)\.to_([kv])_ip", r"id_adapter_attn_layers.\1.id_to_\2", key).replace(
            "image_proj.", "id_adapter."
        ): tensor
        for key, tensor in converted.items()
    }
    first, second = (IpAdapter(tensors, "pulid.safetensors") for tensors in (converted, raw))
    assert second.format.name == kind and second.widths == first.widths
    face = tiny_ip.pulid_face()
    assert torch.equal(tokens(first, face=face), tokens(second, face=face))


def test_pulid_with_another_eva():
    wide = tiny_ip.pulid_face()
    object.__setattr__(wide, "features", pack(torch.zeros(1, 1280), torch.zeros(1, 5, 7, 32)))
    with pytest.raises(ValueError, match=r"reads hidden states 24 wide, but glintr100.onnx \+ eva.pt gives them 32"):
        tokens(tiny_ip.adapter("pulid"), face=wide)


@pytest.mark.parametrize("kind, given, message", [
    ("faceid-plusv2", {"clip": tiny_ip.clip()}, r"tiny_faceid_plusv2.bin .* needs a face embedding: connect an ident"),
    ("faceid-plusv2", {"face": tiny_ip.face()}, r"needs a picture and a CLIP vision model"),
    ("plus", {"clip": tiny_ip.clip(width=8)}, r"'penultimate' 24 wide, but the connected model gives 'penultimate' 8"),
    ("plus", {"clip": tiny_ip.clip("embeds")}, r"'penultimate' 24 wide, but .* gives 'embeds' 24 wide"),
    ("plus", {"clip": tiny_ip.clip(width=8)}, r"Load the model it was trained with in Load CLIP Vision"),
    ("faceid-plus", {"face": tiny_ip.face(2), "clip": tiny_ip.clip()}, r"identity has 2 photos and the CLIP .* 1"),
    ("pulid", {"face": tiny_ip.face()}, r"reads a face as Load PuLID Encoder sees it, but the identity was encoded by"),
    ("pulid-v1.1", {}, r"Load PuLID Encoder sees it, but no identity is connected. Connect that encoder to Encode Id"),
])  # fmt: skip
def test_missing_and_wrong_inputs(kind, given, message):
    with pytest.raises(ValueError, match=message):
        tokens(tiny_ip.adapter(kind), **given)


def test_an_identity_of_another_encoder():
    foreign = tiny_ip.face()
    object.__setattr__(foreign, "encoder", "transface")
    with pytest.raises(ValueError, match=r"reads ArcFace embeddings 512 wide, .* w600k_r50.onnx \(transface, 512"):
        tokens(tiny_ip.adapter("faceid"), face=foreign)


def without(kind, word, **options):
    return {key: value for key, value in weights(kind, **options).items() if word not in key}


@pytest.mark.parametrize("broken, message", [
    (lambda: without("faceid", "ip_adapter.31."), "it has 15 cross-attentions; an SD1.5 file has 16 .* SDXL one 70"),
    (lambda: without("faceid", "image_proj."), "of no known format .there are none."),
    (lambda: without("faceid", "lora.up", lora_rank=2), "its LoRA has 128 tensors, of which 0 belong to the UNet"),
    (lambda: without("plus", "ip_adapter.1.to_v"), "ip_adapter|1.to_v_ip.weight"),
    (lambda: without("plus", "layers.0.0.to_q"), "to_q"),
    (lambda: without("faceid", "proj.0.bias"), "proj.0.bias"),
])  # fmt: skip
def test_damaged_files(broken, message):
    """ValueError, KeyError or RuntimeError: the loader makes one sentence of each."""
    with pytest.raises((ValueError, KeyError, RuntimeError), match=message):
        IpAdapter(broken(), "damaged.bin")


def test_adapters_of_other_papers_share_the_socket():
    check_ip_adapter(tiny_ip.adapter("faceid"))
    with pytest.raises(ValueError, match="tiny_fact.ckpt is no image adapter but of the kind fact"):
        check_ip_adapter(tiny.adapter())


def test_an_infinite_id_file_of_the_future():
    file = state_dict(tiny_ip.infinite_id_shapes(), 1)
    with pytest.raises(ValueError, match="Infinite-ID file of version 2; update Likeness"):
        IpAdapter(file, "x.safetensors", metadata=INFINITE_ID_METADATA | {"version": "2"})
    file.pop("image_attention.middle.0.9.to_k.weight")
    file.pop("image_attention.middle.0.9.to_v.weight")
    with pytest.raises(ValueError, match="it has 69 image attentions"):
        IpAdapter(file, "x.safetensors")


def test_nested_bin_and_flat_safetensors_are_the_same_file(tmp_path):
    """The published .bin has two dictionaries in it, the .safetensors the same names with prefixes."""
    flat = weights("faceid", lora_rank=2)
    nested = {"image_proj": {}, "ip_adapter": {}}
    for key, value in flat.items():
        part, _, name = key.partition(".")
        nested[part][name] = value
    torch.save(nested, tmp_path / "ip-adapter.bin")
    safetensors.torch.save_file(flat, tmp_path / "ip-adapter.safetensors")
    for name in ("ip-adapter.bin", "ip-adapter.safetensors"):
        read = read_state_dict(tmp_path / name)
        assert read.keys() == flat.keys() and all(torch.equal(read[key], flat[key]) for key in flat)
        assert len(IpAdapter(read, name).lora) == 128
