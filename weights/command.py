"""`python3 likeness.py weights list|fetch|verify|licences`: what files there are, having, checking and selling them."""

import argparse
import importlib.util
import itertools
import json
from collections.abc import Callable
from pathlib import Path

from . import checking, licences, manifest, paths
from .errors import FetchError, NotReachedError
from .manifest import WeightFile, default_roots

_USE = {True: "yes", False: "no", None: "?"}


def table(model_roots: list[Path]) -> list[str]:
    """Return the lines to print, at most 100 columns wide but for the paths of the model folders."""
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
            file = "/".join(filter(None, (entry.folder, entry.file or "(file name not published)")))
            if entry.bytes is not None:
                size = f"{entry.bytes / 1e6:.1f} MB"
            else:
                size = f"~{entry.bytes_estimate / 1e6:.4g} MB" if entry.bytes_estimate else "?"
            lines += [
                f"{entry.name:<30}{size:>10}  {_USE[entry.commercial_use]:<11} {entry.licence}",
                f"    {file:<76} {_locate(entry, model_roots)}",
            ]
    return lines


def _locate(entry: manifest.WeightFile, model_roots: list[Path]) -> str:
    """Say in which folder a file is, and how many bytes it is too long or too short.

    A rewritten or unpacked one has no published size.
    """
    if not (entry.folder and entry.file):
        return "not checked"
    for number, root in enumerate(model_roots, 1):
        if path := paths.find(entry, root):
            comparable = path.name == entry.file and entry.bytes is not None
            difference = path.stat().st_size - entry.bytes if comparable else 0
            return f"[{number}]" + (f" {difference:+d} B" if difference else "")
    return "missing"


def record(entry: manifest.WeightFile, model_roots: list[Path]) -> list[str]:
    """Return everything that is known of one file, as lines."""
    path = next(filter(None, (paths.find(entry, root) for root in model_roots)), None)
    facts = {
        "file": entry.file or "its name is not published",
        "folder": f"models/{entry.folder}" if entry.folder else "none",
        "here": str(path or "missing"),
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
    """Return whether this Python has what the command needs: nothing for the list, else a ComfyUI's packages."""
    return _parse(argv).action in ("list", "licences") or all(importlib.util.find_spec(package) for package in _NEEDED)


def main(argv: list[str], say: Say = print, net=None) -> int:
    """Do what follows `weights` on the command line; returns the exit status, 1 where not all is well.

    `net` is the way to the publishers, a `fetch.Net`.
    """
    options = _parse(argv)
    if options.action == "licences":
        return _explain_licences(options.graphs, say)
    try:
        entries = manifest.choose(options.names)
        roots = [options.models] if options.models else default_roots()
        if options.action == "list":
            say("\n".join([line for entry in entries for line in record(entry, roots)] or table(roots)))
            return 0
        root = roots[0]
        if not root.is_dir():
            raise FetchError(f"There is no folder {root}: say with --models where your ComfyUI has its models.")
        root = root.absolute()
        say(f"Models folder: {root}")
        if options.action == "verify":
            return _verify(entries, root, say)
        licences = {entry.name for entry in manifest.choose(options.accept_licence)}
        if pipelines := [name for name in options.accept_licence if name not in licences]:
            raise FetchError(f"'{pipelines[0]}' is a pipeline: a licence is accepted for each file by its own name.")
        return _fetch(entries, licences, root, net, say)
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
    text = "say which weight files of a graph forbid commercial use; the exit code is 1 where one does or may"
    command = actions.add_parser("licences", help=text, description=text)
    command.add_argument("graphs", nargs="+", type=Path, metavar="GRAPH", help="a workflow in API form")
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


def _explain_licences(graphs: list[Path], say: Say) -> int:
    """Say of each graph in API form whose licences follow its pictures; return 1 unless all allow commercial use."""
    settled = True
    for graph in graphs:
        try:
            prompt = json.loads(graph.read_text(encoding="utf-8-sig"))
            if not prompt or not all("class_type" in node for node in prompt.values()):
                raise ValueError  # as of the request's {"prompt": ...}, in which no file would be found
            text = licences.explain(prompt)
        except OSError as error:
            say(f"{graph}: {error.strerror}.")
            return 1
        except (ValueError, AttributeError, TypeError):
            say(f"{graph} is not a workflow in API form: in the editor, choose Workflow > Export (API).")
            return 1
        say(f"{graph}:\n{text}")
        entries = [entry for _, entry in licences.find_entries(prompt)]
        settled &= all(entry.commercial_use for entry in entries) and not licences.find_unlisted(prompt)
    return 0 if settled else 1


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


def _fetch(entries: list[WeightFile], licences: set[str], root: Path, net, say: Say) -> int:
    from .download import Patience, open_session
    from .fetch import Net, fetch

    net = net or Net(open_session(Patience()), Patience())
    refused = []
    for entry in entries:
        accepted = entry.name in licences or manifest.archive_of(entry).name in licences
        if entry.commercial_use is False and not accepted and paths.find(entry, root) is None:
            refused.append(entry)
            say(
                f"{entry.name}: not for commercial use. Its licence: {entry.licence}; its page: {manifest.url(entry)}. "
                f"If you accept that, add --accept-licence {entry.name}"
            )
    failures, not_reached = len(refused), False
    for entry, members in _plan([entry for entry in entries if entry not in refused]).items():
        try:
            say(f"{entry.name}: {fetch(entry, members, root, net, say)}")
        except FetchError as error:
            say(f"{entry.name}: {error}")
            failures += 1
            not_reached |= isinstance(error, NotReachedError)
    if not_reached:
        say(_explain_by_hand(entries, root))
    return 1 if failures else 0


def _plan(entries: list[WeightFile]) -> dict[WeightFile, list[WeightFile] | None]:
    """Return what to download, each file once; of an archive the members that are wanted, or None for all of it."""
    jobs = {}
    for entry in entries:
        archive = manifest.archive_of(entry)
        if archive is entry:
            jobs[entry] = None
        elif jobs.get(archive, []) is not None:
            jobs.setdefault(archive, []).append(entry)
    return jobs


def _explain_by_hand(entries: list[WeightFile], root: Path) -> str:
    """Say what a machine without network needs, for all that was asked and is not there."""
    lines = ["Without a network, carry these by hand, then run the same command again (it verifies and unpacks them):"]
    missing = [entry for entry in entries if entry.folder and entry.file and paths.find(entry, root) is None]
    for entry in dict.fromkeys(map(manifest.archive_of, missing)):
        lines += [
            f"  {manifest.url(entry)}",
            f"    to {root / paths.relative_path(entry)} ({manifest.size_text(entry)})",
        ]
    return "\n".join(lines)
