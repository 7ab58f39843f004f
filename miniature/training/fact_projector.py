"""FACT's projector by itself, before anything is drawn: its tokens learn to tell of whom a face is.

It is ours, not the paper's. Little of a picture depends on what makes people different, so the diffusion loss teaches a
fresh projector slowly to let it through; here a step needs no UNet.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import mse_loss

from ...adapters.resampler import Resampler
from ...training import loop
from ...training.portraits import Portraits
from ...training.precision import cast_to, compute_dtype
from ...training.settings import TrainingSettings

_AT_ONCE = 4096


@dataclass(frozen=True)
class ProjectorSettings(TrainingSettings):
    """components: how many numbers about a person the tokens are to tell; fewer where there are fewer people."""

    batch: int = 256
    lr: float = 2e-3
    components: int = 64


def of_people(portraits: Portraits, components: int) -> torch.Tensor:
    """Return who is in each picture, [n, components]: principal components, each of unit variance, of what the encoder
    sees on average in the photos of a person.
    """
    features, shelves = portraits.features["transface"].flatten(1), portraits.shelves
    means = torch.zeros(len(shelves.counts), features.shape[1])
    for rows in torch.arange(len(features)).split(_AT_ONCE):
        means.index_add_(0, shelves.person[rows], features[rows].float())
    means /= shelves.counts[:, None]
    scores, _, _ = torch.pca_lowrank(means, min(components, *means.shape), niter=4)
    return (scores * len(means) ** 0.5)[shelves.person]


def train(
    projector: Resampler,
    portraits: Portraits,
    settings: ProjectorSettings,
    device: torch.device,
    checkpoint,
    after_step,
) -> loop.Progress:
    """Teach `projector`, in place, to give tokens in which a linear readout, which is not kept, finds `of_people`.

    portraits: with "transface" features [n, tokens, d]. after_step: called with the progress. Raises as `loop.train`.
    """
    torch.manual_seed(settings.seed)
    target = of_people(portraits, settings.components)
    readout = nn.Linear(projector.latents.shape[1] * projector.norm_out.normalized_shape[0], target.shape[1]).to(device)

    def loss_of(generator: torch.Generator, step: int) -> torch.Tensor:
        indices = torch.randint(len(portraits), (settings.batch,), generator=generator)
        features = portraits.features["transface"][indices].to(device, torch.float32)
        with cast_to(compute_dtype(settings.precision, device), device):
            predicted = readout(projector(features).flatten(1))
        return mse_loss(predicted.float(), target[indices].to(device))

    learns = nn.ModuleDict({"projector": projector, "readout": readout})
    groups = [loop.Group(dict(learns.named_parameters()), settings.lr)]
    return loop.train(groups, loss_of, settings, device, checkpoint, after_step)
