"""Image adapters and Infinite-ID through the host's executor: the published workflows, what inputs do, bad input."""

import copy
import inspect
import re

import numpy as np
import pytest
import safetensors.torch
import torch
from likeness.tests.support import onnx_packs, tiny_ip
from likeness.tests.support.executor import GraphError
from likeness.tests.support.golden_recipe import state_dict
from likeness.tests.support.graphs import ASSETS, only, workflow
from PIL import Image

import nodes

pytestmark = pytest.mark.slow

WORKFLOWS = ["faceid_plusv2", "infinite_id_photo", "infinite_id_style", "infinite_id_mixing", "two_image_adapters"]
APPLY = "LikenessApplyImageAdapter"
MIXING = "LikenessInfiniteID"
ENCODER = "LikenessLoadFaceEncoder"
LOADER = "LikenessLoadFaceAdapter"


def sample(executor, graph):
    return executor.run(graph)[only(graph, "VAEDecode")][0]


def change(graph, class_type, **inputs):
    """The graph with other inputs of its node of a class; None takes one away."""
    graph = copy.deepcopy(graph)
    node = graph[only(graph, class_type)]["inputs"]
    node.update(inputs)
    for name in [name for name, value in node.items() if value is None]:
        del node[name]
    return graph


def bypass(graph, key):
    """The graph without a node that has a model and hands one on."""
    graph = copy.deepcopy(graph)
    source = graph.pop(key)["inputs"]["model"]
    for node in graph.values():
        if node["inputs"].get("model") == [key, 0]:
            node["inputs"]["model"] = source
    return graph


@pytest.mark.parametrize("name", WORKFLOWS)
def test_published_workflows_run(executor, name):
    published = workflow(name, size=1024, steps=30)
    sampler = published[only(published, "KSampler")]["inputs"]
    assert (sampler["sampler_name"], sampler["steps"], sampler["cfg"]) == ("ddim", 30, 5.0), "the paper's"
    graph = workflow(name)
    result = sample(executor, graph)
    assert result.shape == (1, 64, 64, 3) and torch.isfinite(result).all() and result.std() > 0.01
    for key in [key for key, node in graph.items() if node["class_type"] in (APPLY, MIXING)]:
        assert not torch.equal(sample(executor, bypass(graph, key)), result), key


def test_inputs_of_faceid(executor, plusv2):
    first = sample(executor, change(plusv2, APPLY, lora_strength=0.0))
    for inputs in ({"lora_strength": 0.0, "shortcut_scale": 0.0}, {"lora_strength": 0.3}):
        assert not torch.equal(sample(executor, change(plusv2, APPLY, **inputs)), first), inputs


@pytest.fixture
def graph():
    """The first adapter of a workflow, which reads the face alone: CLIP vision takes the CPU long."""
    graph = bypass(workflow("two_image_adapters", steps=1), "10")
    del graph["16"], graph["17"]
    return graph


@pytest.fixture
def plusv2():
    return workflow("faceid_plusv2", steps=1)


@pytest.fixture
def stock(executor, graph):
    return sample(executor, bypass(graph, only(graph, APPLY)))


def test_off_is_the_stock_image_and_a_slider_that_comes_back_the_first_one(executor, graph, stock):
    first = sample(executor, graph)
    assert torch.equal(sample(executor, change(graph, APPLY, strength=0.0)), stock)
    ran = {graph[key]["class_type"] for key in executor.executed()}
    assert ran == {APPLY, "KSampler", "VAEDecode", "SaveImage"}
    graph["30"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 64}}
    assert torch.equal(sample(executor, change(graph, APPLY, mask=["30", 0])), stock)
    del graph["30"]
    assert torch.equal(sample(executor, graph), first) and not torch.equal(first, stock)


def test_other_inputs_reach_the_image(executor, graph):
    images = [sample(executor, graph)]
    for inputs in (
        {"layer_weights": "down=0.5, up=0"},
        {"layer_weights": ", ".join(["0.2"] * 70)},
        {"end_percent": 0.5},
    ):
        images.append(sample(executor, change(graph, APPLY, **inputs)))
    assert not [i for i, one in enumerate(images) if any(torch.equal(one, other) for other in images[:i])]


def test_inputs_that_may_be_left_out_have_the_menus_values(executor):
    for class_type in (APPLY, LOADER):
        node = nodes.NODE_CLASS_MAPPINGS[class_type]
        left_out = {entry.id: entry.default for entry in node.GET_SCHEMA().inputs if getattr(entry, "default", None)}
        given = inspect.signature(node.execute).parameters
        optional = {name: part.default for name, part in given.items() if part.default is not inspect.Parameter.empty}
        assert {name: left_out.get(name) or None for name in optional} == {k: v or None for k, v in optional.items()}


def test_the_variant_of_a_renamed_file(executor, graph):
    loader = only(graph, LOADER)
    for variant, expected in (("by file name", "instantid"), ("faceid-portrait-unnorm", "faceid-portrait-unnorm")):
        outputs = executor.run(change(graph, LOADER, variant=variant))
        assert outputs[loader][0].format.name == expected


def test_both_parts_of_infinite_id_in_either_order(executor):
    graph = workflow("infinite_id_mixing", steps=1)
    first = sample(executor, graph)
    apply, mixing, sampler = (only(graph, name) for name in (APPLY, MIXING, "KSampler"))
    source = graph[apply]["inputs"]["model"]
    graph[mixing]["inputs"]["model"], graph[apply]["inputs"]["model"] = source, [mixing, 0]
    graph[sampler]["inputs"]["model"] = [apply, 0]
    assert (sample(executor, graph) - first).abs().max() < 0.01


def test_the_slider_goes_from_one_person_to_the_other(executor, base):
    graph = workflow("infinite_id_mixing", steps=1)
    portrait = np.asarray(Image.open(ASSETS / "portrait.png").convert("RGB"))
    Image.fromarray(portrait[..., ::-1]).save(base / "input" / "likeness_second.png")
    graph["16"]["inputs"]["image"] = "likeness_second.png"
    combine = only(graph, "LikenessCombineIdentities")
    alone = copy.deepcopy(graph)
    alone[only(graph, APPLY)]["inputs"]["face_id"] = ["8", 0]
    first = sample(executor, change(graph, "LikenessCombineIdentities", slider=0.0))
    assert torch.equal(first, sample(executor, alone))
    between = executor.run(graph)[combine][0]
    assert between.encoder == "arcface" and between.features.shape == (1, 1, 512)
    assert not torch.equal(sample(executor, graph), first)
    stacked = executor.run(change(graph, "LikenessCombineIdentities", method="concatenate"))[combine][0]
    assert stacked.features.shape == (2, 1, 512)


@pytest.fixture
def files(base):
    """Write files below the models folder; they are gone after the test."""
    written = []

    def path(name):
        written.append(base / "models" / name)
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        return written[-1]

    yield path
    for file in written:
        file.unlink(missing_ok=True)


def refusal(executor, graph) -> str:
    """What reaches the person: a sentence or two."""
    with pytest.raises(GraphError) as error:
        executor.run(graph)
    assert "Traceback" not in str(error.value) and len(str(error.value)) < 2000
    return str(error.value)


@pytest.mark.parametrize("node, inputs, message", [
    ("CheckpointLoaderSimple", {"ckpt_name": "likeness_builtin_sd15.ckpt"},
     r"fits SDXL with 70 cross-attentions 320 wide .* but the connected model is SD15 with 16 .*Load an SDXL"),
    (APPLY, {"face_id": None}, r"instantid.bin \(instantid\) needs a face embedding: connect an identity"),
    (APPLY, {"layer_weights": "a lot"}, r"'a lot' is no list of layer weights"),
    (APPLY, {"layer_weights": "1, 1"}, r"There are 2 layer weights, but this model has 70"),
    (ENCODER, {"encoder_name": "likeness_builtin_transface.pt"},
     r"reads ArcFace embeddings 512 wide, but the identity was encoded by likeness_builtin_transface.pt \(transface"),
    (LOADER, {"adapter_name": "likeness_builtin_fact.ckpt"},
     r"likeness_builtin_fact.ckpt is no image adapter but of the kind fact"),
    (LOADER, {"variant": "faceid-plus"}, r"those of 'instantid', not of 'faceid-plus'; set"),
    (LOADER, {"adapter_name": "ip-adapter_sdxl_vit-h.safetensors"},
     r"ip-adapter_sdxl_vit-h.safetensors\W+is missing: .*ipadapter.*weights fetch ip-adapter-sdxl"),
    (ENCODER, {"encoder_name": "models/buffalo_l/w600k_r50.onnx"}, r"w600k_r50.onnx\W+is missing: .*buffalo_l.zip"),
])  # fmt: skip
def test_what_does_not_belong_together(executor, graph, node, inputs, message):
    assert re.search(message, refusal(executor, change(graph, node, **inputs)))


@pytest.mark.parametrize("node, inputs, message", [
    ("CLIPVisionLoader", {"clip_name": "likeness_builtin_clip_vision_l.pt"},
     r"'penultimate' 1280 wide, but the connected model gives 'penultimate' 1024 wide. Load CLIP-ViT-H-14"),
    (APPLY, {"face_id": None, "image": None}, r"plusv2_sdxl.bin \(faceid-plusv2\) needs a face embedding: connect an"),
    (APPLY, {"image": None}, r"needs a picture and a CLIP vision model: connect both"),
    (APPLY, {"clip_vision": None}, r"needs a picture and a CLIP vision model: connect both"),
])  # fmt: skip
def test_what_faceid_plusv2_lacks(executor, plusv2, node, inputs, message):
    assert re.search(message, refusal(executor, change(plusv2, node, **inputs)))


def test_no_face_in_the_photo(executor, base, graph):
    Image.new("RGB", (96, 96), "grey").save(base / "input" / "likeness_grey.png")
    message = refusal(executor, change(graph, "LikenessExamplePicture", image="likeness_grey.png"))
    assert "No face was found in picture 1 of 1" in message


def test_one_crop_for_two_photos(executor, plusv2):
    inputs = plusv2["8"]["inputs"]
    plusv2["30"] = {"class_type": "LikenessEncodeIdentity", "inputs": inputs | {"face_id": ["8", 0]}}
    message = refusal(executor, change(plusv2, APPLY, face_id=["30", 0]))
    assert "identity has 2 photos and the CLIP vision input 1" in message


def test_an_image_adapter_in_apply_fact(executor, graph):
    inputs = graph[only(graph, APPLY)]["inputs"]
    names = ("model", "face_adapter", "strength", "start_percent", "end_percent", "face_id")
    choices = {name: inputs[name] for name in names}
    graph[only(graph, APPLY)] = {"class_type": "LikenessApplyFACT", "inputs": choices | {"cfg_face": True}}
    assert "is no FACT adapter but of the kind ip-adapter" in refusal(executor, graph)


def test_wrong_onnx_files(executor, graph, files):
    onnx_packs.write_yunet(files("insightface/likeness_wrong.onnx"))
    wrong = change(graph, ENCODER, encoder_name="likeness_wrong.onnx")
    assert "likeness_wrong.onnx is no ArcFace recogniser: one input [n, 3, 112, 112]" in refusal(executor, wrong)
    files("insightface/likeness_page.onnx").write_bytes(b"<!doctype html>")
    page = change(graph, ENCODER, encoder_name="likeness_page.onnx")
    assert "likeness_page.onnx cannot be used as a recogniser: it is a web page" in refusal(executor, page)


@pytest.mark.parametrize("keep", [100, 0.5])
def test_a_corrupted_adapter_file(executor, base, graph, files, keep):
    whole = (base / "models/ipadapter/likeness_builtin_faceid_plusv2_sdxl.bin").read_bytes()
    files("ipadapter/likeness_cut.bin").write_bytes(whole[: keep if keep > 1 else int(keep * len(whole))])
    broken = change(graph, LOADER, adapter_name="likeness_cut.bin")
    assert "likeness_cut.bin' cannot be read as safetensors or as PyTorch tensors" in refusal(executor, broken)


def test_pulid_asks_for_its_own_encoder(executor, graph, files):
    tensors = state_dict(tiny_ip.shapes("pulid", "SDXL"), 1)
    safetensors.torch.save_file(tensors, files("pulid/likeness_pulid.safetensors"))
    pulid = change(graph, LOADER, adapter_name="likeness_pulid.safetensors")
    assert "reads a face as Load PuLID Encoder sees it, but the identity was encoded by" in refusal(executor, pulid)


def test_people_of_different_encoders_are_not_mixed(executor):
    graph = workflow("infinite_id_mixing", steps=1)
    graph["30"] = copy.deepcopy(graph["7"])
    graph["30"]["inputs"]["encoder_name"] = "likeness_builtin_transface.pt"
    graph["20"]["inputs"]["face_encoder"] = ["30", 0]
    message = refusal(executor, graph)
    assert "cannot be joined or compared: one was encoded by likeness_builtin_arcface.onnx (arcface)" in message


def test_a_sampler_that_adds_noise(executor):
    graph = change(workflow("infinite_id_mixing", steps=2), "KSampler", sampler_name="euler_ancestral")
    own, same = (sample(executor, change(graph, MIXING, trajectory=name)) for name in ("own", "same latent"))
    assert torch.isfinite(own).all() and torch.isfinite(same).all() and not torch.equal(own, same)


def test_two_mixings_in_a_row(executor):
    graph = workflow("infinite_id_mixing", steps=1)
    graph["30"] = copy.deepcopy(graph[only(graph, MIXING)])
    graph["30"]["inputs"]["model"] = ["18", 0]
    graph["12"]["inputs"]["model"] = ["30", 0]
    assert "has been through an Infinite-ID Mixing already" in refusal(executor, graph)


def test_the_executor_is_alive_after_all_of_this(executor, graph):
    assert torch.isfinite(sample(executor, graph)).all()
