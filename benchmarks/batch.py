"""What a batch costs beside its pictures, how many cells its driver can keep track of, and what a second worker brings.

    python3 likeness.py bench batch [CELLS] [WORKERS]          # a simulated cluster
    python3 likeness.py bench batch beside [CELLS] [ROUNDS]    # processor time beside bare queueing, on a real server
    python3 likeness.py bench batch workers [CELLS]            # two local workers of Ray against one; needs Ray

The simulated workers are functions that wait as long as a picture took and answer with one; driver, manifest and files
are real. `beside` and `workers` run the miniature's Face2Diffusion, a picture a cell. Processor time counts only what
driver and server used, so that other programs hardly matter there; for `workers` the machine has to be free.
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
from collections.abc import Callable
from pathlib import Path

import bench
import psutil

bench.load_package()

from likeness.launcher import batch, hosting, jobs, ledger, ray_crew, workers  # noqa: E402
from likeness.launcher.client import Client  # noqa: E402
from likeness.launcher.environment import BASE, find_host, make_base  # noqa: E402

SECONDS = 1.435  # of one picture of the miniature, 96 pixels and 6 steps, with its scores, on two busy cores
KNOWN = {"Sampler": {"input": {"required": {"seed": ["INT", {}], "text": ["STRING", {}]}}}}
WORKFLOW = {"1": {"class_type": "Sampler", "inputs": {"seed": 0, "text": "", "steps": 6}}}
PICTURE = os.urandom(20_000)
REAL = bench.ROOT / "workflows" / "api" / "miniature_face2diffusion.json"


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


class Lasting:
    """A crew that outlives a batch."""

    def __init__(self, crew: batch.Crew):
        self.crew, self.size = crew, crew.size
        self.describe, self.check, self.make, self.put = crew.describe, crew.check, crew.make, crew.put

    async def close(self): ...


async def make_cells(crew: Lasting, first: int, cells: int, out: Path) -> None:
    """Make pictures of the real workflow, each with a seed of its own from `first` on, with manifest and sheets."""
    values = [("KSampler.seed", f"{first}..{first + cells - 1}"), ("Picture size.batch_size", "1")]
    options = batch.parse(["x.csv", "--workflow", str(REAL), "--out", str(out)])
    with ledger.open_ledger(out) as book, contextlib.redirect_stderr(io.StringIO()):
        made = batch.Batch(book)
        await made.run(crew, json.loads(REAL.read_text(encoding="utf-8")), jobs.read_grid(values), options)
        with contextlib.redirect_stdout(io.StringIO()):
            assert batch.report(made, True) == 0 and made.made == cells


async def queue_cells(client: Client, first: int, cells: int) -> None:
    """Queue the same graphs one behind the other and wait for the last one's end."""
    graph = json.loads(REAL.read_text(encoding="utf-8"))
    (sampler,) = (node["inputs"] for node in graph.values() if node["class_type"] == "KSampler")
    (size,) = (node["inputs"] for node in graph.values() if node["class_type"] == "EmptyLatentImage")
    size["batch_size"] = 1
    for seed in range(first, first + cells - 1):
        sampler["seed"] = seed
        await client._queue(graph)
    sampler["seed"] = first + cells - 1
    status, _ = await client.follow(graph)
    assert status == "success"


async def compare(url: str, process: psutil.Process, cells: int, rounds: int) -> None:
    """Print a line a round: seconds of processor a cell, of driver and server, bare and as a batch."""

    async def measure(work: Callable) -> tuple[float, float]:
        before = time.process_time(), sum(process.cpu_times()[:2])
        await work
        after = time.process_time(), sum(process.cpu_times()[:2])
        return tuple((new - old) / cells for new, old in zip(after, before))

    crew, rows = Lasting(workers.LocalCrew([url], None, True)), []
    async with Client(url) as client:
        with tempfile.TemporaryDirectory() as folder:
            await make_cells(crew, 0, 3, Path(folder) / "first")
            for number in range(rounds):
                seed = 10_000 * (number + 1)
                bare = await measure(queue_cells(client, seed, cells))
                whole = await measure(make_cells(crew, seed + cells, cells, Path(folder) / str(number)))
                rows.append([number + 1, *(f"{1000 * value:.0f}" for value in (*bare, *whole))])
                rows[-1] += [f"{whole[0] / bare[1]:.1%}", f"{sum(whole) / sum(bare) - 1:+.1%}"]
                print(rows[-1], file=sys.stderr, flush=True)
    await crew.crew.close()
    head = ["round", "client, bare", "server, bare", "driver", "server", "driver / bare server", "all / all bare"]
    print(f"Milliseconds of processor a cell, {cells} cells a round.\n\n{bench.table(head, rows)}")


def beside(cells: int = 40, rounds: int = 3) -> None:
    """Compare a batch with bare queueing on one server."""
    make_base(BASE)
    with hosting.start(BASE, find_host()) as host:
        asyncio.run(compare(host.url, psutil.Process(host.process.pid), cells, rounds))


async def rate(size: int, cells: int) -> float:
    """Return the pictures a minute of local workers of Ray, once all of them have made some."""
    crew = Lasting(ray_crew.RayCrew("local", size, find_host(), True))
    try:
        with tempfile.TemporaryDirectory() as folder:
            await asyncio.gather(*(crew.describe(worker) for worker in range(size)))
            await make_cells(crew, 0, batch.CHUNK * size, Path(folder) / "first")
            begin = time.perf_counter()
            await make_cells(crew, 10_000, cells, Path(folder) / "second")
            return 60 * cells / (time.perf_counter() - begin)
    finally:
        await crew.crew.close()


def compare_workers(cells: int = 64) -> None:
    """Print the pictures a minute of one and of two workers, each with one thread, and their ratio."""
    make_base(BASE)
    os.environ["OMP_NUM_THREADS"] = "1"
    rates = {size: asyncio.run(rate(size, cells)) for size in (1, 2)}
    print(
        json.dumps({"cells": cells} | {f"{size} workers, pictures a minute": round(rates[size], 1) for size in rates})
    )
    print(f"Two workers make {rates[2] / rates[1]:.2f} times as many as one; {os.cpu_count()} cores.")


def simulate(cells: int = 2000, most: int = 64) -> None:
    """Print what the driver takes for many cells at once, and how busy it keeps workers of ten times the speed."""
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


def main(arguments: list[str]) -> None:
    kinds = {"beside": beside, "workers": compare_workers}
    work = kinds.get(arguments[0] if arguments else "", simulate)
    work(*map(int, arguments[work is not simulate :]))


if __name__ == "__main__":
    main(sys.argv[1:])
