"""Train a FaceA identity from a folder of photos, without a server."""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

from ..launcher.environment import BASE, SetupError, extra_models_file

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
ADAPTERS = ("fact", "face2diffusion", "infinite-id")


def main(arguments: list[str], comfy: Path) -> int:
    """Train what the first argument names; stopped with Ctrl-C it keeps what was learned, run again it goes on.

    Raises SetupError with a sentence where photos, checkpoint or settings do not serve.
    """
    if arguments[:1] == ["miniature"]:
        open_host(comfy, cpu="--cpu" in arguments)
        from ..miniature.recipes import command

        return command.main(arguments[1:])
    if arguments and arguments[0] in ADAPTERS:
        return _adapter(arguments, comfy)
    return _facea(arguments, comfy)


def _adapter(arguments: list[str], comfy: Path) -> int:
    open_host(comfy, cpu=False)
    if extra_models_file(BASE).is_file():
        from utils.extra_config import load_extra_path_config  # the host's

        load_extra_path_config(str(extra_models_file(BASE)))
    from . import adapter_command

    return adapter_command.main(arguments)


def _facea(arguments: list[str], comfy: Path) -> int:
    options = _parse(arguments)
    if not options.photos.is_dir():
        raise SetupError(f"There is no folder {options.photos} with photos.", "Name the folder that holds them.")
    if not options.checkpoint.is_file():
        raise SetupError(f"There is no checkpoint {options.checkpoint}.", "Name an SD inpainting checkpoint.")
    open_host(comfy, options.cpu)
    try:
        return _train(options)
    except (ValueError, RuntimeError, OSError) as error:
        raise SetupError(str(error), f"{options.output} was not written.") from error


def _parse(arguments: list[str]) -> argparse.Namespace:
    others = " and ".join(f"'train {name} -h'" for name in (*ADAPTERS, "miniature"))
    epilog = f"This is about facea; {others} tell how the others are trained."
    parser = argparse.ArgumentParser(prog="likeness.py train", description=__doc__, epilog=epilog)
    parser.add_argument("what", choices=["facea", *ADAPTERS, "miniature"], help="what to train")
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


def open_host(comfy: Path, cpu: bool) -> None:
    """Make the ComfyUI at `comfy` importable; of several processes that train together each takes a GPU of its own."""
    sys.path.insert(0, str(comfy))
    import torch

    cpu = cpu or not torch.cuda.is_available()
    if not cpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    sys.argv = ["main.py", "--use-pytorch-cross-attention", "--base-directory", str(BASE), *(["--cpu"] if cpu else [])]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401


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
    finder = detector.load(options.detector or first_detector(), 0.5, 640)
    found = []
    for file in files:
        picture = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"), dtype=np.float32) / 255
        faces = detector.detect_faces(finder, torch.from_numpy(picture)[None])
        found.append(apply_policy(faces, "largest", 0, "whole picture"))
    return found


def first_detector() -> str:
    """The label of the first face detector that is ready; raises ValueError where none is."""
    from ..faces import detector

    for label in detector.available():
        try:
            detector.load(label, 0.5, 640)
        except (ValueError, OSError):
            continue
        return label
    raise ValueError("No face detector is ready: fetch one with 'python3 likeness.py weights'.")
