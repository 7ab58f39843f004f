"""Drawn people's photos and a method's pictures of them as folders, for `likeness.py evaluate PROTOCOL --miniature`."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from ...graphics import to_pillow
from ..world.people import Person
from .measure import Plan, SampledImages
from .people import HeldOutPerson

_TONES = ("light", "medium", "dark")  # thirds of the world's skin tones
_HATS = ("cap", "crown", "beanie", "fedora")


def write_people(folder: Path, people: Sequence[HeldOutPerson]) -> None:
    """Write the photos to compare with to `folder`/photos, with what the people look like, and the reference photo of
    each, from which pictures are drawn, to `folder`/drawn_from."""
    for held in people:
        for name, faces in (("photos", held.others), ("drawn_from", held.reference)):
            _write_images(folder / name / _name(held.subject), faces.images)
    rows = [
        {"person": _name(held.subject), "class_words": f"a {held.word}", **describe(held.subject)} for held in people
    ]
    _write_csv(folder / "photos" / "people.csv", rows)


def write_pictures(folder: Path, people: Sequence[HeldOutPerson], samples: SampledImages, plan: Plan) -> None:
    """Write a method's pictures to `folder`, and to its pictures.csv whose they are and what their prompts ask for."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, text in enumerate(samples.texts):
        person = _name(people[number // plan.prompts].subject)
        labels = {"glasses": _tell("glasses" in text), "hat": _tell(any(hat in text for hat in _HATS))}
        for seed in range(plan.seeds):
            file = f"{person}_{number % plan.prompts}_{seed}.png"
            to_pillow(samples.images[seed, number].float() / 255).save(folder / file)
            prompt = text.format(who="{subject}")
            rows.append({"file": file, "person": person, "prompt": prompt, "seed": seed, **labels})
    _write_csv(folder / "pictures.csv", rows)


def describe(person: Person) -> dict[str, str]:
    """Return what a person may be grouped by, which the drawn world knows."""
    tone = _TONES[min(int(person.traits["skin"] * len(_TONES)), len(_TONES) - 1)]
    hair = "little" if person.hair in ("bald", "buzz") else "some"
    return {"skin": tone, "woman": _tell(person.woman), "hair": hair, "beard": _tell(person.beard != "none")}


def _tell(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _name(person: Person) -> str:
    return str(person.number)


def _write_images(folder: Path, images: torch.Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        to_pillow(image).save(folder / f"{number}.png")


def _write_csv(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
