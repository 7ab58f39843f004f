"""The Chinese texts: none is missing, none is left over, and the editor can read all."""

import json
import re

import pytest
from likeness.nodes import sockets

import nodes

MARKUP = re.compile(r"[{}@|]")  # of the editor's translations, in all texts but tooltips


@pytest.fixture(scope="module")
def texts(root):
    return {
        name: json.loads((root / "locales" / "zh" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("nodeDefs", "main")
    }


def schemas():
    return {key: node.GET_SCHEMA() for key, node in nodes.NODE_CLASS_MAPPINGS.items() if key.startswith("Likeness")}


def expected() -> dict[str, bool]:
    """The paths of all texts that a node's Chinese form needs, and whether each is a tooltip."""
    paths = {}
    for key, schema in schemas().items():
        paths |= {f"{key}/display_name": False, f"{key}/description": False}
        sockets_by_part = {"inputs": [socket.id for socket in schema.inputs], "outputs": range(len(schema.outputs))}
        for part, names in sockets_by_part.items():
            paths |= {
                f"{key}/{part}/{name}/{what}": what == "tooltip" for name in names for what in ("name", "tooltip")
            }
    return paths


def flatten(tree: dict, path: str = "") -> dict[str, str]:
    flat = {}
    for key, value in tree.items():
        here = f"{path}/{key}" if path else key
        flat |= flatten(value, here) if isinstance(value, dict) else {here: value}
    return flat


def test_every_node_input_output_and_tooltip_has_its_chinese(executor, texts):
    translated = flatten(texts["nodeDefs"])
    assert sorted(expected().keys() - translated.keys()) == [], "these have no Chinese in locales/zh/nodeDefs.json"
    assert sorted(translated.keys() - expected().keys()) == [], "these stand for nothing any more"
    assert all(translated.values())


def test_names_and_descriptions_hold_no_markup(executor, texts):
    translated = flatten(texts["nodeDefs"])
    assert [path for path, tooltip in expected().items() if not tooltip and MARKUP.search(translated[path])] == []


def test_what_a_tooltip_quotes_stays_as_it_is(executor, texts):
    """Names of files, folders and placeholders are not translated."""
    quoted = re.compile(r"\{\w+\}|models/\w+|output/\w+|[\w-]+\.(?:pth|pt|onnx|bin)")
    translated = flatten(texts["nodeDefs"])
    for key, schema in schemas().items():
        for socket in schema.inputs:
            chinese = translated[f"{key}/inputs/{socket.id}/tooltip"]
            assert {*quoted.findall(socket.tooltip)} == {*quoted.findall(chinese)}, f"{key}.{socket.id}"


def test_categories_and_sockets_have_their_chinese(executor, texts):
    levels = {level for schema in schemas().values() for level in schema.category.split("/")}
    assert levels == texts["main"]["nodeCategories"].keys()
    own = {socket.io_type for name, socket in vars(sockets).items() if name.endswith("Type")} - {"FACE_LANDMARKS"}
    assert own == texts["main"]["dataTypes"].keys()
