"""What the first bytes of a file say that was meant to hold weights, and its fingerprint. Standard library only."""

import hashlib
from pathlib import Path

HEAD = 64  # bytes that are enough to tell
_CHUNK = 1 << 20

_PAGE = "a web page, not weights: the download link answered with a page (log-in, quota, error)"
_NOT_WEIGHTS = {
    b"<!doctype html": _PAGE,
    b"<html": _PAGE,
    b"version https://git-lfs": "a Git LFS pointer, not weights: the repository was cloned without Git LFS",
}


def not_weights(head: bytes) -> str | None:
    """What stands in the place of the weights, in words; None where nothing speaks against them."""
    if not head:
        return "empty (0 bytes)"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((what for start, what in _NOT_WEIGHTS.items() if text.startswith(start)), None)


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's bytes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
