"""Train a FaceA identity from a folder of photos, without a server."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from ..host_process import SetupError
from .settings import add_setting_options, check_data, check_settings, read_config


def main(arguments: list[str], open_host: Callable[[bool], None]) -> int:
    """Train a person; stopped with Ctrl-C it keeps what was learned, run again it goes on.

    open_host: makes the host importable; its argument is whether to leave the GPU alone.
    Raises SetupError with a sentence where photos, checkpoint or settings do not serve.
    """
    options = _parse(arguments)
    if not options.photos.is_dir():
        raise SetupError(f"There is no folder {options.photos} with photos.", "Name the folder that holds them.")
    if not options.checkpoint.is_file():
        raise SetupError(f"There is no checkpoint {options.checkpoint}.", "Name an SD inpainting checkpoint.")
    open_host(options.cpu)
    try:
        _train(options)
    except (ValueError, RuntimeError, OSError) as error:
        raise SetupError(str(error), f"{options.output} was not written.") from error
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="likeness.py train facea", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder with photos of one person, one face in each")
    parser.add_argument("checkpoint", type=Path, help="SD1.x or 2.x inpainting checkpoint")
    parser.add_argument("output", type=Path, help="the safetensors file to write")
    parser.add_argument("--word", default="woman", help="woman or man: the person in the prompts (default: woman)")
    parser.add_argument("--detector", help="as Load Face Detector lists them (default: the first that is ready)")
    parser.add_argument("--size", type=int, help="side of the crops in pixels (default: 512)")
    parser.add_argument("--cpu", action="store_true", help="do not use the GPU")
    add_setting_options(parser)
    return parser.parse_args(arguments)


def _train(options: argparse.Namespace) -> None:
    import comfy.sd

    from ..adapters.facea import REGIONS
    from ..adapters.facea_file import save_facea
    from ..inpaint.refine import CropStyle
    from . import facea_run
    from .inpainting import cut_photos
    from .progress_line import ProgressLine

    values, about_data = read_config(options.config, options.set)
    settings = check_settings(facea_run.Settings, values)
    about_data |= {name: value for name in ("size", "detector") if (value := getattr(options, name)) is not None}
    data = check_data((), about_data)
    line = ProgressLine(settings)
    photos = cut_photos(_find_faces(options.photos, data.detector), REGIONS, CropStyle(size=data.size))
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(options.checkpoint))
    base = facea_run.Base(model, clip, vae)
    result = facea_run.learn(base, photos, facea_run.Task(options.word), settings, after_step=line)
    save_facea(options.output, result.identity)
    print(f"{facea_run.report(result)}\nwritten to {options.output}")


def _find_faces(folder: Path, label: str) -> list:
    """Return the largest face of every photo in a folder, as `Faces` of one image each."""
    from ..faces import detector
    from ..faces.choose import apply_policy
    from ..graphics import read_image
    from .photo_lists import PHOTO_FILES

    finder = detector.load(label or detector.first_detector(), 0.5, 640)
    faces = []
    for file in sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in PHOTO_FILES):
        try:
            faces.append(detector.detect_faces(finder, read_image(file)[None]))
        except ValueError as error:
            logging.warning("%s is left out: it cannot be read as a picture (%s).", file, error.__cause__)
    return [apply_policy(photo, "largest", 0, "whole picture") for photo in faces]
