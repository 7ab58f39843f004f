"""Inputs that several nodes share, and what those that name a file have in common."""

import os
from collections.abc import Callable

import torch
from comfy_api.latest import io

from ..attention_patches.lora_rows import LORA_ROWS
from ..faces.headmask import head_masks, masks_per_face
from ..faces.masks import SHAPES
from ..faces.types import Faces
from ..patcher import is_finite
from ..weights import folders

MASK_BACKGROUND = ("auto", "on", "off")
_MASKED_KINDS = ("transface",)  # encoders that were trained on blacked out crops


def weight_file(input_id: str, published: dict[str, tuple[str, ...]], tooltip: str) -> io.Combo.Input:
    """Return a combo of the files in several folders; published: kind -> the names under which files are published."""
    return io.Combo.Input(input_id, options=folders.list_choices(published), tooltip=tooltip)


def weight_path(published: dict[str, tuple[str, ...]], name: str) -> str:
    """Return where the file `name` of one of the model folders lies; of equal names the earlier folder's is meant.

    Raises FileNotFoundError that says where to get it, and names the folder in which it is published.
    """
    if name == folders.NO_FILE:
        names = [f"{file} (models/{kind})" for kind, files in published.items() for file in files]
        raise FileNotFoundError(
            f"Choose a file. None is here yet; published are {', '.join(names)}. 'python3 likeness.py weights list' in "
            "the folder of ComfyUI-Likeness says where each is published and what its licence allows. Press R in the "
            "editor once one is there."
        )
    kinds = [kind for kind in published if name in folders.names(kind)]
    kinds += [kind for kind, files in published.items() if name in files]
    return folders.path(next(iter([*kinds, *published])), name)


def identity_file(kind: str) -> io.Combo.Input:
    """Return a combo of the saved identities of a folder, "face_id" or "facea"."""
    return io.Combo.Input(
        "identity_name",
        options=folders.names(kind) or ["none saved yet"],
        tooltip=f"A file from output/{kind} or models/{kind}. Press R after saving one, so that the list is read "
        "again.",
    )


def explain_missing(find: Callable, *arguments) -> str | bool:
    """Return True where `find` finds its file, else its words; for `validate_inputs`, before anything runs."""
    try:
        find(*arguments)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return True


def read_version(path: str) -> tuple[int, int]:
    """Return what changes with a file that is replaced under the same name; for `fingerprint_inputs`."""
    state = os.stat(path)
    return state.st_mtime_ns, state.st_size


def filename_prefix(kind: str) -> io.String.Input:
    """Return the beginning of a file's name in the output folder `kind`."""
    return io.String.Input(
        "filename_prefix",
        default="person",
        tooltip=f"Name of the file in output/{kind}; a number is added. '/' makes sub-folders, %year%, %month% and "
        "%day% stand for the date.",
    )


def schedule(begins: str, stops: str) -> list[io.Float.Input]:
    """Return from where to where in the sampling, 0 to 1, something acts; begins, stops: the tooltips."""
    bounds = {"min": 0.0, "max": 1.0, "step": 0.001, "advanced": True}
    return [
        io.Float.Input("start_percent", default=0.0, tooltip=begins, **bounds),
        io.Float.Input("end_percent", default=1.0, tooltip=stops, **bounds),
    ]


def lora_rows() -> io.Combo.Input:
    """Return on which rows of a batch the LoRA of a FaceID file acts."""
    return io.Combo.Input(
        "lora_rows",
        options=list(LORA_ROWS),
        default=LORA_ROWS[0],
        optional=True,
        advanced=True,
        tooltip="What the LoRA inside FaceID files acts on; others have none. all: the whole model, as published. "
        "identity and negative: for Infinite-ID Mixing, whose text stream stays the stock picture. identity: not on "
        "negative prompts either. A step takes longer with the latter two.",
    )


def face_share(remark: str, default: float = 0.5, least: float = 0.1) -> io.Float.Input:
    """Return how much of a crop a face takes; remark: what the tooltip adds to that."""
    tooltip = f"The longer side of the face's box as a part of the crop's side. {remark}"
    return io.Float.Input("face_share", default=default, min=least, max=1.0, step=0.01, tooltip=tooltip)


def crop_size(tooltip: str) -> io.Int.Input:
    return io.Int.Input("size", default=512, min=64, max=2048, step=8, tooltip=tooltip)


def crop_shape(input_id: str, tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(input_id, options=list(SHAPES), default="box", advanced=True, tooltip=tooltip)


def feather(beginning: str) -> io.Int.Input:
    """Return how softly a painted face goes back; beginning: the tooltip's, before "of the crop's pixels"."""
    end = "of the crop's pixels the new face takes to fade in, counted inwards from the mask's edge."
    return io.Int.Input("feather", default=8, min=0, max=128, advanced=True, tooltip=f"{beginning} {end}")


def colour_match(tooltip: str) -> io.Boolean.Input:
    return io.Boolean.Input("colour_match", default=True, advanced=True, tooltip=tooltip)


def class_words(optional: bool = False) -> io.String.Input:
    return io.String.Input(
        "class_words",
        default="a person",
        optional=optional,
        tooltip="Ordinary words for the person, such as 'a woman'; for several people one phrase each, separated by "
        "commas.",
    )


def mask_background_by_encoder() -> io.Combo.Input:
    """Return whether crops are blacked out around the head; saved graphs hold True or False, see `is_masked`."""
    return io.Combo.Input(
        "mask_background",
        options=list(MASK_BACKGROUND),
        default=MASK_BACKGROUND[0],
        tooltip="Black out everything but the head. auto: as the encoder was trained, which is on for TransFace (FACT) "
        "and off for MSID (Face2Diffusion) and ArcFace recognisers (FaceID, InstantID, Infinite-ID). Without a head "
        "mask the region is estimated from the face's landmarks.",
    )


def is_masked(mask_background: str | bool, kind: str) -> bool:
    """Return whether to black out crops for an encoder of a kind; a saved graph may hold True or False."""
    if isinstance(mask_background, bool):
        return mask_background
    return kind in _MASKED_KINDS if mask_background == "auto" else mask_background == "on"


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
    """Return what these two inputs together ask of `align_faces`: a mask for each face, or None."""
    if not mask_background:
        return None
    return head_masks(faces) if head_mask is None else masks_per_face(faces, check_mask(head_mask, "head_mask"))


def check_mask(mask: torch.Tensor | None, name: str = "mask") -> torch.Tensor | None:
    """Return what is connected to the input `name`; raise ValueError where it is no mask of anything."""
    if explanation := explain_placeholder(check_numbers(mask, name), name):
        raise ValueError(explanation)
    return mask


def check_numbers(mask: torch.Tensor | None, name: str = "mask") -> torch.Tensor | None:
    """Return what is connected to the input `name`; raise ValueError where it holds NaN or infinite numbers."""
    if mask is None or is_finite(mask):
        return mask
    raise ValueError(f"{name} holds NaN or infinite numbers: look at the node it comes from.")


def explain_placeholder(mask: torch.Tensor | None, name: str = "mask") -> str | None:
    """Return a sentence where a mask is the black one of 64 x 64 that the host's Load Image gives for no mask."""
    if mask is None or tuple(mask.shape[-2:]) != (64, 64) or mask.any():
        return None
    return (
        f"{name} is black and 64 x 64 pixels, which is what Load Image gives for a picture without transparency: "
        f"disconnect {name}, or draw one (right-click Load Image, Open in MaskEditor)."
    )


def image_size(latent: dict) -> tuple[int, int]:
    """Return (H, W) of the image that a latent of SD1.5 or SDXL becomes."""
    height, width = (side * 8 for side in latent["samples"].shape[-2:])
    return height, width
