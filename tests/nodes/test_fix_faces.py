"""Faces painted anew by any model: with an adapter, without, chosen by number and by likeness."""

import copy

import pytest
import torch
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import only, workflow

pytestmark = pytest.mark.slow


PHOTO, PERSON, REFINE = "11", "18", "12"  # nodes of the published workflow


@pytest.fixture(scope="module")
def graph():
    """The published workflow, quickly and on one face: a photo, FACT on a plain checkpoint, every face painted."""
    graph = workflow("fix_faces")
    graph[PHOTO]["inputs"]["image"] = graph["4"]["inputs"]["image"]
    graph[REFINE]["inputs"].update(size=64, steps=2, expand=4, feather=2)
    for name in ("face_id", "face_encoder", "min_likeness"):
        del graph[PERSON]["inputs"][name]
    return graph


def refine(executor, graph) -> tuple[torch.Tensor, torch.Tensor]:
    """The photo and what became of it."""
    outputs = executor.run(graph)
    return outputs[PHOTO][0], outputs[REFINE][0]


def person(graph, **inputs) -> dict:
    graph = copy.deepcopy(graph)
    graph[PERSON]["inputs"].update(inputs)
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
    chosen = {"face_id": ["17", 0], "face_encoder": ["16", 0]}
    assert torch.equal(refine(executor, person(graph, **chosen, min_likeness=0.9))[1], refine(executor, graph)[1])
    with pytest.raises(GraphError, match="both face_id and the face_encoder"):
        executor.run(person(graph, face_id=["17", 0]))
    stranger = person(graph, **chosen, min_likeness=1.0)
    stranger["17"]["inputs"]["mask_background"] = "on"  # not as the face is read in the picture
    with pytest.raises(GraphError, match="No face of the picture is like any of the people: lower min_likeness"):
        executor.run(stranger)
    assert torch.equal(refine(executor, person(stranger, min_likeness=-1.0))[1], refine(executor, graph)[1])
    stranger[REFINE]["inputs"]["if_no_face"] = "pass through"
    photo, fixed = refine(executor, stranger)
    assert torch.equal(photo, fixed)


def test_the_published_workflow_paints_one_face_of_three(executor):
    graph = workflow("fix_faces")
    graph[REFINE]["inputs"].update(size=64, steps=2)
    photo, fixed = refine(executor, person(graph, min_likeness=-1.0))
    changed = (photo != fixed).any(dim=-1)[0].any(dim=0).nonzero()
    assert 0 < len(changed) <= changed.max() - changed.min() + 1 < photo.shape[2] / 3
