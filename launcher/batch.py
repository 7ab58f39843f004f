"""`python3 likeness.py batch`: a workflow for every row of a table or cell of a grid; it can be stopped at any time."""

import argparse
import asyncio
import contextlib
import json
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from . import contact_sheet, jobs, scoring
from .client import GraphError, Prompt
from .jobs import Cell, Jobs
from .ledger import Ledger, open_ledger
from .progress import print_line
from .run import (
    FAILURES,
    RunError,
    add_provenance,
    explain,
    read_address,
    read_workflow,
    refuse_unknown,
    split_setting,
)
from .workers import IN_FLIGHT, Answer, Crew, LocalCrew, Task, WorkerLostError

CHUNK = 16  # cells of one photo that a worker takes at once
TRIES = 5  # of a cell whose worker is lost
PAUSE = 1.0  # seconds before the second try, doubled for each after it
_SEEDS = ("seed", "noise_seed")  # of a sampler, which has steps too, before that of another node


def main(arguments: Sequence[str], comfy: Path | None) -> int:
    """Make what is missing of a batch; return 0 if every row and cell is there now, 130 where it was stopped."""
    options = parse(arguments)
    try:
        prompt, table = read_workflow(options.workflow), _read_jobs(options)
        with open_ledger(options.out) as ledger:
            batch, whole = Batch(ledger), False
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(batch.run(_open_crew(options, comfy), prompt, table, options))
                whole = True
            return report(batch, whole)
    except (*FAILURES, WorkerLostError) as error:
        lost = isinstance(error, WorkerLostError)
        sentence = (
            f"{error}. The same command goes on when it is back."
            if lost
            else explain(error, ", ".join(options.server), options.out)
        )
        print_line(sentence, sys.stderr)
        return 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(prog="likeness.py batch", description=__doc__)
    parser.add_argument(
        "jobs",
        nargs="?",
        type=Path,
        metavar="JOBS",
        help="a .csv file whose first line names inputs as --set does, or a .jsonl file of objects; one run a row",
    )
    parser.add_argument("--workflow", type=Path, required=True, help="a workflow in API form")
    parser.add_argument("--out", type=Path, required=True, help="where pictures, manifest, table and sheet are put")
    parser.add_argument(
        "--grid",
        nargs="+",
        default=[],
        metavar="NAME=VALUES",
        type=split_setting,
        help="every combination instead: photos=DIR prompts=FILE seeds=0..3, or NAME=a,b,c",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", type=split_setting, help="for all cells"
    )
    parser.add_argument(
        "--scores", action="store_true", help="score every picture by likeness and, with a CLIP, prompt"
    )
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="URL",
        help="a ComfyUI with this pack, once for each (default: one that is started here)",
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="have Ray's workers make it: 'auto' or an address for a cluster, 'local' here"
    )
    parser.add_argument("--workers", type=int, help="with --ray: how many (default: one a GPU, or one without any)")
    add_provenance(parser)
    options = parser.parse_args(arguments)
    if bool(options.jobs) == bool(options.grid):
        parser.error("name either a file of jobs or a --grid")
    if options.ray and options.server:
        parser.error("--ray starts ComfyUIs of its own: leave out --server")
    if options.workers is not None and (options.workers < 1 or not options.ray):
        parser.error("--workers is a number from 1, and goes with --ray")
    return options


def _read_jobs(options: argparse.Namespace) -> jobs.Table:
    """Return the rows or the grid, with what is set for all of them in further columns."""
    table = jobs.read_grid(options.grid) if options.grid else jobs.read_table(options.jobs)
    names, values = [name for name, _ in options.set], tuple(value for _, value in options.set)
    cells = [Cell(cell.values + values, cell.line) for cell in table.cells] if values else table.cells
    return jobs.Table([*table.columns, *names], cells, table.faults)


def _open_crew(options: argparse.Namespace, comfy: Path | None) -> Crew:
    if options.ray:
        from .ray_crew import RayCrew

        return RayCrew(options.ray, options.workers, comfy, options.provenance)
    return LocalCrew([read_address(url) for url in options.server], comfy, options.provenance)


class Batch:
    """One run of the command: its cells, and how far it is.

    made, failed: cells of this run. there: cells that were made before, or stand twice.
    """

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.made = self.failed = self.there = self.pictures = 0
        self.jobs: Jobs | None = None
        self.scores, self.scored_text = None, None
        self.bar: tqdm | None = None
        self.claimed: set[str] = set()
        self.contents: dict[Path, object] = {}

    async def run(self, crew: Crew, prompt: Prompt, table: jobs.Table, options: argparse.Namespace) -> None:
        """Have the crew make every cell that is not there; raises what stops all of it."""
        try:
            known = await crew.describe(0)
            refuse_unknown(prompt, known)
            if options.scores:
                prompt, self.scores, self.scored_text = scoring.add(prompt, known)
            self.jobs = Jobs(prompt, known, table, options.jobs.parent if options.jobs else Path())
            with _open_bar(len(table.cells) + len(table.faults)) as self.bar:
                for fault in table.faults:
                    self._refuse(fault.line, {}, fault.reason)
                await self._check(crew)
                await self._share_out(crew)
        finally:
            await crew.close()

    async def _check(self, crew: Crew) -> None:
        """Let the server look at the first cell; raise GraphError where the workflow itself is at fault."""
        for cell in self.jobs.cells:
            with contextlib.suppress(RunError):
                task, photos = self._build(cell)
                break
        else:
            return
        try:
            facts = await crew.check(task, [self._load(crew, photo) for photo in photos])
        except GraphError as error:
            if error.inputs and error.inputs <= {*self.jobs.places}:
                return  # of this cell alone
            raise
        if facts:
            self.bar.write(facts["licences"], file=sys.stderr)

    async def _share_out(self, crew: Crew) -> None:
        """Have the workers take cells until there are none; raise WorkerLostError where no worker is left."""
        chunks = jobs.chunk(self.jobs.cells, self.jobs.outermost, CHUNK)
        waiting = [deque() for _ in range(crew.size)]
        working, returned = {*range(crew.size)}, deque()

        def refill(own: deque) -> deque:
            if not own:
                own.extend(returned or next(chunks, ()))
                returned.clear()
            return own

        async def serve(worker: int) -> None:
            own = waiting[worker]
            while worker in working and refill(own):
                cell = own.popleft()
                try:
                    await self._make(crew, worker, cell)
                except WorkerLostError:
                    working.discard(worker)
                    returned.extend([cell, *own])
                    own.clear()
                    if not working:
                        raise

        try:
            while True:
                async with asyncio.TaskGroup() as group:
                    for worker in [*working] * IN_FLIGHT:
                        group.create_task(serve(worker))
                if not returned:
                    return
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _make(self, crew: Crew, worker: int, cell: Cell) -> None:
        """Make one cell and write it down; raise WorkerLostError where the worker cannot be had any more."""
        settings, key = self.jobs.settings(cell), None
        try:
            task, photos = self._build(cell)
            key = task.key
            if key in self.ledger.done or key in self.claimed:
                return self._skip()
            self.claimed.add(key)
            answer = await self._try(crew, worker, task, [self._load(crew, photo) for photo in photos])
        except (GraphError, RunError) as error:
            return self._refuse(cell.line, settings, str(error), key)
        except WorkerLostError:
            self.claimed.discard(key)
            raise
        count = await asyncio.to_thread(self._save, cell, task, answer)  # a slow disk must not hold up workers
        self.pictures += count
        self.made += 1
        minutes = self.bar.format_dict["elapsed"] / 60
        self.bar.set_postfix_str(f"{self.pictures / minutes:.1f} pictures a minute", refresh=False)
        self.bar.update()

    def _build(self, cell: Cell) -> tuple[Task, list[Path]]:
        task, photos = self.jobs.build(cell)
        if place := self.scored_text:
            task.prompt[self.scores]["inputs"]["text"] = task.prompt[place.node]["inputs"][place.input]
        return task, photos

    def _load(self, crew: Crew, photo: Path) -> object:
        """Return what stands for a photo; the last few are kept, since cells with one photo follow each other."""
        if photo not in self.contents:
            if len(self.contents) > 2 * crew.size:
                self.contents.pop(next(iter(self.contents)))
            self.contents[photo] = crew.put(photo.read_bytes())
        return self.contents[photo]

    async def _try(self, crew: Crew, worker: int, task: Task, contents: list) -> Answer:
        """Have a cell made, again where its worker is lost; raise RunError where the cell kills it every time."""
        for attempt in range(TRIES):
            try:
                return await crew.make(worker, task, contents)
            except WorkerLostError as error:
                self.bar.write(f"{error}; try {attempt + 1} of {TRIES}.", file=sys.stderr)
                await asyncio.sleep(PAUSE * 2**attempt)
        await crew.describe(worker)  # raises where the worker is lost for good
        raise RunError(f"its worker died {TRIES} times over it")

    def _save(self, cell: Cell, task: Task, answer: Answer) -> int:
        """Save a cell's files, then its line in the manifest; return how many files."""
        label = self.jobs.label(cell, task.key)
        files = [
            self.ledger.save(f"{label}{f'_{number}' if number > 1 else ''}{Path(name).suffix}", data)
            for number, (name, data) in enumerate(answer.files, 1)
        ]
        inputs = sorted((node["inputs"] for node in task.prompt.values()), key=lambda values: "steps" not in values)
        seeds = [values[name] for values in inputs for name in _SEEDS if isinstance(values.get(name), int)]
        self.ledger.add(
            {
                "key": task.key,
                "cell": self.jobs.settings(cell),
                "line": cell.line,
                "files": files,
                "workflow": self.jobs.workflow,
                "seed": seeds[0] if seeds else None,
                "weights": answer.facts.get("weights", []),
                "identities": answer.facts.get("identities", []),
                "scores": answer.outputs.get(self.scores, {}).get("scores", []),
                "seconds": answer.seconds,
                "host": answer.host,
                "pack": answer.facts.get("pack"),
            }
        )
        return len(files)

    def _skip(self) -> None:
        """Count a cell that is there; it says nothing of how long the others take."""
        self.there += 1
        self.bar.initial += 1
        self.bar.update()

    def _refuse(self, line: int, settings: dict, reason: str, key: str | None = None) -> None:
        """Say which row or cell cannot be made, and why; the others go on."""
        self.failed += 1
        where = f"line {line}" if line else ", ".join(f"{name}={value}" for name, value in settings.items())
        self.bar.write(f"{where}: {reason}", file=sys.stderr)
        self.ledger.add({"key": key, "cell": settings, "line": line, "error": reason})
        self.bar.update()


def _open_bar(total: int) -> tqdm:
    """Return the progress bar; where nobody looks at a terminal it gets a line every half minute."""
    form = "{percentage:3.0f}% {n}/{total} [{elapsed}, {remaining} left{postfix}]"
    terminal = sys.stderr.isatty()
    options = {"bar_format": form.replace("% ", "%|{bar}| ", 1)} if terminal else {"bar_format": f"{form}\n"}
    return tqdm(total=total, file=sys.stderr, smoothing=0, mininterval=0.5 if terminal else 30, **options)


def report(batch: Batch, whole: bool) -> int:
    """Draw sheet and table, say in one line each how it went, and return the exit code."""
    out, done = batch.ledger.folder, batch.made + batch.there
    if not whole:
        print_line(f"Stopped after {batch.made} cells. The same command goes on from there.", sys.stderr)
        return 130
    counts = {"made": batch.made, "there": batch.there, "failed": batch.failed, "pictures": batch.pictures}
    files = contact_sheet.write(batch.ledger, batch.jobs) if done else {}
    print(json.dumps(counts | {"manifest": str(batch.ledger.path)} | files), flush=True)
    if batch.failed:
        print_line(f"{batch.failed} rows or cells could not be made; {out / 'manifest.jsonl'} says why.", sys.stderr)
    return 1 if batch.failed else 0
