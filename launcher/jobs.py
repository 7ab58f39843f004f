"""What a batch is to make: cells out of a table or a grid, in the order that costs least."""

import csv
import functools
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..weights.files import file_sha256
from .client import Prompt
from .run import Place, RunError, convert, find_place
from .workers import Photo, Task

PHOTO_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_LONGEST_PART = 24  # characters of a value in the name of a file
_MOST_CELLS = 10_000_000


class Cell(NamedTuple):
    """What is set for one run, a text a column, None where the workflow's own value stays; line: of the jobs file."""

    values: tuple[str | None, ...]
    line: int


class Fault(NamedTuple):
    """A row that cannot be used, and why."""

    line: int
    reason: str


class Table(NamedTuple):
    """Columns, as `likeness.py run --set` names inputs, and rows."""

    columns: list[str]
    cells: list[Cell]
    faults: list[Fault]


def read_table(path: Path) -> Table:
    """Return the rows of a .csv or .jsonl file; a row that cannot be read is a fault.

    Raises RunError where the file is neither, or holds no rows.
    """
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    if path.suffix.lower() == ".csv":
        table = _read_csv(text)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        table = _read_json_lines(text)
    else:
        raise RunError(f"{path} is neither .csv nor .jsonl.")
    if not table.columns:
        raise RunError(f"{path} names nothing to set: its first line names inputs, or each line is a JSON object.")
    faults = [Fault(cell.line, "it holds bytes that are not UTF-8") for cell in table.cells if not _is_text(cell)]
    return Table(table.columns, list(filter(_is_text, table.cells)), sorted(table.faults + faults))


def _is_text(cell: Cell) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for value in cell.values if value for letter in value)


def _read_csv(text: str) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns, cells, faults = None, [], []
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return Table(columns or [], cells, faults)
        except csv.Error as error:
            faults.append(Fault(line, f"it cannot be read ({error})"))
            continue
        if columns is None:
            columns = [name.strip() for name in row]
        elif row and len(row) != len(columns):
            faults.append(Fault(line, f"it has {len(row)} fields, and the first line names {len(columns)}"))
        elif any(row):
            cells.append(Cell(tuple(value or None for value in row), line))


def _read_json_lines(text: str) -> Table:
    rows, columns, faults = [], {}, []
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            faults.append(Fault(line, f"it is not JSON ({error})"))
            continue
        if not isinstance(row, dict) or any(isinstance(value, (dict, list)) for value in row.values()):
            faults.append(Fault(line, "it is no JSON object of texts and numbers"))
            continue
        columns |= dict.fromkeys(row)
        rows.append((row, line))
    return Table(
        [*columns], [Cell(tuple(_as_text(row.get(name)) for name in columns), line) for row, line in rows], faults
    )


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def read_grid(axes: Sequence[tuple[str, str]]) -> Table:
    """Return every combination of the axes, each a name and what it runs over, as `list_values` reads it.

    Raises RunError where an axis is empty, or where there are more cells than anybody waits for.
    """
    values = [list_values(name, text) for name, text in axes]
    count = functools.reduce(lambda product, axis: product * len(axis), values, 1)
    if count > _MOST_CELLS:
        raise RunError(f"This grid has {count} cells, more than {_MOST_CELLS}.")
    cells = [Cell(combination, 0) for combination in itertools.product(*values)]
    return Table([name for name, _ in axes], cells, [])


def list_values(name: str, text: str) -> list[str]:
    """Return what an axis runs over: the pictures of a folder, the lines of a text file, 0..3, or a,b,c."""
    path = Path(text)
    if path.is_dir():
        values = sorted(str(file) for file in path.iterdir() if file.suffix.lower() in PHOTO_FILES)
    elif path.is_file() and path.suffix.lower() not in PHOTO_FILES:
        values = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    elif match := _RANGE.fullmatch(text):
        first, last = map(int, match.groups())
        values = [str(number) for number in range(first, last + 1)]
    else:
        values = [value.strip() for value in text.split(",") if value.strip()]
    if not values:
        raise RunError(f"There is nothing in {name}={text}: a folder of pictures, a file of lines, 0..3, or a,b,c.")
    return list(dict.fromkeys(values))


def find_column(prompt: Prompt, name: str) -> Place:
    """Return the input that a column means, as `find_place`; `photos` is `photo`, too."""
    try:
        return find_place(prompt, name)
    except RunError:
        if not name.endswith("s"):
            raise
    try:
        return find_place(prompt, name[:-1])
    except RunError as error:
        raise RunError(str(error).replace(f"'{name[:-1]}'", f"'{name}'")) from None


def count_dependants(prompt: Prompt, node: str) -> int:
    """Return how many nodes run again where an input of `node` changes."""
    changed = {node}
    while True:
        more = {
            key for key, other in prompt.items()
            if any(isinstance(value, list) and value and value[0] in changed for value in other["inputs"].values())
        }  # fmt: skip
        if more <= changed:
            return len(changed)
        changed |= more


class Jobs:
    """The cells of a batch, in their order, and the graph of each.

    folder: where files that a table names may lie beside the current folder.
    """

    def __init__(self, prompt: Prompt, known: dict, table: Table, folder: Path):
        self.prompt, self.known, self.folder = prompt, known, folder
        self.columns, self.faults = table.columns, list(table.faults)
        self.places = [find_column(prompt, name) for name in table.columns]
        if repeated := {place for place in self.places if self.places.count(place) > 1}:
            names = [name for name, place in zip(self.columns, self.places) if place in repeated]
            raise RunError(f"{' and '.join(names)} are the same input of the workflow.")
        content = json.dumps(prompt, sort_keys=True, ensure_ascii=False)
        self.workflow = hashlib.sha256(content.encode()).hexdigest()
        costs = [count_dependants(prompt, place.node) for place in self.places]
        self.order = sorted(range(len(costs)), key=lambda column: -costs[column])
        self.cells = self._sort(table.cells)

    def _sort(self, cells: list[Cell]) -> list[Cell]:
        """Return the cells, those beside each other that share what is expensive: the inputs on which most depends."""
        self.ranks = [{} for _ in self.columns]
        for cell in cells:
            for rank, value in zip(self.ranks, cell.values):
                rank.setdefault(value, len(rank))
        return sorted(cells, key=lambda cell: self.rank(self.settings(cell)))

    def rank(self, settings: dict[str, str]) -> tuple[int, ...]:
        """Return where a cell stands in the order."""
        return tuple(self.ranks[column].get(settings.get(self.columns[column]), -1) for column in self.order)

    def outermost(self, cell: Cell) -> str | None:
        """Return the value that changes least often."""
        return cell.values[self.order[0]]

    def build(self, cell: Cell) -> tuple[Task, list[Path]]:
        """Return a cell's graph, whose key stands for all that decides its pictures, and the photos that it reads.

        Raises RunError where a value is none that its input takes.
        """
        inputs, photos, decisive = {}, {}, []
        for place, text in zip(self.places, cell.values):
            if text is None:
                continue
            value = convert(self.prompt, self.known, place, self._find(text))
            if isinstance(value, Path):
                digest = hash_photo(value)
                photos[Photo(*place, f"{digest[:16]}{value.suffix.lower()}")] = value
                value = digest
            else:
                inputs[place] = value
            decisive.append([*place, value])
        identity = json.dumps([self.workflow, sorted(decisive, key=lambda entry: entry[:2])])
        prompt = {key: {**node, "inputs": dict(node["inputs"])} for key, node in self.prompt.items()}
        for place, value in inputs.items():
            prompt[place.node]["inputs"][place.input] = value
        return Task(hashlib.sha256(identity.encode()).hexdigest()[:16], prompt, tuple(photos)), [*photos.values()]

    def _find(self, text: str) -> str:
        """Return a text, or the file that it names beside the table."""
        try:
            beside = self.folder / text
            return str(beside) if not Path(text).is_file() and beside.is_file() else text
        except (OSError, ValueError):  # longer than any name of a file
            return text

    def settings(self, cell: Cell) -> dict[str, str]:
        """Return what is set for a cell, by column."""
        return {name: value for name, value in zip(self.columns, cell.values) if value is not None}

    def label(self, cell: Cell, key: str) -> str:
        """Return a name for the files of a cell, which no other cell has: its values, and its key."""
        parts = (Path(value).stem if "/" in value else value for value in cell.values if value is not None)
        words = (re.sub(r"[^\w.-]+", "-", part).strip("-.")[:_LONGEST_PART] for part in parts)
        return "_".join([*filter(None, words)][:4] + [key])


@functools.lru_cache(maxsize=100_000)
def hash_photo(path: Path) -> str:
    """Return the sha256 of a photo's content; raise RunError where it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from error


def chunk(cells: Iterable[Cell], outermost: Callable[[Cell], object], size: int) -> Iterator[list[Cell]]:
    """Return runs of cells for one worker: of one outermost value, `size` at most."""
    for _, group in itertools.groupby(cells, outermost):
        while run := [*itertools.islice(group, size)]:
            yield run
