"""The house rules that a test can keep: import directions, no monkey patches, optional packages imported late."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Imports point left.
ROOMS = [
    *("weights", "miniature", "faces", "encoders", "adapters", "attention_patches", "training", "sampling", "metrics"),
    "nodes",
]
OPTIONAL = {"insightface", "onnxruntime", "cv2", "onnx", "skimage"}
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(module, level, at the top of the file) of every import; a relative `from .. import x` yields x."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(name, node.level, id(node) in top) for name in names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_to_their_left(path):
    room = path.relative_to(ROOT).parts[0]
    allowed = ROOMS[: ROOMS.index(room)]
    for module, level, at_top in imports(path):
        first = module.split(".")[0]
        if level == 2:
            assert first in allowed, f"{path.name} reaches from {room} into {first}"
        elif level == 0:
            assert first not in {*ROOMS, "devtools", "tests", "likeness"}, f"{path.name} imports {module} absolutely"
        if first in OPTIONAL and level == 0:
            assert not at_top, f"{path.name} imports {module} at the top, so that a missing package takes the pack away"


def test_no_monkey_patches_no_fixed_device_no_unsafe_loading():
    forbidden = re.compile(
        r"\.forward *= |MethodType|setattr\(.*forward|"
        r"\.to\([\"']cuda|\.cuda\(\)|device=[\"']cuda|\b(eval|exec|print)\("
    )
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if path.name != "listing.py":  # the one that is a command
                assert not forbidden.search(line.replace(".eval()", "")), f"{path}:{number}: {line.strip()}"
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
