"""What a step of sampling costs with each patch inside the UNet, as a ratio to the stock model's step.

    python3 likeness.py bench step                  # this checkout
    python3 likeness.py bench step --before FOLDER  # and another one, say an older version's, in turn with it

UNets of all blocks but a tenth as wide, 64 pixels, prompt and negative prompt: so small that what Python does between
the products counts most, which is the worst case; what the products cost at true size, `bench sfags`, `image` and
`mixed` say. Times are of the processor, one thread, so that other work beside disturbs less. The printed markdown can
be pasted into RESULTS.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bench
from bench import ROOT, machine, open_host, table

STEPS, ROUNDS, PROCESSES = 5, 4, 2


BESIDE = {
    "FACT": "SD1.5",
    "FACT, mask and 0 to 90 %": "SD1.5",
    "image adapter": "SD1.5",
    "image adapter, mask and 0 to 90 %": "SD1.5",
    "image adapter, SDXL": "SDXL",
    "Infinite-ID": "SD1.5, two images",
}  # the stock model that a form is compared with


def list_forms() -> dict[str, Callable[[], object]]:
    """Return by name what samples the forms and the stock models."""
    import torch
    from likeness.attention_patches.fact import apply_fact
    from likeness.attention_patches.infinite_id import apply_infinite_id
    from likeness.attention_patches.ip_adapter import apply_ip_adapter
    from likeness.tests.support import tiny, tiny_ip

    small, large, adapter, face = tiny.model(), tiny_ip.sdxl(), tiny.adapter(), tiny.face_id()
    some = {"mask": torch.ones(1, 64, 64).tril(), "end_percent": 0.9}

    def image(model, base, **settings):
        adapter = tiny_ip.adapter("faceid", base)
        return apply_ip_adapter(model, adapter, adapter.tokens(face=tiny_ip.face()), **settings)

    def sd15(model, batch=1):
        return lambda: tiny.sample(model, 64, 64, batch, STEPS)

    def sdxl(model):
        return lambda: tiny_ip.sample_sdxl(model, 64, STEPS)

    return {
        "SD1.5": sd15(small),
        "SD1.5, two images": sd15(small, 2),
        "SDXL": sdxl(large),
        "FACT": sd15(apply_fact(small, adapter, face)),
        "FACT, mask and 0 to 90 %": sd15(apply_fact(small, adapter, face, **some)),
        "image adapter": sd15(image(small, "SD1.5")),
        "image adapter, mask and 0 to 90 %": sd15(image(small, "SD1.5", **some)),
        "image adapter, SDXL": sdxl(image(large, "SDXL")),
        "Infinite-ID": sd15(apply_infinite_id(image(small, "SD1.5"))),
    }


def measure() -> dict[str, list[float]]:
    """Return milliseconds of a step by form, the forms in turn, a round each."""
    import torch

    torch.set_num_threads(1)
    with torch.inference_mode():
        forms, times = list_forms(), {}
        for turn in range(ROUNDS + 1):
            for name, sample in forms.items():
                begin = time.process_time()
                sample()
                took = (time.process_time() - begin) / STEPS * 1e3
                times.setdefault(name, []).extend([took] if turn else [])
    return times


def measure_in_processes(folders: list[Path]) -> list[dict[str, list[float]]]:
    """Return the same of each checkout, whose processes take turns."""
    results = [{} for _ in folders]
    for _ in range(PROCESSES):
        for folder, result in zip(folders, results):
            command = [sys.executable, __file__, "--measure", folder]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            for name, times in json.loads(output.splitlines()[-1]).items():
                result.setdefault(name, []).extend(times)
    return results


def list_ratios(times: dict[str, list[float]], name: str, other: str) -> str:
    """Return median and extremes of a form's times by another's, round by round."""
    ratios = [a / b for a, b in zip(times[name], times[other])]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="likeness.py bench step", description=__doc__)
    parser.add_argument("--before", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        bench.ROOT = options.measure
        open_host()
        print(json.dumps(measure()))
        return
    print(f"Machine: {machine()}; {PROCESSES} processes of {ROUNDS} rounds of {STEPS} steps.\n")
    folders = [ROOT] + ([options.before.resolve()] if options.before else [])
    results = measure_in_processes(folders)
    rows = [
        [form, other, *(f"{statistics.median(times[form]):.1f}" for times in results),
         *(list_ratios(times, form, other) for times in results)]
        for form, other in BESIDE.items()
    ]  # fmt: skip
    versions = ["", ", before"][: len(folders)]
    print(table(["form", "beside", *(f"ms{v}" for v in versions), *(f"ratio{v}" for v in versions)], rows))


if __name__ == "__main__":
    main()
