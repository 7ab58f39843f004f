"""The miniature's autoencoder from scratch: what a latent keeps, how it is paid for, and its scale."""

from dataclasses import dataclass

import torch
from torch.nn.functional import l1_loss

from ..miniature.autoencoder import Autoencoder
from ..miniature.dataset import PictureSet
from . import loop
from .crops import as_pixels


@dataclass(frozen=True)
class Settings(loop.Settings):
    """kl: weight of the latents' divergence from the standard normal. edges: of the loss of neighbours' differences.

    noise: deviation of what is added to the latents besides their own: a small model will not draw them more exactly.
    decoder_only: the encoder stays, so that latents that were made with it keep their meaning.
    """

    batch: int = 16
    lr: float = 2e-3
    kl: float = 4e-3
    noise: float = 0.2
    edges: float = 0.5
    decoder_only: bool = False


def picture_loss(made: torch.Tensor, pictures: torch.Tensor, edges: float) -> torch.Tensor:
    """Mean absolute error of pictures [b, 3, h, w], and of their differences to the right and downwards."""
    steps = (l1_loss(made.diff(dim=dim), pictures.diff(dim=dim)) for dim in (2, 3))
    return l1_loss(made, pictures) + edges * sum(steps)


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, variance) || N(0, 1)), the mean over all numbers of the latents."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def loss(network, pictures: torch.Tensor, settings: Settings, eps: torch.Tensor) -> torch.Tensor:
    """The loss of pictures [b, 3, h, w] in -1..1 with the noise eps [b, c, h', w'] in their latents."""
    mean, log_variance = (part.float() for part in network("moments", pictures))
    z = mean + eps * (log_variance.exp() + settings.noise**2).sqrt()
    made = network("decode", z.to(pictures.dtype)).float()
    return picture_loss(made, pictures.float(), settings.edges) + settings.kl * divergence(mean, log_variance)


def parameters(network: Autoencoder, settings: Settings) -> dict[str, torch.nn.Parameter]:
    """What is trained."""
    return {
        name: each
        for name, each in network.named_parameters()
        if not settings.decoder_only or name.startswith("decoder.")
    }


@torch.no_grad()
def unit_variance(network: Autoencoder, pictures: torch.Tensor, least: float = 0.25) -> None:
    """Scale every channel of the latents to unit variance, in the weights: the pictures stay what they are.

    Channels that hold next to nothing are scaled as if they had the deviation `least` of the strongest.
    """
    deviation = network.encode(pictures).std(dim=(0, 2, 3))
    scale = deviation.clamp(min=least * deviation.max())
    mean_rows = slice(0, len(scale))
    network.encoder.exit.weight[mean_rows] /= scale[:, None, None, None]
    network.encoder.exit.bias[mean_rows] /= scale
    network.encoder.exit.bias[len(scale) :] -= 2 * scale.log()
    network.decoder.entry.weight *= scale[None, :, None, None]


class _Parts(torch.nn.Module):
    """`moments` and `decode` as one call, which `torch.func` can make with other parameters."""

    def __init__(self, network: Autoencoder):
        super().__init__()
        self.network = network

    def forward(self, part: str, x: torch.Tensor):
        return getattr(self.network, part)(x)


def train(network: Autoencoder, pictures: PictureSet, settings: Settings, device, checkpoint, after_step):
    """Train in place, on pictures drawn with replacement; returns the progress with the running average."""
    parts = _Parts(network.to(device, memory_format=torch.channels_last))
    dtype = loop.compute_dtype(settings.precision, device)
    learned = {f"network.{name}": each for name, each in parameters(network, settings).items()}

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        indices = torch.randint(len(pictures), (settings.batch,), generator=generator).tolist()
        x = as_pixels(pictures.pictures(indices)).to(device, dtype).contiguous(memory_format=torch.channels_last)
        size = settings.batch, len(network.decoder.entry.weight[0]), *network.latent_size(x.shape[2:])
        eps = torch.randn(size, generator=generator).to(device)
        return loss(loop.lowered(parts, dtype), x, settings, eps)

    groups = [loop.Group(learned, settings.lr)]
    return loop.train(groups, loss_of, settings, device, checkpoint, after_step)
