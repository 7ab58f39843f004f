"""What the miniature's weights are made of and how: the parts that are not trained, and the order of the recipes."""

import comfy.ops
import numpy as np
import pytest
import torch
from likeness.adapters.facea import REGIONS
from likeness.encoders import loading
from likeness.encoders.deep3d import COEFFICIENTS, EXPRESSION
from likeness.encoders.onnx_file import read_onnx
from likeness.encoders.onnx_network import OnnxNetwork
from likeness.miniature.models.recogniser import Recogniser
from likeness.miniature.recipes import command, files, nets
from likeness.miniature.recipes.onnx_file import export
from likeness.miniature.training import degrade, expression, inpainting_lessons, portraits
from likeness.miniature.world import dataset
from likeness.miniature.world.features import LABEL
from likeness.miniature.world.people import person
from likeness.miniature.world.scenes import EXPRESSIONS, scene
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    dataset.write(folder, dataset.SetRecipe(people=3, images=4, size=96))
    return dataset.read(folder)


def test_the_recogniser_as_onnx_says_what_it_says(tmp_path):
    torch.manual_seed(0)
    network = Recogniser((8, 16, 16, 16), 512)
    network(torch.randn(8, 3, 112, 112))  # norms with statistics of their own
    network.eval()
    export(network, tmp_path / "arcface.onnx")
    pixels = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        expected = network(pixels)
    graph = read_onnx(tmp_path / "arcface.onnx")
    embedding = OnnxNetwork(graph, comfy.ops.manual_cast, dtype=torch.float32)(pixels)
    assert torch.nn.functional.cosine_similarity(embedding, expected).min() > 0.999  # one matrix is kept in bytes


def test_every_part_comes_after_what_it_needs():
    order = list(command.PARTS)
    for first, then in (
        ("pictures", "autoencoder"), ("autoencoder", "latents"), ("latents", "base"), ("arcface", "decoder"),
        ("decoder", "base"), ("msid", "features-msid"),
        ("clip", "features-clip"), ("base", "inpainting"), ("features-expression", "face2diffusion"),
        ("features-transface", "fact_projector"), ("base", "fact_projector"), ("fact_projector", "fact"),
        ("inpainting", "facea"), ("facea", "export"),
    ):  # fmt: skip
        assert order.index(first) < order.index(then), (first, then)
    assert set(command.STEPS) <= set(order)


def test_the_plain_recogniser_is_read_at_all_depths_and_at_the_deepest(monkeypatch):
    monkeypatch.setattr(nets, "save_tensors", lambda name, tensors: kept.update({name: tensors}))
    kept = {}
    torch.manual_seed(0)
    network = nets.RECOGNISERS["msid_twin"].make().eval()
    nets._keep_twins(network.state_dict())
    pixels = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        every, deepest = (loading.msid(kept[f"ablations/{name}"]).model(pixels) for name in ("msid_twin", "msid_deep"))
        assert torch.allclose(every, network(pixels), atol=1e-5) and torch.allclose(deepest, every[:, -96:], atol=1e-5)


def test_recipes_make_networks_that_the_loaders_read():
    torch.manual_seed(0)
    msid, transface = (nets.RECOGNISERS[name].make().state_dict() for name in ("msid", "transface"))
    assert loading.msid(msid).model(torch.zeros(2, 3, 112, 112)).shape == (2, 4 * 96)
    assert loading.transface(transface).model(torch.zeros(2, 3, 112, 112)).shape == (2, 64, 128)


def test_exported_files_are_halves_with_whole_numbers_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "OUTPUT", tmp_path / "made")
    monkeypatch.setattr(files, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(files, "load_tensors", lambda name: load_file(tmp_path / "made" / f"{name}.safetensors"))
    (tmp_path / "made").mkdir()
    weights = {"a": torch.rand(3), "n": torch.arange(3)}
    save_file(weights, tmp_path / "made" / "clip.safetensors")
    files.export()
    written = load_file(tmp_path / "weights" / "clip.safetensors")
    assert written["a"].dtype == torch.float16 and written["n"].dtype == torch.int64 and len(written) == 2


def test_the_regressors_truth_has_every_expression_in_a_direction_of_its_own():
    directions = expression.directions()
    assert torch.allclose(directions @ directions.T, torch.eye(len(EXPRESSIONS)), atol=1e-5)
    seen = scene(7, 1)
    told = expression.coefficients(person(7), seen)
    assert told.shape == (COEFFICIENTS,) and told[225:227].tolist() == pytest.approx([seen.yaw, seen.roll])
    assert EXPRESSIONS[expression.classes(told[None, EXPRESSION])] == seen.expression


def test_portraits_of_the_world_have_the_share_of_head_in_every_cell(drawn):
    latents = torch.randn(len(drawn), 16, 8, 8).half()
    made = portraits.portraits(drawn, latents, {"msid": torch.randn(len(drawn), 4)}, [1, 5])
    labels = drawn.labels([1, 5])
    seen = (labels >= LABEL["skin"]) & (labels <= LABEL["right ear"]) | (labels == LABEL["hair"])
    seen |= (labels >= LABEL["nose"]) & (labels <= LABEL["lower lip"])
    assert torch.equal(made.faces[0, 3, 4], seen[0, 36:48, 48:60].float().mean().half())
    assert made.faces[1, 1:7].max() == 1 and made.faces[:, 7].max() < 1
    faces = portraits.faces(drawn, 8, torch.tensor([1, 5]))
    assert torch.equal(faces[1, 3, 4], drawn.masks([5])[0, 0, 36:48, 48:60].float().mean().half())
    assert torch.equal(made.latents, latents[[1, 5]]) and made.captions == [drawn.captions[1], drawn.captions[5]]


def test_masks_to_paint_hold_their_part_and_are_told_by_its_words(drawn):
    generator = torch.Generator().manual_seed(3)
    indices = list(range(len(drawn))) * 4
    masks, painted = inpainting_lessons.sample_masks(drawn, indices, generator)
    parts = drawn.masks(indices)
    assert {*painted} >= {None, "face"} and {*painted} <= {None, *REGIONS}
    for mask, part, own in zip(masks, painted, parts):
        assert mask.max() == 1 and (part is None or not (own[REGIONS.index(part)] & ~mask.bool()).any())
    told = "a photo of a woman, in a city"
    assert inpainting_lessons.caption(told, "left eye", 0.1) == "a woman left eye"
    assert inpainting_lessons.caption(told, "left eye", 0.9) == inpainting_lessons.caption(told, None, 0.1) == told


def test_soft_pictures_keep_their_size_and_their_mean():
    pictures = torch.rand(4, 3, 64, 64)
    soft = degrade.soften(pictures, 1.0, torch.Generator().manual_seed(0))
    assert soft.shape == pictures.shape and 0 <= soft.min() and soft.max() <= 1
    assert soft.diff(dim=3).abs().mean() < pictures.diff(dim=3).abs().mean()
    left = degrade.soften(pictures, 0.0, torch.Generator().manual_seed(0))
    assert np.corrcoef(left.flatten(), pictures.flatten())[0, 1] > 0.99
