"""FaceA identities as files: one safetensors with the LoRA under the names the host's LoRA loaders read, the learned
features as `feat.<region>`, and in the metadata

format, version   "likeness-facea", "1"; a reader refuses every higher version
word, level       as in `FaceaIdentity`
base, base_name   the model it was trained on
settings          how it was trained: JSON, words by words
"""

import json
import re
from pathlib import Path

import safetensors.torch
import torch

from ..weights import formats, saving
from .facea import LEVELS, REGIONS, FaceaIdentity
from .facea_list import FORMAT

KIND = "facea"  # of model folder, and the name of the folder in the output folder
_FEATURES = "feat."
_WORD = re.compile(r"[^\W\d_][\w '-]{0,39}")
_LONGEST = 20_000  # characters of the settings


def name_features(region: str) -> str:
    """Return the name of a region's features in the file: "feat.left_eye"."""
    return _FEATURES + region.replace(" ", "_")


def save_facea(path: str | Path, identity: FaceaIdentity, node: str = "Save FaceA Identity", new: bool = False) -> str:
    """Write an identity to `path`, which holds the whole file or nothing new, whatever happens in between.

    new: as in `saving.write`. Returns where the file is.
    Raises ValueError where the identity holds numbers that are not finite, OSError where it cannot be written.
    """
    tensors = identity.lora | {name_features(region): features for region, features in identity.features.items()}
    if faulty := _list_not_finite(tensors):
        raise ValueError(f"{node}: '{faulty[0]}' of this identity holds NaN or infinite numbers; train it again.")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    metadata = {
        **FORMAT.metadata,
        "word": identity.word,
        "level": identity.level,
        "base": identity.base,
        "base_name": identity.base_name,
        "settings": json.dumps(identity.settings, sort_keys=True),
    }
    return saving.write(path, _sort_metadata(safetensors.torch.save(tensors, metadata)), node, new)


def _sort_metadata(data: bytes) -> bytes:
    """Return the same file with its metadata sorted: the library writes them in an order of chance."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def load_facea(path: str | Path) -> FaceaIdentity:
    """Return the identity at `path`, bit for bit as it was saved.

    Raises ValueError, naming file and fault, for a file that is no FaceA identity or a damaged one.
    """
    with FORMAT.name_faults(path):
        metadata, tensors = formats.read(path, FORMAT)
        return _build_identity(tensors, _read_fields(metadata))


def _read_fields(metadata: dict[str, str]) -> dict:
    """Return the fields of `FaceaIdentity` that the metadata hold; raise ValueError for what is missing or damaged."""
    fields = {key: metadata.get(key, "") for key in ("word", "level", "base", "base_name", "settings")}
    if fields["level"] not in LEVELS or not _WORD.fullmatch(fields["word"]):
        raise ValueError("'word' or 'level' of its metadata is missing or damaged")
    try:
        settings = json.loads(fields["settings"]) if len(fields["settings"]) <= _LONGEST else None
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise ValueError("'settings' of its metadata is damaged")
    return fields | {"settings": settings}


def _build_identity(tensors: dict[str, torch.Tensor], fields: dict) -> FaceaIdentity:
    """Return the identity of a file's tensors; raise ValueError where one is missing, misshapen or not finite."""
    features = {region: tensors.pop(name_features(region), None) for region in REGIONS}
    if missing := [name_features(region) for region, rows in features.items() if rows is None or rows.ndim != 2]:
        raise ValueError(f"'{missing[0]}' is missing or no matrix")
    if len({rows.shape[1] for rows in features.values()}) != 1:
        raise ValueError("its features differ in width")
    for name in [name for name in tensors if name.endswith(".lora_up.weight")]:
        parts = [name.replace("lora_up.weight", part) for part in ("lora_down.weight", "alpha")]
        if missing := [part for part in parts if part not in tensors]:
            raise ValueError(f"'{missing[0]}' of its LoRA is missing")
    everything = tensors | {name_features(region): rows for region, rows in features.items()}
    if faulty := _list_not_finite(everything):
        raise ValueError(f"'{faulty[0]}' holds NaN or infinite numbers")
    return FaceaIdentity(tensors, {region: rows.float() for region, rows in features.items()}, **fields)


def _list_not_finite(tensors: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


def new_path(prefix: str) -> str:
    """Return where to save an identity, see `saving.new_path`; raises ValueError or OSError as it does."""
    return saving.new_path(KIND, prefix, "Save FaceA Identity")


def find_facea(name: str) -> str:
    """Return where the identity `name` of a combo lies, see `saving.find`."""
    return saving.find(KIND, name, "FaceA identity", "Save FaceA Identity")


def description(name: str, identity: FaceaIdentity) -> str:
    """Return what a saved identity is, in a few lines."""
    rows = identity.features["face"].shape[0]
    lines = [
        name,
        f"prompts: a {identity.word} face, left eye, ...",
        f"features: {rows} for each of {len(identity.features)} prompts, {identity.level} level",
        f"trained on: {identity.base_name}",
        *(f"{key}: {value}" for key, value in sorted(identity.settings.items())),
    ]
    return "\n".join(lines)
