"""A CLIP of the drawn world from scratch: pictures and captions in one space (the host's own two networks)."""

from dataclasses import dataclass

import comfy.clip_model
import comfy.ops
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from ...training import loop
from ...training.precision import cast_to, compute_dtype
from ...training.settings import TrainingSettings
from ...training.text_model import layers_of
from ..models.base_model import TEXT, VISION
from ..models.language import Captions, TextEncoder, Vocabulary, draw_weights
from ..world.dataset import ImageSet
from .degrade import soften

_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]  # of CLIP's pixels, and their deviation
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


@dataclass(frozen=True)
class ClipPairSettings(TrainingSettings):
    """person: how often a caption says "a person". soft: how often a picture is as soft as a small model draws."""

    batch: int = 128
    lr: float = 1e-3
    person: float = 0.25
    soft: float = 0.5


class ClipPair(nn.Module):
    """Both networks under the host's names, their projections, and the temperature."""

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        operations = comfy.ops.disable_weight_init
        self.vision = comfy.clip_model.CLIPVisionModelProjection(VISION, torch.float32, "cpu", operations)
        draw_weights(self.vision)
        embeddings = self.vision.vision_model.embeddings
        for start in (embeddings.position_embedding.weight, embeddings.class_embedding):
            nn.init.normal_(start, std=0.1)
        self.text = TextEncoder(vocabulary)
        self.text_projection = nn.Linear(TEXT["hidden_size"], TEXT["projection_dim"], bias=False)
        self.temperature = nn.Parameter(torch.tensor(2.5))

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor, ends: torch.Tensor):
        """Return unit embeddings of images [b, 3, S, S] and of texts [b, n], which end at the rows `ends` [b]."""
        rows = self.text(tokens, pixels.new_zeros(len(tokens), self.text.names.in_features))
        text = self.text_projection(rows[torch.arange(len(rows)), ends])
        return normalize(self.read_images(pixels), dim=1), normalize(text, dim=1)

    def read_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return embeddings [b, d] of images [b, 3, S, S]; differentiable."""
        network = self.vision.vision_model
        x = layers_of(network.encoder, network.pre_layrnorm(network.embeddings(pixels)), None)
        return self.vision.visual_projection(network.post_layernorm(x[:, 0]))


def contrastive_loss(images: torch.Tensor, texts: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Return CLIP's loss of unit embeddings [b, d] that belong together in pairs; temperature: the logarithm of a
    factor.
    """
    logits = temperature.clamp(max=4.6).exp() * images @ texts.T
    pairs = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2


def ends(tokens: torch.Tensor) -> torch.Tensor:
    """Return the row [b] at which each text [b, n] ends: the first of the padding, which is of the same token."""
    return (tokens == tokens[:, -1:]).int().argmax(dim=1)


def train(
    pair: ClipPair, dataset: ImageSet, captions: Captions, settings: ClipPairSettings, device, checkpoint, after_step
):
    """Train in place on pictures and their captions; returns the progress with the running average."""
    pair.to(device)
    dtype = compute_dtype(settings.precision, device)

    def loss_of(generator: torch.Generator, step: int) -> torch.Tensor:
        indices = torch.randint(len(dataset), (settings.batch,), generator=generator)
        images = soften(dataset.images(indices.tolist()).movedim(-1, 1).float() / 255, settings.soft, generator)
        pixels = ((images - _MEAN) / _STD).to(device)
        tokens = captions.draw(indices, {"person": settings.person}, 0.0, generator).to(device)
        with cast_to(dtype, device):
            return contrastive_loss(*pair(pixels, tokens, ends(tokens)), pair.temperature)

    groups = [loop.Group(dict(pair.named_parameters()), settings.lr)]
    return loop.train(groups, loss_of, settings, device, checkpoint, after_step)
