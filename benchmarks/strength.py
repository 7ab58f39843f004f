"""Likeness by strength in the miniature: each method at five strengths, on people whom no network was trained on.

Cosines of the recogniser that nothing else uses with four photos of the person, pictures without a face left out. Of
Face2Diffusion, which has no strength, the part of the sampling in which the words are the person's and not the class;
of FaceA-Net that of the LoRA, on one learned person's head in other people's pictures. The printed markdown can go into
RESULTS.md; the curves are drawn into a PNG.
"""

import argparse
import functools
import json
import math
from pathlib import Path

import bench

bench.THREADS = 1
bench.open_host()

import torch  # noqa: E402
from likeness.adapters.facea_file import load_facea  # noqa: E402
from likeness.adapters.facea_prompt import apply, encode_prompt  # noqa: E402
from likeness.inpaint.paint import FacePerson  # noqa: E402
from likeness.inpaint.refine import EVERY_FACE  # noqa: E402
from likeness.miniature.demo import LEARNED  # noqa: E402
from likeness.miniature.evaluation import instruments, methods  # noqa: E402
from likeness.miniature.evaluation.facea import repaint_image  # noqa: E402
from likeness.miniature.evaluation.measure import (  # noqa: E402
    Plan,
    SampledImages,
    embed_people,
    find_faces,
    sample_images,
    score,
)
from likeness.miniature.evaluation.people import hold_out, render_person  # noqa: E402
from likeness.miniature.models import base_model  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
PLAN = Plan(people=12, prompts=1, seeds=2)
SAMPLING = instruments.ImageSampling(steps=20)
METHODS = {
    "FACT": lambda strength: methods.fact(strength=strength),
    "image adapter": lambda strength: methods.infinite_id(strength=strength),
    "Infinite-ID": lambda strength: methods.infinite_id(strength=strength, mixing="mixed"),
    "Face2Diffusion": lambda strength: methods.face2diffusion(delayed=1 - strength),
}
FACEA = "FaceA-Net"


@functools.cache
def learned_painter(strength: float) -> tuple:
    """Return the miniature's learned person at a strength, and the VAE."""
    model, clip, vae = base_model.load_miniature(base_model.WEIGHTS, inpainting=True)
    identity = load_facea(base_model.WEIGHTS / "facea" / "miniature_facea.safetensors")
    held = render_person(LEARNED)
    prompt = encode_prompt(clip, identity, f"a photo of a {held.word}", "", True)
    return FacePerson(apply(model, identity, strength)[0], *prompt, EVERY_FACE), vae


def measure(world: instruments.World, name: str, strength: float) -> torch.Tensor:
    """Return the likeness of every image [seeds, people]; NaN where there is no face."""
    people = hold_out(PLAN.people)
    if name != FACEA:
        method = methods.Method(name, name, METHODS[name](strength))
        images = sample_images(world, method, people, PLAN, SAMPLING)
        return score(world, images, find_faces(world, images), embed_people(world, people), PLAN)["identity"]
    person, vae = learned_painter(strength)
    images = torch.stack([repaint_image(world, held.reference.images[0], person, vae) for held in people])
    painted = SampledImages((images[None] * 255).round().to(torch.uint8), ["a photo of {who}"] * len(people))
    learned = embed_people(world, [render_person(LEARNED)] * len(people))
    return score(world, painted, find_faces(world, painted), learned, PLAN)["identity"]


def summarise(likeness: torch.Tensor) -> tuple[float, float]:
    """Return the mean over images with a face and its standard error."""
    present = likeness[likeness.isfinite()]
    return present.mean().item(), present.std().item() / math.sqrt(len(present))


def main() -> None:
    parser = argparse.ArgumentParser(prog="likeness.py bench strength", description=__doc__)
    parser.add_argument("--picture", type=Path, default=Path("strength.png"), help="where the curves are drawn")
    options = parser.parse_args()
    world, curves = instruments.load(), {}
    kept = options.picture.with_suffix(".json")  # so that a run which was stopped goes on
    results = json.loads(kept.read_text()) if kept.is_file() else {}
    for name in (*METHODS, FACEA):
        for strength in STRENGTHS:
            if (key := f"{name} {strength}") not in results:
                results[key] = measure(world, name, strength).flatten().tolist()
                kept.write_text(json.dumps(results))
        curves[name] = [summarise(torch.tensor(results[f"{name} {strength}"])) for strength in STRENGTHS]
    rows = [[name, *(f"{mean:.2f} ± {error:.2f}" for mean, error in curve)] for name, curve in curves.items()]
    print(bench.table(["", *map(str, STRENGTHS)], rows))
    figure = Figure((6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.errorbar(STRENGTHS, *zip(*curve), label=name, capsize=2)
    axes.set(xlabel="strength", ylabel="likeness", xticks=STRENGTHS)
    axes.legend(frameon=False)
    figure.savefig(options.picture, dpi=80)


if __name__ == "__main__":
    main()
