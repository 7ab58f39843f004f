"""The known weight files as text: the table of all, and the full record of one. Standard library only."""

import itertools
from pathlib import Path

from . import manifest, places

_USE = {True: "yes", False: "no", None: "?"}


def table(model_roots: list[Path]) -> list[str]:
    """The lines to print, at most 100 columns wide but for the paths of the model folders."""
    lines = ["Model folders searched:"]
    lines += [f"  [{number}] {root}" for number, root in enumerate(model_roots, 1)]
    lines += [
        "",
        f"{'name':<30}{'size':>10}  {'commercial':<11} licence",
        f"    {'folder and file':<76} found in",
    ]
    for pipeline, group in itertools.groupby(manifest.entries(), lambda entry: entry.used_by[0]):
        lines += ["", f"{pipeline}:"]
        for entry in group:
            lines += _lines(entry, model_roots)
    return lines


def _lines(entry: manifest.WeightFile, model_roots: list[Path]) -> list[str]:
    place = "/".join(filter(None, (entry.folder, entry.file or "(file name not published)")))
    return [
        f"{entry.name:<30}{_size(entry):>10}  {_USE[entry.commercial_use]:<11} {entry.licence}",
        f"    {place:<76} {_presence(entry, model_roots)}",
    ]


def _size(entry: manifest.WeightFile) -> str:
    if entry.bytes is not None:
        return f"{entry.bytes / 1e6:.1f} MB"
    return f"~{entry.bytes_estimate / 1e6:.4g} MB" if entry.bytes_estimate else "?"


def _presence(entry: manifest.WeightFile, model_roots: list[Path]) -> str:
    if not (entry.folder and entry.file):
        return "not checked"
    for number, root in enumerate(model_roots, 1):
        if found := places.find(entry, root):
            return f"[{number}]" + _difference(entry, found)
    return "missing"


def _difference(entry: manifest.WeightFile, found: Path) -> str:
    """How many bytes a file is too long or too short; a rewritten or unpacked one has no published size."""
    if found.name != entry.file or entry.bytes is None or found.stat().st_size == entry.bytes:
        return ""
    return f" {found.stat().st_size - entry.bytes:+d} B"


def record(entry: manifest.WeightFile, model_roots: list[Path]) -> list[str]:
    """Everything that is known of one file."""
    found = next(filter(None, (places.find(entry, root) for root in model_roots)), None)
    facts = {
        "file": entry.file or "its name is not published",
        "folder": f"models/{entry.folder}" if entry.folder else "none",
        "here": str(found or "missing"),
        "size": manifest.size_text(entry),
        "sha256": f"{entry.sha256} ({entry.sha256_evidence})" if entry.sha256 else "not published",
        "licence": f"{entry.licence} (commercial use: {manifest.COMMERCIAL_USE[entry.commercial_use]})",
        "used by": ", ".join(entry.used_by),
        "address": manifest.url(entry),
        "inside": entry.source.member,
        "command": manifest.fetch_command(entry) or f"none: by hand only, because {manifest.by_hand_only(entry)}",
        "note": entry.note,
    }
    return [f"{entry.name}:", *(f"  {key:<8} {value}" for key, value in facts.items() if value)]
