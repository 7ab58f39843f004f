"""What is known of the files here that the manifest does not say: hashes at the first sight, what came from what.

One JSON file at the models folder, a line a file. Commas lead the lines, so that any line may be deleted by hand.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from .disk import disk_errors
from .errors import FetchError

NAME = "likeness-weights.lock.json"
_FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """The published file that a file was made from: its place below the models folder, and what was verified of it."""

    place: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Record:
    """A file as it was when it came; `origin` where it was rewritten or unpacked from another."""

    sha256: str
    bytes: int
    url: str
    origin: Origin | None = None


def read(root: Path) -> dict[str, Record]:
    """The records by place below the models folder `root`; none where nothing was recorded yet.

    Raises FetchError where the file is there and is no lock file.
    """
    file = root / NAME
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError("another format")
        return {place: _record(**values) for place, values in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FetchError(
            f"{file} cannot be read ({error}): mend it, or delete it to have the files recorded anew."
        ) from error


def _record(origin: dict | None = None, **values) -> Record:
    return Record(**values, origin=Origin(**origin) if origin else None)


def add(root: Path, records: dict[str, Record]) -> None:
    """Add or replace records, while nobody else does; the file is always whole."""
    file = root / NAME
    with disk_errors(file), guard(root, NAME):
        text = _text({**read(root), **records})
        temporary = file.with_name(f"{NAME}.part")
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)


def guard(root: Path, place: str):
    """A lock between processes for what is at `place` below `root`, a `filelock.FileLock` not yet acquired.

    The system's lock files are empty and stay; all of them lie in one hidden folder.
    """
    from filelock import FileLock  # so that the table of files can be printed without it

    folder = root / ".likeness-weights"
    folder.mkdir(exist_ok=True)
    return FileLock(folder / f"{place.replace('/', '__')}.lock")


def _text(records: dict[str, Record]) -> str:
    lines = [f'{{"format": {_FORMAT}']
    for place, record in sorted(records.items()):
        values = {key: value for key, value in asdict(record).items() if value is not None}
        lines.append(f",{json.dumps(place)}: {json.dumps(values)}")
    return "\n".join([*lines, "}\n"])


def first_seen(records: dict[str, Record], place: str) -> tuple[str, int] | None:
    """Hash and size of the published file at `place` when it first came, also where only what was made of it stayed."""
    for name, record in records.items():
        if name == place:
            return record.sha256, record.bytes
        if record.origin and record.origin.place == place:
            return record.origin.sha256, record.origin.bytes
    return None


def how_to_accept(root: Path, place: str) -> str:
    """What to do where a file has changed since it was recorded, and the change is meant."""
    return f"If you trust the change, delete every line with {place} from {root / NAME} and run this again."
