"""Inputs that several nodes share."""

import torch
from comfy_api.latest import io

from ..faces.headmask import head_masks, masks_per_face
from ..faces.types import Faces
from ..weights import folders


def weight_file(input_id: str, published: dict[str, tuple[str, ...]], tooltip: str) -> io.Combo.Input:
    """A combo of the files in several model folders: kind -> published names, offered while the folder has no file."""
    names = [name for kind, files in published.items() for name in folders.list_choices(kind, files)]
    return io.Combo.Input(input_id, options=list(dict.fromkeys(names)), tooltip=tooltip)


def weight_path(published: dict[str, tuple[str, ...]], name: str) -> str:
    """Where the file `name` of one of the model folders lies; of equal names that in the earlier folder is meant.

    Raises FileNotFoundError that says where to get it, and names the folder in which it is published.
    """
    kinds = [kind for kind in published if name in folders.names(kind)]
    kinds += [kind for kind, files in published.items() if name in files]
    return folders.path(next(iter([*kinds, *published])), name)


def missing_file(published: dict[str, tuple[str, ...]], name: str) -> str | bool:
    """True where the file is there, else what to do; for `validate_inputs`, so that it is said before anything runs."""
    try:
        weight_path(published, name)
    except FileNotFoundError as error:
        return str(error)
    return True


def schedule(begins: str, stops: str) -> list[io.Float.Input]:
    """From where to where in the sampling, 0 to 1, something acts; the two tooltips."""
    bounds = {"min": 0.0, "max": 1.0, "step": 0.001}
    return [
        io.Float.Input("start_percent", default=0.0, tooltip=begins, **bounds),
        io.Float.Input("end_percent", default=1.0, tooltip=stops, **bounds),
    ]


def class_words(optional: bool = False) -> io.String.Input:
    return io.String.Input(
        "class_words",
        default="a person",
        optional=optional,
        tooltip="Ordinary words for the person, such as 'a woman'; for several people one phrase each, separated by "
        "commas.",
    )


def mask_background() -> io.Boolean.Input:
    return io.Boolean.Input(
        "mask_background",
        default=True,
        tooltip="Black out everything but the head, as the crops were on which FACT was trained. Off for MSID, the "
        "encoder of Face2Diffusion, and for ArcFace recognisers (FaceID, InstantID), which want the whole photo. "
        "Without a head mask the region is estimated from the face's landmarks.",
    )


def head_mask() -> io.Mask.Input:
    return io.Mask.Input(
        "head_mask",
        optional=True,
        tooltip="The head with its hair, e.g. from Face Masks with a face parser or from a SAM node: one mask per "
        "picture, one per face, or one for all. Used instead of the estimated region while mask_background is on.",
    )


def background(faces: Faces, mask_background: bool, head_mask: torch.Tensor | None) -> torch.Tensor | None:
    """What these two inputs together ask of `align_faces`: a mask for each face, or None."""
    if not mask_background:
        return None
    return head_masks(faces) if head_mask is None else masks_per_face(faces, head_mask)
