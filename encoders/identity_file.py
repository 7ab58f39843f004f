"""Identities saved and loaded; the format is in `identity_format`."""

import io
import re

import comfy.model_management
import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageDraw

from ..weights import formats, saving
from . import identity_format
from .agreement import agreement, digits
from .identity import FaceId
from .identity_format import Header

KIND = "face_id"  # of model folder, and the name of the folder in the output folder
# All but line feeds and tabs, and halves of characters.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_GREY, _LIGHTER = 96, 150


def new_path(prefix: str) -> str:
    """Return where to save an identity, see `saving.new_path`; raise ValueError or OSError as it does."""
    return saving.new_path(KIND, prefix, "Save Identity")


def save_identity(
    path: str, face_id: FaceId, thumbnails: bool = True, note: str = "", consent: str = "", new: bool = False
) -> str:
    """Write an identity to `path`, which holds the whole file or nothing new, whatever happens in between.

    thumbnails: keep the crops, with 8 bits a colour; note, consent: free text; new: as in `saving.write`.
    Returns where the file is.
    Raises ValueError where the identity is not one that could be loaded again, OSError where it cannot be written.
    """
    tensors = {"features": face_id.features.float(), "embedding": face_id.embedding.float()}
    if reason := _find_fault(**tensors):
        raise ValueError(f"Save Identity: this identity cannot be saved: {reason}.")
    if thumbnails:
        tensors["crops"] = (face_id.crops.clamp(0, 1) * 255).round().to(torch.uint8)
    for name, text in {"note": note, "consent": consent}.items():
        if len(text) > identity_format.LONGEST_NOTE:
            raise ValueError(
                f"Save Identity: the {name} has {len(text)} characters, more than {identity_format.LONGEST_NOTE}."
            )
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
        _clean(consent),
    )
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(tensors, identity_format.metadata(header))
    try:
        identity_format.parse(io.BytesIO(data))
    except ValueError as error:
        raise ValueError(f"Save Identity: this identity could not be loaded again: {error}.") from error
    return saving.write(path, data, "Save Identity", new)


def _clean(text: str) -> str:
    """Return a text as files keep it, without control characters."""
    return _CONTROL.sub(" ", "\n".join(text.strip().splitlines()))


def find_identity(name: str) -> str:
    """Return where the identity `name` of a combo lies, see `saving.find`."""
    return saving.find(KIND, name, "identity", "Save Identity")


def load_identity(path: str) -> tuple[FaceId, Header]:
    """Load the identity at `path`, features and embedding bit for bit as saved, and what the file says of itself.

    Where no thumbnails were kept, a grey figure stands in for each crop: images of the right size, for whatever shows
    or joins them. Raises ValueError, naming file and fault, for a file that is no identity or a damaged one.
    """
    header = identity_format.read_header(path)
    with identity_format.FORMAT.name_faults(path):
        _, tensors = formats.read(path, identity_format.FORMAT)
        if reason := _find_fault(tensors["features"], tensors["embedding"]):
            raise ValueError(reason)
    crops = tensors["crops"].float() / 255 if "crops" in tensors else _draw_figures(header.photos, header.crop_size)
    device = comfy.model_management.intermediate_device()
    face_id = FaceId(
        header.encoder,
        header.encoder_file,
        header.encoder_sha256,
        tensors["features"].to(device, copy=True),  # not the file, which may go
        tensors["embedding"].to(device, copy=True),
        crops.to(device),
        header.masked,
    )
    return face_id, header


def _find_fault(features: torch.Tensor, embedding: torch.Tensor) -> str | None:
    """Return what is wrong with the values of an identity; None where nothing is."""
    if not (torch.isfinite(features).all() and torch.isfinite(embedding).all()):
        return "its features hold NaN or infinite numbers; encode the photos again"
    if ((embedding.norm(dim=1) - 1).abs() > 1e-3).any():
        return "its embedding is not of length 1; encode the photos again"
    return None


def _draw_figures(photos: int, size: int) -> torch.Tensor:
    """Draw a grey head and shoulders per photo, [photos, S, S, 3]; all lie in the memory of one."""
    canvas = Image.new("L", (size, size), _GREY)
    pen = ImageDraw.Draw(canvas)
    for box in ((0.32, 0.18, 0.68, 0.6), (0.14, 0.68, 0.86, 1.5)):
        pen.ellipse([side * size for side in box], fill=_LIGHTER)
    figure = torch.from_numpy(np.array(canvas, dtype=np.float32) / 255)
    return figure[None, :, :, None].expand(photos, size, size, 3)


def description(name: str, header: Header) -> str:
    """Say in a few lines what a saved identity is."""
    lines = [
        name,
        f"photos: {header.photos}",
        f"encoder: {header.encoder_file} ({header.encoder})",
        f"background: {'blacked out' if header.masked else 'kept'}",
        f"thumbnails: {'kept' if 'crops' in header.tensors else 'not kept'}",
    ]
    if header.agreement:
        lines.append(f"agreement with the other photos: {' '.join(map(digits, header.agreement))}")
    lines.append(f"consent: {header.consent or 'nothing is noted'}")
    return "\n".join([*lines, *([f"note: {header.note}"] if header.note else [])])
