"""Pictures that somebody made of people, and the people's photos, as they lie in folders.

Photos: a folder a person, `PHOTOS/ann/1.jpg`, or a file a person, `PHOTOS/ann.jpg`. `PHOTOS/people.csv`, which may be
missing, has a line a person: the column person, class_words where "a person" will not do, and labels to group by.

Pictures, in one of three ways:

    PICTURES/pictures.csv      columns file, person, prompt; perhaps seed, template (a picture) and labels to group by
    PICTURES/manifest.jsonl    as `likeness.py batch` writes it: the person is the photo's file or its folder
    PICTURES/ann/h-acc-01/*    a folder a person and, in it, a folder a prompt, which is the prompt's text itself or its
                               id in PICTURES/prompts.csv (columns id and text)
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .. import graphics
from ..host_process import SetupError

IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
CLASS_WORDS = "a person"


@dataclass(frozen=True)
class Picture:
    """One picture: whose, for which prompt, with which seed; labels: what it may be grouped by."""

    file: Path
    person: str
    prompt: str
    seed: str = ""
    template: Path | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Person:
    """One person's photos, the words for them in a prompt, and what they may be grouped by."""

    name: str
    photos: list[Path]
    class_words: str = CLASS_WORDS
    labels: dict[str, str] = field(default_factory=dict)


def read_people(folder: Path) -> dict[str, Person]:
    """Return the people in a folder of photos by name; raises SetupError where there is none."""
    photos = {path.stem: [path] for path in _list_images(folder)}
    photos |= {sub.name: found for sub in _list_folders(folder) if (found := _list_images(sub))}
    if not photos:
        raise SetupError(f"{folder} holds no photos.", "Give a folder of photos, or one with a folder for each person.")
    rows = {row.get("person"): row for row in _read_csv(folder / "people.csv")}
    if unknown := rows.keys() - photos.keys():
        raise SetupError(f"{folder / 'people.csv'} names {min(map(str, unknown))}, of whom {folder} has no photos.",
                         "Correct the column 'person', or add the photos.")  # fmt: skip
    return {name: _make_person(name, files, dict(rows.get(name, {}))) for name, files in sorted(photos.items())}


def _make_person(name: str, photos: list[Path], row: dict[str, str]) -> Person:
    row.pop("person", None)
    return Person(name, photos, row.pop("class_words", "") or CLASS_WORDS, row)


def read_pictures(folder: Path) -> list[Picture]:
    """Return the pictures in a folder, in one of the three ways; raises SetupError where there is none or one lacks."""
    if (folder / "pictures.csv").is_file():
        pictures = [_read_row(folder, row) for row in _read_csv(folder / "pictures.csv")]
    elif (folder / "manifest.jsonl").is_file():
        pictures = _read_batch(folder)
    else:
        texts = {row["id"]: row["text"] for row in _read_csv(folder / "prompts.csv")}
        pictures = [
            Picture(file, person.name, texts.get(prompt.name, prompt.name), file.stem)
            for person in _list_folders(folder)
            for prompt in _list_folders(person)
            for file in _list_images(prompt)
        ]
    files = [file for picture in pictures for file in (picture.file, picture.template) if file]
    if not pictures or (missing := [file for file in files if not file.is_file()]):
        raise SetupError(
            f"{missing[0]} is not there." if pictures else f"{folder} holds no pictures of people.",
            "Pictures lie in PERSON/PROMPT/, or pictures.csv (columns file, person, prompt) or a batch's "
            "manifest.jsonl says where they are.",
        )
    return pictures


def _read_row(folder: Path, row: dict[str, str]) -> Picture:
    if lacking := [name for name in ("file", "person", "prompt") if not row.get(name)]:
        raise SetupError(f"{folder / 'pictures.csv'} has a line without {lacking[0]}.", "Fill it in.")
    template = row.pop("template", "")
    return Picture(
        folder / row.pop("file"), row.pop("person"), row.pop("prompt"), row.pop("seed", ""),
        folder / template if template else None, row,
    )  # fmt: skip


def _read_batch(folder: Path) -> list[Picture]:
    """Return the pictures of a batch's manifest; of a cell that was made again the last ones."""
    cells = {}
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "error" not in record:
            cells[record["key"]] = record
    pictures = []
    for record in cells.values():
        cell = {name.lower(): str(value) for name, value in record["cell"].items()}
        person = cell.get("person") or cell.get("photo") or cell.get("photos") or ""
        prompt = cell.get("prompt") or cell.get("prompts") or ""
        pictures += [
            Picture(folder / file, person, prompt, str(record.get("seed")))
            for file in record["files"]
            if Path(file).suffix.lower() in IMAGE_FILES
        ]
    return pictures


def match(pictures: list[Picture], people: dict[str, Person], folder: Path) -> dict[str, list[Picture]]:
    """Return the pictures of each person: known by name or, in a batch, by the photo's file or its folder.

    Raises SetupError where one is of nobody there are photos of.
    """
    by_photo = {path.stem: person.name for person in people.values() for path in person.photos}
    groups = {}
    for picture in pictures:
        photo = Path(picture.person)
        candidates = (picture.person, photo.stem, photo.parent.name, by_photo.get(photo.stem))
        name = next((name for name in candidates if name in people), None)
        if name is None:
            raise SetupError(
                f"{folder} has pictures of {picture.person or 'nobody'}, of whom there are no photos.",
                f"The people are {', '.join(list(people)[:5])}{' ...' if len(people) > 5 else ''}: name both alike.",
            )
        groups.setdefault(name, []).append(picture)
    return groups


def read_image(file: Path) -> torch.Tensor:
    """Return what `graphics.read_image` does; raise SetupError naming a file that cannot be read."""
    try:
        return graphics.read_image(file)
    except ValueError as error:
        raise SetupError(str(error), "Make it again, or take it away.") from error


def _list_images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_FILES and path.is_file())


def _list_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))


def _read_csv(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8-sig") as lines:
        return [{name: value or "" for name, value in row.items() if name} for row in csv.DictReader(lines)]
