"""The house rules that a test can keep: import directions, no monkey patches, optional packages imported late."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A room is a folder or a module at the root. Imports point down: to an earlier line of this list.
FLOORS = [
    {"weights"},
    {"patcher", "host_process", "graphics", "source_label"},
    {"faces"},
    {"encoders", "inpaint"},
    {"adapters", "metrics"},
    {"attention_patches"},
    {"training"},
    {"miniature"},
    {"nodes"},
    {"__init__"},
    {"launcher"},
    {"likeness"},
    {"tests", "benchmarks"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TOP = len(FLOORS) - 1
RECIPES = ("miniature", "recipes")  # which no node needs
OPTIONAL = {"insightface", "onnxruntime", "cv2", "onnx", "skimage"}
NOT_OURS = re.compile(r"\.|output$")  # folders that a set-up or a run makes
FILES = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.py"))]
FILES = [path for path in FILES if not NOT_OURS.match(path.parts[0])]
MODULES = {path.with_suffix("").parts: path for path in FILES}
SOURCES = [path for path in FILES if FLOOR_OF.get(path.with_suffix("").parts[0]) != TOP]


def imports(path: Path) -> list[tuple[tuple[str, ...], bool, bool]]:
    """(parts of the name, whether it is of this house, whether at the top of the file) of everything imported."""
    tree = ast.parse((ROOT / path).read_text())
    top = set(map(id, tree.body))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(tuple(alias.name.split(".")), False, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named = tuple(node.module.split(".")) if node.module else ()
            inside = bool(node.level) or named[0] == "likeness"
            base = (*path.parts[: -node.level], *named) if node.level else named[inside:]
            names += [((*base, alias.name), inside, id(node) in top) for alias in node.names]
    return names


def module_of(name: tuple[str, ...]) -> tuple[str, ...] | None:
    """The module that an imported name is, or is in."""
    return next(
        (part for part in (name, (*name, "__init__"), name[:-1], (*name[:-1], "__init__")) if part in MODULES), None
    )


def test_every_folder_has_its_floor():
    assert {path.with_suffix("").parts[0] for path in FILES} == FLOOR_OF.keys()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_rooms_import_only_from_lower_floors(path):
    room = path.with_suffix("").parts[0]
    for name, inside, at_top in imports(path):
        if inside:
            lower = FLOOR_OF[name[0]] < FLOOR_OF[room] or FLOOR_OF[room] == TOP
            assert name[0] == room or lower, f"{path} reaches from {room} up to {'.'.join(name)}"
        elif FLOOR_OF[room] != TOP:
            assert name[0] not in FLOOR_OF, f"{path} imports {'.'.join(name)} absolutely"
            assert not (at_top and name[0] in OPTIONAL and path.parts[:2] != RECIPES), (
                f"{path} imports {name[0]} at the top, so that a missing package takes the pack away"
            )


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module: {target for name, inside, _ in imports(path) if inside and (target := module_of(name))} - {module}
        for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(".".join(module) for module in error.args[1]))


def test_no_monkey_patches_no_fixed_device_no_unsafe_loading():
    forbidden = re.compile(
        r"\.forward *= |MethodType|setattr\(.*forward|"
        r"\.to\([\"']cuda|\.cuda\(\)|device=[\"']cuda|\b(eval|exec)\("
    )
    speaking = re.compile(r"likeness\.py|(launcher|miniature)/.*|.*command\.py")  # what a person runs in a terminal
    for path in SOURCES:
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            assert not forbidden.search(line.replace(".eval()", "")), f"{path}:{number}: {line.strip()}"
            assert not re.search(r"\bprint\(", line) or speaking.fullmatch(path.as_posix()), (
                f"{path}:{number}: {line.strip()}"
            )
            if "torch.load(" in line:
                assert "weights_only=True" in line, f"{path}:{number}"


def test_the_root_package_imports_nothing():
    """So that the command line can load it before anything is installed."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); __import__(sys.argv[2]); print('torch' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-I", "-c", code, str(ROOT.parent), ROOT.name], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "False"


def test_nothing_is_required_beyond_the_host():
    requirements = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in requirements if line and not line.startswith("#")] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == []
    assert f"## {project['project']['version']}" in (ROOT / "CHANGELOG.md").read_text()
