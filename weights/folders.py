"""Our own kinds of model folder, and the way from a name in a combo to a file on disk."""

import os
import re
from pathlib import Path

import folder_paths

from . import manifest, paths

_TENSORS = {".safetensors", ".pt", ".ckpt", ".pth", ".bin"}
# Kind -> sub-folders of the models folder, file extensions. facexlib's folder holds the parsing network of other packs.
_KINDS = {
    "facechain_fact": (("facechain_fact",), _TENSORS),
    "face2diffusion": (("face2diffusion",), _TENSORS),
    "face_parsing": (("face_parsing", "facexlib"), _TENSORS),
    "face_id": (("face_id",), {".safetensors"}),
    "facea": (("facea",), {".safetensors"}),
    "insightface": (("insightface",), {".onnx"}),
    "ipadapter": (("ipadapter",), _TENSORS),
    "instantid": (("instantid",), _TENSORS),
    "pulid": (("pulid",), _TENSORS),
    "metrics": (("metrics",), _TENSORS),
    "image_metrics": (("image_metrics",), _TENSORS),
}
NO_FILE = "no file yet"  # what a combo offers instead; the editor takes what ends in .safetensors and so on for a file
# Folders that come with the pack, and the kinds of which each has a sub-folder.
_SHIPPED: dict[Path, tuple[str, ...]] = {}
# Files that no combo of ours offers: beside InsightFace's recognisers lie its detectors, landmarks and ages, and face
# swappers for other nodes. Told by name, because looking into every file whenever a menu is drawn would take seconds; a
# file with another name is offered, and loading it looks inside.
_NOT_OFFERED = {
    "insightface": re.compile(r"det_|scrfd_|1k3d68|2d106det|genderage|\w*swap", re.IGNORECASE),
    "text_encoders": re.compile(r"(?!.*eva)", re.IGNORECASE),  # of ours only PuLID reads one, which is called EVA
}


def register() -> None:
    """Make our model folders known to the host; calling it again changes nothing.

    Paths that extra_model_paths.yaml or another extension gave stay, and stay first. Their file extensions stay too:
    "insightface" is a kind that several extensions register. Identities are also found where they are saved.
    """
    for kind, (sub_folders, extensions) in _KINDS.items():
        for sub_folder in sub_folders:
            folder_paths.add_model_folder_path(kind, os.path.join(folder_paths.models_dir, sub_folder))
        paths, known = folder_paths.folder_names_and_paths[kind]
        folder_paths.folder_names_and_paths[kind] = (paths, set(known) | extensions)
    for kind in ("face_id", "facea"):
        folder_paths.add_model_folder_path(kind, os.path.join(folder_paths.get_output_directory(), kind))


def register_shipped(folder: Path, kinds: tuple[str, ...]) -> None:
    """Make the pack's own files known, in a sub-folder of `folder` for each of `kinds`; they are found last."""
    _SHIPPED[folder] = kinds
    for kind in kinds:
        folder_paths.add_model_folder_path(kind, str(folder / kind))


def names(kind: str) -> list[str]:
    """Return the weight files in the folders of a kind, each relative to its folder: sorted, the pack's own last."""
    strangers = _NOT_OFFERED.get(kind)
    try:
        present = folder_paths.get_filename_list(kind)
    except FileNotFoundError:  # a folder of the host's cached listing, such as output/facea, was removed since
        folder_paths.filename_list_cache.pop(kind, None)
        present = folder_paths.get_filename_list(kind)
    offered = [name for name in present if not (strangers and strangers.match(os.path.basename(name)))]
    return sorted(offered, key=_list_shipped(kind).__contains__)


def find(kind: str, name: str) -> str | None:
    """Return where the file `name` of a kind lies, or None.

    The host reads "../" and absolute names as lying inside its model folders. A PyTorch file that is
    not there may have been rewritten when it was fetched: its .safetensors is taken then.
    """
    rewritten = paths.safetensors_name(name)
    return folder_paths.get_full_path(kind, name) or (
        folder_paths.get_full_path(kind, rewritten) if rewritten else None
    )


def path(kind: str, name: str) -> str:
    """Return as `find`; raise FileNotFoundError that says where the file was looked for and where to get it."""
    file = find(kind, name)
    if file is None:
        raise FileNotFoundError(explain(kind, name))
    return file


def explain(kind: str, name: str) -> str:
    """Say where the file `name` of a kind was looked for, what is there, and where to get it."""
    return manifest.explain_missing(kind, name, folder_paths.get_folder_paths(kind), names(kind))


def list_choices(published: dict[str, tuple[str, ...]]) -> list[str]:
    """Return what a combo of several folders offers; published: kind -> published names.

    The files that are there, the user's own before the pack's, and `NO_FILE` first where the user has none: the editor
    takes every name on offer for present, and would not list what a graph lacks. A file that was rewritten when it
    was fetched is also there under its published name, which graphs hold.
    """
    own, shipped = [], []
    for kind, files in published.items():
        of_the_pack = _list_shipped(kind)
        for name in names(kind):
            (shipped if name in of_the_pack else own).append(name)
        own += [name for name in files if name not in own and find(kind, name)]
    return list(dict.fromkeys([*(own or [NO_FILE]), *shipped]))


def _list_shipped(kind: str) -> set[str]:
    return {file.name for folder, kinds in _SHIPPED.items() if kind in kinds for file in (folder / kind).glob("*")}
