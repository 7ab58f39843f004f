"""Base models that come with the pack: `train` takes their names in the place of a checkpoint."""

from collections.abc import Callable
from typing import NamedTuple


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
