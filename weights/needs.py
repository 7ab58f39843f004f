"""Which of the published weight files a graph names, and whether they are here."""

from pathlib import Path

import folder_paths

from . import folders, licences, manifest, paths
from .licences import find_entries
from .manifest import WeightFile, default_roots


def report(prompt: dict[str, dict]) -> str:
    """Say what a person should know of the weight files of a graph in API form: may a picture be sold, what is missing.

    The missing ones come first.
    """
    rows = [(locate(name, entry), name, entry) for name, entry in find_entries(prompt)]
    verdict = licences.explain(prompt)
    if not rows:
        return f"This graph names no weight file of the list ('python3 likeness.py weights list').\n\n{verdict}"
    missing = sum(not location for location, _, _ in rows)
    head = f"All {len(rows)} published weight files of this graph are here."
    if missing:
        head = (
            f"{missing} of {len(rows)} published weight files of this graph are missing.\n"
            "Run the commands in the folder of ComfyUI-Likeness, then press R in the editor."
        )
    rows.sort(key=lambda row: bool(row[0]))
    return "\n\n".join([head, verdict, *(_describe(*row) for row in rows)])


def explain_missing(prompt: dict[str, dict]) -> str | None:
    """Say what a graph in API form lacks of the published files, as `report` does; None where it lacks none."""
    missing = [(name, entry) for name, entry in find_entries(prompt) if not locate(name, entry)]
    return "\n\n".join(_describe(None, name, entry) for name, entry in missing) or None


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
