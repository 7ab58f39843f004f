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

import folder_paths
import safetensors
import safetensors.torch
import torch

from ..weights import files, saving
from .facea import LEVELS, REGIONS, FaceaIdentity
from .facea_list import FORMAT

KIND = "facea"  # of model folder, and the name of the folder in the output folder
VERSION = 1
_FEATURES = "feat."
_WORD = re.compile(r"[^\W\d_][\w '-]{0,39}")
_LONGEST = 20_000  # characters of the settings


def key_of(region: str) -> str:
    """The name of a region's features in the file: "feat.left_eye"."""
    return _FEATURES + region.replace(" ", "_")


def save_facea(path: str | Path, identity: FaceaIdentity, who: str = "Save FaceA Identity") -> None:
    """Write an identity to `path`, which holds the whole file or nothing new, whatever happens in between.

    Raises ValueError where the identity holds numbers that are not finite, OSError where it cannot be written.
    """
    tensors = identity.lora | {key_of(region): features for region, features in identity.features.items()}
    if faulty := _not_finite(tensors):
        raise ValueError(f"{who}: '{faulty[0]}' of this identity holds NaN or infinite numbers; train it again.")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "word": identity.word,
        "level": identity.level,
        "base": identity.base,
        "base_name": identity.base_name,
        "settings": json.dumps(identity.settings, sort_keys=True),
    }
    saving.write(path, _in_order(safetensors.torch.save(tensors, metadata)), who)


def _in_order(data: bytes) -> bytes:
    """The same file with the metadata sorted: the library writes them in an order of chance, files would differ."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def load_facea(path: str | Path) -> FaceaIdentity:
    """The identity at `path`, bit for bit as it was saved.

    Raises ValueError, naming file and fault, for a file that is no FaceA identity or a damaged one.
    """
    try:
        with open(path, "rb") as file:
            if what := files.not_weights(file.read(files.HEAD)):
                raise ValueError(f"it is {what}")
        with safetensors.safe_open(path, framework="pt") as file:
            fields = _fields(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _identity(tensors, fields)
    except (ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"'{path}' cannot be loaded as a FaceA identity: {error}.") from error


def _fields(metadata: dict[str, str]) -> dict:
    if metadata.get("format") != FORMAT:
        raise ValueError("it holds other tensors; choose a file that Save FaceA Identity wrote")
    version = metadata.get("version", "")
    if not re.fullmatch("[1-9][0-9]{0,8}", version):
        raise ValueError("'version' of its metadata is missing or damaged")
    if int(version) > VERSION:
        raise ValueError(
            f"it has format version {version}, but this ComfyUI-Likeness reads up to version {VERSION}; update it"
        )
    fields = {key: metadata.get(key, "") for key in ("word", "level", "base", "base_name", "settings")}
    if fields["level"] not in LEVELS or not _WORD.fullmatch(fields["word"]):
        raise ValueError("'word' or 'level' of its metadata is missing or damaged")
    return fields | {"settings": _settings(fields["settings"])}


def _settings(text: str) -> dict[str, str]:
    settings = json.loads(text) if len(text) <= _LONGEST else None
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise ValueError("'settings' of its metadata is damaged")
    return settings


def _identity(tensors: dict[str, torch.Tensor], fields: dict) -> FaceaIdentity:
    features = {region: tensors.pop(key_of(region), None) for region in REGIONS}
    if missing := [key_of(region) for region, rows in features.items() if rows is None or rows.ndim != 2]:
        raise ValueError(f"'{missing[0]}' is missing or no matrix")
    if len({rows.shape[1] for rows in features.values()}) != 1:
        raise ValueError("its features differ in width")
    for name in [name for name in tensors if name.endswith(".lora_up.weight")]:
        parts = [name.replace("lora_up.weight", part) for part in ("lora_down.weight", "alpha")]
        if missing := [part for part in parts if part not in tensors]:
            raise ValueError(f"'{missing[0]}' of its LoRA is missing")
    everything = tensors | {key_of(region): rows for region, rows in features.items()}
    if faulty := _not_finite(everything):
        raise ValueError(f"'{faulty[0]}' holds NaN or infinite numbers")
    return FaceaIdentity(tensors, {region: rows.float() for region, rows in features.items()}, **fields)


def _not_finite(tensors: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


def new_path(prefix: str) -> str:
    """Where to save an identity, see `saving.new_path`; raises ValueError or OSError as it does."""
    return saving.new_path(KIND, prefix, "Save FaceA Identity")


def find_facea(name: str) -> str:
    """Where the identity that a combo calls `name` lies; raises FileNotFoundError that says where it was looked for."""
    found = folder_paths.get_full_path(KIND, name)
    if found is None:
        raise FileNotFoundError(
            f"There is no FaceA identity '{name}' in {' or '.join(folder_paths.get_folder_paths(KIND))}. Save FaceA "
            "Identity writes one; press R afterwards, so that the list is read again."
        )
    return found


def description(name: str, identity: FaceaIdentity) -> str:
    """What a saved identity is, in a few lines."""
    rows = identity.features["face"].shape[0]
    lines = [
        name,
        f"prompts: a {identity.word} face, left eye, ...",
        f"features: {rows} for each of {len(identity.features)} prompts, {identity.level} level",
        f"trained on: {identity.base_name}",
        *(f"{key}: {value}" for key, value in sorted(identity.settings.items())),
    ]
    return "\n".join(lines)
