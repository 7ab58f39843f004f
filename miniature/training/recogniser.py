"""Face recognisers of the drawn world from scratch: the networks of the published encoders, at small sizes.

The identity loss is ArcFace's, which Face2Diffusion writes as Eq. 3: on the concatenated taps of a ViT for its
multi-scale encoder, on the deepest alone for the plain twin it is compared with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss, normalize

from ...training import loop
from ...training.msid import MarginHead, arcface_loss
from ...training.precision import cast_to, compute_dtype
from ...training.settings import TrainingSettings
from .crops import as_pixels
from .degrade import soften


@dataclass(frozen=True)
class RecogniserSettings(TrainingSettings):
    """scale, margin: s and m of Eq. 3; late: the part of the training after which the margin is asked for.

    traits: weight of the help at the start, telling what the person looks like; 0 for none. soft: how often a crop is
    as soft as a small model draws. flip: whether crops are mirrored half of the time.
    """

    batch: int = 64
    lr: float = 1e-3
    scale: float = 16.0
    margin: float = 0.25
    late: float = 0.6
    traits: float = 1.5
    soft: float = 0.5
    flip: bool = False


class TrainingHead(MarginHead):
    """What is needed beside a recogniser to train it: the people's directions, and what tells their looks."""

    def __init__(self, width: int, people: int, traits: int):
        super().__init__(width, people)
        self.looks = nn.Linear(width, traits)


def train(
    network: nn.Module,
    embed: Callable[[torch.Tensor], torch.Tensor],
    crops: np.ndarray,
    labels: torch.Tensor,
    traits: torch.Tensor,
    settings: RecogniserSettings,
    device,
    checkpoint,
    after_step,
):
    """Train `network` in place; `embed` gives its embeddings [b, d] of pixels [b, 3, 112, 112].

    crops: uint8 [n, 112, 112, 3]; labels: who is in each, counted from 0; traits: [people, k] of each.
    Returns the progress with the running average, whose names begin with "network." for the network's own.
    """
    network.to(device).train()
    with torch.no_grad():
        width = embed(as_pixels(crops[:2]).to(device)).shape[1]
    torch.manual_seed(settings.seed)
    group = TrainingHead(width, len(traits), traits.shape[1]).to(device)
    dtype = compute_dtype(settings.precision, device)
    progress = loop.Progress()

    def loss_of(generator: torch.Generator, step: int) -> torch.Tensor:
        indices = torch.randint(len(labels), (settings.batch,), generator=generator)
        pixels = soften(as_pixels(crops[indices.numpy()]) / 2 + 0.5, settings.soft, generator) * 2 - 1
        if settings.flip and torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(3)
        with cast_to(dtype, device):
            embedding = embed(pixels.to(device)).float()
        margin = settings.margin * (progress.step >= settings.late * settings.steps)
        targets = labels[indices].to(device)
        trait_error = mse_loss(
            group.looks(normalize(embedding, dim=1) * embedding.shape[1] ** 0.5), traits.to(device)[targets]
        )
        return arcface_loss(group.cosines(embedding), targets, settings.scale, margin) + settings.traits * trait_error

    learned = dict(nn.ModuleDict({"network": network, "class": group}).named_parameters())
    return loop.train([loop.Group(learned, settings.lr)], loss_of, settings, device, checkpoint, after_step, progress)
