"""The documents' references: files, links and sections that they, or the code, point to are there."""

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
