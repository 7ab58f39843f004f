"""What inputs of several nodes have in common: masks that are none are told from masks."""

import sys

import folder_paths
import pytest
import torch
from likeness.nodes.inputs import check_mask, check_numbers, explain_placeholder
from likeness.tests.support.graphs import only, workflow

import nodes


def test_a_mask_with_a_number_that_is_none_stops():
    mask = torch.ones(1, 8, 8)
    assert check_mask(mask) is mask and check_mask(None) is None
    mask[0, 3, 3] = float("nan")
    for check in (check_mask, check_numbers):
        with pytest.raises(ValueError, match="head_mask holds NaN or infinite numbers: look at the node it comes from"):
            check(mask, "head_mask")


def test_the_black_mask_of_load_image_is_told_from_others():
    for shape in [(1, 64, 64), (3, 64, 64), (64, 64)]:
        assert "what Load Image gives for a picture without transparency" in explain_placeholder(torch.zeros(shape))
        with pytest.raises(ValueError, match="disconnect face_mask, or draw one"):
            check_mask(torch.zeros(shape), "face_mask")
    assert explain_placeholder(torch.zeros(1, 64, 65)) is None
    assert explain_placeholder(torch.full((1, 64, 64), 0.1)) is None


@pytest.mark.slow
def test_a_picture_without_transparency_as_the_mask_is_said_at_the_node(executor):
    graph = workflow("fact_text_to_image", steps=1)
    apply, decode = only(graph, "LikenessApplyFACT"), only(graph, "VAEDecode")
    graph["opaque"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 64}}
    graph[apply]["inputs"]["mask"] = ["opaque", 0]
    (image,) = executor.run(graph)[decode]
    shown = [data["output"] for event, data in executor.events if event == "executed" and data["node"] == apply]
    assert "mask is black and 64 x 64 pixels" in shown[0]["text"][0]
    del graph[apply]["inputs"]["mask"]
    graph[apply]["inputs"]["strength"] = 0.0
    assert torch.equal(executor.run(graph)[decode][0], image), "and an empty mask is the base model"


@pytest.mark.parametrize("words", [
    "portrait", "face swap", "anime", "sdxl", "sd1.5", "same person", "consistent character", "likeness", "pulid",
    "instantid", "restore face", "two people", "face detailer",
])  # fmt: skip
def test_node_search_knows_the_words_people_type(executor, words):
    """It looks into names and aliases."""
    schemas = [node.GET_SCHEMA() for key, node in nodes.NODE_CLASS_MAPPINGS.items() if key.startswith("Likeness")]
    assert any(words in [schema.display_name.lower(), *(schema.search_aliases or ())] for schema in schemas)


def test_menus_of_folders_with_2000_files_look_into_none(executor, tmp_path, monkeypatch):
    """The editor asks for all menus at once, when it starts and whenever R is pressed."""
    kinds = ("facechain_fact", "ipadapter", "metrics", "insightface", "detection", "face_parsing", "face_id", "facea")
    for kind in kinds:
        extensions = folder_paths.folder_names_and_paths[kind][1]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], extensions))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    names = {f"{number:04}.{ending}" for number in range(1000) for ending in ("onnx", "safetensors")}
    for name in names:
        (tmp_path / name).touch()

    opened = []  # by anything in this process, as a hook cannot be taken away
    sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" else None)
    offered = set()
    for key, node in nodes.NODE_CLASS_MAPPINGS.items():
        if key.startswith("Likeness"):
            for socket in node.GET_SCHEMA().inputs:
                offered |= names.intersection(getattr(socket, "options", None) or ())
    assert offered == names and not any(str(tmp_path) in file for file in opened)
