"""Base models: those that come with the pack, whose names `train` takes in the place of a checkpoint, and files."""

from collections.abc import Callable
from typing import NamedTuple

import comfy.sd


class BuiltInBase(NamedTuple):
    """A base model, and what else is known of the pictures it draws.

    what: what it is, in words. size: pixels of a picture's side. detector: the label of the face detector that sees
    its people. path: the file of "base" or of a network by name; raises FileNotFoundError where it is missing.
    load: makes MODEL, CLIP and VAE, load_inpainting the same with a UNet that inpaints. load_clip_vision: makes the
    CLIP_VISION of the file "clip_vision".
    """

    what: str
    size: int
    detector: str
    path: Callable[[str], str]
    load: Callable[[], tuple]
    load_inpainting: Callable[[], tuple]
    load_clip_vision: Callable[[], object]


BUILT_IN: dict[str, BuiltInBase] = {}


def load_checkpoint(file: str) -> tuple:
    """Return MODEL, CLIP and VAE of a checkpoint file; raises ValueError, naming it, where the host cannot read it."""
    try:
        return comfy.sd.load_checkpoint_guess_config(file)[:3]
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{file} cannot be read as a checkpoint ({reason}): fetch it again, or name another."
        ) from error
