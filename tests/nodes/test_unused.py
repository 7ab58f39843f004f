"""Inputs that do not count, and those that choose for themselves."""

import copy
from dataclasses import replace

import pytest
import torch
from likeness.nodes import facea_train, inputs, ip_adapter, unused
from likeness.tests.support import tiny
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import only, workflow

import nodes


def encoding(name: str) -> dict:
    """From the photo to the identity."""
    graph = workflow(name)
    return {key: graph[key] for key in ("4", "5", "6", "7", "8")} | {
        "look": {"class_type": "PreviewImage", "inputs": {"images": ["8", 1]}, "_meta": {}}
    }


def changed(graph: dict, key: str, **values) -> dict:
    graph = copy.deepcopy(graph)
    graph[key]["inputs"].update(values)
    return graph


@pytest.mark.slow
def test_a_number_that_does_not_count_detects_nothing_anew(executor):
    graph = encoding("fact_text_to_image")
    key = only(graph, "LikenessDetectFaces")
    executor.run(unused.settle({"prompt": changed(graph, key, index=3)})["prompt"])
    executor.run(unused.settle({"prompt": changed(graph, key, index=7)})["prompt"])
    assert executor.executed() == set()
    executor.run(unused.settle({"prompt": changed(graph, key, choose="left to right", index=0)})["prompt"])
    assert key in executor.executed()


def test_numbers_that_count_and_links_stay():
    counting = {"class_type": "LikenessCombineIdentities", "inputs": {"method": "interpolate", "slider": 0.2}}
    linked = {"class_type": "LikenessDetectFaces", "inputs": {"choose": ["1", 0], "index": 4}}
    prompt = {"a": counting, "b": linked, "c": {"class_type": "KSampler", "inputs": {}}, "d": "no node"}
    assert unused.settle({"prompt": copy.deepcopy(prompt)}) == {"prompt": prompt}
    assert unused.settle({}) == {} and unused.settle({"prompt": None}) == {"prompt": None}


def test_every_number_that_may_not_count_says_when_it_does_and_is_settled(executor):
    for key, node in nodes.NODE_CLASS_MAPPINGS.items():
        schema = {entry.id: entry for entry in node.GET_SCHEMA().inputs} if key.startswith("Likeness") else {}
        numbers = {name for name, entry in schema.items() if entry.io_type in ("INT", "FLOAT")}
        speaking = {name for name in numbers if "Counts only" in schema[name].tooltip}
        assert speaking == {entry.name for entry in unused.UNUSED.get(key, ())}, key
        for entry in unused.UNUSED.get(key, ()):
            number, choice = schema[entry.name], schema[entry.choice]
            assert number.min <= entry.value <= number.max
            assert {*entry.counts_for} <= {*choice.options} if entry.counts_for else choice.optional


def test_steps_beside_a_preset_train_nothing_anew():
    likeness, *_, own = facea_train._PRESETS
    assert _settled("LikenessTrainFaceA", preset=likeness, steps=40)["steps"] == facea_train._PRESETS[likeness]
    assert _settled("LikenessTrainFaceA", preset=own, steps=40)["steps"] == 40


def test_a_number_for_a_socket_counts_where_that_is_connected():
    for kind, name, socket in (
        ("FaceToWords", "expression_strength", "expression"),
        ("PersonInPlace", "index", "faces"),
    ):
        assert _settled(f"Likeness{kind}", **{name: 0.25})[name] != 0.25
        assert _settled(f"Likeness{kind}", **{name: 0.25, socket: ["1", 0]})[name] == 0.25


def _settled(kind: str, **inputs) -> dict:
    return unused.settle({"prompt": {"a": {"class_type": kind, "inputs": inputs}}})["prompt"]["a"]["inputs"]


@pytest.mark.parametrize(("name", "masked"), [("fact_text_to_image", True), ("f2d_text_to_image", False)])
@pytest.mark.slow
def test_auto_is_what_the_encoder_was_trained_on(executor, name, masked):
    """Graphs of earlier versions hold True or False, which mean what they meant."""
    graph = encoding(name)
    identities = {
        value: executor.run(changed(graph, "8", mask_background=value))["8"][0]
        for value in ("auto", "on", "off", True, False)
    }
    for value, like in ((True, "on"), (False, "off"), ("auto", "on" if masked else "off")):
        assert torch.equal(identities[value].features, identities[like].features)
        assert identities[value].masked == (like == "on")
    assert not torch.equal(identities["on"].features, identities["off"].features)
    with pytest.raises(GraphError, match="Choose one of auto, on, off, not maybe"):
        executor.run(changed(graph, "8", mask_background="maybe"))


def test_the_default_is_auto():
    assert inputs.mask_background_by_encoder().default == "auto"


def test_crops_blacked_out_for_another_encoder_are_remarked_upon():
    blackened, whole = (replace(tiny.face_id(4), encoder="arcface", masked=masked) for masked in (True, False))
    assert "with a blacked out background" in ip_adapter.doubt_crops(blackened)
    assert ip_adapter.doubt_crops(whole) is None and ip_adapter.doubt_crops(None) is None
