"""Faces painted anew by any model: with an adapter, without, chosen by number and by likeness."""

import copy

import pytest
import torch
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import only, workflow

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def graph():
    """A photo, its face, FACT on a plain SD1.5 checkpoint, and that as the person of Refine Faces."""
    graph = workflow("fact_text_to_image", steps=2)
    sampler = graph.pop(only(graph, "KSampler"))["inputs"]
    photo, faces = (only(graph, name) for name in ("LoadImage", "LikenessDetectFaces"))
    vae = graph[only(graph, "VAEDecode")]["inputs"]["vae"]
    shown = ("VAEDecode", "SaveImage", "PreviewImage")
    graph = {key: node for key, node in graph.items() if node["class_type"] not in shown}
    graph["90"] = {
        "class_type": "LikenessFacePerson",
        "inputs": {name: sampler[name] for name in ("model", "positive", "negative")} | {"index": -1},
    }
    graph["91"] = {
        "class_type": "LikenessRefineFaces",
        "inputs": {
            "image": [photo, 0], "people": ["90", 0], "vae": vae, "face_share": 0.5, "size": 64, "shape": "box",
            "expand": 4, "feather": 2, "colour_match": True, "seed": 1, "steps": 2, "cfg": 3.0, "sampler_name": "euler",
            "scheduler": "normal", "denoise": 0.6, "faces": [faces, 0],
        },
    }  # fmt: skip
    graph["92"] = {"class_type": "PreviewImage", "inputs": {"images": ["91", 0]}}
    return graph


def refine(executor, graph) -> tuple[torch.Tensor, torch.Tensor]:
    """The photo and what became of it."""
    outputs = executor.run(graph)
    return outputs[only(graph, "LoadImage")][0], outputs["91"][0]


def person(graph, **inputs) -> dict:
    graph = copy.deepcopy(graph)
    graph["90"]["inputs"].update(inputs)
    return graph


def test_an_adapter_paints_the_face_and_nothing_else(executor, graph):
    photo, fixed = refine(executor, graph)
    changed = (photo != fixed).any(dim=-1)[0]
    assert 0 < float(changed.float().mean()) < 0.5 and torch.isfinite(fixed).all()
    plain = person(graph, model=graph[only(graph, "LikenessApplyFACT")]["inputs"]["model"])
    assert not torch.equal(refine(executor, plain)[1], fixed), "the person acts"
    again = refine(executor, graph)[1]
    assert torch.equal(again, fixed)


def test_by_likeness(executor, graph):
    """The photo's own face is found by the identity read from it."""
    encode = only(graph, "LikenessEncodeIdentity")
    chosen = {"face_id": [encode, 0], "face_encoder": graph[encode]["inputs"]["face_encoder"]}
    assert torch.equal(refine(executor, person(graph, **chosen, min_likeness=0.9))[1], refine(executor, graph)[1])
    with pytest.raises(GraphError, match="both face_id and the face_encoder"):
        executor.run(person(graph, face_id=[encode, 0]))
