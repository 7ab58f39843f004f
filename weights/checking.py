"""Is what lies in the models folder what was published, or what came the first time?

What the manifest does not say is kept in one JSON file at the models folder, a line a file: hashes at the first sight,
what came from what. Commas lead the lines, so that any line may be deleted by hand.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from . import manifest, places
from .errors import FetchError, disk_errors
from .files import file_sha256

OK, RECORDED, UNKNOWN, WRONG, MISSING = "ok", "recorded", "not published", "WRONG", "missing"
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


@dataclass(frozen=True)
class Finding:
    """What is to be said of one entry.

    state: OK as published; RECORDED not published, but as it first came; UNKNOWN neither published nor recorded;
    WRONG; MISSING. detail: one sentence, or what is wrong and what to do. new: what to record of an UNKNOWN one.
    """

    state: str
    detail: str
    new: dict[str, Record]


def check(entry: manifest.WeightFile, root: Path, records: dict[str, Record]) -> Finding:
    """Size and sha256 of what is present of an entry below `root`, against the manifest or else the records."""
    found = places.find(entry, root)
    if found is None:
        return Finding(MISSING, "", {})
    if found.is_dir():
        return _check_pack(entry, found, root, records)
    name = found.relative_to(root).as_posix()
    if found.name != entry.file:
        return _check_rewritten(entry, found, name, root, records)
    return _check_file(found, name, entry, root, records)


def _check_file(
    file: Path, name: str, entry: manifest.WeightFile | None, root: Path, records: dict[str, Record]
) -> Finding:
    size, known = file.stat().st_size, records.get(name)
    published = entry.bytes if entry else None
    if published is not None and size != published:
        return Finding(WRONG, f"{file} has {size} bytes, published are {published}: {_replace(file)}", {})
    sha256 = file_sha256(file)
    if entry and entry.sha256:
        if sha256 == entry.sha256:
            return Finding(OK, "size and sha256 as published", {})
        evidence = " by a third party" if entry.sha256_evidence == "second-hand" else ""
        return Finding(
            WRONG, f"{file} has the sha256 {sha256}, published{evidence} is {entry.sha256}: {_replace(file)}", {}
        )
    if known is None:
        url = manifest.url(entry) if entry else ""
        return Finding(UNKNOWN, "its hash is not published", {name: Record(sha256, size, url)})
    if sha256 == known.sha256:
        return Finding(RECORDED, "its hash is not published; it is as it first came", {})
    return Finding(WRONG, _changed(file, sha256, known.sha256, root, name), {})


def _check_rewritten(
    entry: manifest.WeightFile, file: Path, name: str, root: Path, records: dict[str, Record]
) -> Finding:
    origin = records[name].origin if name in records else None
    if origin and entry.sha256 and origin.sha256 != entry.sha256:
        return Finding(WRONG, f"{file} was made from another file than the published one: {_replace(file)}", {})
    finding = _check_file(file, name, None, root, records)
    as_published = finding.state == RECORDED and origin and entry.sha256
    return Finding(OK, f"as rewritten from the published {entry.file}", {}) if as_published else finding


def _check_pack(archive: manifest.WeightFile, folder: Path, root: Path, records: dict[str, Record]) -> Finding:
    """Every file of an unpacked archive that the manifest or the records know."""
    findings = [check(member, root, records) for member in manifest.members(archive)]
    known = {places.place(member) for member in manifest.members(archive)}
    for name, record in records.items():
        if name not in known and record.origin and record.origin.place == places.place(archive):
            file = root / name
            findings.append(
                _check_file(file, name, None, root, records)
                if file.is_file()
                else Finding(WRONG, f"{file} is missing from the pack: fetch it again.", {})
            )
    wrong = next((finding for finding in findings if finding.state == WRONG), None)
    return wrong or Finding(OK, f"every known file of {folder}", {})


def _replace(file: Path) -> str:
    return f"delete {file.name} and fetch it again."


def _changed(file: Path, sha256: str, known: str, root: Path, name: str) -> str:
    return f"{file} has changed: its sha256 is {sha256}, it came with {known}. {how_to_accept(root, name)}"
