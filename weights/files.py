"""What the first bytes of a file say that was meant to hold weights, its fingerprint, and how one is written whole.

Standard library only.
"""

import contextlib
import functools
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

HEAD = 64  # bytes that are enough to tell
_CHUNK = 1 << 20

_PAGE = "a web page, not weights: the download link answered with a page (log-in, quota, error)"
_NOT_WEIGHTS = {
    b"<!doctype html": _PAGE,
    b"<html": _PAGE,
    b"version https://git-lfs": "a Git LFS pointer, not weights: the repository was cloned without Git LFS",
}


def not_weights(head: bytes) -> str | None:
    """Return in words what the first bytes show instead of weights; None where nothing speaks against them."""
    if not head:
        return "empty (0 bytes)"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((words for start, words in _NOT_WEIGHTS.items() if text.startswith(start)), None)


def file_sha256(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_once(path: str | Path) -> str:
    """Return `file_sha256` of a file that this process reads again only where its time or size has changed."""
    state = os.stat(path)
    return _hash(str(path), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=1000)
def _hash(path: str, time: int, size: int) -> str:
    return file_sha256(path)


@contextlib.contextmanager
def written_beside(path: Path, data: bytes | Callable[[BinaryIO], None]) -> Iterator[Path]:
    """Lend a file beside `path` that holds `data`, safe on the disk, to be moved there; afterwards it is gone.

    data: or what writes it to the open file, where it is too large to be in memory once more.
    """
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")  # several processes may write into one folder
    try:
        with part.open("xb") as file:
            data(file) if callable(data) else file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield part
    finally:
        with contextlib.suppress(OSError):  # it is gone where all went well, and unreachable where its folder is
            part.unlink()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, which holds the whole of `data` or what it held before, whatever happens in between."""
    with written_beside(path, data) as part:
        os.replace(part, path)
