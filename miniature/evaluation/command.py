"""`likeness.py evaluate`: draw and score every method of the miniature, and write its report.

Pictures that are there are scored by a paper's protocol, `likeness.py evaluate PROTOCOL -h`: fact-t2i, fact-inpaint,
face2diffusion, infinite-id, facea or stress.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import torch

from ...weights import saving
from . import export, facea, measure, results
from .instruments import ImageSampling, find_newest, load
from .methods import FACEA, FEW, METHODS, Method
from .people import hold_out
from .report import file_name, write

OUTPUT = Path(__file__).parents[2] / "output" / "evaluate"


def main(arguments: list[str]) -> int:
    """Measure the methods whose files are there, and write miniature/REPORT.md with its pictures."""
    options = _parse(arguments)
    torch.set_flush_denormal(True)
    plan = measure.Plan(options.people, options.prompts, options.seeds)
    world = load()
    people = hold_out(plan.people)
    present = [method for method in METHODS if not method.adapter or method.adapter in world.adapters]
    chosen = [method for method in present if not options.only or method.name in options.only]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    samples = {method.name: _sample(world, method, people, plan) for method in chosen}
    if options.export:
        export.write_people(options.export, people)
        for name, images in samples.items():
            export.write_pictures(options.export / file_name(name), people, images, plan)
        return 0
    (OUTPUT / "limits.json").write_text(json.dumps(results.limits(world, people), indent=1))
    score = _scorer(world, people, plan, samples.get("base"))
    for name, images in samples.items():
        score(name, images)
    if options.facea:
        _measure_facea(world, samples["base"], people[: options.facea], plan)
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
    parser.add_argument("--export", type=Path, metavar="DIR", help="only draw, and write photos and pictures as files, "
                        "which 'evaluate stress --miniature' scores")  # fmt: skip
    return parser.parse_args(arguments)


def _sample(world, method: Method, people, plan: measure.Plan) -> measure.SampledImages:
    """Return a method's images: those of an earlier run where weights and plan are the same, else new ones."""
    if samples := _load_samples(method.name, plan):
        return samples
    begin = time.monotonic()
    samples = measure.sample_images(world, method, people, plan, ImageSampling())
    _save_samples(method.name, samples, plan)
    print(f"{method.name}: {len(samples.texts) * plan.seeds} pictures in {time.monotonic() - begin:.0f} s", flush=True)
    return samples


def _load_samples(name: str, plan: measure.Plan) -> measure.SampledImages | None:
    """Return what an earlier run sampled by this plan; None where there is nothing, or weights are younger."""
    path = OUTPUT / f"{file_name(name)}.pt"
    if not path.is_file() or path.stat().st_mtime <= find_newest():
        return None
    saved = torch.load(path, weights_only=True)
    return measure.SampledImages(saved["pictures"], saved["texts"]) if saved["plan"] == list(astuple(plan)) else None


def _save_samples(name: str, samples: measure.SampledImages, plan: measure.Plan) -> None:
    content = io.BytesIO()
    torch.save({"pictures": samples.images, "texts": samples.texts, "plan": list(astuple(plan))}, content)
    saving.write(OUTPUT / f"{file_name(name)}.pt", content.getvalue(), "What was drawn")


def _scorer(
    world, people, plan: measure.Plan, base: measure.SampledImages | None
) -> Callable[[str, measure.SampledImages], None]:
    """Return a function that scores a method's images and writes the numbers.

    base: the base model's images, where they are known; the backgrounds are compared with theirs.
    """
    real = world.embed_images(torch.cat([held.others.images for held in people]))
    known = measure.embed_people(world, people)
    base_faces = measure.find_faces(world, base) if base else None

    def score(name: str, samples: measure.SampledImages) -> None:
        faces = base_faces if samples is base else measure.find_faces(world, samples)
        comparable = base is not None and base.texts == samples.texts
        background = measure.background(faces, base_faces, plan.seeds) if comparable else None
        summary = results.summary(measure.score(world, samples, faces, known, plan), background, real)
        (OUTPUT / f"{file_name(name)}.json").write_text(json.dumps({"name": name, **summary}, indent=1))
        print(f"{name}: identity {summary['identity']:.3f}, text {summary['text']:.3f}", flush=True)

    return score


def _measure_facea(world, base: measure.SampledImages, people, plan: measure.Plan) -> None:
    """Measure FaceA and its ablations for the first people only: each person is a training of its own."""
    base = base.of_people(0, len(people), plan)
    score = _scorer(world, people, plan, base)
    score(FEW, base)
    for name in FACEA:
        score(name, _repaint_people(world, name, people, base, plan))


def _repaint_people(world, name: str, people, base: measure.SampledImages, plan: measure.Plan) -> measure.SampledImages:
    """Return FaceA's images for people; saved after every person, so that a run that was stopped goes on."""
    samples = _load_samples(name, plan)
    done = len(samples.texts) // plan.prompts if samples else 0
    for number in range(done, len(people)):
        new = facea.repaint(world, name, people[number], base.of_people(number, number + 1, plan))
        samples = samples.with_more(new) if samples else new
        _save_samples(name, samples, plan)
        print(f"{name}: {number + 1} of {len(people)} people", flush=True)
    return samples.of_people(0, len(people), plan)
