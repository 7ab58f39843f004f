"""Which of the published weight files a graph names, and whether they are here."""

from pathlib import Path

import folder_paths

from . import folders, manifest, places
from .manifest import WeightFile, default_roots

_LONGEST_NAME = 300  # characters; longer values are prompts, not names of files


def report(prompt: dict[str, dict]) -> str:
    """What a person should know of the weight files of a graph in API form, those that are missing first."""
    rows = sorted(((where(name, entry), name, entry) for name, entry in named(prompt)), key=lambda row: bool(row[0]))
    if not rows:
        return "This graph names no weight file of the list ('python3 likeness.py weights list')."
    missing = sum(not found for found, _, _ in rows)
    head = f"All {len(rows)} published weight files of this graph are here."
    if missing:
        head = (
            f"{missing} of {len(rows)} published weight files of this graph are missing.\n"
            "Run the commands in the folder of ComfyUI-Likeness, then press R in the editor."
        )
    return "\n\n".join([head, *(_row(*row) for row in rows)])


def named(prompt: dict[str, dict]) -> list[tuple[str, WeightFile]]:
    """Every file of the manifest that a graph names in one of its inputs: the name there, and the entry."""
    found = {}
    for node in prompt.values():
        for value in node.get("inputs", {}).values():
            entry = _entry(value) if isinstance(value, str) and len(value) <= _LONGEST_NAME else None
            if entry and entry.folder:
                found.setdefault(entry, value.split(": ")[-1])
    return [(name, entry) for entry, name in found.items()]


def _entry(value: str) -> WeightFile | None:
    """Detectors are named "family: file", and InsightFace's packs without the .zip they are published in."""
    name = value.split(": ")[-1]
    return manifest.find(name) or (manifest.find(f"{name}.zip") if name != value else None)


def where(name: str, entry: WeightFile) -> str | None:
    """Where the host has a file: in the folders it is published for, or, as it may be a stranger's, in any other."""
    kind = entry.folder.split("/")[0]
    kinds = dict.fromkeys([kind, *folder_paths.folder_names_and_paths])
    if found := next(filter(None, (folders.find(kind, name) for kind in kinds)), None):
        return found
    bases = folder_paths.folder_names_and_paths.get(kind, ([], set()))[0]
    for root in [Path(folder_paths.models_dir), *(Path(base).parent for base in bases)]:
        if places.is_archive(entry) and any((root / places.pack(entry)).rglob("*.onnx")):
            return str(root / places.pack(entry))
        if found := places.find(entry, root):
            return str(found)
    return None


def _row(found: str | None, name: str, entry: WeightFile) -> str:
    licence = f"{entry.licence} (commercial use: {manifest.COMMERCIAL_USE[entry.commercial_use]})"
    lines = [
        f"{'present' if found else 'MISSING'}: {name}",
        f"  folder: {found or f'models/{entry.folder}'}",
        f"  size: {manifest.size_text(entry)}",
        f"  licence: {licence}",
        f"  address: {manifest.url(entry)}",
    ]
    if not found:
        elsewhere = Path(folder_paths.models_dir) != default_roots()[0]
        command = manifest.fetch_command(entry, folder_paths.models_dir if elsewhere else None)
        lines.append(f"  command: {command or f'none: by hand only, because {manifest.by_hand_only(entry)}'}")
    return "\n".join(lines)
