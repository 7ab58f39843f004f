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


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow if "facea" in name else ()) for name in NAMES
])  # fmt: skip
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


@pytest.mark.slow
def test_two_people_are_in_their_places(executor):
    graph = load_workflow("miniature_two_people")
    both = executor.run(graph)[only(graph, "ImageScaleBy")][0]
    halves = [(half * 255).round().byte().numpy() for half in (both[:, :, :384], both[:, :, 384:])]
    references = [render_photos(150_000 + number, 1)[0][0] for number in (3, 5)]
    first, second = (Image.fromarray((image * 255).round().byte().numpy()) for image in references)
    for side, (there, elsewhere) in enumerate([(first, second), (second, first)]):
        images = [Image.fromarray(image) for image in halves[side]]
        assert identities(images, there).nan_to_num().mean() > 0.3 + identities(images, elsewhere).nan_to_num().mean()
