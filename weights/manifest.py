"""What is published about the weight files: `weights_manifest.json` as records, links and error messages."""

import dataclasses
import difflib
import functools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import FetchError

_MANIFEST = Path(__file__).parents[1] / "weights_manifest.json"
_PRESENT_SHOWN = 8
COMMERCIAL_USE = {True: "allowed", False: "not allowed", None: "not settled, read the terms"}


def default_roots() -> list[Path]:
    """The folders that hold checkpoints/, loras/ and so on, the likeliest first: fetched files go there.

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
    """

    kind: str
    repo: str | None = None
    path: str | None = None
    tag: str | None = None
    id: str | None = None
    revision: str | None = None
    url: str | None = None
    member: str | None = None


@dataclass(frozen=True)
class WeightFile:
    """One published file. None means that the fact is not known, never a default.

    `file` lies in the models sub-folder `folder`; `bytes_estimate` is a rough size where `bytes` is not published.
    `sha256_evidence` is "published" or "second-hand" (one third-party list: verify at the first download).
    `used_by` begins with the pipeline the file is listed under.
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


@functools.cache
def entries() -> tuple[WeightFile, ...]:
    """Every file of the manifest, in its order: by pipeline."""
    records = json.loads(_MANIFEST.read_text(encoding="utf-8"))["files"]
    return tuple(
        WeightFile(**{**record, "source": Source(**record["source"]), "used_by": tuple(record["used_by"])})
        for record in records
    )


def find(file_name: str) -> WeightFile | None:
    """The entry a file name or path belongs to, or None when none or more than one does.

    The more of the path is given, the less is ambiguous: "glintr100.onnx" alone lies in two packs,
    "auraface/glintr100.onnx" in one. Folders the manifest does not know are ignored.
    """
    parts = file_name.replace("\\", "/").split("/")
    for start in range(len(parts)):
        tail = "/" + "/".join(parts[start:])
        matches = [entry for entry in entries() if entry.file and f"/{entry.folder}/{entry.file}".endswith(tail)]
        if matches:
            return matches[0] if len(matches) == 1 else None
    return None


def chosen(names: Iterable[str]) -> list[WeightFile]:
    """The entries of these names, each once; a pipeline's name stands for all its entries that have a file.

    Raises FetchError that suggests near names for one that is neither.
    """
    by_name = {entry.name: [entry] for entry in entries()}
    pipelines = {pipeline for entry in entries() for pipeline in entry.used_by}
    of_pipeline = {name: [entry for entry in entries() if name in entry.used_by and entry.file] for name in pipelines}
    known = {**by_name, **of_pipeline}
    found = []
    for name in names:
        if name not in known:
            raise FetchError(_unknown(name, list(known)))
        found += [entry for entry in known[name] if entry not in found]
    return found


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "'weights list' names them all."
    return f"There is no weight file and no pipeline called '{name}'; {hint}"


def members(archive: WeightFile) -> list[WeightFile]:
    """The entries that lie inside an archive; none for any other file."""
    return [entry for entry in entries() if entry.source.member and _without_member(entry) == archive.source]


def archive_of(entry: WeightFile) -> WeightFile:
    """The entry of the archive a file lies in; the entry itself where it is published as it is."""
    if not entry.source.member:
        return entry
    return next(other for other in entries() if other.source == _without_member(entry))


def _without_member(entry: WeightFile) -> Source:
    return dataclasses.replace(entry.source, member=None)


def by_hand_only(entry: WeightFile) -> str | None:
    """Why a file can be had by hand only, in words; None where it can be fetched."""
    source = entry.source
    if not entry.file:
        return "which of the files there is meant is not published"
    if not entry.folder:
        return "it belongs to no model folder"
    if entry.file.endswith(".7z"):
        return "it is an archive of a kind (.7z) that cannot be unpacked here"
    if source.kind == "google-drive" and source.path:
        return "it lies in a shared folder, which has no address for a single file"
    return None


def fetch_command(entry: WeightFile, models: str | None = None) -> str | None:
    """What to type to have a file, into the models folder `models` where one is given; None: by hand only."""
    if by_hand_only(entry):
        return None
    accept = f" --accept-licence {entry.name}" if entry.commercial_use is False else ""
    where = f' --models "{models}"' if models else ""
    return f"python3 likeness.py weights fetch {entry.name}{accept}{where}"


def url(entry: WeightFile) -> str:
    """Where a person gets the file: a direct link, or the page that holds it when the file's own path is not known."""
    source = entry.source
    if source.kind == "huggingface":
        page = f"https://huggingface.co/{source.repo}"
        return f"{page}/resolve/{source.revision or 'main'}/{source.path}" if source.path else page
    if source.kind == "modelscope":
        page = f"https://www.modelscope.cn/models/{source.repo}"
        return f"{page}/resolve/{source.revision or 'master'}/{source.path}" if source.path else page
    if source.kind == "github":
        return _github_url(source)
    if source.kind == "google-drive":
        drive = "https://drive.google.com"
        return f"{drive}/drive/folders/{source.id}" if source.path else f"{drive}/file/d/{source.id}/view"
    return source.url


def _github_url(source: Source) -> str:
    page = f"https://github.com/{source.repo}"
    if not source.tag:
        return f"{page}/raw/HEAD/{source.path}"
    if not source.path:
        return f"{page}/releases/tag/{source.tag}"
    return f"{page}/releases/download/{source.tag}/{source.path}"


def size_text(entry: WeightFile) -> str:
    """The size for a sentence: exact, rough, or "size not published"."""
    if entry.bytes is not None:
        return f"{entry.bytes} bytes"
    if entry.bytes_estimate is not None:
        return f"about {float(f'{entry.bytes_estimate / 1e6:.3g}'):g} MB"
    return "size not published"


def missing_message(kind_folder: str, file_name: str, searched: list[str], present: list[str]) -> str:
    """One paragraph for the person who lacks a file: what was looked for and where, what is there, where to get it.

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
    message = f"{message} {_how_to_get(entry)} and save it as {os.path.join(searched[0], file_name)}"
    command = fetch_command(entry, _models_folder(searched[0], kind_folder))
    unpacks = " (which unpacks it too)" if entry.file.endswith(".zip") else ""
    return f"{message}, or run '{command}' in the folder of ComfyUI-Likeness{unpacks}." if command else f"{message}."


def _models_folder(searched: str, kind_folder: str) -> str | None:
    """What the command must be told, so that it leaves the file where it was looked for; None where it knows."""
    models = Path(searched.replace("\\", "/").removesuffix(f"/{kind_folder}"))
    return None if models in (Path(searched), default_roots()[0]) else str(models)


def _how_to_get(entry: WeightFile) -> str:
    inside = f" ({entry.source.member} inside this archive)" if entry.source.member else ""
    return (
        f"Download it from {url(entry)}{inside} ({size_text(entry)}, sha256 {entry.sha256 or 'not published'}, "
        f"licence: {entry.licence}, commercial use: {COMMERCIAL_USE[entry.commercial_use]})"
    )
