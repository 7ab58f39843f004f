"""Where a published file lies below a models folder, and under which name. Standard library only."""

from pathlib import Path, PurePosixPath

from . import manifest

# The folders that only our own loaders read: PyTorch files are rewritten as safetensors there.
_OURS = {
    "facechain_fact",
    "face2diffusion",
    "face_parsing",
    "ipadapter",
    "instantid",
    "pulid",
    "metrics",
    "image_metrics",
}
_PICKLES = {".pt", ".pth", ".ckpt", ".bin"}
_MEDIAPIPE = {".task", ".tflite"}


def relative_path(entry: manifest.WeightFile) -> str:
    """Return folder and file as published, relative to a models folder, with slashes."""
    return f"{entry.folder}/{entry.file}"


def safetensors_name(name: str) -> str | None:
    """Return the name a PyTorch or MediaPipe file has once it is rewritten as safetensors; None for any other file."""
    path = PurePosixPath(name)
    return str(path.with_suffix(".safetensors")) if path.suffix in _PICKLES | _MEDIAPIPE else None


def is_rewritten(entry: manifest.WeightFile) -> bool:
    """Return whether fetching the file rewrites it as safetensors."""
    if entry.source.converter:
        return True
    return entry.folder.split("/")[0] in _OURS and safetensors_name(entry.file) is not None


def is_archive(entry: manifest.WeightFile) -> bool:
    """Return whether fetching the file unpacks it, into the folder beside it that has its name."""
    return entry.file.endswith(".zip")


def pack(archive: manifest.WeightFile) -> str:
    """Return the folder an archive is unpacked into, relative to a models folder."""
    return relative_path(archive).removesuffix(".zip")


def find(entry: manifest.WeightFile, root: Path) -> Path | None:
    """Return the file of an entry below the models folder `root`, of an archive its folder; None where it is not there.

    A PyTorch file of our own folders may have been rewritten as safetensors, what has a converter must be; a pack that
    was unpacked by hand may lie in a folder of its own name, one level deeper.
    """
    if not (entry.folder and entry.file):
        return None
    if is_archive(entry):
        members = manifest.members(entry)
        return root / pack(entry) if members and all(find(member, root) for member in members) else None
    names = [] if entry.source.converter else [relative_path(entry)]
    if is_rewritten(entry):
        names.append(safetensors_name(relative_path(entry)))
    if entry.source.member and entry.source.kind != "pypi":
        names.append(f"{entry.folder}/{PurePosixPath(entry.folder).name}/{entry.file}")
    return next((root / name for name in names if (root / name).is_file()), None)
