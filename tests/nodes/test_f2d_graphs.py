"""Face2Diffusion through the host's executor: the published workflows, every other part of a graph, bad input."""

import copy

import pytest
import torch
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import only, workflow

import nodes

pytestmark = pytest.mark.slow

WORKFLOWS = [
    "f2d_text_to_image",
    "f2d_expression",
    "f2d_two_people",
    "f2d_delayed",
    "f2d_best_of",
]
PROMPT = "LikenessEncodeFacePrompt"


def sample(executor, graph):
    return executor.run(graph)[only(graph, "VAEDecode")][0]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_published_workflows_run(executor, name):
    graph = workflow(name)
    published = workflow(name, size=512, steps=30)
    sampler = published[only(published, "KSampler")]["inputs"]
    assert (sampler["sampler_name"], sampler["steps"], sampler["cfg"]) == ("euler_ancestral", 30, 7.0)
    assert sampler["model"] == [only(graph, "CheckpointLoaderSimple"), 0], "nothing stands between model and sampler"
    images = sample(executor, graph)
    assert images.shape[1:] == (64, 64, 3) and torch.isfinite(images).all() and images.std() > 0.01


def test_the_face_is_seen_in_the_image_and_nothing_changes_for_a_second_run(executor):
    graph = workflow("f2d_text_to_image")
    first = sample(executor, graph)
    assert torch.equal(sample(executor, graph), first)
    plain = copy.deepcopy(graph)
    clip = plain["2"]["inputs"]["clip"]
    text = graph["2"]["inputs"]["text"].replace("{face}", "f l")
    plain["2"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": text}}
    assert not torch.equal(sample(executor, plain), first)
    assert torch.equal(sample(executor, graph), first)


def test_a_slider_does_not_load_or_encode_again(executor):
    graph = workflow("f2d_expression")
    first = sample(executor, graph)
    graph[only(graph, "LikenessFaceToWords")]["inputs"]["expression_strength"] = 0.0
    other = sample(executor, graph)
    assert not torch.equal(first, other)
    ran = {graph[key]["class_type"] for key in executor.executed()}
    assert ran == {"LikenessFaceToWords", PROMPT, "KSampler", "VAEDecode", "SaveImage"}
    del graph[only(graph, "LikenessFaceToWords")]["inputs"]["expression"]
    assert torch.equal(sample(executor, graph), other), "strength 0 is the unconditional vector"


def test_two_people_each_have_their_own_words(executor):
    graph = workflow("f2d_two_people")
    outputs = executor.run(graph)
    ((first, second),) = outputs["19"]
    assert first.shape == second.shape == (2, 768)
    assert torch.equal(outputs["10"][0][0], first)


def test_the_token_image_is_shown_on_the_node(executor):
    graph = workflow("f2d_text_to_image")
    graph["2"]["inputs"]["text"] = "another prompt with {face}, so that the node runs"
    outputs = executor.run(graph)
    shown = [data["output"] for event, data in executor.events if event == "executed" and data["node"] == "2"]
    assert len(shown) == 1 and shown[0]["images"]
    tokens = outputs["2"][1]
    gold = torch.tensor([255, 205, 70]) / 255
    assert tokens.shape[0] == 1 and tokens.shape[2] == 640
    assert ((tokens - gold).abs().amax(dim=3) < 0.01).sum() > 2000, "the words of the face stand out"


def test_loras_and_controlnet_beside_it(executor):
    graph = workflow("f2d_text_to_image")
    without = sample(executor, graph)
    lora = {"lora_name": "likeness_builtin_lora_sd15.safetensors", "strength_model": 1.0, "strength_clip": 1.0}
    graph["30"] = {"class_type": "LoraLoader", "inputs": {**lora, "model": ["1", 0], "clip": ["1", 1]}}
    graph["2"]["inputs"]["clip"], graph["12"]["inputs"]["model"] = ["30", 1], ["30", 0]
    assert not torch.equal(sample(executor, graph), without)


def test_delayed_prompt_is_what_the_stock_nodes_make(executor):
    graph = workflow("f2d_delayed")
    text, clip, words = (graph["2"]["inputs"][key] for key in ("text", "clip", "face_words"))
    person = text.replace("{face}", "a person")
    combined = {"conditioning_1": ["32", 0], "conditioning_2": ["33", 0]}
    graph |= {
        "30": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": person}},
        "31": {"class_type": PROMPT, "inputs": {"clip": clip, "face_words": words, "text": text}},
        "32": time_range("30", 0.0, 0.3),
        "33": time_range("31", 0.3, 1.0),
        "34": {"class_type": "ConditioningCombine", "inputs": combined},
        "35": {"class_type": "PreviewImage", "inputs": {"images": ["2", 1]}},
    }
    graph["12"]["inputs"]["positive"] = ["34", 0]
    outputs = executor.run(graph)
    ours, stock = outputs["2"][0], outputs["34"][0]
    ranges = [[part[1][key] for key in ("start_percent", "end_percent")] for part in (*ours, *stock)]
    assert ranges == [[0.0, 0.3], [0.3, 1.0]] * 2
    assert all(torch.equal(one[0], other[0]) for one, other in zip(ours, stock))


def time_range(source, start, end):
    inputs = {"conditioning": [source, 0], "start": start, "end": end}
    return {"class_type": "ConditioningSetTimestepRange", "inputs": inputs}


def photo_batch(graph):
    """Instead of sampled pictures: noise, the reference photo, its mirror image."""
    graph["19"]["inputs"]["images"] = ["42", 0]
    photo = [only(graph, "LikenessExamplePicture"), 0]
    graph |= {
        "40": {"class_type": "ImageBatch", "inputs": {"image1": ["43", 0], "image2": photo}},
        "41": {"class_type": "ImageFlip", "inputs": {"image": photo, "flip_method": "y-axis: horizontally"}},
        "42": {"class_type": "ImageBatch", "inputs": {"image1": ["40", 0], "image2": ["41", 0]}},
        "43": {"class_type": "EmptyImage", "inputs": {"width": 512, "height": 512, "batch_size": 1, "color": 8000000}},
        "20": {"class_type": "PreviewImage", "inputs": {"images": ["19", 1]}},
    }
    sampling = ("2", "3", "9", "10", "11", "12", "13", "14")
    return {key: node for key, node in graph.items() if key not in sampling}


def test_best_of_passes_on_the_person(executor):
    graph = photo_batch(workflow("f2d_best_of"))
    outputs = executor.run(graph)
    best, table, first, _ = outputs["19"]
    (photo, *_), (batch,) = outputs[only(graph, "LikenessExamplePicture")], outputs["42"]
    assert torch.equal(best, photo) and batch.shape[0] == 3 and torch.equal(batch[first], photo[0])
    assert table.shape[0] == 1 and table.shape[1] > 3 * 88
    shown = [data["output"] for event, data in executor.events if event == "executed" and data["node"] == "19"]
    assert shown and shown[0]["images"]
    assert [row["picture"] for row in shown[0]["scores"]] == [1, 2, 3]
    same, _, empty = sorted(shown[0]["scores"], key=lambda row: row["rank"])
    assert torch.equal(batch[same["picture"] - 1], photo[0]) and same["identity"] == pytest.approx(1, abs=1e-3)
    assert (same["rank"], empty["rank"], empty["identity"]) == (1, 3, None), "there is no face in the last"
    for key in ("clip", "clip_vision"):
        del graph["19"]["inputs"][key]
    assert torch.equal(executor.run(graph)["19"][0], photo), "without a CLIP, by identity alone"


@pytest.mark.parametrize(
    "name, node, key, value, message",
    [
        (None, PROMPT, "text", "photo of a woman", f"{PROMPT}: The prompt has no placeholder"),
        (None, PROMPT, "text", "{face1} and {face2}", f"{PROMPT}: The prompt names .face2., but 1 face is connected"),
        (None, PROMPT, "text", "{face} and {face}", f"{PROMPT}: The prompt names face 1 2 times"),
        (None, "LikenessEncodeIdentity", "mask_background", True, "Switch mask_background off in Encode Identity"),
        (
            None,
            "LikenessLoadFaceEncoder",
            "encoder_name",
            "likeness_builtin_transface.pt",
            "LikenessFaceToWords: .*mapping.pt reads msid features, .*transface",
        ),
        (
            None,
            "LikenessLoadFaceAdapter",
            "adapter_name",
            "likeness_builtin_fact.ckpt",
            "LikenessFaceToWords: .*fact.ckpt is no Face2Diffusion mapping network",
        ),
        (None, "LikenessLoadFaceEncoder", "encoder_name", "msid.pt", "msid.pt.* is missing: .*face2diffusion"),
        (None, "LikenessLoadFaceAdapter", "adapter_name", "mapping.pt", "mapping.pt.* is missing: .*face2diffusion"),
        (
            "f2d_expression",
            "LikenessLoadExpressionEncoder",
            "encoder_name",
            "epoch_20.pth",
            "epoch_20.pth.* is missing: .*face2diffusion",
        ),
        (
            "f2d_expression",
            "LikenessLoadExpressionEncoder",
            "encoder_name",
            "likeness_builtin_msid.pt",
            "is not a Deep3DFaceRecon network",
        ),
        pytest.param(
            None,
            "CheckpointLoaderSimple",
            "ckpt_name",
            "likeness_builtin_sdxl.ckpt",
            f"{PROMPT}: Words 768 wide fit .* SD 1.x, but the connected CLIP is SDXL's, .* SD 1.4, SD 1.5",
        ),
        pytest.param(
            "f2d_best_of",
            "LikenessBestOf",
            "clip",
            ["1", 1],
            "LikenessBestOf: The connected CLIP .*cannot score pictures",
        ),
        ("f2d_best_of", "LikenessBestOf", "clip", None, "LikenessBestOf: .* connect both clip and clip_vision"),
        pytest.param(
            "f2d_best_of",
            "CLIPVisionLoader",
            "clip_name",
            "likeness_builtin_clip_vision_h.pt",
            "LikenessBestOf: .* into 768 numbers and the vision network into 1024",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(executor, name, node, key, value, message):
    graph = workflow(name or "f2d_text_to_image")
    if value is None:
        del graph[only(graph, node)]["inputs"][key]
    else:
        graph[only(graph, node)]["inputs"][key] = value
    with pytest.raises(GraphError, match=message):
        executor.run(graph)


def test_one_combo_lists_the_files_of_both_folders(executor):
    for node, key in (("LikenessLoadFaceEncoder", "encoder_name"), ("LikenessLoadFaceAdapter", "adapter_name")):
        (options,) = (i.options for i in nodes.NODE_CLASS_MAPPINGS[node].GET_SCHEMA().inputs if i.id == key)
        assert {"likeness_builtin_transface.pt", "likeness_builtin_msid.pt", "likeness_builtin_mapping.pt"} <= {
            *options
        }
