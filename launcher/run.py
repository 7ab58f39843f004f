"""`python3 likeness.py run`: change a workflow in API form, run it on a ComfyUI, and fetch what came of it."""

import argparse
import asyncio
import contextlib
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp

from .. import source_label
from ..host_process import BASE, SetupError
from ..weights.files import write_whole
from . import hosting
from .client import Client, GraphError, Prompt
from .progress import print_line, progress_line, title_of

# What a node is mostly there for, by its input's name: the title alone then means that input.
MAIN_INPUTS = ("text", "face_prompt", "image", "filename_prefix", "strength")
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
MEDIA = ("IMAGE", "VIDEO", "AUDIO")
EXPORT_REMEDY = "In the editor, choose Workflow > Export (API); the templates' are in workflows/api."


class RunError(Exception):
    """What was asked for cannot be done; the text is a sentence for whoever asked."""


FAILURES = (RunError, GraphError, SetupError, aiohttp.ClientError, aiohttp.InvalidURL, TimeoutError, OSError)


class Place(NamedTuple):
    """An input of a node of the workflow that can be set."""

    node: str
    input: str


def main(arguments: Sequence[str], comfy: Path | None) -> int:
    """Run a workflow, print one JSON line for each node with a result, and return 0 if every wanted result came.

    comfy: the ComfyUI to start where the arguments name no server. Progress and errors go to stderr.
    """
    options = parse(arguments)
    try:
        prompt = read_workflow(options.workflow)
        options.out.mkdir(parents=True, exist_ok=True)
        with _open_server(options.server, comfy) as url:
            return asyncio.run(run(url, prompt, options))
    except FAILURES as error:
        print_line(explain(error, options.server, options.out), sys.stderr)
        return 1


def explain(error: Exception, server: str | None, out: Path) -> str:
    """Return the sentence for one of FAILURES."""
    if isinstance(error, (RunError, GraphError, SetupError)):
        return str(error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"No ComfyUI answers at {server}. Start it, or leave out --server."
    if isinstance(error, OSError) and not isinstance(error, (aiohttp.ClientError, TimeoutError)):
        return f"{error.filename or out}: {error.strerror}."
    return f"The ComfyUI at {server or 'this machine'} did not answer as it should: {error}."


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(prog="likeness.py run", description=__doc__)
    parser.add_argument("workflow", type=Path, help="a workflow in API form, such as workflows/api/miniature.json")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", type=split_setting,
        help="change an input, named by the title of its node, as 'Prompt=a woman', or as 'KSampler.seed=7'; for a "
        "photo the value is a file of this machine; a name that fits nothing lists what there is",
    )  # fmt: skip
    parser.add_argument("--server", metavar="URL", help="a ComfyUI with this pack (default: one that is started here)")
    parser.add_argument("--out", type=Path, default=Path("output"), help="where files are put (default: output)")
    add_provenance(parser)
    return parser.parse_args(arguments)


def add_provenance(parser: argparse.ArgumentParser) -> None:
    """Add the option that leaves out of the pictures how they were made."""
    parser.add_argument(
        "--no-provenance", dest="provenance", action="store_false",
        help="leave out of the pictures with which files they were made, and that they show a person's likeness",
    )  # fmt: skip


def names_server(arguments: Sequence[str]) -> bool:
    """Return whether no ComfyUI of this checkout is needed."""
    return any(argument.split("=")[0] in ("--server", "-h", "--help") for argument in arguments)


def split_setting(text: str) -> tuple[str, str]:
    """Return name and value of NAME=VALUE."""
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=VALUE")
    return name.strip(), value


def read_workflow(path: Path) -> Prompt:
    """Return a workflow in API form; raise RunError where the file holds something else."""
    try:
        prompt = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise RunError(f"{path} is not JSON: {error}. {EXPORT_REMEDY}") from error
    if isinstance(prompt, dict) and isinstance(prompt.get("nodes"), list):
        raise RunError(f"{path} is in the form of the editor, which a server does not take. {EXPORT_REMEDY}")
    nodes = prompt.values() if isinstance(prompt, dict) else ()
    if not nodes or not all(
        isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict) for node in nodes
    ):
        raise RunError(f"{path} is not a workflow in API form. {EXPORT_REMEDY}")
    for key, node in prompt.items():
        for name, value in node["inputs"].items():
            if _is_link(value) and str(value[0]) not in prompt:
                raise RunError(
                    f"{path}: {name} of {title_of(node)} (node {key}) is connected to node {value[0]}, which is not in "
                    "the workflow."
                )
    return prompt


def _is_link(value) -> bool:
    """Return whether an input's value is a connection: a node and the number of its output."""
    return isinstance(value, list) and len(value) == 2 and type(value[1]) is int and isinstance(value[0], (str, int))


@contextlib.contextmanager
def _open_server(url: str | None, comfy: Path | None) -> Iterator[str]:
    if url:
        yield read_address(url)
        return
    print_line("starting ComfyUI ...", sys.stderr)
    with hosting.start(BASE, comfy) as host:
        yield host.url


def read_address(url: str) -> str:
    """Return the address of a ComfyUI in full; raise RunError where it is none."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
        raise RunError(f"{url} is not the address of a ComfyUI, which is like http://127.0.0.1:8188.")
    return f"{parts.scheme}://{parts.netloc}"


async def run(url: str, prompt: Prompt, options: argparse.Namespace) -> int:
    """Change the workflow, run it on the server, print its results and return the exit code."""
    async with Client(url, {"likeness": options.provenance}) as client:
        known = await client.object_info()
        refuse_unknown(prompt, known)
        places = [find_place(prompt, name) for name, _ in options.set]
        values = [convert(prompt, known, place, text) for place, (_, text) in zip(places, options.set)]
        for place, value in zip(places, values):
            if isinstance(value, Path):
                value = await client.upload_image(value)
            prompt[place.node]["inputs"][place.input] = value
        facts = await client.check(prompt)
        if facts:
            print_line(facts["licences"], sys.stderr)
        status, history = await client.follow(prompt, progress_line("run", prompt, sys.stderr))
        if status != "success":
            raise RunError("The run was stopped on the server before it was done.")
        outputs = {node: output for node, output in history["outputs"].items() if any(output.values())}
        provenance = facts.get("provenance") if options.provenance else None
        for node, output in outputs.items():  # "3.0.0.1" is a node that node 3 unfolded into
            content = prompt[node.split(".")[0]]
            result = await fetch_result(client, node, content, output, options.out, provenance)
            print(json.dumps(result), flush=True)
    if missing := find_missing(prompt, known, outputs):
        raise RunError(f"The server ran the workflow, but nothing came of {', '.join(missing)}.")
    return 0


def refuse_unknown(prompt: Prompt, known: dict) -> None:
    """Raise RunError, with all of them, where the server does not know a node."""
    if unknown := sorted({node["class_type"] for node in prompt.values()} - known.keys()):
        raise RunError(f"The server has no node {', '.join(unknown)}: install the pack it comes with there.")


def find_missing(prompt: Prompt, known: dict, outputs: dict) -> list[str]:
    """Return the nodes that should have left pictures, videos or sounds, and did not.

    A node that another one blocked ends no run: the host calls it a success all the same.
    """
    wanted = [node for node in prompt if shows_media(known[prompt[node]["class_type"]])]
    return [f"{title_of(prompt[node])} (node {node})" for node in wanted if node not in outputs]


def shows_media(described: dict) -> bool:
    """Return whether a node, as the server describes it, leaves pictures, videos or sounds; one that saves a model may
    leave nothing in the history."""
    kinds = {spec[0] for spec in described["input"].get("required", {}).values() if isinstance(spec[0], str)}
    return described["output_node"] and not kinds.isdisjoint(MEDIA)


def list_places(prompt: Prompt) -> dict[str, list[Place]]:
    """Return what can be set, by name: "Title.input" for every input that is no connection, "Title" for a main one."""
    places: dict[str, list[Place]] = {}
    for key, node in prompt.items():
        inputs = [name for name, value in node["inputs"].items() if not isinstance(value, list)]
        main = inputs if len(inputs) == 1 else [name for name in MAIN_INPUTS if name in inputs][:1]
        for name in main:
            places.setdefault(title_of(node), []).append(Place(key, name))
        for name in inputs:
            places.setdefault(f"{title_of(node)}.{name}", []).append(Place(key, name))
    return places


def find_place(prompt: Prompt, name: str) -> Place:
    """Return the input that `name` means, if only one fits: by its whole name, that up to a colon, its part behind the
    dot, or words of it.

    Raises RunError, with what can be set, where none or several fit.
    """
    places = list_places(prompt)
    wanted = name.lower()
    words = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
    readings = (
        lambda label: label == wanted,
        lambda label: re.sub(r":[^.]*", "", label) == wanted,
        lambda label: label.rpartition(".")[2] == wanted,
        words.search,
    )
    for fits in readings:
        labels = [label for label in places if fits(label.lower())]
        matches = {place for label in labels for place in places[label]}
        if len(matches) == 1:
            return matches.pop()
        if matches:
            twice = any(len(places[label]) > 1 for label in labels)
            remedy = "Give the nodes titles that differ." if twice else f"It may be {', '.join(labels)}."
            raise RunError(f"'{name}' fits {len(matches)} inputs of the workflow. {remedy}")
    lines = (f"  {label} = {_shorten(prompt[node]['inputs'][key])}" for label, ((node, key), *_) in places.items())
    raise RunError("\n".join([f"Nothing in the workflow is called '{name}'. What can be set:", *lines]))


def _shorten(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def convert(prompt: Prompt, known: dict, place: Place, text: str):
    """Return `text` as the value that an input takes; for a file to upload, its Path.

    known: the server's nodes by class. Raises RunError where the text is no such value.
    """
    node = prompt[place.node]
    label = f"{title_of(node)}.{place.input}"
    described = known[node["class_type"]]["input"]
    spec = (described.get("required", {}) | described.get("optional", {})).get(place.input, [""])
    kind, more = spec[0], spec[1] if len(spec) > 1 else {}
    options = list_options(spec)
    if any(more.get(f"{what}_upload") for what in ("image", "audio", "video", "file")):
        return _find_file(text, options, label)
    if kind == "COMBO" or isinstance(kind, list):
        return next((option for option in options if str(option) == text), text)  # the host says if there is none
    # An input that the server describes elsewhere, as one of a dynamic combo, stays of the type it has.
    current = type(node["inputs"][place.input])
    kind = kind if kind in READERS else {bool: "BOOLEAN", int: "INT", float: "FLOAT"}.get(current, "STRING")
    try:
        return READERS[kind](text)
    except (ValueError, KeyError) as error:
        raise RunError(f"{label} takes {NAMES[kind]}, not '{text}'.") from error


def list_options(spec: list) -> list:
    """Return what a combo offers, as the server describes the input; [] for other inputs."""
    return spec[0] if isinstance(spec[0], list) else (spec[1] if len(spec) > 1 else {}).get("options", [])


def _find_file(text: str, options: list, label: str) -> str | Path:
    """Return the file of this machine, or the name of one that the server has."""
    if Path(text).is_file():
        return Path(text)
    if text in options:
        return text
    raise RunError(f"{label}: there is no file {text} here, and none of that name on the server.")


def _read_float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError
    return number


def _read_boolean(text: str) -> bool:
    return {**dict.fromkeys(YES, True), **dict.fromkeys(NO, False)}[text.lower()]


READERS = {"INT": int, "FLOAT": _read_float, "BOOLEAN": _read_boolean, "STRING": str}
NAMES = {"INT": "a whole number", "FLOAT": "a number", "BOOLEAN": "true or false"}


async def fetch_result(
    client: Client, node: str, content: dict, output: dict, out: Path, provenance: dict | None
) -> dict:
    """Download a node's files and return what there is to say of it: files as paths here, all else as it came."""
    result = {"node": node, "title": title_of(content), "class": content["class_type"], "files": []}
    for key, items in output.items():
        for item in items if isinstance(items, list) else [items]:
            if isinstance(item, dict) and {"filename", "subfolder", "type"} <= item.keys():
                file = await client.fetch(item)
                folder = out / "previews" if item["type"] == "temp" else out
                data = source_label.add(file.data, provenance)
                result["files"].append(str(save(data, folder, item["subfolder"], item["filename"])))
            else:
                result.setdefault(key, []).append(item)
    return result


def save(data: bytes, out: Path, subfolder: str, name: str) -> Path:
    """Write a file below `out`, beside whatever has its name already, and return its path.

    Raises RunError where the server's name leads out of `out`.
    """
    path = out / subfolder.replace("\\", "/") / name
    if not path.resolve().is_relative_to(out.resolve()):
        raise RunError(f"The server calls a file {subfolder}/{name}, which lies outside {out}: it was not saved.")
    path.parent.mkdir(parents=True, exist_ok=True)
    number, stem = 1, path.stem
    while path.exists() and path.read_bytes() != data:
        number += 1
        path = path.with_stem(f"{stem} ({number})")
    if not path.exists():
        write_whole(path, data)
    return path
