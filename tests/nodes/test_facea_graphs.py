"""The FaceA workflows that paint, through the host's executor: what changes, what does not, and what is said."""

import copy
from pathlib import Path

import pytest
import torch
from likeness.adapters.facea import REGIONS
from likeness.tests.support.executor import GraphError
from likeness.tests.support.facea_identity import save_drawn, small
from likeness.tests.support.graphs import only, workflow

pytestmark = pytest.mark.slow

WORKFLOWS = ["facea_refine", "facea_expression", "facea_style", "facea_two_people"]
REFINE, PERSON = "LikenessRefineFaces", "LikenessFaceAPerson"


@pytest.fixture(scope="module", autouse=True)
def identities(base):
    save_drawn(base)


def all_of(graph, class_type) -> list[str]:
    return [key for key, node in graph.items() if node["class_type"] == class_type]


def before(graph, outputs, key) -> torch.Tensor:
    source, output = graph[key]["inputs"]["image"]
    return outputs[source][output]


def mark_painted(image, faces) -> torch.Tensor:
    """Where the boxes of the faces lie with 16 of 64 pixels of the crop around them, which no mask exceeds."""
    part = torch.zeros(image.shape[1:3], dtype=torch.bool)
    for x0, y0, x1, y1 in (face.box for face in faces):
        room = max(x1 - x0, y1 - y0) * 0.6
        part[int(max(y0 - room, 0)) : int(y1 + room) + 2, int(max(x0 - room, 0)) : int(x1 + room) + 2] = True
    return part


@pytest.mark.parametrize("name", WORKFLOWS)
def test_published_workflows_paint_the_faces_and_nothing_else(executor, name):
    published = workflow(name, size=512, steps=50)
    settings = published[all_of(published, REFINE)[0]]["inputs"]
    assert [settings[key] for key in ("sampler_name", "scheduler", "steps", "cfg", "denoise", "size")] == [
        *("ddim", "normal", 50, 7.5, 1.0, 512)
    ]
    graph = small(name)
    outputs = executor.run(graph)
    (faces,) = outputs[only(graph, "LikenessDetectFaces")][0].per_image
    for key in all_of(graph, REFINE):
        image, old = outputs[key][0], before(graph, outputs, key)
        part = mark_painted(image, faces)
        assert image.shape == old.shape and torch.equal(image[0][~part], old[0][~part])
        assert (image != old).any(dim=-1)[0][part].float().mean() > 0.15
        assert all(output.shape[1:3] == (64, 64) for output in outputs[key][1:])
    if name == "facea_two_people":
        assert len(faces) == 3 and len(outputs[key][1]) == 2, "the third has no person"


def test_a_trained_person_is_saved_loaded_and_painted(executor, base):
    graph = small("facea_train", steps=3)
    outputs = executor.run(graph)
    learned, losses, previews, *_ = outputs["10"]
    path = Path(outputs["11"][1])
    assert path.parent == base / "output" / "facea" and path.is_file()
    assert learned.word == "woman" and learned.features["face"].shape == (4, 768) and losses.ndim == previews.ndim == 4
    graph = one_face()
    graph["10"]["inputs"]["identity_name"] = path.name
    again = executor.run(graph)
    (loaded, *_) = again["10"]
    assert all(torch.equal(loaded.lora[name], learned.lora[name]) for name in learned.lora)
    assert not any("text" in output for output in read_outputs(executor, "11")), "it is the base it was trained on"
    assert not torch.equal(again["12"][0], before(graph, again, "12"))
    path.unlink()


def test_another_person_s_mouth_is_painted(executor, base):
    graph = small("facea_transfer", steps=3)
    outputs = executor.run(graph)
    (start, *_), (changed, *_) = outputs["10"], outputs["3"]
    moved = [region for region in REGIONS if not torch.equal(start.features[region], changed.features[region])]
    assert moved == ["mouth"]
    image, old = outputs["12"][0], before(graph, outputs, "12")
    assert image.shape == old.shape and not torch.equal(image, old)
    Path(outputs["4"][1]).unlink()


def one_face(**changes) -> dict:
    """facea_expression with its first person alone."""
    graph = small("facea_expression")
    for key in ("16", "17", "18"):
        del graph[key]
    graph["12"]["inputs"].update(changes)
    return graph


def test_the_small_nodes_with_the_stock_sampler_give_the_same_image(executor):
    graph = one_face(cfg=5.0)
    graph["10"]["inputs"]["identity_name"] = "her_00001_.safetensors"
    (expected, *_) = executor.run(graph)["12"]
    settings, person = graph["12"]["inputs"], graph["11"]["inputs"]
    crop = {key: settings[key] for key in ("image", "face_share", "size", "shape", "expand", "faces")}
    identity = {"facea_identity": person["facea_identity"]}
    sampler = {key: settings[key] for key in ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")}
    words = {key: person[key] for key in ("clip", "face_prompt", "negative", "compact")}
    del graph["11"], graph["12"]
    for key, class_type, inputs in (
        ("crop", "LikenessCropFacesToRefine", {**crop, "index": -1}),
        ("lora", "LikenessApplyFaceA", {**identity, "model": person["model"], "strength": 1.0}),
        ("words", "LikenessEncodeFaceAPrompt", {**identity, **words}),
        ("inpaint", "InpaintModelConditioning", {
            "positive": ["words", 0], "negative": ["words", 1], "vae": settings["vae"], "pixels": ["crop", 1],
            "mask": ["crop", 2], "noise_mask": True,
        }),
        ("sampler", "KSampler", {
            **sampler, "model": ["lora", 0], "positive": ["inpaint", 0], "negative": ["inpaint", 1],
            "latent_image": ["inpaint", 2],
        }),
        ("decoded", "VAEDecode", {"samples": ["sampler", 0], "vae": settings["vae"]}),
        ("12", "LikenessPasteFaceBack", {
            "face_crop": ["crop", 0], "image": ["decoded", 0], "blend": "mask", "feather": 8, "colour_match": True,
        }),
    ):  # fmt: skip
        graph[key] = {"class_type": class_type, "inputs": inputs}
    assert torch.equal(executor.run(graph)["12"][0], expected)


def test_three_faces_of_one_batch_through_the_small_nodes(executor):
    graph = one_face()
    graph["6"]["inputs"]["image"] = "examples/three_faces.png [temp]"
    image = executor.run({key: graph[key] for key in ("6",)} | preview("6", 0))["6"][0]
    for key in ("9", "10", "11", "13"):
        del graph[key]
    crop = {key: graph["12"]["inputs"][key] for key in ("image", "face_share", "size", "shape", "expand", "faces")}
    graph["12"] = {"class_type": "LikenessCropFacesToRefine", "inputs": {**crop, "index": -1}}
    graph["painted"] = {"class_type": "ImageInvert", "inputs": {"image": ["12", 1]}}
    paste = {"face_crop": ["12", 0], "image": ["painted", 0], "blend": "mask", "feather": 0, "colour_match": False}
    graph["pasted"] = {"class_type": "LikenessPasteFaceBack", "inputs": paste}
    graph |= preview("pasted", 0)
    outputs = executor.run(graph)
    (faces,) = outputs["8"][0].per_image
    changed = (outputs["pasted"][0] != image).any(dim=-1)[0]
    assert outputs["pasted"][0].shape == image.shape and outputs["12"][1].shape == (3, 64, 64, 3)
    for face in faces:
        x, y = face.points.mean(axis=0).round().astype(int)
        assert changed[y, x]
    assert not changed[~mark_painted(image, faces)].any()


def preview(source, output) -> dict:
    return {"preview": {"class_type": "PreviewImage", "inputs": {"images": [source, output]}}}


def test_a_second_run_is_the_same_and_strength_words_and_seed_count(executor):
    graph = one_face()
    first = executor.run(graph)["12"][0]
    for node, key, value in (("11", "strength", 0.5), ("11", "face_prompt", "a woman face"), ("12", "seed", 2)):
        other = copy.deepcopy(graph)
        other[node]["inputs"][key] = value
        assert not torch.equal(executor.run(other)["12"][0], first), key
    assert torch.equal(executor.run(graph)["12"][0], first)


def read_outputs(executor, key) -> list:
    return [data["output"] for event, data in executor.events if event == "executed" and data["node"] == key]


def test_another_base_and_a_model_that_does_not_inpaint_are_said_on_the_node(executor):
    graph = one_face(seed=11)
    executor.run(graph)
    assert not any("text" in output for output in read_outputs(executor, "11"))
    graph["9"]["inputs"]["ckpt_name"] = "likeness_builtin_sd15.ckpt"
    outputs = executor.run(graph)
    (output,) = read_outputs(executor, "11")
    assert "trained on likeness_builtin_sd15_inpaint.ckpt" in output["text"][0]
    assert "not an inpainting model" in output["text"][0]
    assert not torch.equal(outputs["12"][0], before(graph, outputs, "12")), "and it is painted all the same"


def solid_mask(graph, value, width=448, height=512):
    graph["mask"] = {"class_type": "SolidMask", "inputs": {"value": value, "width": width, "height": height}}
    graph["12"]["inputs"]["mask"] = ["mask", 0]


def without_anything(graph):
    del graph["12"]["inputs"]["faces"]


def nobody(graph):
    graph["6"] = {"class_type": "EmptyImage", "inputs": {"width": 300, "height": 200, "batch_size": 2, "color": 9000}}
    graph["8"]["inputs"]["if_no_face"] = "whole picture"


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda graph: solid_mask(graph, 0.0), f"{REFINE}: There is nothing to paint: mask is empty"),
        (lambda graph: solid_mask(graph, 1.0, 64, 64), f"{REFINE}: mask is 64 x 64 pixels, the picture is 448 x 512"),
        (without_anything, f"{REFINE}: Nothing says what to paint"),
        (nobody, f"{REFINE}: There is nothing to paint: no face was found in any picture"),
        (lambda graph: graph["11"]["inputs"].update(index=4), f"{REFINE}: There is no face 4 in any picture, only"),
        (
            lambda graph: graph["9"]["inputs"].update(ckpt_name="likeness_builtin_sdxl.ckpt"),
            f"{PERSON}: .*(trained on likeness_builtin_sd15_inpaint|CLIP of one text encoder)",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_the_next_graph_runs(executor, break_it, message):
    graph = one_face()
    good = copy.deepcopy(graph)
    break_it(graph)
    with pytest.raises(GraphError, match=message) as caught:
        executor.run(graph)
    assert "\n" not in str(caught.value).strip() and len(str(caught.value)) < 600
    executor.run(good)


def test_a_image_without_a_face_passes_through_a_batch(executor):
    graph = one_face()
    empty = {"width": 448, "height": 512, "batch_size": 1, "color": 9000}
    graph["empty"] = {"class_type": "EmptyImage", "inputs": empty}
    graph["both"] = {"class_type": "ImageBatch", "inputs": {"image1": ["empty", 0], "image2": ["6", 0]}}
    graph["8"]["inputs"].update(image=["both", 0], if_no_face="whole picture")
    graph["12"]["inputs"]["image"] = ["both", 0]
    outputs = executor.run(graph)
    changed = (outputs["12"][0] != outputs["both"][0]).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True]


def test_what_became_of_pictures_without_a_face_is_said(executor):
    """The person is not there, so that nothing is painted; the sentence is the same."""
    graph = one_face()
    empty = {"width": 448, "height": 512, "batch_size": 1, "color": 9000}
    graph["empty"] = {"class_type": "EmptyImage", "inputs": empty}
    graph["both"] = {"class_type": "ImageBatch", "inputs": {"image1": ["empty", 0], "image2": ["6", 0]}}
    graph[all_of(graph, PERSON)[0]]["inputs"]["index"] = 40
    graph["12"]["inputs"].update(image=["both", 0], if_no_face="pass through")
    for policy in ("whole picture", "leave as it is", "skip"):
        graph["8"]["inputs"].update(image=["both", 0], if_no_face=policy)
        outputs = executor.run(graph)
        assert torch.equal(outputs["12"][0], outputs["both"][0]), policy
        (shown,) = read_outputs(executor, "12")
        assert list(shown["text"]) == ["1 of 2 pictures had no face and was left as it is."], policy
    graph["12"]["inputs"]["image"] = ["6", 0]
    executor.run(graph)
    assert list(read_outputs(executor, "12")[0]["text"]) == ["1 of 2 pictures had no face and was skipped."]


def test_a_picture_without_any_face_passes_through_and_its_crops_run_nothing(executor):
    graph = one_face()
    graph["empty"] = {"class_type": "EmptyImage", "inputs": {"width": 448, "height": 512, "batch_size": 1, "color": 9}}
    graph["8"]["inputs"].update(image=["empty", 0], if_no_face="whole picture")
    graph["12"]["inputs"]["image"] = ["empty", 0]
    for output in range(4):
        graph[f"show {output}"] = {"class_type": "PreviewAny", "inputs": {"source": ["12", output]}}
    with pytest.raises(GraphError, match="There is nothing to paint: no face was found in any picture"):
        executor.run(graph)
    graph["12"]["inputs"]["if_no_face"] = "pass through"
    outputs = executor.run(graph)
    assert torch.equal(outputs["12"][0], outputs["empty"][0])
    shown = {data["node"] for event, data in executor.events if event == "executed"}
    assert {node for node in shown if node.startswith("show")} == {"show 0"}
