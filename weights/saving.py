"""Files that the pack writes: named as the host names images, whole or not at all."""

import contextlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import folder_paths

from .files import written_beside

_STALE = 3600  # seconds after which nobody writes a file any more
# Windows forbids these in names, and files are carried from one system to another; the last are halves of characters.
_NOT_IN_NAMES = re.compile(r'[<>:"|?*\x00-\x1f\ud800-\udfff]')


def new_path(kind: str, prefix: str, writer: str) -> str:
    """Return where to save a file: output/<kind>/<prefix>_<number>_.safetensors, numbered as the host numbers images.

    The number is one that no file of that name has, in any folder files of the kind are loaded from. `prefix` may hold
    sub-folders, which are made, and the host's %year% and the like. writer: the node, for the messages.
    Raises ValueError for a prefix that is no name or leaves the folder, OSError where the folder cannot be made.
    """
    prefix = prefix.strip().replace("\\", "/")
    root = os.path.join(folder_paths.get_output_directory(), kind)
    parts = prefix.split("/")
    if _NOT_IN_NAMES.search(prefix) or any(not part or part.startswith(".") for part in parts):
        raise ValueError(
            f"{writer}: {prefix!r} is no name for a file in {root}: use letters and digits, '/' only for sub-folders, "
            "and nothing that begins with a dot."
        )
    if not folder_paths.is_within_directory(root, os.path.join(root, *parts)):
        raise ValueError(f"{writer}: {prefix!r} leads out of {root} by a link: choose another name.")
    with _explain_failure(root, writer):
        folder, name, number, sub_folder, _ = folder_paths.get_save_image_path(prefix, root)
    sweep_parts(Path(folder))
    while folder_paths.get_full_path(kind, os.path.join(sub_folder, f"{name}_{number:05}_.safetensors")):
        number += 1
    return os.path.join(folder, f"{name}_{number:05}_.safetensors")


def find(kind: str, name: str, label: str, writer: str) -> str:
    """Return where the saved file `name` of a combo lies; raise FileNotFoundError that says where it was looked for.

    label: what the file is. writer: the node that saves such files.
    """
    path = folder_paths.get_full_path(kind, name)
    if path is None:
        raise FileNotFoundError(
            f"There is no {label} '{name}' in {' or '.join(folder_paths.get_folder_paths(kind))}. {writer} "
            "writes one; press R afterwards, so that the list is read again."
        )
    return path


def write(path: str | Path, data: bytes | Callable[[BinaryIO], object], writer: str, new: bool = False) -> str:
    """Write `data` to `path`, which holds the whole of it or what it held before, whatever happens in between.

    data: bytes, or what writes them into an open file, where they would fill the memory once more.
    new: `path` is one of `new_path`, whose number another process may have taken since: then take the next that is
    free. Returns where the file is. Raises OSError with a sentence that begins with `writer`.
    """
    path = Path(path)
    with _explain_failure(path, writer), written_beside(path, data) as part:
        if new:
            path = _take_number(part, path)
        else:
            os.replace(part, path)
    return str(path)


def _take_number(temporary: Path, path: Path) -> Path:
    """Give a file the name `path`, or that with the next number that no file has; of two processes one gets it."""
    beginning, first, _ = path.stem.rsplit("_", 2)
    for number in itertools.count(int(first)):
        path = path.with_name(f"{beginning}_{number:05}_{path.suffix}")
        try:
            os.link(temporary, path)
            return path
        except FileExistsError:
            continue
        except OSError:  # a disk without hard links: the name is taken with an empty file
            with contextlib.suppress(FileExistsError):
                path.open("x").close()
                os.replace(temporary, path)
                return path


def sweep_parts(folder: Path, *patterns: str) -> None:
    """Remove from a folder what `write` left half done where its process was killed, an hour ago or more.

    patterns: of the names; may be left out for a folder of our own.
    """
    with contextlib.suppress(OSError):  # another process may do the same
        for path in itertools.chain(*map(folder.glob, patterns or ("*_.safetensors*.part", "*.pt*.part"))):
            if time.time() - path.stat().st_mtime > _STALE:
                path.unlink()


@contextlib.contextmanager
def _explain_failure(path: str | Path, writer: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{writer}: {path} cannot be written: {error.strerror or error}. Nothing was saved; make room or the "
            "folder writable, or choose another name."
        ) from error
