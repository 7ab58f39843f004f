"""A regressor of the drawn world's expressions, in the layout of Deep3DFaceRecon's: what it tells is known exactly."""

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import mse_loss

from ...encoders.deep3d import COEFFICIENTS, EXPRESSION, Regressor, RegressorSizes, cut_aligned
from ...training import loop
from ...training.precision import cast_to, compute_dtype
from ...training.settings import TrainingSettings
from ..world.dataset import ImageSet
from ..world.people import VECTOR_NAMES, Person, as_vector
from ..world.scenes import EXPRESSIONS, Scene
from .crops import read_faces
from .degrade import soften

SIZES = RegressorSizes(16, ((1, 8), (1, 16), (1, 32), (1, 64)), (80, 64, 80, 3, 27, 2, 1))
_ANGLE, _LIGHT = 224, 227  # where pose and light begin among the coefficients


@dataclass(frozen=True)
class ExpressionSettings(TrainingSettings):
    """soft: how often a crop is as soft as a small model draws."""

    batch: int = 32
    lr: float = 2e-3
    soft: float = 0.5


@cache
def directions() -> torch.Tensor:
    """Return the coefficients of each of EXPRESSIONS, [6, 64]: of length 1, at right angles to the others."""
    generator = torch.Generator().manual_seed(0)
    square = torch.linalg.qr(torch.randn(64, 64, generator=generator)).Q
    return square[: len(EXPRESSIONS)]


def coefficients(subject: Person, scene: Scene) -> torch.Tensor:
    """Return what the regressor is to tell of a person in a scene, [257]: looks, expression, yaw and roll, light; else
    0.
    """
    target = torch.zeros(COEFFICIENTS)
    target[: len(VECTOR_NAMES)] = torch.from_numpy(as_vector(subject))
    target[EXPRESSION] = directions()[EXPRESSIONS.index(scene.expression)]
    target[_ANGLE + 1 : _ANGLE + 3] = torch.tensor([scene.yaw, scene.roll])
    target[_LIGHT : _LIGHT + 3] = torch.tensor([scene.light_x, scene.light_y, scene.light])
    return target


def cut_crops(dataset: ImageSet, indices) -> torch.Tensor:
    """Return crops uint8 [n, 224, 224, 3], aligned as the regressor expects it."""
    faces = read_faces(dataset, indices)
    made = [cut_aligned(image, face.points) for image, (face,) in zip(faces.images, faces.per_image)]
    return (torch.stack(made) * 255).round().to(torch.uint8)


def classes(coefficients: torch.Tensor) -> torch.Tensor:
    """Return which of EXPRESSIONS each of [n, 64] is nearest to, [n]."""
    return (coefficients @ directions().T.to(coefficients)).argmax(dim=1)


def train(
    network: Regressor,
    crops: torch.Tensor,
    targets: torch.Tensor,
    settings: ExpressionSettings,
    device,
    checkpoint,
    after_step,
):
    """Train in place on crops uint8 [n, 224, 224, 3] and coefficients [n, 257]; returns the progress."""
    network.to(device).train()
    dtype = compute_dtype(settings.precision, device)
    used = targets.abs().amax(dim=0) > 0
    weight = torch.where(torch.arange(COEFFICIENTS) < EXPRESSION.start, 0.3, 1.0)[used]
    weight[(used.cumsum(0)[EXPRESSION] - 1).unique()] = 8.0  # 64 numbers of length 1 are small
    weight = weight.to(device)

    def loss_of(generator: torch.Generator, step: int) -> torch.Tensor:
        indices = torch.randint(len(targets), (settings.batch,), generator=generator)
        pixels = soften(crops[indices].movedim(-1, 1).float() / 255, settings.soft, generator).to(device)
        with cast_to(dtype, device):
            predicted = network(pixels).float()
        target = targets[indices].to(device)
        return mse_loss(predicted[:, used] * weight, target[:, used] * weight)

    groups = [loop.Group(dict(network.named_parameters()), settings.lr)]
    return loop.train(groups, loss_of, settings, device, checkpoint, after_step)
