"""The miniature's workflows: everything they need comes with the pack, and the likeness is plain."""

import copy

import pytest
import torch
from likeness.miniature.demo import API, identities, load_workflow
from likeness.miniature.world import captions
from likeness.miniature.world.photos import render_photos
from likeness.tests.support.graphs import only
from PIL import Image

NAMES = sorted(path.stem for path in API.glob("miniature_*.json"))
PEOPLE = {"fact": 5, "infinite_id": 5, "face2diffusion": 32, "facea": 4, "scores": 5}  # whom the pictures show
LEAST = {"fact": 0.7, "infinite_id": 0.65, "face2diffusion": 0.7, "facea": 0.5, "scores": 0.7}


def hurried(graph: dict) -> dict:
    """The same graph with two steps, and one picture."""
    graph = copy.deepcopy(graph)
    for node in graph.values():
        for name, value in {"steps": 2, "batch_size": 1}.items():
            if name in node["inputs"]:
                node["inputs"][name] = value
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_with_nothing_but_the_pack(executor, name):
    graph = hurried(load_workflow(name))
    images = executor.run(graph)[only(graph, "ImageScaleBy")][0]
    assert images.shape[1] == 384 and images.isfinite().all() and images.std() > 0.01
    assert not any("Checkpoint" in node["class_type"] or node["class_type"] == "LoadImage" for node in graph.values())


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_of_the_drawn_worlds_language(name):
    values = [
        value for node in load_workflow(name).values() for value in node["inputs"].values() if isinstance(value, str)
    ]
    prompts = [value for value in values if value.startswith(("a photo", "a sketch", "a cartoon"))]
    for prompt in prompts:
        captions.parse(prompt.replace("{face}", "a man").replace("a person", "a man"))
    assert prompts or name == "miniature_facea_train"


@pytest.mark.slow
@pytest.mark.parametrize("name", PEOPLE)
def test_the_likeness_is_plain(executor, name):
    graph = load_workflow(f"miniature_{name}")
    enlarged = executor.run(graph)[only(graph, "ImageScaleBy")][0]
    reference, _ = render_photos(150_000 + PEOPLE[name], 1)
    images = [Image.fromarray((image * 255).round().byte().numpy()) for image in torch.cat([enlarged, reference])]
    assert identities(images[:-1], images[-1]).nan_to_num().mean() > LEAST[name]


def in_places(graph: dict) -> dict:
    """The graph of two people by People in Places, in place of masks and two Apply FACT."""
    graph = {key: node for key, node in graph.items() if key not in ("24", "25", "26", "27", "28")}
    apply = graph["10"]["inputs"]
    place = {"prompt": "", "x": 0.0, "y": 0.0, "width": 50.0, "height": 100.0, "index": 0}
    for key, side, identity in (("24", "left half", "8"), ("25", "right half", "23")):
        inputs = place | {"place": side, "face_id": [identity, 0]}
        graph[key] = {"class_type": "LikenessPersonInPlace", "inputs": inputs}
    graph["25"]["inputs"]["people"] = ["24", 0]
    inputs = {name: apply[name] for name in ("face_adapter", "strength", "start_percent", "end_percent")}
    inputs |= {"model": ["1", 0], "positive": ["2", 0], "people": ["25", 0], "latent": ["11", 0]}
    graph["10"] = {"class_type": "LikenessPeopleInPlaces", "inputs": inputs | {"blend": 8.0, "common_share": 0.3}}
    graph["12"]["inputs"] |= {"model": ["10", 0], "positive": ["10", 1]}
    return graph


@pytest.mark.slow
@pytest.mark.parametrize("change", [dict, in_places])
def test_two_people_are_where_their_masks_are(executor, change):
    graph = change(load_workflow("miniature_two_people"))
    both = executor.run(graph)[only(graph, "ImageScaleBy")][0]
    halves = [(half * 255).round().byte().numpy() for half in (both[:, :, :384], both[:, :, 384:])]
    references = [render_photos(150_000 + number, 1)[0][0] for number in (5, 12)]
    first, second = (Image.fromarray((image * 255).round().byte().numpy()) for image in references)
    for side, (there, elsewhere) in enumerate([(first, second), (second, first)]):
        images = [Image.fromarray(image) for image in halves[side]]
        assert identities(images, there).nan_to_num().mean() > 0.3 + identities(images, elsewhere).nan_to_num().mean()
