"""Face2Diffusion's weight files: what is recognised, what it yields, what is refused and why."""

from dataclasses import replace

import comfy.model_management
import numpy as np
import pytest
import torch
from likeness.adapters.face2diffusion import check_mapping
from likeness.adapters.loading import load_adapter
from likeness.attention_patches.fact import check_identity
from likeness.encoders.deep3d import LARGEST, aligned_crop
from likeness.encoders.identity_file import load_identity, save_identity
from likeness.encoders.loading import load_encoder, load_expression_encoder
from likeness.faces.types import Face, Faces
from likeness.tests.support import tiny
from likeness.tests.support.checkpoints import deep3d_shapes, drawn, mapping_shapes, msid_shapes

POINTS = np.array([[60.0, 70.0], [100.0, 68.0], [81.0, 95.0], [64.0, 115.0], [98.0, 113.0]])


def msid(dim=64, depth=4, taps=(0, 3)):
    return drawn(msid_shapes(dim=dim, depth=depth, taps=taps), seed=3)


def mapping(identity=128):
    return drawn(mapping_shapes(identity=identity, hidden=96, word=64), seed=4)


def deep3d():
    return drawn(deep3d_shapes(stem=8, stages=((1, 4), (2, 8))), seed=5)


def saved(tmp_path, state_dict, name="weights.pt"):
    torch.save(state_dict, tmp_path / name)
    return str(tmp_path / name)


def crops(photos=2):
    return torch.rand(photos, 112, 112, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def face_id(tmp_path):
    return load_encoder(saved(tmp_path, msid(), "msid.pt")).encode(crops(), False)


@pytest.mark.parametrize("dim, depth, taps", [(64, 4, (0, 3)), (96, 11, (2, 5, 10))])
def test_msid_sizes_and_taps_come_from_the_tensors(tmp_path, dim, depth, taps):
    weights = {f"module.{key}": value for key, value in msid(dim, depth, taps).items()}
    encoder = load_encoder(saved(tmp_path, weights, "any.name"))
    face_id = encoder.encode(crops(), False)
    assert (encoder.kind, encoder.crop_size, face_id.encoder, face_id.file) == ("msid", 112, "msid", "any.name")
    assert face_id.features.shape == (2, 1, dim * len(taps))
    torch.testing.assert_close(
        face_id.embedding, torch.nn.functional.normalize(face_id.features[:, 0], dim=1), atol=1e-6, rtol=0
    )
    alone = encoder.encode(crops()[1:], False).features
    torch.testing.assert_close(alone, face_id.features[1:], atol=1e-5, rtol=0)  # batch norm in training mode would mix
    assert not encoder.patcher.model.training


def test_a_head_and_half_precision_make_no_difference(tmp_path):
    half = {key: value.half() if value.is_floating_point() else value for key, value in msid().items()}
    with_head = half | {"head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)}
    one = load_encoder(saved(tmp_path, half, "a.pt")).encode(crops(), False)
    other = load_encoder(saved(tmp_path, with_head, "b.pt")).encode(crops(), False)
    assert torch.equal(one.features, other.features) and one.features.dtype == torch.float32


def without(state_dict, part):
    return {key: value for key, value in state_dict.items() if part not in key}


@pytest.mark.parametrize(
    "load, state_dict, message",
    [
        (load_encoder, mapping, "is not a TransFace encoder: .* Nor is it MSID"),
        (load_encoder, deep3d, "is not a TransFace encoder"),
        (load_encoder, lambda: without(msid(), "norms."), "class token"),
        (load_encoder, lambda: without(msid(), "blocks.2.mlp.fc1"), "looks like MSID .*blocks.2.mlp.fc1"),
        (load_encoder, lambda: without(msid(), "patch_embed"), "looks like MSID .* is missing"),
        (load_adapter, msid, r"is not a face adapter: .* first tensor is 'cls_token'"),
        (load_adapter, lambda: without(mapping(), "null_exp"), "is not a Face2Diffusion .* 'null_exp' is missing"),
        (load_adapter, lambda: without(mapping(), "i2t_last.fc_out"), "i2t_last.fc_out"),
        (load_expression_encoder, msid, "is not a Deep3DFaceRecon network: the tensor 'backbone.conv1.weight'"),
        (load_expression_encoder, lambda: without(deep3d(), "layer2.1.bn2"), "looks like Deep3DFaceRecon"),
        (load_expression_encoder, lambda: without(deep3d(), "final_layers.6"), "gives 256 coefficients"),
    ],
)
def test_other_files_say_why(tmp_path, load, state_dict, message):
    with pytest.raises(ValueError, match=message) as error:
        load(saved(tmp_path, state_dict(), "strange.pt"))
    assert "strange.pt" in str(error.value) and "\n" not in str(error.value)


def test_words_of_one_and_of_several_photos(tmp_path, face_id):
    adapter = load_adapter(saved(tmp_path, mapping()))
    assert (adapter.kind, adapter.sizes.word, adapter.sizes.expression) == ("face2diffusion", 64, 64)
    first, second = (
        replace(face_id, features=face_id.features[i : i + 1], embedding=face_id.embedding[i : i + 1]) for i in (0, 1)
    )
    both = replace(face_id, features=torch.cat((first.features, second.features)))
    mean = replace(first, features=(first.features + second.features) / 2)
    assert adapter.words(first).shape == (2, 64) and adapter.words(first).dtype == torch.float32
    assert torch.equal(adapter.words(both), adapter.words(mean))
    assert not torch.equal(adapter.words(first), adapter.words(second))
    assert not torch.equal(*adapter.words(first))


def test_expression_goes_from_the_unconditional_vector_to_the_given_one(tmp_path, face_id):
    adapter = load_adapter(saved(tmp_path, mapping()))
    expression = torch.randn(1, 64, generator=torch.Generator().manual_seed(2))
    without_expression = adapter.words(face_id)
    assert torch.equal(adapter.words(face_id, expression, 0.0), without_expression)
    half, full = adapter.words(face_id, expression, 0.5), adapter.words(face_id, expression, 1.0)
    null = adapter.mapping.model.null_exp[None]
    torch.testing.assert_close(adapter.words(face_id, (expression + null) / 2, 1.0), half, atol=1e-6, rtol=0)
    assert not torch.equal(half, full) and not torch.equal(full, without_expression)


def test_a_saved_identity_gives_the_same_words_bit_for_bit(tmp_path, face_id):
    adapter = load_adapter(saved(tmp_path, mapping()))
    save_identity(tmp_path / "person.safetensors", face_id, False, "")
    again, *_ = load_identity(tmp_path / "person.safetensors")
    assert torch.equal(adapter.words(again), adapter.words(face_id))


def test_what_does_not_belong_together(tmp_path, face_id):
    adapter = load_adapter(saved(tmp_path, mapping(), "mapping.pt"))
    with pytest.raises(ValueError, match=r"mapping.pt reads msid features, .* tiny_transface.pt \(transface\)"):
        adapter.words(tiny.face_id())
    narrow = load_adapter(saved(tmp_path, mapping(identity=100), "other.pt"))
    with pytest.raises(ValueError, match="other.pt expects identities of 100 numbers, but msid.pt makes 128"):
        narrow.words(face_id)
    with pytest.raises(ValueError, match="Switch mask_background off in Encode Identity"):
        adapter.words(replace(face_id, masked=True))
    with pytest.raises(ValueError, match="tiny_fact.ckpt is no Face2Diffusion mapping network but of the kind fact"):
        check_mapping(tiny.adapter())
    with pytest.raises(ValueError, match="Apply FACT: mapping.pt is no FACT adapter but of the kind face2diffusion"):
        check_identity(adapter, face_id)


def test_networks_are_in_evaluation_mode_and_owned_by_patchers(tmp_path):
    adapter = load_adapter(saved(tmp_path, mapping(), "a.pt"))
    expressions = load_expression_encoder(saved(tmp_path, deep3d(), "e.pth"))
    for patcher in (adapter.mapping, expressions.patcher):
        assert not any(module.training for module in patcher.model.modules())
        assert not any(parameter.requires_grad for parameter in patcher.model.parameters())
    comfy.model_management.unload_all_models()


def faces(*counts):
    images = torch.rand(len(counts), 180, 160, 3, generator=torch.Generator().manual_seed(6))
    return Faces(images, tuple((Face(POINTS, (40, 40, 120, 140), 0.9),) * count for count in counts))


def test_the_expression_encoder_sees_rgb_in_zero_to_one(tmp_path):
    encoder = load_expression_encoder(saved(tmp_path, deep3d(), "any.pth"))
    expression = encoder.encode(faces(1))
    crop = aligned_crop(faces(1).images[0], POINTS)
    assert torch.equal(expression.crop[0], crop) and expression.coefficients.shape == (1, 64)
    with torch.inference_mode():
        expected = encoder.patcher.model(crop.permute(2, 0, 1)[None])[:, 80:144]
        flipped = encoder.patcher.model(crop.flip(2).permute(2, 0, 1)[None])[:, 80:144]
    torch.testing.assert_close(expression.coefficients, expected, atol=1e-6, rtol=0)
    assert (expected - flipped).abs().max() > 1e-3


@pytest.mark.parametrize("counts, number", [((0,), 0), ((2,), 2), ((1, 1), 2)])
def test_an_expression_is_one_faces(tmp_path, counts, number):
    encoder = load_expression_encoder(saved(tmp_path, deep3d()))
    with pytest.raises(ValueError, match=f"reads one face, but {number} came"):
        encoder.encode(faces(*counts))


def test_alignment_follows_the_face_and_ignores_the_pictures_size():
    coarse = torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(6))
    image = torch.nn.functional.interpolate(coarse, scale_factor=20, mode="bilinear")[0].movedim(0, 2)
    crop = aligned_crop(image, POINTS)
    wider = torch.nn.functional.pad(image, (0, 0, 16, 0, 8, 4))
    torch.testing.assert_close(aligned_crop(wider, POINTS + [16, 8])[:, 60:-60], crop[:, 60:-60], atol=0.1, rtol=0)
    assert crop.shape == (224, 224, 3) and 0 <= crop.min() and crop.max() <= 1
    with pytest.raises(ValueError, match="coincide or are not finite"):
        aligned_crop(image, np.full((5, 2), 7.0))
    with pytest.raises(ValueError, match="coincide or are not finite"):
        aligned_crop(image, np.full((5, 2), np.nan))


def test_a_tiny_face_in_a_large_picture_takes_no_huge_memory():
    """Only the part around the face is enlarged: the same picture as the part of the whole, but for rounding."""
    image = torch.rand(400, 400, 3, generator=torch.Generator().manual_seed(8))
    small = (POINTS - 80) * 0.17 + 200
    zoom = 9.3  # of a face 7 pixels from eye to eye
    assert 400 * zoom * 400 * zoom < LARGEST < 400 * zoom * 2000 * zoom
    whole = aligned_crop(image, small)
    beside = torch.nn.functional.pad(image, (0, 0, 0, 0, 0, 1600))  # below the face: left and top stay
    part = aligned_crop(beside, small)
    assert (whole - part).abs().mean() < 0.02
    assert aligned_crop(torch.zeros(3000, 4000, 3), (POINTS - 80) * 0.05 + 900).shape == (224, 224, 3)


def test_deep3d_as_published_beside_its_optimiser(tmp_path):
    file = {
        "net_recon": deep3d(),
        "opt_00": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-4}]},
        "sched_00": {},
    }
    published = load_expression_encoder(saved(tmp_path, file, "epoch_20.pth"))
    flat = load_expression_encoder(saved(tmp_path, deep3d(), "flat.pth"))
    assert torch.equal(published.encode(faces(1)).coefficients, flat.encode(faces(1)).coefficients)
