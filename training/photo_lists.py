"""Lists of photos of people, of which names alone are in memory: folders a person, tables, tar shards of others.

    photos/ada/beach.jpg      a picture
    photos/ada/beach.txt      its caption; without it that of all photos of the person,
    photos/ada/caption.txt    and without that "a photo of a person"

A table has the columns path, person and, if you like, caption; a path is one from the table's folder on. In tar shards
(WebDataset's convention) a sample is key.jpg with key.json ("person", "caption"), or with key.cls and key.txt; without
any of these the person is the key's folder.
"""

import csv
import importlib.util
import io
import itertools
import json
import os
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch

PHOTO_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TABLES = (".csv", ".jsonl", ".parquet")
CAPTION = "a photo of a person"
_NOT_A_ROW = "the line is no JSON object"
_LONGEST = 10_000  # characters of a caption, of which text encoders read some hundreds
_BLOCK = 1 << 20  # bytes of a tar file that are in memory at a time
_ROWS = 4096  # of a parquet table that are in memory at a time


class LeftOutError(ValueError):
    """A photo does not serve; the reason is a sentence's end: "no face was found in it"."""


class Photo(NamedTuple):
    """A photo of a person that was not read yet.

    name: as reports have it. person: a number, -1 where a table tells none. file: where it lies, or the tar file in
    which. place: in a tar file where it begins, and its length in bytes. caption: None where files beside it tell.
    fault: why it does not serve.
    """

    name: str
    person: int
    file: Path
    place: tuple[int, int] | None = None
    caption: str | None = None
    fault: str | None = None

    def open(self) -> Path | io.BytesIO:
        """Return what the picture can be read from; raises LeftOutError where there is none."""
        if self.fault:
            raise LeftOutError(self.fault)
        if self.place:
            return io.BytesIO(read_bytes(self.file, *self.place))
        if not self.file.is_file():  # a pipe would never end
            raise LeftOutError(
                "it is no file, or a link to none" if os.path.lexists(self.file) else "there is no such file"
            )
        return self.file

    def read_caption(self) -> str:
        """Return the caption in one line, of what is very long the beginning; raises ValueError where its file is not
        UTF-8.
        """
        text = self.caption if self.caption is not None else _read_caption_file(self.file)
        line = " ".join(text.split())[:_LONGEST]
        return line.encode("utf-8", "replace").decode()  # halves of characters, which JSON may hold, have no tokens


class PhotoList(Sequence[Photo]):
    """Photos of which some ten bytes more than names and captions are kept, each made when it is asked for."""

    def __init__(self, folder: Path, files: Sequence[Path] = ()):
        """folder: from which paths count; files: the tar files, if any."""
        self.folder, self.files = folder, files
        self._text, self._ends, self._people = bytearray(), array("q"), array("q")

    def add(self, person: int, path: str, *more) -> None:
        """Add a photo: of a table also caption, fault and name; of a tar file caption, its number and the place."""
        self._text += json.dumps([path, *more], ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._ends.append(len(self._text))
        self._people.append(person)

    @property
    def people(self) -> torch.Tensor:
        """The numbers of all photos' people, int64 [n]."""
        return torch.tensor(np.asarray(self._people))

    def count_people(self) -> int:
        """Return how many people there are; their numbers are below that."""
        return max(self._people, default=-1) + 1

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        begin, person = self._ends[index - 1] if index else 0, self._people[index]
        text = self._text[begin : self._ends[index]].decode("utf-8", "surrogatepass")
        path, *more = json.loads(text)
        if self.files:
            caption, number, *place = more
            file = self.files[number]
            return Photo(f"{file}: {path}", person, file, tuple(place), caption or CAPTION)
        file = self.folder / path
        caption, fault, name = more or (None, None, str(file))
        return Photo(name, person, file, None, caption, fault)


def list_photos(source: Path) -> PhotoList:
    """Return the photos of a folder with a sub-folder for each person, of a table, or of tar files in a folder.

    Raises ValueError with a sentence where it is none of these, or cannot be read.
    """
    if source.suffix.lower() in TABLES and source.is_file():
        return _list_table(source)
    if shards := list_tars(source):
        return _list_tars(source, shards)
    if not source.is_dir():
        raise ValueError(f"{source} is no folder with photos, and no table ({', '.join(TABLES)}).")
    return _list_folders(source)


def list_tars(source: Path) -> list[Path]:
    """Return the tar files of a folder by name, or the one that `source` is."""
    files = [source] if source.is_file() else source.glob("*.tar")
    return sorted(file for file in files if file.suffix == ".tar")


def caption_files(file: Path) -> tuple[Path, Path]:
    """Return where a picture's caption may be: its own, and that of its person."""
    return file.parent / f"{file.stem}.txt", file.parent / "caption.txt"


def read_bytes(file: Path, place: int, length: int) -> bytes:
    """Return `length` bytes of a file from `place` on; raises LeftOutError where it has less."""
    with file.open("rb", buffering=0) as content:
        content.seek(place)
        found = content.read(length)
    if len(found) < length:
        raise LeftOutError(f"{file} is cut off")
    return found


def _list_folders(folder: Path) -> PhotoList:
    people = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    if not people:
        raise ValueError(
            f"{folder} has no sub-folders: make one for each person and put that person's photos into it, so that "
            "training knows which photos show the same face."
        )
    photos, beside = PhotoList(folder), "it lies beside the folders of people, and not in one"
    for number, person in enumerate(people):
        for name in _list_names(person):
            photos.add(number, f"{person.name}/{name}")
    strays = [(Path(name), beside) for name in _list_names(folder)]
    strays += [
        (file.relative_to(folder), "it lies in a folder within that of a person") for file in _list_below(people)
    ]
    for path, fault in strays:
        photos.add(-1, str(path), None, fault, str(folder / path))
    return photos


def list_of_one(folder: Path) -> PhotoList:
    """Return the photos of one person, as they lie in a folder."""
    photos = PhotoList(folder)
    for name in _list_names(folder):
        photos.add(0, name)
    return photos


def _list_below(people: Iterable[Path]) -> list[Path]:
    """Return the photos in folders within those of people, which would be missed without a word."""
    entries = (entry for person in people for entry in os.scandir(person))
    within = (entry.path for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))
    walked = (walk for folder in within for walk in os.walk(folder))
    return sorted(Path(folder, name) for folder, _, names in walked for name in names if _is_photo(name))


def _list_names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if _is_photo(name) and not (folder / name).is_dir())


def _is_photo(name: str) -> bool:
    return name.lower().endswith(PHOTO_FILES)


def _list_table(table: Path) -> PhotoList:
    """Return the photos of a table; what is wrong with a row is told of its photo, by the line."""
    photos, people = PhotoList(table.parent), {}
    read_rows = {".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}[table.suffix.lower()]
    try:
        for line, row in read_rows(table):
            path, person = (_as_text(row.get(name)) for name in ("path", "person"))
            fault = None if path and person else _NOT_A_ROW if not row else f"it has no {'person' if path else 'path'}"
            caption = (_as_text(row["caption"]) or CAPTION) if "caption" in row else None
            number = -1 if fault else people.setdefault(person, len(people))
            photos.add(number, path, caption, fault, f"{table} line {line}: {path}")
    except UnicodeDecodeError as error:
        raise ValueError(f"The table {table} is not UTF-8: save it as UTF-8 with a text editor.") from error
    if not photos:
        raise ValueError(f"The table {table} has no rows.")
    return photos


def _as_text(value: object) -> str:
    """Return a cell as text, "" for none; a whole number that a table keeps as 3.0 is 3."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _read_csv(table: Path) -> Iterator[tuple[int, dict]]:
    with table.open(newline="", encoding="utf-8-sig") as lines:
        rows = csv.DictReader(lines)
        _check_columns(table, rows.fieldnames or ())
        try:
            for row in rows:
                yield rows.line_num, row
        except csv.Error as error:
            raise ValueError(f"The table {table} is no CSV from line {rows.line_num} on ({error}).") from error


def _read_json_lines(table: Path) -> Iterator[tuple[int, dict]]:
    with table.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield number, row if isinstance(row, dict) else {}


def _read_parquet(table: Path) -> Iterator[tuple[int, dict]]:
    """Yield rows, counted from 1, of the columns that are read; raises ValueError where no library is there."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            f"{table} is read by pyarrow, which is not installed: run 'python -m pip install pyarrow' with this "
            "Python, or save the table as .csv or .jsonl."
        )
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(table) as file:
            names = file.schema_arrow.names
            _check_columns(table, names)
            wanted = [name for name in ("path", "person", "caption") if name in names]
            rows = (row for batch in file.iter_batches(_ROWS, columns=wanted) for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"The table {table} cannot be read as Parquet ({error}).") from error


def _check_columns(table: Path, names: Iterable[str]) -> None:
    if missing := [name for name in ("path", "person") if name not in names]:
        there = ", ".join(map(repr, names)) or "none"
        raise ValueError(
            f"The table {table} has no column '{missing[0]}', but {there}: it needs path and person, and may have "
            "caption; in a .csv there are commas between them."
        )


def _list_tars(source: Path, files: list[Path]) -> PhotoList:
    """Return the photos of tar files, of which only the small texts beside the pictures are read."""
    photos, people = PhotoList(source, files), {}
    for number, file in enumerate(files):
        for key, members in itertools.groupby(walk_tar(file), lambda member: split_key(member.name)[0]):
            details, picture = {}, None
            for member in members:
                kind = split_key(member.name)[1]
                if f".{kind}" in PHOTO_FILES:
                    picture = member
                elif kind in ("json", "txt", "cls"):
                    details |= _read_details(file, member, kind)
            if picture is None:
                continue
            folder = str(PurePosixPath(key).parent)
            person = _as_text(details.get("person")) or ("" if folder == "." else folder)
            if not person:
                raise ValueError(
                    f'{file} does not say whose photo {key} is: add {key}.json with a "person", or {key}.cls, or name '
                    "the samples person/number."
                )
            place = picture.offset_data, picture.size
            photos.add(people.setdefault(person, len(people)), key, _as_text(details.get("caption")), number, *place)
    if not photos:
        raise ValueError(f"The tar files of {source} hold no pictures ({', '.join(PHOTO_FILES)}).")
    return photos


def walk_tar(file: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the files in a tar file; raises ValueError where it is none, packed, or cut off."""
    length = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"it ends in the middle of {member.name}")
                if member.isfile():
                    yield member
                tar.members.clear()  # it would keep them all
            check_rest(file, tar.offset)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"The tar file {file} cannot be read ({error}): copy it again, unpack it where it is compressed, or take "
            "it out of the folder."
        ) from error


def check_rest(file: Path, place: int) -> None:
    """Raise tarfile.ReadError where anything follows the empty block at `place`, with which a tar file ends."""
    with file.open("rb") as content:
        content.seek(place)
        while block := content.read(_BLOCK):
            if block.strip(b"\0"):
                raise tarfile.ReadError("it goes on behind its end, so that it has a hole or is several in one")


def split_key(name: str) -> tuple[str, str]:
    """Return a sample's key and the kind of a file of it, as WebDataset has it: up to the first dot of the name."""
    folder, slash, last = name.rpartition("/")
    key, _, kind = last.partition(".")
    return f"{folder.removeprefix('./')}{slash}{key}".removeprefix("./"), kind.lower()


def _read_details(file: Path, member: tarfile.TarInfo, kind: str) -> dict:
    """Return person and caption as one of the texts beside a picture has them."""
    text = read_bytes(file, member.offset_data, member.size).decode("utf-8", "replace").strip()
    if kind == "json":
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        return content if isinstance(content, dict) else {}
    return {"person" if kind == "cls" else "caption": text}


def _read_caption_file(file: Path) -> str:
    """Return what the caption file of a picture says, or that of its person."""
    text = next((path for path in caption_files(file) if path.is_file()), None)
    if text is None:
        return CAPTION
    try:
        return text.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The caption {text} is not UTF-8 (from byte {error.start + 1} on): save it as UTF-8 with a text editor."
        ) from error
