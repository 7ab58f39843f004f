"""Identities saved and loaded; the format is in `identity_format`."""

import io
import re

import comfy.model_management
import folder_paths
import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageDraw

from ..weights import saving
from . import identity_format
from .agreement import agreement, digits
from .identity import FaceId
from .identity_format import Header

KIND = "face_id"  # of model folder, and the name of the folder in the output folder
_DTYPES = {"features": torch.float32, "embedding": torch.float32, "crops": torch.uint8}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_GREY, _LIGHTER = 96, 150


def new_path(prefix: str) -> str:
    """Where to save an identity, see `saving.new_path`; raises ValueError or OSError as it does."""
    return saving.new_path(KIND, prefix, "Save Identity")


def save_identity(path: str, face_id: FaceId, thumbnails: bool = True, note: str = "") -> None:
    """Write an identity to `path`, which holds the whole file or nothing new, whatever happens in between.

    thumbnails: keep the crops, with 8 bits a colour; note: free text.
    Raises ValueError where the identity is not one that could be loaded again, OSError where it cannot be written.
    """
    tensors = {"features": face_id.features.float(), "embedding": face_id.embedding.float()}
    if reason := _fault(**tensors):
        raise ValueError(f"Save Identity: this identity cannot be saved: {reason}.")
    if thumbnails:
        tensors["crops"] = (face_id.crops.clamp(0, 1) * 255).round().to(torch.uint8)
    header = Header(
        face_id.encoder,
        face_id.file,
        face_id.sha256,
        len(face_id.features),
        face_id.crops.shape[1],
        face_id.masked,
        tuple(agreement(face_id.embedding).tolist()),
        _clean(note),
        {},
    )
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(tensors, identity_format.metadata(header))
    try:
        identity_format.parse(io.BytesIO(data))
    except ValueError as error:
        raise ValueError(f"Save Identity: this identity could not be loaded again: {error}.") from error
    saving.write(path, data, "Save Identity")


def _clean(note: str) -> str:
    """A note as the format has it: of the control characters, line feeds and tabs only."""
    if len(note) > identity_format.LONGEST_NOTE:
        raise ValueError(
            f"Save Identity: the note has {len(note)} characters, more than {identity_format.LONGEST_NOTE}."
        )
    return _CONTROL.sub(" ", "\n".join(note.strip().splitlines()))


def find_identity(name: str) -> str:
    """Where the identity that a combo calls `name` lies; raises FileNotFoundError that says where it was looked for."""
    found = folder_paths.get_full_path(KIND, name)
    if found is None:
        raise FileNotFoundError(
            f"There is no identity '{name}' in {' or '.join(folder_paths.get_folder_paths(KIND))}. Save Identity "
            "writes one; press R afterwards, so that the list is read again."
        )
    return found


def load_identity(path: str) -> tuple[FaceId, Header]:
    """The identity at `path`, features and embedding as they were saved bit for bit, and what the file says of itself.

    Where no thumbnails were kept, a grey figure stands in for each crop: pictures of the right size, for whatever shows
    or joins them. Raises ValueError, naming file and fault, for a file that is no identity or a damaged one.
    """
    with open(path, "rb") as file:
        try:
            header = identity_format.parse(file)
            tensors = _read(header, file.read())
            if reason := _fault(tensors["features"], tensors["embedding"]):
                raise ValueError(reason)
        except ValueError as error:
            raise identity_format.refusal(path, str(error)) from error
    crops = tensors["crops"].float() / 255 if "crops" in tensors else _figures(header.photos, header.crop_size)
    device = comfy.model_management.intermediate_device()
    face_id = FaceId(
        header.encoder,
        header.encoder_file,
        header.encoder_sha256,
        tensors["features"].to(device),
        tensors["embedding"].to(device),
        crops.to(device),
        header.masked,
    )
    return face_id, header


def _read(header: Header, data: bytes) -> dict[str, torch.Tensor]:
    if len(data) < max(tensor.end for tensor in header.tensors.values()):
        raise ValueError("it became shorter while it was read")
    return {
        name: torch.frombuffer(bytearray(data[tensor.begin : tensor.end]), dtype=_DTYPES[name]).reshape(tensor.shape)
        for name, tensor in header.tensors.items()
    }


def _fault(features: torch.Tensor, embedding: torch.Tensor) -> str | None:
    """What is wrong with the values of an identity; None where nothing is."""
    if not (torch.isfinite(features).all() and torch.isfinite(embedding).all()):
        return "its features hold NaN or infinite numbers; encode the photos again"
    if ((embedding.norm(dim=1) - 1).abs() > 1e-3).any():
        return "its embedding is not of length 1; encode the photos again"
    return None


def _figures(photos: int, size: int) -> torch.Tensor:
    """A grey head and shoulders per photo, [photos, S, S, 3]."""
    canvas = Image.new("L", (size, size), _GREY)
    pen = ImageDraw.Draw(canvas)
    for box in ((0.32, 0.18, 0.68, 0.6), (0.14, 0.68, 0.86, 1.5)):
        pen.ellipse([side * size for side in box], fill=_LIGHTER)
    figure = torch.from_numpy(np.array(canvas, dtype=np.float32) / 255)
    return figure[None, :, :, None].repeat(photos, 1, 1, 3)


def description(name: str, header: Header) -> str:
    """What a saved identity is, in a few lines."""
    lines = [
        name,
        f"photos: {header.photos}",
        f"encoder: {header.encoder_file} ({header.encoder})",
        f"background: {'blacked out' if header.masked else 'kept'}",
        f"thumbnails: {'kept' if 'crops' in header.tensors else 'not kept'}",
    ]
    if header.agreement:
        lines.append(f"agreement with the other photos: {' '.join(map(digits, header.agreement))}")
    return "\n".join([*lines, *([f"note: {header.note}"] if header.note else [])])
