"""PuLID and InstantID through the host's executor: photo to picture, what inputs do, what is refused."""

import copy
import json

import pytest
import torch
from likeness.faces.types import Faces
from likeness.nodes import instantid as instantid_nodes
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import WORKFLOWS as GRAPHS
from likeness.tests.support.graphs import only, workflow

pytestmark = pytest.mark.slow

# The published workflows: sampler, steps and guidance, as their authors have them.
WORKFLOWS = {
    "pulid": ("dpmpp_2m", 25, 7.0),
    "pulid_few_steps": ("dpmpp_2m", 4, 1.2),
    "people_in_places": ("dpmpp_2m", 25, 7.0),
    "instantid": ("euler", 30, 5.0),
}


@pytest.fixture
def pulid():
    return workflow("pulid")


@pytest.fixture
def instantid():
    return workflow("instantid")


def sample(executor, graph) -> torch.Tensor:
    return executor.run(graph)[only(graph, "VAEDecode")][0]


def change(graph, **inputs) -> dict:
    graph = copy.deepcopy(graph)
    graph["10"]["inputs"].update(inputs)
    return graph


def without(graph) -> dict:
    graph = copy.deepcopy(graph)
    graph["12"]["inputs"] |= {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0]}
    graph.pop("10")
    return graph


def refusal(executor, graph) -> str:
    with pytest.raises(GraphError) as caught:
        executor.run(graph)
    return str(caught.value)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_published_workflows_run(executor, name):
    published = json.loads((GRAPHS / f"{name}.json").read_text())["12"]["inputs"]
    assert (published["sampler_name"], published["steps"], published["cfg"]) == WORKFLOWS[name]
    result = sample(executor, workflow(name))
    assert result.shape == (1, 64, 64, 3) and torch.isfinite(result).all() and result.std() > 0.01


def test_pulid(executor, pulid):
    base, face = sample(executor, without(pulid)), sample(executor, pulid)
    assert torch.isfinite(face).all() and not torch.equal(face, base)
    others = [sample(executor, change(pulid, method=method)) for method in ("style", "neutral")]
    others += [sample(executor, change(pulid, start_percent=0.6))]
    for number, other in enumerate(others):
        assert not any(torch.equal(other, picture) for picture in (base, face, *others[:number])), number
    assert torch.equal(sample(executor, change(pulid, zero_tokens=8)), face), "fidelity of version 1 has eight"
    assert torch.equal(sample(executor, change(pulid, strength=0.0)), base)


def test_pulid_asks_for_what_is_its_own(executor, pulid):
    arcface = copy.deepcopy(pulid)
    arcface["7"] = {
        "class_type": "LikenessLoadFaceEncoder",
        "inputs": {"encoder_name": "likeness_builtin_arcface.onnx"},
    }
    assert "reads a face as Load PuLID Encoder sees it, but the identity was encoded by" in refusal(executor, arcface)
    faceid = copy.deepcopy(pulid)
    faceid["9"]["inputs"]["adapter_name"] = "likeness_builtin_instantid.bin"
    assert "is no PuLID file: use Apply Image Adapter for it" in refusal(executor, faceid)
    wrong = copy.deepcopy(pulid)
    wrong["7"]["inputs"]["recogniser_name"] = "models/antelopev2/glintr100.onnx"
    assert "glintr100.onnx" in refusal(executor, wrong)


def test_instantid(executor, instantid):
    base, whole = sample(executor, without(instantid)), sample(executor, instantid)
    assert torch.isfinite(whole).all()
    parts = [sample(executor, change(instantid, **{name: 0.0})) for name in ("strength", "control_strength")]
    pictures = [base, whole, *parts, sample(executor, change(instantid, region="the faces' boxes"))]
    for number, picture in enumerate(pictures):
        assert not any(torch.equal(picture, other) for other in pictures[:number]), number
    off = change(instantid, strength=0.0, control_strength=0.0)
    assert torch.equal(sample(executor, off), base)
    keypoints = executor.run(instantid)["10"][3]
    assert keypoints.shape == (1, 64, 64, 3) and len(keypoints.reshape(-1, 3).unique(dim=0)) > 3


def test_the_two_parts_are_the_whole(executor, instantid):
    apart = copy.deepcopy(instantid)
    shared = apart["10"]["inputs"]

    def pick(*names) -> dict:
        return {name: shared[name] for name in names}

    apart["10"] = {
        "class_type": "LikenessApplyImageAdapter",
        "inputs": pick("model", "face_adapter", "face_id", "strength", "start_percent", "end_percent"),
    }
    apart["21"] = {"class_type": "LikenessDrawFaceKeypoints", "inputs": {"faces": ["16", 0], "latent": ["11", 0]}}
    conditionings = pick("positive", "negative", "face_adapter", "control_net", "face_id", "control_strength")
    apart["22"] = {
        "class_type": "LikenessApplyInstantIdControl",
        "inputs": {**conditionings, **pick("start_percent", "end_percent"), "image": ["21", 0]},
    }
    apart["12"]["inputs"] |= {"positive": ["22", 0], "negative": ["22", 1]}
    assert torch.equal(sample(executor, apart), sample(executor, instantid))


def test_a_pose_without_a_face():
    nobody = Faces(torch.zeros(1, 64, 64, 3), ((),))
    with pytest.raises(ValueError, match="There is no face in the picture of the pose"):
        instantid_nodes.DrawFaceKeypoints.execute(nobody, {"samples": torch.zeros(1, 4, 8, 8)})
