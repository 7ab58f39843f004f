"""`python3 likeness.py weights list`: every known weight file, and which of them are present."""

import argparse
import itertools
import os
from pathlib import Path

from . import manifest

_USE = {True: "yes", False: "no", None: "?"}


def main(argv: list[str], model_roots: list[Path] | None = None) -> int:
    """Print the table of weight files; `argv` is what follows `weights` on the command line. Returns the exit status.

    `model_roots` are the folders that hold checkpoints/, loras/ and so on; without them the usual places are searched.
    """
    parser = argparse.ArgumentParser(prog="likeness.py weights", description=__doc__)
    parser.add_argument("action", choices=["list"], help="list all files and show which are present")
    parser.parse_args(argv)
    print("\n".join(table(default_roots() if model_roots is None else model_roots)))
    return 0


def default_roots() -> list[Path]:
    """The test host's models, those of the ComfyUI in $COMFYUI_PATH, and those of the ComfyUI this checkout lies in."""
    root = Path(__file__).absolute().parents[1]
    roots = [root / ".host" / "base" / "models"]
    if os.environ.get("COMFYUI_PATH"):
        roots.append(Path(os.environ["COMFYUI_PATH"]) / "models")
    if root.parent.name == "custom_nodes":
        roots.append(root.parents[1] / "models")
    return roots


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
        file = root / entry.folder / entry.file
        if file.is_file():
            return f"[{number}]" + _size_mismatch(file.stat().st_size, entry.bytes)
    return "missing"


def _size_mismatch(size: int, published: int | None) -> str:
    return "" if published in (None, size) else f" {size - published:+d} B"
