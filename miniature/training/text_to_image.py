"""The miniature's base model from scratch: a UNet and a text encoder that learn together to draw what a caption says.

The language also knows names, as SD's knows those of the famous: in some captions two words stand in the place of "a
man" or "a woman", whose embeddings are a learned linear image of who the person is. What the model learned of names
stays with it; the map from people to names is not kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import nn

from ...training import loop
from ...training.frozen import mean_in_mask
from ...training.plain_attention import quick_on
from ...training.precision import compute_dtype, lower
from ...training.settings import TrainingSettings
from ..models import base_model as miniature
from ..models.language import Captions, TextEncoder, Vocabulary, draw_weights


@dataclass(frozen=True)
class BaseSettings(TrainingSettings):
    """drop: how often the caption is left out. named, person: how often the caption calls the person by name, or a
    person instead of a man or a woman. long: how often the text encoder pads to all its rows, which costs time and is
    what the host does. focus: how many times as much as elsewhere the loss counts where the lessons' focus is 1.
    time_power: steps t of the schedule are drawn as T u^p, u even in 0..1; above 1, those of little noise more often.
    """

    batch: int = 64
    lr: float = 1e-3
    drop: float = 0.1
    named: float = 0.35
    person: float = 0.15
    long: float = 0.3
    focus: float = 1.0
    time_power: float = 1.0


def add_noise(z_0: torch.Tensor, eps: torch.Tensor, alphas_bar: torch.Tensor) -> torch.Tensor:
    """Return z_t = sqrt(a) z_0 + sqrt(1 - a) eps for latents [b, c, h, w] at the levels a [b]."""
    a = alphas_bar[:, None, None, None]
    return a.sqrt() * z_0 + (1 - a).sqrt() * eps


def velocity(z_0: torch.Tensor, eps: torch.Tensor, alphas_bar: torch.Tensor) -> torch.Tensor:
    """Return v = sqrt(a) eps - sqrt(1 - a) z_0, the target of the model."""
    a = alphas_bar[:, None, None, None]
    return a.sqrt() * eps - (1 - a).sqrt() * z_0


class BaseNetwork(nn.Module):
    """UNet and text encoder, with what is needed to train them."""

    def __init__(self, vocabulary: Vocabulary, width: int, in_channels: int = miniature.CHANNELS):
        super().__init__()
        layout, operations = miniature.unet_layout(width, in_channels), comfy.ops.disable_weight_init
        self.unet = UNetModel(**layout, operations=operations, dtype=torch.float32)
        draw_weights(self.unet)
        for name, module in self.unet.named_modules():
            if name.endswith(("out_layers.3", "proj_out", "out.2")):  # what a residual branch adds begins at nothing
                nn.init.zeros_(module.weight)
        self.text = TextEncoder(vocabulary)

    def forward(self, z_t, t, tokens, traits, options):
        return self.unet(z_t, t, self.text(tokens, traits), transformer_options=options)


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a base learns from: n pictures as latents [n, c, h, w] of unit variance, who is in them, and their captions.

    traits: [n, ...]. conditions: None, or what an inpainting model is given besides, [n, 1 + c, h, w]: the mask and the
    latents of the picture without what is masked. focus: None, or how much each cell matters, [n, h, w] in 0..1.
    """

    latents: torch.Tensor
    traits: torch.Tensor
    captions: Captions
    conditions: torch.Tensor | None = None
    focus: torch.Tensor | None = None


def train(
    base: BaseNetwork,
    lessons: Lessons,
    alphas_bar: torch.Tensor,
    settings: BaseSettings,
    device,
    checkpoint,
    after_step,
    learns: Callable[[str], bool] = lambda name: True,
):
    """Train in place and return the progress, with the running average.

    alphas_bar: [T] of the noise schedule. learns: whether the parameter of a name is trained.
    """
    base.to(device)
    dtype = compute_dtype(settings.precision, device)
    options = quick_on(device)

    def loss_of(generator: torch.Generator, step: int) -> torch.Tensor:
        indices = torch.randint(len(lessons.latents), (settings.batch,), generator=generator)
        z_0 = lessons.latents[indices].float()
        t = (len(alphas_bar) * torch.rand(settings.batch, generator=generator) ** settings.time_power).long()
        eps = torch.randn(z_0.shape, generator=generator)
        manner = {"": settings.drop, "named": settings.named, "person": settings.person}
        tokens = lessons.captions.draw(indices, manner, settings.long, generator).to(device)
        z_t = add_noise(z_0, eps, alphas_bar[t])
        if lessons.conditions is not None:
            z_t = torch.cat((z_t, lessons.conditions[indices]), dim=1)
        z_t, traits = (tensor.to(device, dtype) for tensor in (z_t, lessons.traits[indices]))
        made = lower(base, dtype)(z_t, t.to(device), tokens, traits, dict(options))
        focus = torch.zeros(z_0[:, 0].shape) if lessons.focus is None else lessons.focus[indices].float()
        weights = 1 + (settings.focus - 1) * focus.to(device)
        error = made.float() - velocity(z_0, eps, alphas_bar[t]).to(device)
        return mean_in_mask(error.square(), weights)

    learned = {name: tensor.requires_grad_(learns(name)) for name, tensor in base.named_parameters()}
    groups = [loop.Group({name: tensor for name, tensor in learned.items() if tensor.requires_grad}, settings.lr)]
    return loop.train(groups, loss_of, settings, device, checkpoint, after_step)


def checkpoint_weights(base: BaseNetwork, autoencoder: nn.Module, vocabulary: Vocabulary) -> dict[str, torch.Tensor]:
    """Return everything `miniature.base.load_base` reads, under its names, in float16."""
    parts = {
        miniature.UNET: base.unet.state_dict(),
        miniature.TEXT_ENCODER: base.text.weights(),
        miniature.FIRST_STAGE: autoencoder.state_dict(),
    }
    floats = {f"{prefix}{name}": tensor.detach() for prefix, part in parts.items() for name, tensor in part.items()}
    return {name: tensor.half().contiguous() for name, tensor in floats.items()} | {miniature.TOKENS: vocabulary.tokens}
