"""Unpacking archives from strangers: only into the folder given, and no more than was announced."""

import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from .disk import disk_errors, refuse_full_disk
from .errors import RefusedError

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
            members = _members(file, archive.stat().st_size)
            wanted = _choose(members, names)
            refuse_full_disk(archive.parent, sum(info.file_size for info in wanted.values()))
            return [_extract(file, info, folder / name) for name, info in wanted.items()]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise RefusedError(f"the archive is damaged or of an unknown kind ({error}).") from error


def _members(file: zipfile.ZipFile, packed: int) -> dict[str, zipfile.ZipInfo]:
    """The files inside by their path, without the folder that all of them share."""
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


def _choose(members: dict[str, zipfile.ZipInfo], names: list[str] | None) -> dict[str, zipfile.ZipInfo]:
    if names is None:
        return members
    if lacking := [name for name in names if name not in members]:
        raise RefusedError(f"the archive holds {', '.join(members) or 'nothing'}, but no {lacking[0]}.")
    return {name: members[name] for name in names}


def _extract(file: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> Path:
    """zipfile gives at most the announced size and checks the CRC; too little passes there, if the CRC is right."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open(info) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, _CHUNK)
    if target.stat().st_size != info.file_size:
        raise RefusedError(f"the archive is damaged: '{info.filename}' is shorter than it says.")
    return target
