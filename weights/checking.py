"""Is what lies in the models folder what was published, or what came the first time?"""

from dataclasses import dataclass
from pathlib import Path

from . import lockfile, manifest, places
from .hashing import file_sha256
from .lockfile import Record

OK, RECORDED, UNKNOWN, WRONG, MISSING = "ok", "recorded", "not published", "WRONG", "missing"


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
    return f"{file} has changed: its sha256 is {sha256}, it came with {known}. {lockfile.how_to_accept(root, name)}"
