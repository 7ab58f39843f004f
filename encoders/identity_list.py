"""The identities in folders as lines of text. Standard library only: it runs before anything is installed."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from .identity_format import Header, read_header

_NOTE = 60  # characters of a note that are shown


def entry(path: Path) -> str:
    """Photos, worst agreement, encoder and note of the identity at `path`; of an unreadable one, its fault."""
    try:
        return _row(read_header(path))
    except (ValueError, OSError) as error:
        return plain(str(error))


def lines(folders: Iterable[Path], told: Callable[[Path], str] = entry) -> list[str]:
    """Per folder the name of each file, and what `told` says of it."""
    listed = []
    for folder in folders:
        files = sorted(_files(folder))
        listed.append(f"{plain(str(folder))}: {_counted(len(files))}")
        width = max((len(plain(file)) for file in files), default=0)
        listed += [f"  {plain(file):<{width}}  {told(folder / file)}" for file in files]
    return listed


def _files(folder: Path) -> Iterable[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if name.lower().endswith(".safetensors") and os.path.isfile(path):
                yield os.path.relpath(path, folder)


def _row(header: Header) -> str:
    worst = f"{min(header.agreement):5.2f}" if header.agreement else "    -"
    note = plain(" ".join(header.note.split()))
    note = note if len(note) <= _NOTE else note[: _NOTE - 3] + "..."
    photos = "photo " if header.photos == 1 else "photos"
    encoder = f"{plain(header.encoder)} ({plain(header.encoder_file)})"
    return f"{header.photos:>3} {photos}  worst agreement {worst}  {encoder}  {note}".rstrip()


def _counted(count: int) -> str:
    return f"{count or 'no'} {'file' if count == 1 else 'files'}"


def plain(text: str) -> str:
    """Without what a terminal would take for a command, and as a table can hold it."""
    return "".join(character if character.isprintable() else "?" for character in text)
