"""Photos of one person, as references."""

from dataclasses import replace

import numpy as np
import torch

from .draw import draw
from .people import person
from .scenes import Scene, scene

_VARIETY = 1_000_000  # scenes of a seed before another seed's begin


def render_photos(number: int, count: int, seed: int = 0, size: int = 384) -> tuple[torch.Tensor, str]:
    """Return photos [count, size, size, 3] in 0..1 of a person, and the words for them in a prompt.

    The first photo is from the front and the same for every seed; nothing hides hair or eyes in the others.
    """
    subject = person(number)
    indices = np.random.default_rng([seed, 4, number]).choice(_VARIETY, count - 1, replace=False).tolist()
    bare = [replace(scene(number, index), style="photo", hat=None, glasses=False) for index in indices]
    return draw([subject] * count, [Scene(), *bare], size).images, "a woman" if subject.woman else "a man"
