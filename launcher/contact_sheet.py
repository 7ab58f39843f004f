"""A batch at a glance: its pictures on sheets, its cells and scores as tables."""

import csv
import itertools
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from .jobs import Jobs
from .ledger import Ledger

COLUMNS, ROWS, PAGES = 12, 20, 10  # of thumbnails; rows of a page; what does not fit is left out
_SCORES = ("identity", "text")


class Row(NamedTuple):
    """One picture: its place in the order, what was set for it, its scores by name, its file, seed and seconds."""

    rank: tuple
    cell: dict[str, str]
    scores: dict
    file: str
    seed: int | None
    seconds: float


def write(ledger: Ledger, jobs: Jobs) -> dict:
    """Write table.csv, means.csv and sheet_1.jpg and so on beside the manifest; return what there is to say of them."""
    rows = read_rows(ledger, jobs)
    outermost = jobs.columns[jobs.order[0]]
    varied = [name for name, rank in zip(jobs.columns, jobs.ranks) if len(rank) > 1 and name != outermost]
    said = {"table": str(_write_table(ledger.folder / "table.csv", rows, jobs.columns))}
    if any(row.scores for row in rows):
        said["means"] = str(_write_means(ledger.folder / "means.csv", rows, outermost))
    return said | {"sheets": [str(path) for path in _draw(ledger.folder, rows, outermost, varied)]}


def read_rows(ledger: Ledger, jobs: Jobs) -> list[Row]:
    """Return every picture that was made, in the order of the cells."""
    pictures = {}
    for record in ledger.read():
        if "error" in record:
            continue
        rank = jobs.rank(record["cell"])
        for number, file in enumerate(record["files"]):
            scores = record["scores"][number] if number < len(record["scores"]) else {}
            scores = {name: scores[name] for name in _SCORES if name in scores}
            row = Row((*rank, number), record["cell"], scores, file, record["seed"], record["seconds"])
            pictures[record["key"], number] = row
    return sorted(pictures.values(), key=lambda row: row.rank)


def _write_table(path: Path, rows: Iterable[Row], columns: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*columns, "seed", "seconds", *_SCORES, "file"])
        for row in rows:
            values = [row.cell.get(name, "") for name in columns]
            table.writerow([*values, row.seed, row.seconds, *(row.scores.get(name) for name in _SCORES), row.file])
    return path


def _write_means(path: Path, rows: list[Row], outermost: str) -> Path:
    """Write the mean scores for each outermost value, and of all; a picture without a face has no likeness: 0."""
    groups = [(value, [*group]) for value, group in _group(rows, outermost)]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([outermost, "pictures", "without a face", *_SCORES])
        for value, group in [*groups, ("all", rows)]:
            scored = [row.scores for row in group if row.scores]
            absent = sum(scores.get("identity") is None for scores in scored)
            means = [fmean(scores.get(name) or 0 for scores in scored) if scored else None for name in _SCORES]
            table.writerow([value, len(group), absent, *(mean and round(mean, 4) for mean in means)])
    return path


def _group(rows: Iterable[Row], outermost: str):
    return itertools.groupby(rows, lambda row: row.cell.get(outermost, ""))


def _draw(folder: Path, rows: list[Row], outermost: str, varied: list[str]) -> list[Path]:
    """Draw the sheets, a group for each outermost value, and return their files."""
    from .. import graphics

    lines = []
    for value, group in _group(rows, outermost):
        title = f"{outermost}: {Path(value).name if '/' in value else value}"
        while line := [*itertools.islice(group, COLUMNS)]:
            lines.append((title, line))
            title = ""
    paths = []
    pages = [lines[start : start + ROWS] for start in range(0, len(lines), ROWS)]
    for number, page in enumerate(pages[:PAGES], 1):
        cells = [(title, [_open(folder, row, varied) for row in line]) for title, line in page]
        rest = f" The others of {len(rows)} are in the table." if number == PAGES < len(pages) else ""
        sheet = graphics.draw_rows(f"{folder.name}, {number} of {len(pages)}", cells, f"{len(rows)} pictures.{rest}")
        paths.append(folder / f"sheet_{number}.jpg")
        sheet.save(paths[-1], quality=85)
    return paths


def _open(folder: Path, row: Row, varied: list[str]):
    """Return a thumbnail with what was set for it and how it scored; grey for what is no picture or is gone."""
    from PIL import Image

    from .. import graphics

    try:
        image = Image.open(folder / row.file)
        image.thumbnail((graphics.CELL, graphics.CELL))
    except OSError:
        image = Image.new("RGB", (graphics.CELL, graphics.CELL), graphics.GRID)
    scores = " ".join(f"{name} {value:.2f}" for name, value in row.scores.items() if value is not None)
    return "\n".join([", ".join(row.cell[name] for name in varied if name in row.cell), scores]), image
