"""The documents' references: files, links and sections that they, or the code, point to are there."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(r"`((?:[\w.]+/)+|(?:[\w.]+/)*[\w.]+\.(?:py|md|json|toml))`")
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        aim = page.parent / target if target else page
        assert aim.exists(), target
        assert not anchor or anchor in anchors(aim), f"{target}#{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    """In the checkout, or in the folder that a line is about."""
    folders = [ROOT, *(path for path in ROOT.iterdir() if path.is_dir())]
    made = {".venv", ".host"}  # by the set-up
    for name in FILE.findall(page.read_text(encoding="utf-8")):
        assert name.strip("/") in made or any((folder / name).exists() for folder in folders), name


def test_sections_that_the_code_names_are_there():
    sections = set(
        re.findall(r"^#+ ([\d.]+\d)", (ROOT / "docs" / "papers.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for path in (path for path in ROOT.rglob("*.py") if not path.relative_to(ROOT).parts[0].startswith(".")):
        for section in re.findall(r"docs/papers\.md (\d(?:\.\d+)?)", path.read_text(encoding="utf-8")):
            assert section in sections | {section[0] for section in sections}, f"{path}: {section}"


def test_commands_on_the_pages_are_there():
    """The first words of every `likeness.py` command that a page, a note or a help page prints."""
    spec = importlib.util.spec_from_file_location("likeness_commands", ROOT / "likeness.py")
    command_line = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command_line)
    second = {"bench": command_line.BENCHMARKS, "evaluate": ("PROTOCOL", *command_line.PROTOCOLS)}
    rooms = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for page in (*ROOT.glob("*.md"), *(page for room in rooms for page in room.rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for command, _, word in re.findall(r"likeness\.py ([a-z]\w*)( +([A-Za-z][\w-]*))?", text):
            assert command in {*command_line.COMMANDS, "identities"}, f"{page}: {command}"
            assert not word or word in second.get(command, (word,)), f"{page}: {command} {word}"


def test_the_readme_counts_the_nodes_of_templates():
    rows = re.findall(
        r"^\| ([^|]+) \| ([^|]+) \| (\d[^|]*) \| \d[^|]*\|$",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(rows) > 8
    for job, templates, nodes in rows:
        numbers = _list_numbers(templates)
        counts = [int(count) for count in re.findall(r"\d+", nodes.partition(":")[0])]
        stated = counts if len(counts) == len(numbers) else counts * len(numbers)
        assert [_count_nodes(number) for number in numbers] == stated, job


def test_the_readme_names_the_templates_that_open_too_small():
    """In a window of 1280 x 720 pixels: the editor writes nothing where it shows less than 8 / 14 of a node's size."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"1280 x 720 pixels ([\d, toand]+) open too small", page)
    small = set()
    for file in (ROOT / "workflows").glob("*.json"):
        boxes = [group["bounding"] for group in json.loads(file.read_text(encoding="utf-8"))["groups"]]
        right, bottom = (max(box[side] + box[side + 2] for box in boxes) for side in (0, 1))
        small |= {int(file.name[:2])} if right > 1678 or bottom > 969 else set()
    assert small == set(_list_numbers(sentence))


def _list_numbers(words: str) -> list[int]:
    """The numbers of templates in words such as `07, 10 to 12`."""
    spans = re.findall(r"(\d\d)(?: to (\d\d))?", words)
    return [number for first, last in spans for number in range(int(first), int(last or first) + 1)]


def _count_nodes(template: int) -> int:
    (file,) = (ROOT / "workflows").glob(f"{template:02} *.json")
    return sum("Note" not in node["type"] for node in json.loads(file.read_text(encoding="utf-8"))["nodes"])
