"""`likeness.py evaluate`: draw and score every method of the miniature, and write its report."""

import argparse
import io
import json
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import torch

from ...weights import saving
from . import facea, measure, results
from .instruments import Sampling, load, newest
from .methods import FACEA, FEW, METHODS, Method
from .people import held_out
from .report import file_name, write

OUTPUT = Path(__file__).parents[2] / "output" / "evaluate"


def main(arguments: list[str]) -> int:
    """Measure the methods whose files are there, and write miniature/REPORT.md with its pictures."""
    options = _parse(arguments)
    torch.set_flush_denormal(True)
    plan = measure.Plan(options.people, options.prompts, options.seeds)
    world = load()
    people = held_out(plan.people)
    present = [method for method in METHODS if not method.adapter or method.adapter in world.adapters]
    chosen = [method for method in present if not options.only or method.name in options.only]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    drawn = {method.name: _drawn(world, method, people, plan) for method in chosen}
    _measure(world, drawn, people, plan)
    if options.facea:
        _measure_facea(world, drawn["base"], people[: options.facea], plan)
    if not options.no_report:
        write(OUTPUT)
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="likeness.py evaluate", description=__doc__)
    for name, value, text in (
        ("people", 100, "held-out people"),
        ("prompts", 1, "prompts of each"),
        ("seeds", 3, "pictures of each prompt"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: {value})")
    parser.add_argument("--only", action="append", help="a method's name as in the report; may be given several times")
    parser.add_argument("--facea", type=int, default=0, help="people to learn by FaceA, minutes each")
    parser.add_argument("--no-report", action="store_true", help="only draw and score")
    return parser.parse_args(arguments)


def _drawn(world, method: Method, people, plan: measure.Plan) -> measure.Drawn:
    """A method's pictures, from an earlier run where the weights and the plan are the same."""
    if kept := _kept(method.name, plan):
        return kept
    begin = time.monotonic()
    drawn = measure.pictures(world, method, people, plan, Sampling())
    _keep(method.name, drawn, plan)
    print(f"{method.name}: {len(drawn.texts) * plan.seeds} pictures in {time.monotonic() - begin:.0f} s", flush=True)
    return drawn


def _kept(name: str, plan: measure.Plan) -> measure.Drawn | None:
    """What an earlier run drew by this plan, unless weights are younger."""
    path = OUTPUT / f"{file_name(name)}.pt"
    if not path.is_file() or path.stat().st_mtime <= newest():
        return None
    saved = torch.load(path, weights_only=True)
    return measure.Drawn(saved["pictures"], saved["texts"]) if saved["plan"] == list(astuple(plan)) else None


def _keep(name: str, drawn: measure.Drawn, plan: measure.Plan) -> None:
    content = io.BytesIO()
    torch.save({**vars(drawn), "plan": list(astuple(plan))}, content)
    saving.write(OUTPUT / f"{file_name(name)}.pt", content.getvalue(), "What was drawn")


def _measure(world, drawn: dict[str, measure.Drawn], people, plan: measure.Plan) -> None:
    """Score what was drawn, and keep the numbers beside the pictures."""
    (OUTPUT / "limits.json").write_text(json.dumps(results.limits(world, people), indent=1))
    score = _scorer(world, people, plan, drawn.get("base"))
    for name, each in drawn.items():
        score(name, each)


def _scorer(world, people, plan: measure.Plan, base: measure.Drawn | None) -> Callable[[str, measure.Drawn], None]:
    """What scores a method's pictures and keeps the numbers; base: the base model's, where they are known."""
    real = world.seen(torch.cat([held.others.images for held in people]))
    known = measure.known(world, people)
    base_faces = measure.faces_in(world, base) if base else None

    def score(name: str, drawn: measure.Drawn) -> None:
        faces = base_faces if drawn is base else measure.faces_in(world, drawn)
        comparable = base is not None and base.texts == drawn.texts
        background = measure.background(faces, base_faces, plan.seeds) if comparable else None
        summary = results.summary(measure.scores(world, drawn, faces, known, plan), background, real)
        (OUTPUT / f"{file_name(name)}.json").write_text(json.dumps({"name": name, **summary}, indent=1))
        print(f"{name}: identity {summary['identity']:.3f}, text {summary['text']:.3f}", flush=True)

    return score


def _measure_facea(world, base: measure.Drawn, people, plan: measure.Plan) -> None:
    """FaceA and its ablations on the first people only: each person is a training of its own."""
    base = base.of_people(0, len(people), plan)
    score = _scorer(world, people, plan, base)
    score(FEW, base)
    for name in FACEA:
        score(name, _repainted(world, name, people, base, plan))


def _repainted(world, name: str, people, base: measure.Drawn, plan: measure.Plan) -> measure.Drawn:
    """A row of FaceA's pictures, kept after every person, so that one that was stopped or shorter goes on."""
    kept = _kept(name, plan)
    done = len(kept.texts) // plan.prompts if kept else 0
    for number in range(done, len(people)):
        own = facea.pictures(world, name, people[number], base.of_people(number, number + 1, plan))
        kept = kept.with_more(own) if kept else own
        _keep(name, kept, plan)
        print(f"{name}: {number + 1} of {len(people)} people", flush=True)
    return kept.of_people(0, len(people), plan)
