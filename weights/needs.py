"""Which of the published weight files a graph names, and whether they are here."""

from pathlib import Path

import folder_paths

from . import folders, manifest, paths
from .manifest import WeightFile, default_roots

_LONGEST_NAME = 300  # characters; longer values are prompts, not names of files


def report(prompt: dict[str, dict]) -> str:
    """Say what a person should know of the weight files of a graph in API form, those that are missing first."""
    rows = [(locate(name, entry), name, entry) for name, entry in find_entries(prompt)]
    if not rows:
        return "This graph names no weight file of the list ('python3 likeness.py weights list')."
    missing = sum(not location for location, _, _ in rows)
    head = f"All {len(rows)} published weight files of this graph are here."
    if missing:
        head = (
            f"{missing} of {len(rows)} published weight files of this graph are missing.\n"
            "Run the commands in the folder of ComfyUI-Likeness, then press R in the editor."
        )
    rows.sort(key=lambda row: bool(row[0]))
    return "\n\n".join([head, *(_describe(*row) for row in rows)])


def explain_missing(prompt: dict[str, dict]) -> str | None:
    """Say what a graph in API form lacks of the published files, as `report` does; None where it lacks none."""
    missing = [(name, entry) for name, entry in find_entries(prompt) if not locate(name, entry)]
    return "\n\n".join(_describe(None, name, entry) for name, entry in missing) or None


def find_entries(prompt: dict[str, dict]) -> list[tuple[str, WeightFile]]:
    """Return every file of the manifest that a graph names in one of its inputs, and its parts: name and entry.

    Detectors are named "family: file", and InsightFace's packs without the .zip they are published in.
    """
    names = {}
    for node in prompt.values():
        for value in node.get("inputs", {}).values():
            if not isinstance(value, str) or len(value) > _LONGEST_NAME:
                continue
            name = value.split(": ")[-1]
            entry = manifest.find_for(node.get("class_type"), name)
            if entry is None and name != value:
                entry = manifest.find(f"{name}.zip")
            if entry and entry.folder:
                names.setdefault(entry, name)
                for part in manifest.choose([entry.name])[1:]:
                    names.setdefault(part, manifest.final_name(part))
    return [(name, entry) for entry, name in names.items()]


def locate(name: str, entry: WeightFile) -> str | None:
    """Return where the host has a file, in the folders it is published for or in any other; None where nowhere."""
    kind = entry.folder.split("/")[0]
    kinds = dict.fromkeys([kind, *folder_paths.folder_names_and_paths])
    if path := next(filter(None, (folders.find(kind, name) for kind in kinds)), None):
        return path
    bases = folder_paths.folder_names_and_paths.get(kind, ([], set()))[0]
    for root in [Path(folder_paths.models_dir), *(Path(base).parent for base in bases)]:
        if paths.is_archive(entry) and any((root / paths.pack(entry)).rglob("*.onnx")):
            return str(root / paths.pack(entry))
        if path := paths.find(entry, root):
            return str(path)
    return None


def _describe(location: str | None, name: str, entry: WeightFile) -> str:
    licence = f"{entry.licence} (commercial use: {manifest.COMMERCIAL_USE[entry.commercial_use]})"
    lines = [
        f"{'present' if location else 'MISSING'}: {name}",
        f"  folder: {location or f'models/{entry.folder}'}",
        f"  size: {manifest.size_text(entry)}",
        f"  licence: {licence}",
        f"  address: {manifest.url(entry)}",
    ]
    if not location:
        elsewhere = Path(folder_paths.models_dir) != default_roots()[0]
        command = manifest.fetch_command(entry, folder_paths.models_dir if elsewhere else None)
        lines.append(f"  command: {command or f'none: by hand only, because {manifest.by_hand_only(entry)}'}")
    return "\n".join(lines)
