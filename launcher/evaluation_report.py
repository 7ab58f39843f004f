"""The report of `likeness.py evaluate`: tables as markdown, all figures as JSON, every picture as CSV, a sheet."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from .. import graphics
from ..metrics import intervals
from ..metrics.evaluation import FEATURES, GEOMETRIC, HARMONIC, PHOTOS, Judges
from ..metrics.similarity import pair_cosines
from ..metrics.statistics import best_of_curve, frechet_at_infinity, frechet_distance, kernel_distance, spread
from ..weights import saving
from .picture_sets import Person, Picture, read_image
from .protocols import Protocol

_SIGNIFICANT = 0.05  # after Holm's correction
_DISTANCES = ("_l2", "_mse", "_degrees")
_SETS = ("FID", "FID, endless", "KID x 1000")
_RANKS = {"worst": 0.0, "median": 0.5, "best": 1.0}  # of the pictures shown, chosen by nobody
_ABOUT = """Written by `likeness.py evaluate`. In brackets: where 95 of 100 means lie if other people of the kind are
drawn with all their pictures (10,000 draws, percentiles 2.5 and 97.5); of fewer than ten people their own extremes,
marked *range*. Seeds of one prompt are averaged first; *seeds ±*: the deviation between the seeds' means. *identity*:
cosine with the person's photos, the mean over all pictures with 0 where no face was found, as papers print it; *found*:
over pictures with a face. *hMean*, *gMean*: harmonic and geometric means of a picture's identities and text scores, 0
where one is 0 or less. Distances of expression, light, pose and shape: lower is nearer, pictures without a face left
out.
"""


@dataclass(frozen=True, eq=False)
class Method:
    """A method's pictures in one row each: scores by name [n], and the pictures they belong to."""

    pictures: list[Picture]
    people: list[str]
    scores: dict[str, torch.Tensor]

    def cells(self, name: str, rows: Sequence[int] | None = None) -> torch.Tensor:
        """Return the cells [people, prompts] of a score, identities with 0 for no face."""
        rows = range(len(self.pictures)) if rows is None else rows
        values = self.scores[name][list(rows)]
        values = values.nan_to_num() if name.startswith("identity") else values
        prompts = [self.pictures[row].prompt for row in rows]
        return intervals.average_seeds(values, [self.people[row] for row in rows], prompts)

    def seed_rows(self) -> torch.Tensor | None:
        """Return the rows [seeds, cells] of all cells' first, second ... pictures; None where cells differ in size."""
        cells: dict[tuple, list[int]] = {}
        for row, (person, picture) in enumerate(zip(self.people, self.pictures)):
            cells.setdefault((person, picture.prompt), []).append(row)
        return torch.tensor([*cells.values()]).T if len({len(rows) for rows in cells.values()}) == 1 else None

    @property
    def identities(self) -> list[str]:
        return [name for name in self.scores if name.startswith("identity")]


def gather(groups: dict[str, tuple[list[Picture], dict[str, torch.Tensor]]]) -> Method:
    """Return one method's pictures of all people; those of the plain prompt, dCLIP's references, are left out."""
    pictures = [picture for own, _ in groups.values() for picture in own]
    people = [person for person, (own, _) in groups.items() for _ in own]
    names = set.intersection(*({*scores} for _, scores in groups.values())) - {PHOTOS}
    order = [name for name in next(iter(groups.values()))[1] if name in names]
    scores = {name: torch.cat([scores[name] for _, scores in groups.values()]) for name in _sort(order)}
    directions = [scores[name] for name in scores if name.startswith("dCLIP")]
    if directions:
        rows = (~directions[0].isnan()).nonzero().flatten().tolist()
        pictures, people = ([values[row] for row in rows] for values in (pictures, people))
        scores = {name: values[rows] for name, values in scores.items()}
    return Method(pictures, people, scores)


def _sort(names: Sequence[str]) -> list[str]:
    """Return names in the order of a table: identities, texts, whole pictures, means, distances."""
    beginnings = ("identity", "text", "dCLIP", "clip", "siglip", "dino", HARMONIC, GEOMETRIC)

    def place(name: str) -> int:
        return next((rank for rank, start in enumerate(beginnings) if name.startswith(start)), len(beginnings))

    return sorted(names, key=place)


def write(
    out: Path, protocol: Protocol, name: str, results: dict, people: dict[str, Person], judges: Judges, real
) -> str:
    """Write report.md, report.json, scores.csv and sheet.jpg into `out`; return what the command prints.

    results: by method and person the pictures and their scores; real: Inception's features of real pictures, or None.
    """
    methods = {method: gather(groups) for method, groups in results.items()}
    figures = {method: measure(rows, real) for method, rows in methods.items()}
    groups = {method: compare_groups(rows, results[method], people) for method, rows in methods.items()}
    parts = [f"# {protocol.title}", "", _ABOUT, *_counts(methods, people), *_judges(judges), *_means(figures)]
    parts += [*_paper(protocol, figures), *_differences(methods), *_best_of(methods), *_groups(groups)]
    parts += ["## Pictures", "", "The worst, the median and the best picture by hMean, else identity.", ""]
    parts += ["![](sheet.jpg)", ""]
    content = {"protocol": name, "judges": judges.describe(), "methods": figures, "groups": groups}
    text = "\n".join(parts)
    saving.write(out / "report.md", text.encode(), "evaluate")
    saving.write(out / "report.json", json.dumps(_plain(content), indent=1, ensure_ascii=False).encode(), "evaluate")
    saving.write(out / "scores.csv", _write_rows(methods).encode(), "evaluate")
    _draw_sheet(methods, people).save(out / "sheet.jpg", quality=88)
    return "\n".join([*_means(figures), *_paper(protocol, figures), f"The whole report: {out / 'report.md'}"])


def measure(method: Method, real: torch.Tensor | None) -> dict:
    """Return by score its interval, for identities also over found faces, and the distances of the whole set."""
    figures = {"pictures": len(method.pictures), "people": len(set(method.people))}
    seeds = method.seed_rows()
    for name, values in method.scores.items():
        if name == FEATURES:
            continue
        figures[name] = intervals.bootstrap(method.cells(name))._asdict()
        if seeds is not None and len(seeds) > 1:
            figures[name]["seeds"] = spread(values.nan_to_num()[seeds] if name in method.identities else values[seeds])[
                1
            ]
        if values.isnan().any() or name.startswith("identity"):
            figures[name] |= {"found": float(values.nanmean()), "without": int(values.isnan().sum())}
    if real is not None and FEATURES in method.scores and min(len(real), len(method.pictures)) > 1:
        features = method.scores[FEATURES]
        kernel = kernel_distance(features, real)
        distances = frechet_distance(features, real), frechet_at_infinity(features, real), kernel.mean
        figures |= dict(zip(_SETS, distances)) | {"KID deviation": kernel.deviation, "real": len(real)}
    return figures


def compare_groups(method: Method, results: dict, people: dict[str, Person]) -> dict[str, dict[str, dict]]:
    """Return by label and its value the group's figures: identity by the first recogniser against what it can be.

    ceiling, floor: the mean cosine of two photos of one person of the group, and of two of its people; normalised: the
    identity on the scale between them. gap: the interval of the difference to the best group, and its chance after
    Holm's correction over the groups.
    """
    first = method.identities[0]
    labelled: dict[str, dict[str, list[int]]] = {}
    for row, (picture, person) in enumerate(zip(method.pictures, method.people)):
        for label, value in (people[person].labels | picture.labels).items():
            if value:
                labelled.setdefault(label, {}).setdefault(value, []).append(row)
    groups = {}
    for label, values in labelled.items():
        if len(values) < 2:
            continue
        figures = {value: _measure_group(method, first, rows, results) for value, rows in sorted(values.items())}
        best = max(figures, key=lambda value: figures[value]["identity"]["mean"])
        others = [value for value in figures if value != best]
        cells = {value: method.cells(first, rows) for value, rows in values.items()}
        owners = {value: {method.people[row] for row in rows} for value, rows in values.items()}
        gaps = [intervals.gap(cells[value], cells[best], owners[value] == owners[best]) for value in others]
        for value, (gap, _), chance in zip(others, gaps, intervals.correct([chance for _, chance in gaps])):
            figures[value] |= {"gap": gap._asdict(), "chance": chance}
        groups[label] = figures
    return groups


def _measure_group(method: Method, first: str, rows: list[int], results: dict) -> dict:
    names = sorted({method.people[row] for row in rows})
    vectors = [results[name][1][PHOTOS] for name in names]
    owners = torch.arange(len(names)).repeat_interleave(torch.tensor([len(part) for part in vectors]))
    same, different = pair_cosines(torch.cat(vectors).double(), owners)
    figures = {
        "people": len(names),
        "pictures": len(rows),
        "no face": float(method.scores[first][rows].isnan().double().mean()),
        "identity": intervals.bootstrap(method.cells(first, rows))._asdict(),
        "ceiling": float(same.mean()),
        "floor": float(different.mean()),
    }
    figures["normalised"] = (figures["identity"]["mean"] - figures["floor"]) / (figures["ceiling"] - figures["floor"])
    for name in method.scores:
        if name.startswith("text") or name == HARMONIC:
            figures[name] = float(method.cells(name, rows).nanmean())
    return figures


def _counts(methods: dict[str, Method], people: dict[str, Person]) -> list[str]:
    lines = ["| method | people | prompts a person | seeds a prompt | pictures |", "| --- | --- | --- | --- | --- |"]
    for name, method in methods.items():
        cells = [(person, picture.prompt) for person, picture in zip(method.people, method.pictures)]
        seeds, prompts = (_span(Counter(counted).values()) for counted in (cells, [person for person, _ in {*cells}]))
        lines.append(f"| {name} | {len(set(method.people))} | {prompts} | {seeds} | {len(cells)} |")
    photos = [len(people[person].photos) for person in {name for method in methods.values() for name in method.people}]
    return [*lines, "", f"Photos compared with: {min(photos)} a person, {max(photos)} at most.", ""]


def _span(counts: Collection[int]) -> str:
    return f"{min(counts)}" if len({*counts}) == 1 else f"{min(counts)} to {max(counts)}"


def _judges(judges: Judges) -> list[str]:
    return ["Judges: " + "; ".join(f"{role}: {file}" for role, file in judges.describe().items()) + ".", ""]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)] + [""]


def _means(figures: dict[str, dict]) -> list[str]:
    """Return the table of all scores, a line a score and a column a method."""
    names = list(dict.fromkeys(name for row in figures.values() for name in row))
    names = [name for name in names if name not in ("pictures", "people", "KID deviation", "real")]
    rows = [[name, *(_write(name, row.get(name), row) for row in figures.values())] for name in names]
    lines = ["## Scores", "", *_table(["", *figures], rows)]
    if any("FID" in row for row in figures.values()):
        lines += ["FID grows where there are few pictures: compare equal numbers only. *FID, endless*: where a line "
                  "through FID over 1/n meets 0. KID does not depend on n: ± deviation of subsets.", ""]  # fmt: skip
    return lines


def _write(name: str, value, row: dict) -> str:
    if value is None:
        return ""
    if not isinstance(value, dict):
        how_sure = f"± {row['KID deviation']:.2f}" if name.startswith("KID") else f"(n = {row['pictures']})"
        return f"{value:.2f} {how_sure}"
    text = _write_interval(value, name)
    if "seeds" in value:
        text += f", seeds ± {value['seeds']:.2g}"
    if name.startswith("identity"):
        text += f", found {_digits(value['found'])}, no face {value['without']}"
    elif value.get("without"):
        text += f", without a face {value['without']}"
    return text


def _write_interval(value: dict, name: str = "") -> str:
    """Write mean and bounds, of distances with three digits: some are thousandths."""
    if math.isnan(value["mean"]):
        return "none"
    write = "{:.3g}".format if name.endswith(_DISTANCES) else _digits
    kind = "range " if value["people"] < intervals.FEW else ""
    return f"{write(value['mean'])} [{kind}{write(value['low'])}, {write(value['high'])}]"


def _digits(value: float) -> str:
    """Write a figure with three decimals, never as -0.000."""
    return f"{round(value, 3) + 0.0:.3f}"


def _paper(protocol: Protocol, figures: dict[str, dict]) -> list[str]:
    if not protocol.printed:
        return []
    rows = [[name, *map(str, values)] for name, *values in protocol.printed]
    rows += [
        [f"**{method}**, here", *(_write_short(_find(ours, row), row) for ours in protocol.columns.values())]
        for method, row in figures.items()
    ]
    first = next(iter(figures.values()))
    used = ", ".join(f"{name}: {_find(ours, first) or 'not measured'}" for name, ours in protocol.columns.items())
    text = f"Ours: {used}. The paper leaves open {protocol.unknown}: its figures and ours compare only roughly."
    return ["## Beside the paper", "", *_table(["as printed", *protocol.columns], rows), text, ""]


def _find(ours: str, row: dict) -> str | None:
    """Return the first of our scores that begins as one of the alternatives; "identity" is the first recogniser's."""
    return next((name for start in ours.split("|") for name in row if name.startswith(start)), None)


def _write_short(name: str | None, row: dict) -> str:
    if name is None:
        return "-"
    return f"{row[name]['mean']:.3g}" if isinstance(row[name], dict) else f"{row[name]:.1f}"


def _differences(methods: dict[str, Method]) -> list[str]:
    """Return the table of differences to the first method, on the cells of person and prompt that both have."""
    (name, base), *others = methods.items()
    if not others:
        return []
    scores = [score for score in base.scores if score != FEATURES and all(score in other.scores for _, other in others)]
    rows = []
    for score in scores:
        differences = [_subtract(other, base, score) for _, other in others]
        rows.append([score, *(_write_interval(difference, score) for difference in differences)])
    text = f"What is added to {name}'s, on the people and prompts that both have; sure where the interval leaves 0 out."
    return ["## Differences", "", text, "", *_table(["", *(other for other, _ in others)], rows)]


def _subtract(method: Method, base: Method, score: str) -> dict:
    """Return the interval of the difference of cells that both methods have."""
    means = [_name_cells(part, score) for part in (method, base)]
    shared = [cell for cell in means[0] if cell in means[1]]
    if not shared:
        return {"mean": math.nan}
    values = torch.tensor([means[0][cell] - means[1][cell] for cell in shared])
    people, prompts = zip(*shared)
    return intervals.bootstrap(intervals.average_seeds(values, people, prompts))._asdict()


def _name_cells(method: Method, score: str) -> dict[tuple[str, str], float]:
    people, prompts = dict.fromkeys(method.people), dict.fromkeys(picture.prompt for picture in method.pictures)
    cells = method.cells(score).tolist()
    named = {(person, prompt): cells[i][j] for i, person in enumerate(people) for j, prompt in enumerate(prompts)}
    return {cell: value for cell, value in named.items() if not math.isnan(value)}


def _best_of(methods: dict[str, Method]) -> list[str]:
    """Return the table of the best of N by hMean, of methods with as many pictures in each cell."""
    curves = {}
    for name, method in methods.items():
        seeds = method.seed_rows()
        if HARMONIC in method.scores and seeds is not None and len(seeds) > 1:
            rows = seeds.T
            chosen_by = method.scores[HARMONIC].double()[rows]
            identity = method.scores[method.identities[0]].nan_to_num().double()[rows]
            curves[name] = best_of_curve(chosen_by, chosen_by), best_of_curve(chosen_by, identity)
    if not curves:
        return []
    sizes = sorted({size for curve, _ in curves.values() for size in curve})
    rows = [
        [name, *(f"{curve[n]:.3f} ({identity[n]:.3f})" if n in curve else "" for n in sizes)]
        for name, (curve, identity) in curves.items()
    ]
    text = "hMean of the best of N pictures of a person and prompt, chosen by it; in brackets their identity."
    return ["## Best of N", "", text, "", *_table(["", *(f"N = {size}" for size in sizes)], rows)]


def _groups(groups: dict[str, dict]) -> list[str]:
    lines = []
    for method, labels in groups.items():
        for label, figures in labels.items():
            worst = min(figures, key=lambda value: figures[value]["normalised"])
            texts = [name for name in next(iter(figures.values())) if name.startswith("text") or name == HARMONIC]
            rows = [_write_group(value, row, texts) for value, row in figures.items()]
            heads = [label, "people", "pictures", "no face", "identity", "ceiling", "floor", "normalised", *texts]
            table = _table([*heads, "gap to the best"], rows)
            lines += [f"### {method}, by {label}", "", *table, _judge(worst, figures), ""]
    if not lines:
        return []
    text = (
        "Labels are those of people.csv and pictures.csv. *ceiling*, *floor*: cosines of two photos of one person of "
        "the group, and of two of its people, because recognisers see some groups better than others; *normalised*: "
        "identity between the two. A gap is claimed where its chance is under 0.05 after Holm's correction."
    )
    return ["## Groups", "", text, "", *lines]


def _write_group(value: str, row: dict, texts: list[str]) -> list[str]:
    gap = ""
    if "gap" in row:
        low, high = _digits(row["gap"]["low"]), _digits(row["gap"]["high"])
        is_sure = row["chance"] < _SIGNIFICANT and row["gap"]["people"] >= intervals.FEW
        sure = "**claimed**" if is_sure else "not claimed"
        gap = f"{_digits(row['gap']['mean'])} [{low}, {high}], chance {row['chance']:.3f}: {sure}"
    numbers = [_digits(row[name]) for name in ("ceiling", "floor", "normalised", *texts)]
    head = [value, str(row["people"]), str(row["pictures"]), f"{row['no face']:.1%}", _write_interval(row["identity"])]
    return [*head, *numbers, gap]


def _judge(worst: str, figures: dict[str, dict]) -> str:
    best = max(row["normalised"] for row in figures.values())
    few = [value for value, row in figures.items() if row["people"] < intervals.FEW]
    note = f" Too few people to claim anything of: {', '.join(few)}." if few else ""
    return f"Served worst: **{worst}**, normalised {figures[worst]['normalised']:.2f}; the best {best:.2f}.{note}"


def _write_rows(methods: dict[str, Method]) -> str:
    """Return every picture with its scores as CSV; empty where there is none."""
    scores = list(dict.fromkeys(name for method in methods.values() for name in method.scores if name != FEATURES))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "person", "prompt", "seed", "file", *scores])
    for name, method in methods.items():
        columns = [method.scores[score].tolist() if score in method.scores else None for score in scores]
        for row, (person, picture) in enumerate(zip(method.people, method.pictures)):
            values = ["" if column is None or math.isnan(column[row]) else f"{column[row]:.6g}" for column in columns]
            writer.writerow([name, person, picture.prompt, picture.seed, str(picture.file), *values])
    return text.getvalue()


def _draw_sheet(methods: dict[str, Method], people: dict[str, Person]) -> Image.Image:
    rows = []
    for name, method in methods.items():
        score = HARMONIC if HARMONIC in method.scores else method.identities[0]
        order = method.scores[score].nan_to_num().argsort().tolist()
        cells = []
        for rank, share in _RANKS.items():
            row = order[round(share * (len(order) - 1))]
            picture, person = method.pictures[row], method.people[row]
            label = f"{rank}: {score} {method.scores[score][row]:.2f}\n{picture.prompt}"
            cells += [(f"{person}, photo", _open(people[person].photos[0])), (label, _open(picture.file))]
        rows.append((name, cells))
    return graphics.draw_rows("Worst, median, best", rows)


def _open(path: Path) -> Image.Image:
    return graphics.to_pillow(read_image(path))


def _plain(value):
    """Return figures as JSON can hold them: NaN is null."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
