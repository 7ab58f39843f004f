"""What a batch has made: one line a cell in `manifest.jsonl`, written when the cell's files are whole."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..weights.files import write_whole
from .run import RunError

NAME = "manifest.jsonl"
FILES = "pictures"  # folder of the files, beside it


class Ledger:
    """The manifest of a folder, and the files beside it; `open_ledger` makes one. done: the keys of finished cells."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / NAME
        self.done = {record["key"] for record in self.read() if "error" not in record}
        self.file, self.lock = self.path.open("ab"), threading.Lock()

    def read(self) -> Iterator[dict]:
        """Return the records one after the other; of a cell that failed and was made later, both."""
        if self.path.exists():
            with self.path.open("rb") as file:
                yield from map(json.loads, file)

    def add(self, record: dict) -> None:
        """Add a record, for good."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with self.lock:
            self.file.write(line)
            self.file.flush()
        os.fsync(self.file.fileno())
        if "error" not in record:
            self.done.add(record["key"])

    def save(self, name: str, data: bytes) -> str:
        """Write a file, whole or not at all, in the place of one of the same name; return its path below the folder."""
        path = self.folder / FILES / name
        write_whole(path, data)
        return path.relative_to(self.folder).as_posix()


@contextlib.contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """Lend the ledger of a folder, which is made; what a killed batch left half done in it is removed.

    Raises RunError where another batch writes there or the manifest is no such file, OSError where nothing can be.
    """
    (folder / FILES).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            for part in (folder / FILES).glob("*.part"):
                part.unlink()
            _mend(folder / NAME)
            try:
                ledger = Ledger(folder)
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(
                    f"{folder / NAME} is damaged ({error}): mend its lines, or choose another --out."
                ) from error
            with ledger.file:
                yield ledger
    except Timeout as error:
        raise RunError(f"Another batch writes to {folder}: wait for it, or choose another --out.") from error


def _mend(path: Path) -> None:
    """Cut off the line that a killed batch did not finish."""
    if path.exists():
        with path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
