"""Train a FaceA identity, or one attribute of it, from a folder of photos, without a server; training/README.md has the
settings.
"""

import argparse
import logging
from dataclasses import fields, replace
from pathlib import Path

import torch

from ..adapters.facea_file import save_facea
from ..encoders.face_encoder import FaceEncoder
from ..faces import detector
from ..faces.choose import apply_policy
from ..faces.search import FaceDetector
from ..faces.types import Faces
from ..host_process import SetupError
from ..inpaint.refine import CropStyle
from . import curve, facea_run, loop, validation
from .bases import BUILT_IN
from .distributed import is_main
from .inpainting import cut_photos
from .paths import check_paths
from .photo_lists import PHOTO_FILES, LeftOutError, list_of_one
from .photos import find_faces
from .progress_line import ProgressLine
from .settings import check_data, check_settings, make_parser, read_config
from .watch import Watch, check_board


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
    check_board(settings, options.output)
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
    look = _Look(options.output, photos.crops, finder, recogniser)
    validate = look if settings.validate_steps else None
    watch = Watch(settings, settings.lr_lora, options.output, look.write, validate, best="identity")

    def after_step(progress: loop.Progress, now: facea_run.Now) -> None:
        look.now = now
        line(progress)
        watch(progress)

    result = facea_run.learn(base, photos, task, settings, after_step=after_step)
    if is_main():
        save_facea(options.output, result.identity)
        curve.draw(result.progress.losses, settings.steps).save(options.output.with_suffix(".png"))
        print(f"{facea_run.report(result)}\nwritten to {options.output}", flush=True)


class _Look:
    """What is written and painted of a training at a moment, `now`: files, and sheets with the photos' crops [n, S, S,
    3], which are scored where there is a recogniser.
    """

    def __init__(self, output: Path, crops: torch.Tensor, finder: FaceDetector, recogniser: FaceEncoder | None):
        self.output, self.crops, self.finder, self.recogniser = output, crops, finder, recogniser
        self.person = validation.read_face(finder, recogniser, crops) if recogniser else None
        self.now: facea_run.Now | None = None

    def write(self, path: Path) -> None:
        save_facea(path, self.now.identity())

    def __call__(self, step: int) -> dict[str, float]:
        """Write the sheet of a step and return how like the person it is, by name; nothing where that is not known."""
        images = self.now.paint()
        scores = {}
        if self.recogniser:
            scores["identity"] = [validation.score_likeness(self.finder, self.recogniser, self.person, images[0])]
        sheet = validation.draw_people(self.crops, images, validation.label(scores, 1), f"Step {step}")
        sheet.save(self.output.with_suffix(f".validation-{step:08d}.png"))
        return {name: score for name, (score,) in scores.items() if score is not None}


def _find_faces(folder: Path, finder: FaceDetector) -> list[Faces]:
    """Return the largest face of every photo in a folder, as `Faces` of one image each; print which is which, and what
    does not serve.

    Raises ValueError where nothing is left.
    """
    faces = []
    for photo in list_of_one(folder):
        try:
            faces.append(apply_policy(find_faces(photo, finder), "largest", 0, "error"))
        except LeftOutError as error:
            logging.warning("%s is left out: %s.", photo.name, error)
            continue
        if is_main():
            print(f"photo {len(faces)}: {photo.name}", flush=True)
    if not faces:
        raise ValueError(
            f"{folder} has no photo with a face to learn from: put photos ({', '.join(PHOTO_FILES)}) of one person "
            "into it, or choose another face detector."
        )
    return faces
