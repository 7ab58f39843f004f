"""Everything that a CUDA GPU must show, in one command of eight minutes.

    python3 likeness.py bench cuda                     on a machine with this checkout's own set-up
    COMFYUI_PATH=... python3 benchmarks/on_cuda.py        on one that has torch and a bundle of `pack_cuda.sh`

    --tiny            small sizes, with which all stages end within a minute on any CPU
    --minutes M       stop after this time; what is done by then counts (default 8)
    --out DIR         where cuda.json and cuda.md are written after every stage (default output/cuda)
    STAGE ...         only these, in the order of the list

Stages run in order of worth, each within a limit of its own. What a stage has found when its time is up is kept.
"""

import sys

import bench

if "--tiny" in sys.argv:
    bench.THREADS = 1  # other tests run beside it, and threads that wait for each other take most of the time
bench.open_host()

import argparse  # noqa: E402
import contextlib  # noqa: E402
import gc  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from dataclasses import asdict, dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402

import comfy.model_management  # noqa: E402
import torch  # noqa: E402
from bench import ROOT, machine, table  # noqa: E402
from cuda_stages import STAGES, Scale, Stage  # noqa: E402


class TimeUp(BaseException):
    """Raised in a stage whose time is up; no `except Exception` of the host's swallows it."""


@dataclass
class Outcome:
    """What a stage came to.

    state:    "measured", "cut" by its limit, "failed" with `error`, or "not run"
    figures:  name -> number or text; `text` is the markdown that the stage printed
    """

    stage: str
    state: str = "not run"
    seconds: float = 0.0
    figures: dict = field(default_factory=dict)
    text: str = ""
    error: str = ""


def run_stage(stage: Stage, scale: Scale, limit: float) -> Outcome:
    """Run one stage for at most `limit` seconds and return what came of it, whatever happens in it."""
    outcome, printed, begin = Outcome(stage.name), io.StringIO(), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        with contextlib.redirect_stdout(printed):
            stage.run(scale, outcome.figures)
        outcome.state = "measured"
    except TimeUp:
        outcome.state = "cut"
    except Exception:
        outcome.state, outcome.error = "failed", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    outcome.seconds, outcome.text = round(time.monotonic() - begin, 1), printed.getvalue()
    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.soft_empty_cache(True)
    return outcome


def write(folder: Path, outcomes: list[Outcome], about: str) -> None:
    """Write cuda.json and cuda.md to `folder`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"machine": about, "stages": [asdict(outcome) for outcome in outcomes]}, indent=1)
    for name, text in (("cuda.json", data), ("cuda.md", markdown(outcomes, about))):
        part = folder / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)


def markdown(outcomes: list[Outcome], about: str) -> str:
    """Return the report: a table of the stages, then every stage's figures and what it printed."""
    rows = [[outcome.stage, outcome.state, f"{outcome.seconds:.1f}"] for outcome in outcomes]
    parts = [f"{about}\n", table(["stage", "state", "seconds"], rows)]
    for outcome in outcomes:
        if outcome.state == "not run":
            continue
        parts.append(f"\n## {outcome.stage}\n")
        if outcome.figures:
            parts.append(table(["figure", "value"], [[name, shown(value)] for name, value in outcome.figures.items()]))
        parts += [outcome.text] if outcome.text else []
        parts += [f"```\n{outcome.error}```"] if outcome.error else []
    missing = [outcome.stage for outcome in outcomes if outcome.state != "measured"]
    parts.append(f"\nNot measured, or in part: {', '.join(missing) or 'nothing'}.\n")
    return "\n".join(parts)


def shown(value) -> str:
    """Return a figure as text, numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: list[str]) -> int:
    """Run the stages and return 0 if all of them were measured."""
    parser = argparse.ArgumentParser(
        prog="likeness.py bench cuda", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", nargs="*", choices=[[], *(stage.name for stage in STAGES)])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "cuda")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        print("There is no CUDA GPU here; --tiny tries every stage on the CPU.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGALRM, _time_up)
    end, about = time.monotonic() + 60 * options.minutes, machine()
    stages = [stage for stage in STAGES if not options.stage or stage.name in options.stage]
    outcomes = [Outcome(stage.name) for stage in stages]
    for index, stage in enumerate(stages):
        left = end - time.monotonic()
        if left < 1:
            break
        limit = left if options.tiny else min(stage.seconds, left)
        outcomes[index] = run_stage(stage, Scale.tiny() if options.tiny else Scale(), limit)
        print(f"{stage.name}: {outcomes[index].state}, {outcomes[index].seconds} s", flush=True)
        write(options.out, outcomes, about)
    print(f"\n{markdown(outcomes, about)}\n{options.out / 'cuda.md'} has all of it.")
    return int(any(outcome.state != "measured" for outcome in outcomes))


def _time_up(*_):
    raise TimeUp


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
