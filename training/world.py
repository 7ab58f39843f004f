"""The drawn world as portraits to train adapters on."""

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from ..miniature.dataset import PictureSet
from .portraits import Portraits

_AT_ONCE = 1024


def portraits(pictures: PictureSet, latents: torch.Tensor, features: dict[str, torch.Tensor], chosen=None) -> Portraits:
    """Portraits of the pictures `chosen` (indices; all by default); latents and features are of the whole set."""
    chosen = torch.arange(len(pictures)) if chosen is None else torch.as_tensor(chosen)
    cell = pictures.recipe.size // latents.shape[-1]
    faces = [avg_pool2d(pictures.masks(part.tolist())[:, :1].float(), cell)[:, 0] for part in chosen.split(_AT_ONCE)]
    people = torch.from_numpy(np.asarray(pictures.people))[chosen]
    captions = [pictures.captions[int(index)] for index in chosen]
    own = {name: each[chosen] for name, each in features.items()}
    return Portraits(latents[chosen], people, captions, torch.cat(faces).half(), own)
