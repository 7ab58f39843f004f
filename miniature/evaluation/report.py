"""The report: tables of what was measured, the papers' orderings, best of N, and picture sheets."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ...weights import saving
from . import plots
from .claims import CLAIMS, between_trainings, verdict
from .methods import AGAIN, MAIN, NOT_THE_PAPERS, ROWS
from .people import hold_out

MINIATURE = Path(__file__).parents[1]
_COLUMNS = (
    ("identity", "identity", "{:.3f}"),
    ("share", "of two renders", "{:.0%}"),
    ("undetected", "no face", "{:.1%}"),
    ("text", "text", "{:.3f}"),
    ("direction", "direction", "{:.3f}"),
    ("harmonic", "harmonic", "{:.3f}"),
    ("background", "background", "{:.3f}"),
    ("expression_diversity", "expressions", "{:.2f}"),
    ("pose_diversity", "roll", "{:.1f}"),
    ("distance", "distance", "{:.3f}"),
)
_HEAD = """# What the miniature shows

Written by `python3 likeness.py evaluate` from the weights in `miniature/weights`. People are held out: no network has
seen them in training. After ± the deviation between seeds. *identity*: cosine of the scoring recogniser, which was
trained on people of its own, between a picture's face and four photos of the person; two renders of one person reach
{same:.3f}, of two people {different:.3f}, and the scorer tells one from the other with an AUC of {auc:.4f}. *of two
renders*: identity against that of two real renders. *no face*: pictures in which the finder sees none, left out of
*identity*. *text*, *direction*: CLIP-T and directional CLIP-T of the world's own CLIP; real renders reach {text:.3f}
in *text*. *harmonic*: mean of identity and text, picture by picture. *background*: mean difference outside the face
from the base model's picture of the same noise, 0 to 1. *expressions*, *roll*: how much they vary between the seeds
of one prompt (entropy 0 to 1; degrees). *distance*: squared Frechet distance to real renders in CLIP's features.
*short*: trained for as few steps as the ablations of the same table, which are compared with it. Rows whose weights are
not there any more, such as those of ablations, stay as they were measured last, with three digits.
"""
_GLANCE = """## At a glance

Large: the methods; small: what they are compared with in the tables below; crosses: deviations between seeds.

![identity against text](report/scores.png)

Each ordering of the papers: to the right what came out as there, to the left what came out the other way round.

![the orderings](report/orderings.png)
"""
_IDENTITY, _TEXT = 0.6, 0.9  # the goals: of two renders' identity, and of the base's text
_VERDICTS = """Where the digits that a row was not kept with might turn it there is no verdict. A difference counts
where it is more than twice the larger of both deviations: between seeds or, of *expressions* and *roll*, the standard
error over people; of rows that were trained apart, also that between two short trainings of Face2Diffusion, """


def write(output: Path, target: Path = MINIATURE) -> Path:
    """Write REPORT.md, its pictures and its numbers below `target` from what `evaluate` left in `output`.

    A row that was not measured there stays as the last report in `target` has it.
    """
    (target / "report").mkdir(parents=True, exist_ok=True)
    limits = json.loads((output / "limits.json").read_text())
    rows = _rows(output, target / "report" / "numbers.json")
    for row in rows.values():
        row["share"] = row["identity"] / limits["same"]
    tables = [*_tables(rows), *_goals(rows, limits), *_claims(rows), *_best_of(rows)]
    parts = [_HEAD.format(**limits), *_glance(rows, limits, target), *tables, *_sheets(output, rows, target)]
    recipe = target / "RECIPE.md"
    text = "\n".join([*parts, recipe.read_text() if recipe.is_file() else ""])
    report = target / "REPORT.md"
    report.write_text(f"{text.rstrip()}\n")
    return report


def file_name(name: str) -> str:
    """Return a method's name as that of a file."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _rows(output: Path, numbers: Path) -> dict[str, dict]:
    """Return all rows by name as measured in `output`, or else as the file `numbers` has them, which is updated."""
    last = json.loads(numbers.read_text()) if numbers.is_file() else {}
    rows = {}
    for name in ROWS:
        path = output / f"{file_name(name)}.json"
        if row := json.loads(path.read_text()) if path.is_file() else last.get(name):
            rows[name] = row
    saving.write(numbers, f"{json.dumps(rows, indent=1)}\n".encode(), "The report's numbers")
    return rows


def _glance(rows: dict[str, dict], limits: dict[str, float], target: Path) -> list[str]:
    """Draw the plots and return their section; nothing where there is no base to compare with."""
    if "base" not in rows:
        return []
    renders = limits["same"], limits["text"]
    goal = _IDENTITY * limits["same"], _TEXT * rows["base"]["text"]
    plots.scores(rows, renders, goal, target / "report" / "scores.png")
    plots.orderings(rows, target / "report" / "orderings.png")
    return [_GLANCE]


def _tables(rows: dict[str, dict]) -> list[str]:
    lines = []
    for table in dict.fromkeys(ROWS.values()):
        if names := [name for name in rows if ROWS[name] == table]:
            head = ["", *(title for _, title, _ in _COLUMNS)]
            lines += [f"## {table}", "", *_head(head), *(_of(name, rows[name]) for name in names), ""]
    return lines


def _of(name: str, row: dict) -> str:
    cells = [name]
    for key, _, form in _COLUMNS:
        value, deviation = row.get(key), row.get(f"{key}_deviation")
        text = "" if value is None or math.isnan(value) else form.format(value)
        cells.append(f"{text} ± {deviation:.3f}" if text and deviation is not None else text)
    return _line(cells)


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _goals(rows: dict[str, dict], limits: dict) -> list[str]:
    """Return a table of goals and whether they are reached: captions followed, likeness kept, the prompt kept."""
    if "base" not in rows:
        return []
    text = rows["base"]["text"]
    goals = [("base: text within 10 % of real renders'", text / limits["text"], 0.9, "")]
    for name in (name for name in MAIN if name in rows):
        ours = NOT_THE_PAPERS[name]
        goals.append((f"{name}: identity at least 60 % of two renders'", rows[name]["share"], _IDENTITY, ours))
        goals.append((f"{name}: at least 90 % of the base's text", rows[name]["text"] / text, _TEXT, ours))
    lines = (
        _line((goal, f"{share:.0%}", "yes" if share >= least else "**no**", ours)) for goal, share, least, ours in goals
    )
    return ["## Goals", "", *_head(("goal", "measured", "reached", "settings that are not the paper's")), *lines, ""]


def _claims(rows: dict[str, dict]) -> list[str]:
    lines = ["## The papers' orderings", "", f"{_VERDICTS}{_apart(rows)}", "", *_head(("claim", "measured", "verdict"))]
    return [*lines, *(_line((claim.text, *verdict(claim, rows))) for claim in CLAIMS), ""]


def _apart(rows: dict[str, dict]) -> str:
    """Return how far two trainings of a method differ."""
    if AGAIN not in rows:
        return "which was trained only once."
    figures = (
        f"{score} {between_trainings(score, rows):.3f}" for score in ("identity", "text", "harmonic", "background")
    )
    return f"the second with another seed: {', '.join(figures)}."


def _best_of(rows: dict[str, dict]) -> list[str]:
    counts = sorted({int(count) for row in rows.values() for count in row["best_of"]})
    lines = ["## Best of N", "", "Harmonic mean of the best of N pictures of one prompt (Face2Diffusion's Fig. 7).", ""]
    lines += _head(["", *(f"N = {count}" for count in counts)])
    for name, row in rows.items():
        best = (row["best_of"].get(str(count)) for count in counts)
        lines.append(_line([name, *("" if value is None else f"{value:.3f}" for value in best)]))
    return [*lines, ""]


def _sheets(output: Path, rows: dict[str, dict], target: Path, people: int = 8) -> list[str]:
    """Write every row's sheet from its images, or keep that of the last report, and return their section."""
    references = [held.reference.images[0] for held in hold_out(people)]
    lines = ["## Pictures", "", "On top of each column the reference; below it, two pictures of one prompt.", ""]
    for name in rows:
        samples, sheet = output / f"{file_name(name)}.pt", target / "report" / f"{file_name(name)}.jpg"
        if samples.is_file():
            image = _sheet(torch.load(samples, weights_only=True), references)
            Image.fromarray((image * 255).round().clamp(0, 255).byte().numpy()).save(sheet, quality=85)
        if sheet.is_file():
            lines += [f"**{name}**", "", f"![{name}](report/{file_name(name)}.jpg)", ""]
    return lines


def _sheet(saved: dict, references: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return a column for each person, [h, w, 3]: the reference, below it their first prompt with two seeds."""
    shown = saved["pictures"][:2, :: saved["plan"][1]].float() / 255
    columns = [torch.cat([reference, *images]) for reference, images in zip(references, shown.transpose(0, 1))]
    return torch.cat(columns, dim=1)
