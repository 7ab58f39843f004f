"""Train a FaceA identity from a folder of photos, without a server."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from ..host_process import SetupError

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def main(arguments: list[str], open_host: Callable[[bool], None], others: tuple[str, ...]) -> int:
    """Train a person; stopped with Ctrl-C it keeps what was learned, run again it goes on.

    open_host: makes the host importable, told whether to leave the GPU alone. others: what else can be trained.
    Raises SetupError with a sentence where photos, checkpoint or settings do not serve.
    """
    options = _parse(arguments, others)
    if not options.photos.is_dir():
        raise SetupError(f"There is no folder {options.photos} with photos.", "Name the folder that holds them.")
    if not options.checkpoint.is_file():
        raise SetupError(f"There is no checkpoint {options.checkpoint}.", "Name an SD inpainting checkpoint.")
    open_host(options.cpu)
    try:
        return _train(options)
    except (ValueError, RuntimeError, OSError) as error:
        raise SetupError(str(error), f"{options.output} was not written.") from error


def _parse(arguments: list[str], others: tuple[str, ...]) -> argparse.Namespace:
    helps = " and ".join(f"'train {name} -h'" for name in others)
    epilog = f"This is about facea; {helps} tell how the others are trained."
    parser = argparse.ArgumentParser(prog="likeness.py train", description=__doc__, epilog=epilog)
    parser.add_argument("what", choices=["facea", *others], help="what to train")
    parser.add_argument("photos", type=Path, help="folder with photos of one person, one face in each")
    parser.add_argument("checkpoint", type=Path, help="SD1.x or 2.x inpainting checkpoint")
    parser.add_argument("output", type=Path, help="the safetensors file to write")
    parser.add_argument("--word", default="woman", help="woman or man: the person in the prompts (default: woman)")
    parser.add_argument("--detector", help="as Load Face Detector lists them (default: the first that is ready)")
    parser.add_argument("--size", type=int, default=512, help="side of the crops in pixels (default: 512)")
    parser.add_argument("--cpu", action="store_true", help="do not use the GPU")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a training setting, e.g. --set steps=600"
    )
    return parser.parse_args(arguments)


def _train(options: argparse.Namespace) -> int:
    import comfy.sd

    from ..adapters.facea import REGIONS
    from ..adapters.facea_file import save_facea
    from ..inpaint.refine import CropStyle
    from . import facea_run
    from .inpainting import cut_photos

    settings = _settings(options.set, facea_run.Settings)
    photos = cut_photos(_photos(options), REGIONS, CropStyle(size=options.size))
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(options.checkpoint))

    def show(progress) -> None:
        print(f"step {progress.step} of {settings.steps}, loss {progress.losses[-1]:.4f}", flush=True)

    base = facea_run.Base(model, clip, vae)
    result = facea_run.learn(base, photos, facea_run.Task(options.word), settings, after_step=show)
    save_facea(options.output, result.identity)
    print(f"{facea_run.report(result)}\nwritten to {options.output}")
    return 0


def _settings(given: list[str], kind: type):
    from . import loop

    kinds = {entry.name: entry.type for entry in fields(kind)}
    values = dict(text.partition("=")[::2] for text in given)
    return loop.settings({name: _value(text, kinds.get(name)) for name, text in values.items()}, kind)


def _value(text: str, kind: type | None):
    if kind is bool:
        return text.lower() in ("1", "true", "yes", "on")
    return kind(text) if kind in (int, float) else text


def _photos(options: argparse.Namespace) -> list:
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    from ..faces import detector
    from ..faces.choose import apply_policy

    files = sorted(file for file in options.photos.iterdir() if file.suffix.lower() in PICTURES)
    finder = detector.load(options.detector or detector.first_detector(), 0.5, 640)
    found = []
    for file in files:
        picture = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"), dtype=np.float32) / 255
        faces = detector.detect_faces(finder, torch.from_numpy(picture)[None])
        found.append(apply_policy(faces, "largest", 0, "whole picture"))
    return found
