"""Whose licences follow a picture: the weight files that a graph names. Standard library only."""

from pathlib import Path

from . import manifest
from .manifest import WeightFile

_LONGEST_NAME = 300  # characters; longer values are prompts, not names of files
_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".onnx", ".gguf")
_PACK = Path(__file__).parents[1]


def find_entries(prompt: dict[str, dict]) -> list[tuple[str, WeightFile]]:
    """Return every file of the manifest that a graph names in one of its inputs, and its parts: name and entry.

    Detectors are named "family: file", and InsightFace's packs without the .zip they are published in.
    """
    names = {}
    for node, _, value in _list_names(prompt):
        name = value.split(": ")[-1]
        entry = manifest.find_for(node.get("class_type"), name)
        if entry is None and name != value:
            entry = manifest.find(f"{name}.zip")
        if entry and entry.folder:
            names.setdefault(entry, name)
            for part in manifest.choose([entry.name])[1:]:
                names.setdefault(part, manifest.final_name(part))
    return [(name, entry) for entry, name in names.items()]


def find_unlisted(prompt: dict[str, dict]) -> list[str]:
    """Return the weight files that a graph names and the manifest does not, but for saved identities and the pack's."""
    return [name for name in _list_unlisted(prompt) if not _is_shipped(name)]


def find_shipped(prompt: dict[str, dict]) -> list[str]:
    """Return the weight files that a graph names and that come with the pack."""
    return [name for name in _list_unlisted(prompt) if _is_shipped(name)]


def _list_unlisted(prompt: dict[str, dict]) -> list[str]:
    listed = {name for name, _ in find_entries(prompt)}
    names = {value.split(": ")[-1]: None for _, key, value in _list_names(prompt) if key != "identity_name"}
    return [name for name in names if name.endswith(_SUFFIXES) and name not in listed]


def find_identities(prompt: dict[str, dict]) -> list[str]:
    """Return the saved identities that a graph names."""
    return list(dict.fromkeys(value for _, key, value in _list_names(prompt) if key == "identity_name"))


def explain(prompt: dict[str, dict]) -> str:
    """Say in a few lines which weight files of a graph in API form forbid commercial use, or might."""
    by_use: dict[bool | None, list[str]] = {True: [], False: [], None: []}
    for name, entry in find_entries(prompt):
        by_use[entry.commercial_use].append(f"{name} ({entry.licence})")
    lines = []
    if by_use[False]:
        lines.append(f"Not for commercial use, by the licence of {', '.join(by_use[False])}.")
    if by_use[None]:
        lines.append(f"Whether commercial use is allowed is not settled for {', '.join(by_use[None])}: read the terms.")
    if unlisted := find_unlisted(prompt):
        lines.append(f"Not in the list of published files, so read the terms of {', '.join(unlisted)}.")
    if not lines:
        files = f": {', '.join(by_use[True])}" if by_use[True] else ""
        lines.append(f"No weight file of this graph forbids commercial use{files}.")
    if identities := find_identities(prompt):
        lines.append(f"What its person agreed to, and what it was made with, counts for {', '.join(identities)}.")
    return "\n".join(lines)


def _list_names(prompt: dict[str, dict]) -> list[tuple[dict, str, str]]:
    """Return every value of a graph that may name a file: its node, its input, and the value."""
    return [
        (node, key, value)
        for node in prompt.values()
        for key, value in node.get("inputs", {}).items()
        if isinstance(value, str) and len(value) <= _LONGEST_NAME
    ]


def _is_shipped(name: str) -> bool:
    """Return whether a file comes with the pack: it then lies in a room's folder "weights"."""
    return ".." not in name and any(path.is_file() for path in _PACK.glob(f"*/weights/*/{Path(name).name}"))
