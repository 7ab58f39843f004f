"""`python3 likeness.py weights list|fetch|verify`: what files there are, having them, checking them."""

import argparse
import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path

from . import checking, manifest, places
from .errors import FetchError, NotReachedError
from .manifest import WeightFile, default_roots

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


Say = Callable[[str], None]

# What fetching and rewriting needs: every ComfyUI has it.
_NEEDED = ("requests", "huggingface_hub", "filelock", "tqdm", "safetensors", "torch")


def runs_here(argv: list[str]) -> bool:
    """Whether this Python has what the command needs: nothing for the list, a ComfyUI's packages for the others."""
    return _parse(argv).action == "list" or all(importlib.util.find_spec(package) for package in _NEEDED)


def main(argv: list[str], say: Say = print, net=None) -> int:
    """Do what follows `weights` on the command line; returns the exit status, 1 where not all is well.

    `net` is the way to the publishers, a `fetch.Net`.
    """
    options = _parse(argv)
    try:
        entries = manifest.chosen(options.names)
        if options.action == "list":
            return _list(entries, [options.models] if options.models else default_roots(), say)
        root = _models_folder(options.models)
        say(f"Models folder: {root}")
        if options.action == "verify":
            return _verify(entries, root, say)
        return _fetch(entries, _accepted(options.accept_licence), root, net, say)
    except FetchError as error:
        say(str(error))
        return 1


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="likeness.py weights", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    texts = {
        "list": "print all known files, or everything that is known of the named ones",
        "fetch": "download files, verify them and put them where ComfyUI finds them",
        "verify": "compare size and sha256 of the files that are here",
    }
    for action, text in texts.items():
        command = actions.add_parser(action, help=text, description=text)
        many = "+" if action == "fetch" else "*"
        command.add_argument("names", nargs=many, metavar="NAME", help="a file's name in the list, or a pipeline: fact")
        command.add_argument("--models", type=Path, metavar="DIR", help="models folder (default: your ComfyUI's)")
        if action == "fetch":
            command.add_argument(
                "--accept-licence",
                action="append",
                default=[],
                metavar="NAME",
                help="accept the licence of this file, which does not allow commercial use; once for each such file",
            )
    return parser.parse_args(argv)


def _models_folder(given: Path | None) -> Path:
    root = given or default_roots()[0]
    if not root.is_dir():
        raise FetchError(f"There is no folder {root}: say with --models where your ComfyUI has its models.")
    return root.absolute()


def _list(entries: list[WeightFile], roots: list[Path], say: Say) -> int:
    lines = [line for entry in entries for line in record(entry, roots)] or table(roots)
    say("\n".join(lines))
    return 0


def _verify(entries: list[WeightFile], root: Path, say: Say) -> int:
    wrong = 0
    records = checking.read(root)
    for entry in entries or manifest.entries():
        finding = checking.check(entry, root, records)
        if finding.state == checking.MISSING and not entries:
            continue
        if finding.new:
            checking.add(root, finding.new)
        wrong += finding.state == checking.WRONG
        recorded = f"; recorded now in {checking.NAME}" if finding.new else ""
        detail = finding.detail or manifest.fetch_command(entry) or manifest.url(entry)
        say(f"{finding.state:<15}{entry.name:<30}{detail}{recorded}")
    return 1 if wrong else 0


def _accepted(names: list[str]) -> set[str]:
    files = {entry.name for entry in manifest.chosen(names)}
    if pipelines := [name for name in names if name not in files]:
        raise FetchError(f"'{pipelines[0]}' is a pipeline: a licence is accepted for each file by its own name.")
    return files


def _fetch(entries: list[WeightFile], accepted: set[str], root: Path, net, say: Say) -> int:
    from .download import Patience, open_session
    from .fetch import Net, fetch

    net = net or Net(open_session(Patience()), Patience())
    refused = [entry for entry in entries if _needs_acceptance(entry, accepted, root)]
    for entry in refused:
        say(_licence(entry))
    failures, not_reached = len(refused), False
    for entry, members in _jobs([entry for entry in entries if entry not in refused]).items():
        try:
            say(f"{entry.name}: {fetch(entry, members, root, net, say)}")
        except FetchError as error:
            say(f"{entry.name}: {error}")
            failures += 1
            not_reached |= isinstance(error, NotReachedError)
    if not_reached:
        say(_by_hand(entries, root))
    return 1 if failures else 0


def _needs_acceptance(entry: WeightFile, accepted: set[str], root: Path) -> bool:
    is_accepted = entry.name in accepted or manifest.archive_of(entry).name in accepted
    return entry.commercial_use is False and not is_accepted and places.find(entry, root) is None


def _licence(entry: WeightFile) -> str:
    return (
        f"{entry.name}: not for commercial use. Its licence: {entry.licence}; its page: {manifest.url(entry)}. "
        f"If you accept that, add --accept-licence {entry.name}"
    )


def _jobs(entries: list[WeightFile]) -> dict[WeightFile, list[WeightFile] | None]:
    """What to download, each file once: for an archive with the members that are wanted of it, None for all of it."""
    jobs = {}
    for entry in entries:
        archive = manifest.archive_of(entry)
        if archive is entry:
            jobs[entry] = None
        elif jobs.get(archive, []) is not None:
            jobs.setdefault(archive, []).append(entry)
    return jobs


def _by_hand(entries: list[WeightFile], root: Path) -> str:
    """What a machine without network needs, for all that was asked and is not there."""
    lines = ["Without a network, carry these by hand, then run the same command again (it verifies and unpacks them):"]
    missing = [entry for entry in entries if entry.folder and entry.file and places.find(entry, root) is None]
    for entry in dict.fromkeys(map(manifest.archive_of, missing)):
        lines += [f"  {manifest.url(entry)}", f"    to {root / places.place(entry)} ({manifest.size_text(entry)})"]
    return "\n".join(lines)
