"""Training in the miniature: samples a second of each trainer beside what its counted arithmetic takes at least.

The floor is the FLOPs of a step's forward and backward passes at the speed of large matrix products of the same dtype
on the same thread. Data are sampled, sizes those of the shipped weights. The printed markdown can go into RESULTS.md.
"""

import statistics
import time
from dataclasses import replace

import bench

bench.THREADS = 1  # one process a core is quickest, so that is what is measured
bench.open_host()

import torch  # noqa: E402
from likeness.miniature.models import base_model as miniature  # noqa: E402
from likeness.miniature.models import language  # noqa: E402
from likeness.miniature.recipes import adapters  # noqa: E402
from likeness.miniature.recipes import diffusion as recipe  # noqa: E402
from likeness.miniature.training import text_to_image as base  # noqa: E402
from likeness.miniature.world.people import VECTOR_NAMES  # noqa: E402
from likeness.training import face2diffusion, fact, frozen, infinite_id  # noqa: E402
from likeness.training.adapter_loop import train_adapter  # noqa: E402
from likeness.training.portraits import Portraits  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

STEPS = 8
PEOPLE, PHOTOS = 32, 4
CAPTIONS = ["a photo of a woman smiling, wearing a red cap and a blue shirt, at the beach"]


def portraits() -> Portraits:
    """Return sampled numbers of the shapes that the trainers read."""
    generator = torch.Generator().manual_seed(0)
    n = PEOPLE * PHOTOS

    def sample(*shape: int) -> torch.Tensor:
        return torch.randn(n, *shape, generator=generator).half()

    features = {
        "transface": sample(64, 128), "msid": sample(384), "expression": sample(64), "clip": sample(65, 128),
        "arcface": sample(1, 512),
    }  # fmt: skip
    people = torch.arange(PEOPLE).repeat_interleave(PHOTOS)
    faces = torch.rand(n, 8, 8, generator=generator).half()
    return Portraits(sample(miniature.CHANNELS, 8, 8), people, CAPTIONS * n, faces, features)


def trainers(data: Portraits) -> dict:
    """Return by name what runs a training of given settings, and the settings."""
    model, clip, _ = miniature.load_miniature(miniature.WEIGHTS)
    ground = frozen.freeze(model, clip, "bfloat16")
    shared = {**adapters.SHARED, "ema": 0.0, "steps": STEPS}
    small = {"dim": 128, "depth": 2}
    nothing = data.features["clip"][0]
    words = language.Vocabulary([text for caption in CAPTIONS for text in language.manners(caption).values()])
    captions = language.Captions(data.captions, words)
    lessons = base.Lessons(data.latents, torch.zeros(len(data), len(VECTOR_NAMES)), captions)

    def run(trainer, *more):
        def train(settings, after):
            adapter = trainer.make(ground, data, settings)
            return train_adapter(trainer, ground, adapter, (data, *more), settings, after_step=after)

        return train

    def text_to_image(settings, after):
        network = base.BaseNetwork(words, 64)
        return base.train(network, lessons, recipe.alphas_bar(), settings, torch.device("cpu"), None, after)

    return {
        "base": (text_to_image, base.BaseSettings(steps=STEPS, **(recipe.BASE | {"ema": 0.0}))),
        "FACT": (
            run(fact),
            fact.FactSettings(**(shared | adapters.FACT)),
        ),
        "Face2Diffusion": (
            run(face2diffusion),
            face2diffusion.Face2DiffusionSettings(hidden=(256, 256), **shared),
        ),
        "Infinite-ID": (
            run(infinite_id, nothing),
            infinite_id.InfiniteIdSettings(queries=12, **shared, **small),
        ),
    }


def seconds_a_step(run, settings) -> float:
    """Return the seconds of a step, the median of all steps but the first."""
    ends = [time.perf_counter()]
    run(settings, lambda progress: ends.append(time.perf_counter()))
    return statistics.median(b - a for a, b in zip(ends[1:], ends[2:]))


def flops(run, settings) -> int:
    """Return the FLOPs of one step."""
    with FlopCounterMode(display=False) as counter:
        run(replace(settings, steps=1), lambda progress: None)
    return counter.get_total_flops()


def peak() -> float:
    """Return the FLOPs a second of large bfloat16 matrix products on one thread."""
    a, b = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
    a @ b
    begin = time.perf_counter()
    for _ in range(5):
        a @ b
    return 5 * 2 * 2048**3 / (time.perf_counter() - begin)


def main() -> None:
    torch.set_flush_denormal(True)
    best, rows = peak(), []
    for name, (run, settings) in trainers(portraits()).items():
        count, took = flops(run, settings), seconds_a_step(run, settings)
        floor = count / best
        rows.append([name, settings.batch, f"{settings.batch / took:.0f}", f"{settings.batch / floor:.0f}",
                     f"{took / floor:.2f}"])  # fmt: skip
    print(bench.machine(), f"{best / 1e9:.0f} GFLOP/s", sep="; ")
    print(bench.table(["trainer", "batch", "samples/s", "floor, samples/s", "/ floor"], rows))


if __name__ == "__main__":
    main()
