"""The miniature's autoencoder from scratch: what a latent keeps, how it is paid for, and its scale."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn.functional import cosine_similarity, l1_loss

from ...faces.types import Faces
from ...training import loop
from ...training.precision import compute_dtype, lower
from ...training.settings import TrainingSettings
from ..models.autoencoder import Autoencoder
from ..models.recogniser import Recogniser
from ..world.dataset import ImageSet
from .crops import align_pixels, as_pixels, read_faces


@dataclass(frozen=True)
class AutoencoderSettings(TrainingSettings):
    """kl: weight of the latents' divergence from the standard normal. edges: of the loss of neighbours' differences.

    noise: deviation of what is added to the latents besides their own: a small model will not draw them more exactly.
    decoder_only: the encoder stays, so that latents that were made with it keep their meaning.
    likeness: weight of `likeness_loss`, for which a training needs a recogniser.
    """

    batch: int = 16
    lr: float = 2e-3
    kl: float = 4e-3
    noise: float = 0.2
    edges: float = 0.5
    decoder_only: bool = False
    likeness: float = 0.0


def image_loss(made: torch.Tensor, images: torch.Tensor, edges: float) -> torch.Tensor:
    """Return mean absolute error of images [b, 3, h, w], and of their differences to the right and downwards."""
    steps = (l1_loss(made.diff(dim=dim), images.diff(dim=dim)) for dim in (2, 3))
    return l1_loss(made, images) + edges * sum(steps)


def likeness_loss(recogniser: Recogniser, made: torch.Tensor, faces: Faces) -> torch.Tensor:
    """Return 1 - cosine between what a recogniser reads in images and in their reconstructions, the mean.

    made: [b, 3, h, w] in -1..1; faces: the pictures, with one face in each. It is what a perceptual loss is to other
    autoencoders: an error costs most where it makes a face another's.
    """
    remade = replace(faces, images=made.movedim(1, -1) / 2 + 0.5)
    with torch.no_grad():
        real = recogniser(align_pixels(faces).to(made))
    return 1 - cosine_similarity(recogniser(align_pixels(remade)), real).mean()


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Return KL(N(mean, variance) || N(0, 1)), the mean over all numbers of the latents."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def loss(
    network,
    images: torch.Tensor,
    settings: AutoencoderSettings,
    eps: torch.Tensor,
    unlike: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the loss of images [b, 3, h, w] in -1..1 with the noise eps [b, c, h', w'] in their latents.

    unlike: the `likeness_loss` of what is made of them.
    """
    mean, log_variance = (part.float() for part in network("moments", images))
    z = mean + eps * (log_variance.exp() + settings.noise**2).sqrt()
    made = network("decode", z.to(images.dtype)).float()
    total = image_loss(made, images.float(), settings.edges) + settings.kl * divergence(mean, log_variance)
    return total + settings.likeness * unlike(made) if unlike else total


def parameters(network: Autoencoder, settings: AutoencoderSettings) -> dict[str, torch.nn.Parameter]:
    """Return what is trained, by name."""
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if not settings.decoder_only or name.startswith("decoder.")
    }


@torch.no_grad()
def unit_variance(network: Autoencoder, images: torch.Tensor, least: float = 0.25) -> None:
    """Scale every channel of the latents to unit variance, in the weights: the pictures stay what they are.

    Channels that hold next to nothing are scaled as if they had the deviation `least` of the strongest.
    """
    deviation = network.encode(images).std(dim=(0, 2, 3))
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


def train(
    network: Autoencoder,
    dataset: ImageSet,
    settings: AutoencoderSettings,
    device,
    checkpoint,
    after_step,
    recogniser=None,
):
    """Train in place, on pictures drawn with replacement; returns the progress with the running average.

    recogniser: a `Recogniser`, whose eyes the likeness is judged by; it does not learn.
    """
    parts = _Parts(network.to(device, memory_format=torch.channels_last))
    dtype = compute_dtype(settings.precision, device)
    network.requires_grad_(False)
    learned = {
        f"network.{name}": parameter.requires_grad_() for name, parameter in parameters(network, settings).items()
    }
    if recogniser:
        recogniser.to(device).requires_grad_(False)

    def loss_of(generator: torch.Generator, step: int) -> torch.Tensor:
        indices = torch.randint(len(dataset), (settings.batch,), generator=generator).tolist()
        x = as_pixels(dataset.images(indices)).to(device, dtype).contiguous(memory_format=torch.channels_last)
        size = settings.batch, len(network.decoder.entry.weight[0]), *network.latent_size(x.shape[2:])
        eps = torch.randn(size, generator=generator).to(device)
        unlike = partial(likeness_loss, recogniser, faces=read_faces(dataset, indices)) if recogniser else None
        return loss(lower(parts, dtype), x, settings, eps, unlike)

    groups = [loop.Group(learned, settings.lr)]
    return loop.train(groups, loss_of, settings, device, checkpoint, after_step)
