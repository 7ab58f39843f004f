"""The figures of the source code, of a tiny tree whose figures are counted by hand."""

import subprocess
import sys
from pathlib import Path

import pytest
from likeness.benchmarks import code_figures

TREE = {
    "weights/__init__.py": "",
    "weights/reading.py": """
class Site:
    @property
    def kept_names(self):
        return 1


def shown(value, flag):
    if value and flag or not value:
        return [entry for entry in value if entry]
    return _once(value)


def _once(found):
    assert found
    return found


def _twice():
    def built():
        return _twice()

    return _twice()
""",
    "faces/reading.py": """
import json
from ..weights import reading


def tell(picture, places):
    from ..nodes import late
    one = 1
    two = 2
    three = 3
    four = 4
    five = 5
    six = 6
    return one
""",
    "nodes/late.py": """
from likeness.faces.reading import tell


class Site:
    pass


def feed():
    own = 0
    kept_names = 0
    one = 1

    two = 2
    three = 3
    four = 4
    five = 5
    six = 6
""",
    ".host/unread.py": "def told(): pass",
}


def measure(root: Path) -> dict:
    for name, text in TREE.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return code_figures.measure(root, code_figures.list_files(root))


def test_figures_of_a_tiny_tree(tmp_path):
    figures = measure(tmp_path)
    assert {figure: value for figure, (value, _) in figures.items()} == {
        "files": 4,
        "lines": 55,
        "functions": 7,
        # kept_names 2, shown 4, _once 3, _twice 5 with built 2 in it, tell 9, feed 10
        "length, median": "4",
        "length, p90": 10,
        "length, max": 10,
        # shown: if, and, or, a comprehension and its condition make 6; _once: an assertion makes 2; the other five 1
        "complexity, mean": f"{13 / 7:.2f}",
        "private helpers mentioned once": "1 (14.3%)",
        "blocks of 6 equal lines and more": 1,
        "import circles": 1,
        "functions named by a participle": 2,
        "class names given twice": 1,
        "module names given twice": 1,
        # Site twice, picture, found and own; kept_names is not the whole name `kept`
        "names against the glossary": 5,
    }
    cases = {figure: cases for figure, (_, cases) in figures.items() if cases}
    assert cases["private helpers mentioned once"] == ["weights/reading.py:_once"]
    assert cases["blocks of 6 equal lines and more"] == ["nodes/late.py:12"]
    assert cases["import circles"] == ["faces.reading - nodes.late"]
    assert cases["functions named by a participle"] == ["weights/reading.py:shown", "weights/reading.py:built"]
    assert cases["class names given twice"] == ["Site 2"]
    assert cases["module names given twice"] == ["reading.py 2"]


@pytest.mark.slow
def test_the_command_needs_no_host(tmp_path):
    command = [sys.executable, code_figures.ROOT / "likeness.py", "bench", "code"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert output.startswith("| figure | code | tests |")
