"""Is what lies in the models folder what was published, or what came the first time?

What the manifest does not say is kept in one JSON file at the models folder, a line a file: hashes at the first sight,
what came from what. Commas lead the lines, so that any line may be deleted by hand.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from . import manifest, paths
from .errors import FetchError, disk_errors
from .files import file_sha256, write_whole

OK, RECORDED, UNKNOWN, WRONG, MISSING = "ok", "recorded", "not published", "WRONG", "missing"
NAME = "likeness-weights.lock.json"
_FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """The published file that a file was made from: its path below the models folder, and what was verified of it.

    The names of the fields stand in the lock file.
    """

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
    """Return the records by path below the models folder `root`, {} where nothing was recorded yet.

    Raises FetchError where the file is there and is no lock file.
    """
    file = root / NAME
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError("another format")
        records = {}
        for path, values in content.items():
            origin = values.pop("origin", None)
            records[path] = Record(**values, origin=Origin(**origin) if origin else None)
        return records
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FetchError(
            f"{file} cannot be read ({error}): mend it, or delete it to have the files recorded anew."
        ) from error


def add(root: Path, records: dict[str, Record]) -> None:
    """Add or replace records, while nobody else does; the file is always whole."""
    file = root / NAME
    with disk_errors(file), guard(root, NAME):
        lines = [f'{{"format": {_FORMAT}']
        for path, record in sorted({**read(root), **records}.items()):
            values = {key: value for key, value in asdict(record).items() if value is not None}
            lines.append(f",{json.dumps(path)}: {json.dumps(values)}")
        write_whole(file, "\n".join([*lines, "}\n"]).encode())


def guard(root: Path, path: str):
    """Return a lock between processes for what is at `path` below `root`, a `filelock.FileLock` not yet acquired.

    The system's lock files are empty and stay; all of them lie in one hidden folder.
    """
    from filelock import FileLock  # so that the table of files can be printed without it

    folder = root / ".likeness-weights"
    folder.mkdir(exist_ok=True)
    return FileLock(folder / f"{path.replace('/', '__')}.lock")


def first_seen(records: dict[str, Record], path: str) -> tuple[str, int] | None:
    """Return hash and size of the published file at `path` when it first came, or None; what it was made into tells."""
    for name, record in records.items():
        if name == path:
            return record.sha256, record.bytes
        if record.origin and record.origin.place == path:
            return record.origin.sha256, record.origin.bytes
    return None


def how_to_accept(root: Path, path: str) -> str:
    """Say what to do where a file has changed since it was recorded, and the change is meant."""
    return f"If you trust the change, delete every line with {path} from {root / NAME} and run this again."


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
    """Check size and sha256 of what is present of an entry below `root`, against the manifest or else the records."""
    present = paths.find(entry, root)
    if present is None:
        return Finding(MISSING, "", {})
    if present.is_dir():
        return _check_pack(entry, present, root, records)
    name = present.relative_to(root).as_posix()
    if present.name == entry.file:
        return _check_file(present, name, entry, root, records)
    origin = records[name].origin if name in records else None
    if origin and entry.sha256 and origin.sha256 != entry.sha256:
        return Finding(WRONG, f"{present} was made from another file than the published one: {_replace(present)}", {})
    finding = _check_file(present, name, None, root, records)
    as_published = finding.state == RECORDED and origin and entry.sha256
    return Finding(OK, f"as rewritten from the published {entry.file}", {}) if as_published else finding


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
    detail = f"{file} has changed: its sha256 is {sha256}, it came with {known.sha256}. {how_to_accept(root, name)}"
    return Finding(WRONG, detail, {})


def _check_pack(archive: manifest.WeightFile, folder: Path, root: Path, records: dict[str, Record]) -> Finding:
    """Check every file of an unpacked archive that the manifest or the records know."""
    findings = [check(member, root, records) for member in manifest.members(archive)]
    known = {paths.relative_path(member) for member in manifest.members(archive)}
    for name, record in records.items():
        if name not in known and record.origin and record.origin.place == paths.relative_path(archive):
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
