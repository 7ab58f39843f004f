"""The identities in folders as lines of text. Standard library only: it runs before anything is installed."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from .identity_format import read_header

_NOTE = 60  # characters of a note that are shown


def entry(path: Path) -> str:
    """Return photos, worst agreement, encoder and note of the identity at `path`; of an unreadable one, its fault."""
    try:
        header = read_header(path)
    except (ValueError, OSError) as error:
        return plain(str(error))
    worst = f"{min(header.agreement):5.2f}" if header.agreement else "    -"
    consent = f"  consent: {_shorten(header.consent)}" if header.consent else ""
    photos = "photo " if header.photos == 1 else "photos"
    encoder = f"{plain(header.encoder)} ({plain(header.encoder_file)})"
    return (
        f"{header.photos:>3} {photos}  worst agreement {worst}  {encoder}  {_shorten(header.note)}".rstrip() + consent
    )


def _shorten(text: str) -> str:
    text = plain(" ".join(text.split()))
    return text if len(text) <= _NOTE else text[: _NOTE - 3] + "..."


def lines(folders: Iterable[Path], describe: Callable[[Path], str] = entry) -> list[str]:
    """Return per folder a line with its number of files, and for each a line with its name and what `describe` says."""
    result = []
    for folder in folders:
        paths = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
        present = (path for path in paths if path.lower().endswith(".safetensors") and os.path.isfile(path))
        files = sorted(os.path.relpath(path, folder) for path in present)
        result.append(f"{plain(str(folder))}: {len(files) or 'no'} {'file' if len(files) == 1 else 'files'}")
        width = max((len(plain(file)) for file in files), default=0)
        result += [f"  {plain(file):<{width}}  {describe(folder / file)}" for file in files]
    return result


def plain(text: str) -> str:
    """Return the text without what a terminal would take for a command, and as a table can hold it."""
    return "".join(character if character.isprintable() else "?" for character in text)
