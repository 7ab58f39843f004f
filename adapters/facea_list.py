"""A saved FaceA identity as a line of text. Standard library only: it runs before anything is installed."""

import json
from pathlib import Path

from ..encoders.identity_list import plain
from ..weights.formats import Format

FORMAT = Format("likeness-facea", 1, "a FaceA identity", "; choose a file that Save FaceA Identity wrote")
_LARGEST_HEADER = 1_000_000  # bytes


def entry(path: Path) -> str | None:
    """Return steps, photos, word and base model of the file at `path`; None where it is no FaceA identity."""
    try:
        metadata = _read_metadata(path)
        settings = json.loads(metadata["settings"])
        steps, photos = settings.get("steps", "?"), settings.get("photos", "?")
        training = f"{steps:>5} steps on {photos} photos  a {metadata['word']}  trained on {metadata['base_name']}"
        transfer = f"  {settings['transferred']} of another person" if "transferred" in settings else ""
        return plain(training + transfer)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def _read_metadata(path: Path) -> dict:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(length if length <= _LARGEST_HEADER else 0))["__metadata__"]
    if metadata["format"] != FORMAT.name:
        raise ValueError(metadata["format"])
    return metadata
