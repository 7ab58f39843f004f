"""Whose licences follow a picture: of graphs, by the command, and of the path that the README calls free."""

import json
import re
from pathlib import Path

import pytest
from likeness.tests.support.graphs import WORKFLOWS
from likeness.weights import command, licences, manifest


def read(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text())


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "fact_text_to_image",
            r"^Not for commercial use, by the licence of ms1mv2\S+ \(.*\n.*not settled for adapter_maj",
        ),
        ("fact_lora_controlnet", r"read the terms of style_lora_sd15.safetensors"),
        ("facea_train", r"^No weight file of this graph forbids commercial use: mediapipe\S+ \(Apache-2.0\), sd-v1-5-"),
        ("facea_refine", r"What its person agreed to, and what it was made with, counts for her_00001_"),
        ("miniature_fact", r"^No weight file of this graph forbids commercial use\.$"),
    ],
)
def test_what_is_said_of_a_graph(name, words):
    assert re.search(words, licences.explain(read(name)))


def test_files_of_the_pack_are_known_as_such():
    assert licences.find_shipped(read("miniature_fact")) == [
        "miniature_transface.safetensors",
        "miniature_fact.safetensors",
    ]
    strange = {"1": {"inputs": {"a": "../x.safetensors", "b": "[*].bin", "c": "miniature_gone.safetensors"}}}
    assert licences.find_unlisted(strange) == ["../x.safetensors", "[*].bin", "miniature_gone.safetensors"]


def test_the_command_says_it_by_its_exit_code(tmp_path):
    lines = []
    files = {name: str(WORKFLOWS / f"{name}.json") for name in ("facea_train", "faceid_plusv2")}
    assert command.main(["licences", files["facea_train"]], lines.append) == 0
    assert command.main(["licences", *files.values()], lines.append) == 1
    assert "Not for commercial use" in lines[-1] and files["faceid_plusv2"] in lines[-1]
    (tmp_path / "editor.json").write_text('{"nodes": []}')
    graph = Path(files["faceid_plusv2"]).read_text(encoding="utf-8")
    (tmp_path / "request.json").write_text(f'{{"prompt": {graph}}}')
    (tmp_path / "windows.json").write_text(graph, encoding="utf-8-sig")
    for path, words in (
        (tmp_path / "gone.json", "No such file"),
        (tmp_path / "editor.json", "not a workflow in API form"),
        (tmp_path / "request.json", "not a workflow in API form"),
        (tmp_path / "windows.json", "Not for commercial use"),
    ):
        assert command.main(["licences", str(path)], lines.append) == 1 and words in lines[-1]


def test_one_path_from_photo_to_picture_is_free(root):
    """The README names it; all that its two graphs name must allow commercial use."""
    page = (root / "README.md").read_text(encoding="utf-8")
    section = page.split("## Consent, and what follows a picture")[1].split("\n## ")[0]
    for name in ("facea_train", "facea_refine"):
        assert f"workflows/api/{name}.json" in section
        entries = licences.find_entries(read(name))
        assert entries and all(entry.commercial_use is True for _, entry in entries)
        assert not licences.find_unlisted(read(name))
    assert manifest.find("mediapipe_face_fp32.safetensors").licence == "Apache-2.0"
