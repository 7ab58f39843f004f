"""Train a FaceA identity, or one attribute of it, from a folder of photos, without a server; training/README.md has the
settings.
"""

import argparse
import logging
from dataclasses import fields, replace
from pathlib import Path

import torch

from ..adapters.facea_file import save_facea
from ..faces import detector
from ..faces.choose import apply_policy
from ..faces.search import FaceDetector
from ..graphics import read_image
from ..host_process import SetupError
from ..inpaint.refine import CropStyle
from . import curve, facea_run, validation
from .bases import BUILT_IN
from .distributed import is_main
from .inpainting import cut_photos
from .photo_lists import PHOTO_FILES
from .progress_line import ProgressLine
from .settings import check_data, check_paths, check_settings, make_parser, read_config
from .watch import Watch


def main(arguments: list[str]) -> int:
    """Train a person; stopped with Ctrl-C it keeps what was learned, run again it goes on.

    Raises SetupError with a sentence where photos, checkpoint, settings or the output's folder do not serve.
    """
    options = _parse(arguments)
    try:
        _train(options)
    except (ValueError, RuntimeError, OSError) as error:
        raise SetupError(str(error), f"{options.output} was not written.") from error
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    photos = "folder with photos of one person, one face in each"
    parser = make_parser("facea", __doc__, photos, "SD1.x or 2.x inpainting checkpoint, or the word miniature")
    for name, text in {
        "word": "the same as --set word=…",
        "detector": "the same as --set data.detector=…",
        "size": "the same as --set data.size=…",
    }.items():
        parser.add_argument(f"--{name}", type=int if name == "size" else str, help=text)
    return parser.parse_args(arguments)


def _train(options: argparse.Namespace) -> None:
    values, about_data = read_config(options.config, options.set)
    values |= {"word": options.word} if options.word else {}
    values = (
        {"steps": facea_run.TRANSFER_STEPS} if values.get("attribute", facea_run.WHOLE) != facea_run.WHOLE else {}
    ) | values
    about_data |= {name: value for name in ("size", "detector") if (value := getattr(options, name)) is not None}
    person = check_settings(facea_run.PersonSettings, values)
    settings = facea_run.Settings(**{field.name: getattr(person, field.name) for field in fields(facea_run.Settings)})
    check_paths(options.photos, options.checkpoint, options.output, "an SD inpainting", BUILT_IN)
    task = facea_run.read_task(person)
    recogniser, _ = validation.load_scorers(settings.face_scorer)
    line = ProgressLine(settings)
    if built_in := BUILT_IN.get(options.checkpoint):
        about_data = {"size": built_in.size, "detector": built_in.detector} | about_data
    data = check_data((), about_data)
    base = facea_run.load_base(options.checkpoint)
    if built_in and "mask_expand" not in about_data:  # small pictures, in which a part is less than a latent
        data = replace(data, mask_expand=base.vae.spacial_compression_encode() // 2)
    finder = detector.load(data.detector or detector.first_detector(), 0.5, 640)
    style = CropStyle(data.face_share, data.size, expand=data.mask_expand)
    photos = cut_photos(_find_faces(options.photos, finder), task.regions, style)
    identity_now = None
    watch = Watch(settings, settings.lr_lora, options.output, lambda path: save_facea(path, identity_now()))

    def after_step(progress, identity) -> None:
        nonlocal identity_now
        identity_now = identity
        line(progress)
        watch(progress)

    result = facea_run.learn(base, photos, task, settings, settings.validate_steps, after_step)
    if is_main():
        if len(result.previews):
            _show_previews(options.output, photos.crops, result, settings.validate_steps, finder, recogniser)
        save_facea(options.output, result.identity)
        curve.draw(result.progress.losses, settings.steps).save(options.output.with_suffix(".png"))
        print(f"{facea_run.report(result)}\nwritten to {options.output}", flush=True)


def _show_previews(output: Path, crops: torch.Tensor, result: facea_run.Result, every: int, finder, recogniser) -> None:
    """Write a sheet of what was painted every so many steps, and how like the person it is where that can be said."""
    images, first = result.previews, result.progress.resumed_at // every + 1
    scores = {}
    if recogniser:
        person = validation.read_face(finder, recogniser, crops)
        scores["identity"] = [validation.score_likeness(finder, recogniser, person, image) for image in images]
    labels = [
        f"step {every * (first + index)}\n{scored}"
        for index, scored in enumerate(validation.label(scores, len(images)))
    ]
    sheet = validation.draw_people(crops, images, labels, "What was painted on the way")
    sheet.save(output.with_suffix(".validation.png"))


def _find_faces(folder: Path, finder: FaceDetector) -> list:
    """Return the largest face of every photo in a folder, as `Faces` of one image each."""
    faces = []
    for file in sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in PHOTO_FILES):
        try:
            faces.append(detector.detect_faces(finder, read_image(file)[None]))
        except ValueError as error:
            logging.warning("%s is left out: it cannot be read as a picture (%s).", file, error.__cause__)
    return [apply_policy(photo, "largest", 0, "whole picture") for photo in faces]
