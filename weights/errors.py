"""Why a weight file could not be had, and what the disk has to say, in sentences. Standard library only."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SPARE = 64_000_000  # bytes that are left free
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FetchError(Exception):
    """A file was not fetched or not accepted; the text is for the person at the command line."""


class NotReachedError(FetchError):
    """The server could not be reached at all: the file may have to be carried by hand."""


class RefusedError(FetchError):
    """What came is not the file that was wanted, or not safe to have: there is no use in keeping it."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk has to say while `path` is written into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise FetchError(f"the disk is full: {path} could not be written. Make room and run this again.") from error
        raise FetchError(f"{path} could not be written ({error.strerror or error}).") from error


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Raises FetchError where `needed` more bytes would fill the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise FetchError(
            f"the disk is too full: {needed / 1e6:.1f} MB are needed in {folder}, {free / 1e6:.1f} MB are free."
        )
