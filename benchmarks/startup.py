"""What this pack adds to the host's start.

In fresh processes, in turn: the host starts up to its own nodes, then loads this pack or an empty one the way it loads
every custom node; only the loading is timed. The printed markdown can be pasted into RESULTS.md.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import ROOT, machine, open_host, spread, table

ROUNDS = 7
EMPTY = "NODE_CLASS_MAPPINGS = {}\n"


def load(pack: str) -> None:
    """Print, in a process of its own, the milliseconds that loading `pack` takes, and how many modules it imports."""
    open_host()
    import server

    import nodes

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    server.PromptServer(loop)
    loop.run_until_complete(nodes.init_builtin_extra_nodes())
    modules = len(sys.modules)
    begin = time.perf_counter()
    loaded = loop.run_until_complete(nodes.load_custom_node(pack))
    print(f"{(time.perf_counter() - begin) * 1e3} {len(sys.modules) - modules} {loaded}")


def measure(pack: Path) -> tuple[float, int]:
    """Return the milliseconds and modules of one load of `pack`."""
    output = subprocess.run([sys.executable, __file__, pack], capture_output=True, text=True, check=True).stdout
    ms, modules, loaded = output.splitlines()[-1].split()
    if loaded != "True":
        sys.exit(f"the host could not load {pack}")
    return float(ms), int(modules)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "__init__.py").write_text(EMPTY)
        packs = {"an empty pack": Path(folder), "this pack": ROOT}
        results = {name: [] for name in packs}
        for turn in range(ROUNDS + 1):
            for name, pack in packs.items():
                result = measure(pack)
                results[name] += [result] if turn else []  # the first round writes byte code
    times = {name: [ms for ms, _ in result] for name, result in results.items()}
    print(f"Machine: {machine()}\n\nLoading, ms: median (extremes) of {ROUNDS} fresh processes.\n")
    print(table(["loaded", "ms", "modules"], [[name, spread(times[name]), results[name][0][1]] for name in packs]))
    added = statistics.median(times["this pack"]) - statistics.median(times["an empty pack"])
    print(f"\nThe pack adds {added:.1f} ms.")


if __name__ == "__main__":
    load(sys.argv[1]) if len(sys.argv) > 1 else main()
