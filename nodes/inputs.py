"""Inputs that several nodes share."""

import torch
from comfy_api.latest import io

from ..faces.headmask import head_masks, masks_per_face
from ..faces.types import Faces
from ..weights import folders


def weight_file(input_id: str, kind: str, published: tuple[str, ...], tooltip: str) -> io.Combo.Input:
    """A combo of the files in the model folder `kind`; while there is none, of the published names."""
    return io.Combo.Input(input_id, options=folders.published_or_present(kind, published), tooltip=tooltip)


def missing_file(kind: str, name: str) -> str | bool:
    """True where the file is there, else what to do; for `validate_inputs`, so that it is said before anything runs."""
    try:
        folders.path(kind, name)
    except FileNotFoundError as error:
        return str(error)
    return True


def mask_background() -> io.Boolean.Input:
    return io.Boolean.Input(
        "mask_background",
        default=True,
        tooltip="Black out everything but the head, as the crops were on which TransFace and FACT were trained. "
        "Without a head mask the region is estimated from the face's landmarks.",
    )


def head_mask() -> io.Mask.Input:
    return io.Mask.Input(
        "head_mask",
        optional=True,
        tooltip="The head with its hair, one mask per picture or one for all, e.g. from a face parsing or SAM node. "
        "Used instead of the estimated region while mask_background is on.",
    )


def background(faces: Faces, mask_background: bool, head_mask: torch.Tensor | None) -> torch.Tensor | None:
    """What these two inputs together ask of `align_faces`: a mask for each face, or None."""
    if not mask_background:
        return None
    return head_masks(faces) if head_mask is None else masks_per_face(faces, head_mask)
