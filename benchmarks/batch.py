"""How many cells a batch's driver can keep track of: a simulated cluster, and what a cell costs beside its picture.

    python3 likeness.py bench batch [CELLS] [WORKERS]

The workers are functions that wait as long as a picture took and answer with one; driver, manifest and files are real.
"""

import asyncio
import contextlib
import io
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import bench

bench.load_package()

from likeness.launcher import batch, jobs, ledger, workers  # noqa: E402

SECONDS = 1.435  # of one picture of the miniature, 96 pixels and 6 steps, with its scores, on two busy cores
KNOWN = {"Sampler": {"input": {"required": {"seed": ["INT", {}], "text": ["STRING", {}]}}}}
WORKFLOW = {"1": {"class_type": "Sampler", "inputs": {"seed": 0, "text": "", "steps": 6}}}
PICTURE = os.urandom(20_000)


class Simulation:
    """A crew whose workers make one picture after the other, each in `seconds`, as a host does with its queue."""

    def __init__(self, size: int, seconds: float):
        self.size, self.seconds = size, seconds
        self.turns = [asyncio.Lock() for _ in range(size)]

    async def describe(self, worker):
        return KNOWN

    async def check(self, task, contents):
        return {}

    async def make(self, worker, task, contents):
        async with self.turns[worker]:
            await asyncio.sleep(self.seconds)
        return workers.Answer([("a.png", PICTURE)], {}, {}, self.seconds, "0")

    async def close(self): ...


def run(cells: int, size: int, seconds: float) -> tuple[float, float, float]:
    """Return how long the driver took for all cells, how much of that it computed, and its peak of memory in MB."""
    table = jobs.read_grid([("text", ",".join(f"p{number}" for number in range(10))), ("seed", f"1..{cells // 10}")])
    with tempfile.TemporaryDirectory() as folder, ledger.open_ledger(Path(folder)) as book:
        options = batch.parse(["x.csv", "--workflow", "w.json", "--out", folder])
        begin, computed = time.perf_counter(), time.process_time()
        with contextlib.redirect_stderr(io.StringIO()):
            asyncio.run(batch.Batch(book).run(Simulation(size, seconds), WORKFLOW, table, options))
        took, computed = time.perf_counter() - begin, time.process_time() - computed
        lines = sum(1 for _ in book.path.open())
        assert lines == len(book.done) == cells, (lines, len(book.done))
    return took, computed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str]) -> None:
    cells, most = (int(number) for number in (arguments + ["2000", "64"][len(arguments) :]))
    empty = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"A picture in {SECONDS} s; {cells} cells at once without any wait. Memory before: {empty:.0f} MB.\n")
    took, computed, peak = run(cells, most, 0)
    print(json.dumps({"cells": cells, "workers": most, "seconds": round(took, 1), "peak MB": round(peak)}))
    print(f"{cells / took:.0f} cells/s, {1000 * computed / cells:.2f} ms of the driver's CPU a cell.")
    print(f"So it bends at about {SECONDS * cells / took:.0f} workers of that speed.\n")
    for size in (1, 4, 16, most):
        count = 40 * size
        took, _, _ = run(count, size, SECONDS / 10)
        used = count * SECONDS / 10 / size / took
        print(f"{size} workers, ten times as fast: {count} cells, {used:.1%} of their time used")


if __name__ == "__main__":
    main(sys.argv[1:])
