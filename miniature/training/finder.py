"""The miniature's face finder from scratch, on drawn faces and on the same pictures with their faces spoiled.

What is spoiled stands for pictures in which a model failed to make a face: they must not count as one.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import affine_grid, binary_cross_entropy_with_logits, grid_sample, smooth_l1_loss

from ...training import loop
from ...training.precision import compute_dtype, lower
from ...training.settings import TrainingSettings
from ..models.finder import Finder, FinderSizes
from ..world.dataset import ImageSet
from .crops import as_pixels

_BLOCKS = (8, 12, 16)  # pixels of a side of the blocks that are scrambled
_ZOOM = (0.5, 1.2)
_SHIFT = 0.06  # of the picture's side, beyond what a zoomed picture leaves free
_SOFTEST = 1.6  # pixels of blur in which a face is still one
_BLURRED = (6.0, 14.0)  # pixels of blur in which it is none


@dataclass(frozen=True)
class FinderSettings(TrainingSettings):
    """batch: pictures a step, half of them spoiled. points: weight of a pixel's error of the points."""

    batch: int = 32
    lr: float = 2e-3
    points: float = 0.1


# Of miniature/weights/finder.safetensors, on 4000 people of the split "train" in 12 scenes each, 96 pixels a side.
RECIPE = FinderSettings(steps=16_000, batch=16, points=0.3, precision="bfloat16", warmup=50, cosine=True, ema=0.995)


def loss(
    predicted: torch.Tensor, presence: torch.Tensor, points: torch.Tensor, present: torch.Tensor, weight: float
) -> torch.Tensor:
    """Return cross entropy of the presence (log odds [b]) and `weight` x the error of the points where a face is
    present.

    found, points: [b, 5, 2] pixels; the error is |d| - 1/2 for differences of a pixel and more, d^2 / 2 below.
    present: [b] bool.
    """
    error = smooth_l1_loss(predicted, points, reduction="none").mean(dim=(1, 2))
    count = present.sum().clamp(min=1)
    return binary_cross_entropy_with_logits(presence, present.float()) + weight * (error * present).sum() / count


def blur(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return images [b, c, n, n], blurred by Gaussians of deviations sigma [b] in pixels; borders weigh less."""
    pixels = torch.arange(x.shape[-1], dtype=x.dtype)
    kernel = (-0.5 * ((pixels[:, None] - pixels) / sigma[:, None, None]).square()).softmax(-1)[:, None]
    return kernel @ x @ kernel.mT


def scramble(x: torch.Tensor, block: int, generator: torch.Generator) -> torch.Tensor:
    """Return images [b, c, n, n] cut into squares of `block` pixels, which change places in every picture in another
    way.
    """
    b, c, n, _ = x.shape
    cut = x.reshape(b, c, n // block, block, n // block, block).transpose(3, 4).reshape(b, c, -1, block, block)
    order = torch.rand(b, 1, cut.shape[2], 1, 1, generator=generator).argsort(dim=2).expand_as(cut)
    return cut.gather(2, order).reshape(b, c, n // block, n // block, block, block).transpose(3, 4).reshape(x.shape)


def spoil(x: torch.Tensor, face: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images [b, 3, n, n] in -1..1 without their faces; face: [b, n, n] bool, where each has its own.

    A single colour, noise, scrambled blocks or a strong blur covers the face, in a third of the pictures everything.
    """
    b, draw = len(x), _draws(generator)
    mask = face[:, None].float()
    flat = ((x * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)).expand_as(x)
    grain = draw(b, 0.4, 5.0)
    noise = blur(torch.randn(x.shape, generator=generator), grain) * (draw(b, 0.2, 1.5) * grain)[:, None, None, None]
    block = _BLOCKS[int(torch.randint(len(_BLOCKS), (), generator=generator))]
    covers = torch.stack([flat, flat + noise, scramble(x, block, generator), blur(x, draw(b, *_BLURRED))])
    cover = covers[torch.randint(len(covers), (b,), generator=generator), torch.arange(b)]
    soft = (2 * blur(mask, draw(b, 0.3, 3.0))).clamp(max=1)
    everywhere = (draw(b, 0, 1) < 1 / 3)[:, None, None, None]
    return x.lerp(cover, soft.where(~everywhere, 1.0)).clamp(-1, 1)


def move(
    x: torch.Tensor, points: torch.Tensor, zoom: torch.Tensor, shift: torch.Tensor, edge: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [b, c, n, n] and points [b, k, 2] zoomed [b] about the middle, then shifted [b, 2] (x, y) in
    pixels.

    edge: whether what lies outside looks like the nearest edge; else it is black.
    """
    n = x.shape[-1]
    middle = (n - 1) / 2
    theta = torch.cat([torch.eye(2).expand(len(x), 2, 2), -2 / n * shift[:, :, None]], dim=2) / zoom[:, None, None]
    grid = affine_grid(theta, x.shape, align_corners=False)
    transformed = grid_sample(x + 1, grid, padding_mode="border" if edge else "zeros", align_corners=False) - 1
    return transformed, (points - middle) * zoom[:, None, None] + middle + shift[:, None]


def vary(x: torch.Tensor, points: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [b, 3, n, n] in -1..1 and their points, nearer or farther, softer, noisier, brighter or darker."""
    (b, n), draw = (len(x), x.shape[-1]), _draws(generator)
    zoom = draw(b, *_ZOOM)
    reach = _SHIFT * n + (1 - zoom).abs() * n / 2
    shift = reach[:, None] * torch.stack([draw(b, -1, 1), draw(b, -1, 1)], dim=1)
    x, points = move(x, points, zoom, shift, bool(draw(1, 0, 1) < 0.5))
    x = blur(x, draw(b, 0.2, _SOFTEST))
    contrast, brightness, noise = (
        draw(b, *limits)[:, None, None, None] for limits in ((0.8, 1.2), (-0.15, 0.15), (0, 0.12))
    )
    x = x * contrast + brightness + noise * torch.randn(x.shape, generator=generator)
    return x.clamp(-1, 1), points


def examples(
    dataset: ImageSet, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images [count, 3, n, n], points [count, 5, 2], and whether there is a face [count]: in the first half."""
    indices = torch.randint(len(dataset), (count,), generator=generator).tolist()
    x, half = as_pixels(dataset.images(indices)), count // 2
    faces = dataset.masks(indices[half:])[:, 0]
    x = torch.cat([x[:half], spoil(x[half:], faces, generator)])
    return *vary(x, dataset.points(indices), generator), torch.arange(count) < half


def train(
    network: Finder,
    dataset: ImageSet,
    settings: FinderSettings,
    device,
    checkpoint=None,
    after_step=lambda progress: None,
):
    """Train in place, on pictures drawn with replacement; returns the progress with the running average."""
    network.to(device, memory_format=torch.channels_last)
    dtype = compute_dtype(settings.precision, device)

    def loss_of(generator: torch.Generator, step: int) -> torch.Tensor:
        x, points, present = (part.to(device) for part in examples(dataset, settings.batch, generator))
        predicted, presence = lower(network, dtype)(x.to(dtype, memory_format=torch.channels_last))
        return loss(predicted, presence, points, present, settings.points)

    groups = [loop.Group(dict(network.named_parameters()), settings.lr)]
    return loop.train(groups, loss_of, settings, device, checkpoint, after_step)


def make_weights(
    dataset: ImageSet, settings: FinderSettings = RECIPE, after_step=lambda progress: None, checkpoint=None
) -> dict[str, torch.Tensor]:
    """Return the float16 weights of a finder that is trained on `pictures` by the recipe, on the CPU."""
    torch.manual_seed(settings.seed)
    network = Finder(FinderSizes())
    average = train(network, dataset, settings, torch.device("cpu"), checkpoint, after_step).average
    return {name: weight.half().contiguous() for name, weight in average.items()}


def _draws(generator: torch.Generator):
    """Return uniform numbers [count] between two limits, from the generator."""
    return lambda count, low, high: low + (high - low) * torch.rand(count, generator=generator)
