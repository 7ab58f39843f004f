"""Face2Diffusion's training (arXiv 2403.05094, Eq. 5-7; docs/papers.md 3.6): two words of a face, by CGDR."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from ..adapters.face2diffusion import MappingNetwork, MappingSizes
from ..adapters.face_prompt import FIRST
from . import loop
from .frozen import Condition, Frozen, NoisyBatch, mean_in_mask, prediction_error, sample_noise
from .portraits import Portraits
from .settings import AdapterSettings, Count, Positive, Share, Weight
from .text_model import NAME
from .watch import Loss

MODES = ("cgdr", "reconstruction", "masked")
_FEATURES = ("msid", "expression")


@dataclass(frozen=True)
class Face2DiffusionSettings(AdapterSettings):
    """hidden: widths of both networks. dropout: share of their numbers that are left out in training, as published.

    prompt, class_words: the words around the face, and in its place.
    keep_expression: how often the expression is told; else it is the learned unconditional one.
    mode: "cgdr", or the ablations "reconstruction" and "masked" (the plain loss, and that inside the face only).
    focus: how many times as much an error inside the face counts as one outside; 1 as published.
    """

    lr: Positive = 1e-5
    hidden: tuple[Count, ...] = (1536, 1536)
    dropout: Share = 0.1
    keep_expression: Share = 0.8
    mode: Literal[MODES] = MODES[0]
    focus: Weight = 1.0
    prompt: str = "a photo of"
    class_words: str = "a person"


def cgdr_target(z_0: torch.Tensor, class_denoised: torch.Tensor, face: torch.Tensor) -> torch.Tensor:
    """Return Eq. 6 in clean latents: the image inside the face, the class prompt's outside: z_0 M + z_c (1 - M).

    z_0, class_denoised: [b, c, h, w]; face: M, [b, h, w] in 0..1. Written in clean latents, it is the paper's target
    eps M + eps_c (1 - M) up to the factor that `prediction_error` has.
    """
    return torch.lerp(class_denoised, z_0, face[:, None])


def insert_words(embeddings: torch.Tensor, tokens: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Return word embeddings with positions [b, n, d] of tokens [b, n], the two words [b, 2, d] in the place of "f l".

    As published, the words have no position.
    """
    people, columns = (tokens == FIRST).nonzero(as_tuple=True)
    for word, column in enumerate((columns, columns + 1)):
        embeddings = embeddings.index_put((people, column), words[people, word].to(embeddings))
    return embeddings


def make_mapping(portraits: Portraits, word: int, settings: Face2DiffusionSettings) -> MappingNetwork:
    """Return a fresh mapping network for the portraits' features, with words as wide as `word`."""
    identity, expression = (math.prod(portraits.features[name].shape[1:]) for name in _FEATURES)
    network = MappingNetwork(MappingSizes(identity, expression, settings.hidden, word))
    torch.nn.init.zeros_(network.null_exp)
    return network


@contextlib.contextmanager
def dropped(network: MappingNetwork, share: float, generator: torch.Generator) -> Iterator[None]:
    """Leave out a share of the numbers between the layers of a network in training, as published: before each ReLU."""

    def drop(layer, inputs, outputs: torch.Tensor) -> torch.Tensor:
        left = torch.rand(outputs.shape, generator=generator) >= share
        return outputs * left.to(outputs) / (1 - share)

    layers = [layer for mlp in (network.i2t_first, network.i2t_last) for layer in mlp.layers]
    hooks = [layer.register_forward_hook(drop) for layer in layers if share and network.training]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def step_loss(
    base: Frozen,
    network: MappingNetwork,
    portraits: Portraits,
    prompts: torch.Tensor,
    settings: Face2DiffusionSettings,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return Eq. 5-7 (arXiv 2403.05094) of a sampled batch.

    prompts: tokens [2, 77] with the two words, and with the class in their place.
    """
    indices = torch.randint(len(portraits), (settings.batch,), generator=generator)
    identity, expression = (
        portraits.features[name][indices].flatten(1).to(base.device, torch.float32) for name in _FEATURES
    )
    tells_expression = (torch.rand(settings.batch, 1, generator=generator) < settings.keep_expression).to(identity)
    with dropped(network, settings.dropout, generator):
        words = network(identity, expression, tells_expression)
    batch = sample_noise(base, portraits.latents[indices], generator)
    named, of_class = prompts.expand(settings.batch, -1, -1).unbind(1)
    context = base.context(insert_words(base.embeddings(named), named, words))
    denoised = base.denoise(batch.z_t, batch.sigma, context, {})
    face = portraits.faces[indices].to(denoised)
    target = (
        batch.z_0 if settings.mode != "cgdr" else cgdr_target(batch.z_0, _denoise_class(base, batch, of_class), face)
    )
    square = prediction_error(base, denoised, target, batch.sigma).square()
    return mean_in_mask(square, face if settings.mode == "masked" else 1 + (settings.focus - 1) * face)


@torch.no_grad()
def _denoise_class(base: Frozen, batch: NoisyBatch, tokens: torch.Tensor) -> torch.Tensor:
    """Return what the class prompt makes of the same noise; no gradient goes through it."""
    context = base.context(base.embeddings(tokens[:1]))  # all rows say the same
    return base.denoise(batch.z_t, batch.sigma, context.expand(len(tokens), -1, -1), {})


def make(base: Frozen, portraits: Portraits, settings: Face2DiffusionSettings) -> MappingNetwork:
    """Return a fresh mapping network for `base` and "msid" [n, 1, d] and "expression" [n, e] features.

    Raises ValueError for an unknown mode.
    """
    if settings.mode not in MODES:
        modes = ", ".join(MODES)
        raise ValueError(f"'{settings.mode}' is no mode of Face2Diffusion's training; choose one of {modes}.")
    torch.manual_seed(settings.seed)
    width = base.text.embeddings.token_embedding.weight.shape[1]
    return make_mapping(portraits, width, settings).to(base.device)


def make_loss(base: Frozen, network: MappingNetwork, portraits: Portraits, settings: Face2DiffusionSettings) -> Loss:
    """Return the loss of batches sampled from `portraits`, a function of generator and step."""
    prompts = base.tokens([f"{settings.prompt} {words}" for words in (NAME, settings.class_words)])

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        with base.autocast():
            return step_loss(base, network, portraits, prompts, settings, generator)

    return loss


def conditions(
    base: Frozen, network: MappingNetwork, data: tuple[Portraits], rows: torch.Tensor, settings: Face2DiffusionSettings
) -> tuple[Condition, Condition]:
    """Return the `Condition`s of drawing some rows [b] of the portraits: with the face in the caption, and of "".

    The two words take the place of the class's in the caption; where it has none, they are a prompt of their own.
    """
    (portraits,) = data
    inputs = (portraits.features[name][rows].flatten(1).to(base.device, torch.float32) for name in _FEATURES)
    captions = [portraits.captions[row] for row in rows.tolist()]
    bare = f"{settings.prompt} {NAME}"
    tokens = base.tokens(
        [text.replace(settings.class_words, NAME) if settings.class_words in text else bare for text in captions]
    )
    context = base.context(insert_words(base.embeddings(tokens), tokens, network(*inputs)))
    nothing = base.context(base.embeddings(base.tokens([""] * len(rows))))
    return Condition(context, {}), Condition(nothing, {})


def make_groups(network: MappingNetwork, settings: Face2DiffusionSettings) -> list[loop.Group]:
    """Return what learns at which rate."""
    return [loop.Group(dict(network.named_parameters()), settings.lr)]
