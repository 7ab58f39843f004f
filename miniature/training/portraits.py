"""The drawn world as portraits to train adapters on.

What adapters keep is the head: in a drawn person hair tells more of who it is than in a photo (docs/papers.md 2.8
and 3.6).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from ...training.portraits import Portraits
from ..world.dataset import ImageSet
from ..world.features import LABEL

_AT_ONCE = 1024
_NOT_HEAD = ("background", "earring", "neck", "necklace", "cloth", "hat")
_HEAD = torch.tensor([number for name, number in LABEL.items() if name not in _NOT_HEAD], dtype=torch.uint8)


def portraits(dataset: ImageSet, latents: torch.Tensor, features: dict[str, torch.Tensor], chosen=None) -> Portraits:
    """Return portraits of the images `chosen` (indices; all by default); latents and features are of the whole set."""
    chosen = torch.arange(len(dataset)) if chosen is None else torch.as_tensor(chosen)
    people = torch.from_numpy(np.asarray(dataset.people))[chosen]
    captions = [dataset.captions[int(index)] for index in chosen]
    chosen_features = {name: tensor[chosen] for name, tensor in features.items()}
    return Portraits(latents[chosen], people, captions, heads(dataset, latents.shape[-1], chosen), chosen_features)


def heads(dataset: ImageSet, side: int, chosen: torch.Tensor) -> torch.Tensor:
    """Return how much of each cell shows head: skin, a part of the face, glasses, ears or hair; else as `faces`."""
    return _shares(lambda rows: torch.isin(dataset.labels(rows), _HEAD), dataset.recipe.size // side, chosen)


def faces(dataset: ImageSet, side: int, chosen: torch.Tensor) -> torch.Tensor:
    """Return how much of each cell of the latents is face, [n, side, side] float16, 0..1, of the images `chosen`."""
    return _shares(lambda rows: dataset.masks(rows)[:, 0], dataset.recipe.size // side, chosen)


def _shares(masks: Callable[[list[int]], torch.Tensor], cell: int, chosen: torch.Tensor) -> torch.Tensor:
    parts = (masks(part.tolist()).float() for part in chosen.split(_AT_ONCE))
    return torch.cat([avg_pool2d(tensor[:, None], cell)[:, 0].half() for tensor in parts])
