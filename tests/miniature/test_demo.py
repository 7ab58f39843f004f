"""The demo in the miniature: its graphs, its scores, and all of it through a real server."""

import asyncio
import json

import numpy as np
import pytest
import torch
from likeness.launcher.client import Client
from likeness.miniature import demo
from likeness.miniature.models.recogniser import Recogniser
from likeness.miniature.world import captions
from likeness.miniature.world.draw import draw
from likeness.miniature.world.people import SPLITS, person
from likeness.miniature.world.scenes import Scene
from likeness.tests.support.graphs import only
from likeness.tests.support.tiny_miniature import drawn
from PIL import Image
from safetensors.torch import save_file

import nodes


def picture(number: int, size: int = 96) -> Image.Image:
    pixels = draw([person(number)], [Scene()], size).images[0]
    return Image.fromarray((pixels * 255).round().byte().numpy())


@pytest.fixture
def scorer(tmp_path, monkeypatch):
    save_file(
        {name: weight.half() for name, weight in drawn(Recogniser((8, 8, 8), 16)).items()}, tmp_path / "s.safetensors"
    )
    monkeypatch.setattr(demo, "SCORER", tmp_path / "s.safetensors")


def rows():
    return [pytest.param(row, id=row.title) for row in demo.ROWS]


@pytest.mark.parametrize("row", rows())
def test_a_rows_graphs_hang_together(executor, row):
    made = demo.graphs(row, "somebody.png")
    assert len({json.dumps(graph) for graph in made.values()}) == len(made) == 5
    for graph in made.values():
        classes = {node["class_type"] for node in graph.values()}
        assert "LikenessLoadMiniature" in classes and not classes & {"CheckpointLoaderSimple", "CLIPVisionLoader"}
        for node in graph.values():
            known = nodes.NODE_CLASS_MAPPINGS[node["class_type"]].INPUT_TYPES()
            assert node["inputs"].keys() <= {name for part in ("required", "optional") for name in known.get(part, {})}
            for source, slot in (value for value in node["inputs"].values() if isinstance(value, list)):
                assert slot < len(nodes.NODE_CLASS_MAPPINGS[graph[source]["class_type"]].RETURN_TYPES)
            if node["class_type"] == "LikenessExamplePicture":
                assert node["inputs"]["image"] == "somebody.png"


def test_the_models_of_a_row_are_of_its_method():
    files = {
        row.title.split(",")[0].split(":")[0]: {
            value for graph in demo.graphs(row, "x.png").values() for node in graph.values()
            for key, value in node["inputs"].items() if key.endswith("_name") and "miniature" in str(value)
        }
        for row in demo.ROWS
    }  # fmt: skip
    assert files == {
        "FaceChain-FACT": {"miniature_transface.safetensors", "miniature_fact.safetensors"},
        "Face2Diffusion": {"miniature_msid.safetensors", "miniature_face2diffusion.safetensors"},
        "Infinite-ID": {"miniature_arcface.onnx", "miniature_infinite_id.safetensors"},
        "FaceA-Net": {"miniature_facea.safetensors"},
    }
    refine = next(iter(list(demo.graphs(demo.ROWS[-1], "x.png").values())[1:]))
    tasks = [node["inputs"]["task"] for node in refine.values() if node["class_type"] == "LikenessLoadMiniature"]
    assert sorted(tasks) == ["inpainting", "text to image"]


@pytest.mark.parametrize("row", rows())
def test_prompts_are_of_the_drawn_worlds_language_and_people_are_held_out(row):
    word = "woman" if person(row.number).woman else "man"
    for text, graph in list(demo.graphs(row, "x.png").items())[1:]:
        assert captions.parse(text)["woman"] == (word == "woman")
        assert graph["2"]["inputs"]["text"] in (text, text.replace(f"a {word}", "{face}"))
        assert graph["3"]["inputs"]["text"] == ""
    assert row.number in SPLITS["test"]


def test_without_the_adapter_nothing_of_the_person_is_in_the_graph():
    off = demo.graphs(demo.ROWS[0], "x.png")["adapter off"]
    assert {node["class_type"] for node in off.values()} == {
        "LikenessLoadMiniature", "CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode", "SaveImage",
    }  # fmt: skip


def test_scores_are_cosines_of_faces(scorer):
    wall = Image.new("RGB", (96, 96), (180, 180, 185))
    same, other, nobody = demo.identities([picture(150_003), picture(150_004), wall], picture(150_003))
    assert abs(same - 1) < 1e-5 and other < 0.999 and nobody.isnan()


def test_a_row_tells_its_mean_with_no_face_as_nought(monkeypatch):
    monkeypatch.setattr(demo, "identities", lambda *_: torch.tensor([0.1, 0.8, torch.nan]))
    blank = Image.new("RGB", (8, 8))
    title, cells = demo.make_row(demo.ROWS[0], blank, [("adapter off", blank), ("one", blank), ("two", blank)])
    assert title == "FaceChain-FACT: likeness 0.40, 0.10 with the adapter off"
    assert [label for label, _ in cells] == ["reference", "0.10\nadapter off", "0.80\none", "no face\ntwo"]


def test_the_workflow_shows_a_held_out_person(root):
    reference = np.asarray(Image.open(root / "workflows" / "assets" / "miniature_reference.png"), dtype=int)
    assert abs(reference - np.asarray(picture(demo.ROWS[0].number, demo.REFERENCE_SIZE), dtype=int)).max() <= 1


@pytest.mark.slow
def test_the_demo_makes_a_sheet(server, tmp_path):
    """Also the shipped workflow, which is its first row."""

    async def talk():
        async with Client(server) as client:
            return await demo.make(client, tmp_path)

    (page,) = asyncio.run(talk())
    assert page == tmp_path / "sheet.png" and Image.open(page).width > 1000
    assert only(demo.load_workflow("miniature"), "LikenessApplyFACT") == "10"
