"""FACT's decoupled training (docs/papers.md 2.8): masked loss, FAIR, condition drop, same-identity shuffle."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.linalg import vector_norm
from torch.nn.functional import interpolate

from ..adapters.fact import FACE_BLOCKS, PROJECTOR_PREFIX, GatedSelfAttention
from ..adapters.resampler import Resampler, ResamplerSizes
from ..adapters.unet_blocks import transformer_blocks
from ..attention_patches.calls import attend
from ..attention_patches.sfags import gated_self_attention, project_face
from . import loop
from .frozen import Condition, Frozen, mean_in_mask, prediction_error, sample_noise
from .portraits import Portraits, others
from .settings import AdapterSettings, Count, Number, Positive, Share, Weight
from .watch import Loss

DENOMINATORS = ("outside", "increment")  # of L_FAIR
_EPS = 1e-6


@dataclass(frozen=True)
class FactSettings(AdapterSettings):
    """gate: where alpha begins: 0 as published, so that only the gates learn at first; else the layers behind the gates
    begin at nothing, and all learn at once. gates, projector: how many times as fast as the rest these learn.
    queries, dim, depth: sizes of the projector.

    drop: how often a face is replaced by none (zeros). caption_drop: how often the caption is left out.
    shuffle: how often the face is of another photo of the same person, at the start and at the end of the curriculum.
    fair: weight of L_FAIR. denominator: one of DENOMINATORS, see `fair`. outside: weight of the diffusion error outside
    the face against that inside; 1 for the plain loss, 0 for the masked one.
    """

    lr: Positive = 5e-5
    gate: Number = 0.0
    gates: Weight = 1.0
    projector: Weight = 1.0
    queries: Count = 16
    dim: Count = 1024
    depth: Count = 4
    drop: Share = 0.1
    caption_drop: Share = 0.1
    shuffle: tuple[Share, Share] = (0.2, 0.6)
    fair: Weight = 0.01
    denominator: Literal[DENOMINATORS] = DENOMINATORS[0]
    outside: Weight = 0.0


def fair(increment: torch.Tensor, x: torch.Tensor, face: torch.Tensor, denominator: str = "outside") -> torch.Tensor:
    """Return L_FAIR = |GSA(x) (1 - M)| / |x (1 - M)| (docs/papers.md 2.8), the mean over images with a background.

    increment, x: [b, n, d], what a block adds to the tokens, and the tokens; face: [b, n] in 0..1, M where over 0.5.
    denominator: "outside" as the authors' page prints it; "increment" reads it as the share of the whole increment,
    |GSA(x) (1 - M)| / |GSA(x)|.
    """
    outside = (face <= 0.5).to(x)[..., None]
    below = x * outside if denominator == "outside" else increment
    ratio = _norm(increment * outside) / (_norm(below) + _EPS)
    has_background = outside.flatten(1).any(dim=1)
    return (ratio * has_background).sum() / has_background.sum().clamp(min=1)


def _norm(x: torch.Tensor) -> torch.Tensor:
    return vector_norm(x.float().flatten(1), dim=1)


def shuffle_share(settings: FactSettings, step: int) -> float:
    """Return how often the face is of another photo in a step; it rises evenly over the whole training."""
    first, last = settings.shuffle
    return first + (last - first) * step / settings.steps


def make_projector(features: int, width: int, settings: FactSettings) -> Resampler:
    """Return a projector that has learned nothing: [n, tokens, features] -> [n, queries, width]."""
    inner = max(64, settings.dim * 3 // 4 // 64 * 64)
    sizes = ResamplerSizes(settings.queries, settings.dim, settings.depth, inner, 4 * settings.dim, features, width)
    projector = Resampler(sizes)
    nn.init.normal_(projector.latents, std=settings.dim**-0.5)
    return projector


class Fact(nn.Module):
    """Projector and face blocks in training, with the parameter names of `FactAdapter`'s."""

    def __init__(self, base: Frozen, features: int, settings: FactSettings):
        super().__init__()
        blocks = transformer_blocks(base.model.diffusion_model)
        widths = {key[:2]: block.norm2.normalized_shape[0] for key, block in blocks.items()}
        width = base.text.embeddings.token_embedding.weight.shape[1]
        self.projector = make_projector(features, width, settings)
        self.sites = nn.ModuleList(GatedSelfAttention(widths[block.block], width) for block in FACE_BLOCKS)
        for face_block in self.sites:  # whichever way it begins, the base model is as it was
            nn.init.constant_(face_block.alpha_attn, settings.gate)
            nn.init.constant_(face_block.alpha_dense, settings.gate)
            for last in (face_block.attn.to_out[0], face_block.ff.net[2]) if settings.gate else ():
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    @property
    def by_block(self) -> dict[tuple[str, int], nn.Module]:
        """Return the face blocks by the host's names of their blocks."""
        return {block.block: module for block, module in zip(FACE_BLOCKS, self.sites)}

    def state(self) -> dict[str, torch.Tensor]:
        """Return the weights under the published names."""
        weights = {f"{PROJECTOR_PREFIX}{name}": tensor for name, tensor in self.projector.state_dict().items()}
        for block, module in zip(FACE_BLOCKS, self.sites):
            weights |= {f"{block.diffusers}{name}": tensor for name, tensor in module.state_dict().items()}
        return weights


class FaceBlockPatch:
    """What the host calls at every face block in a training step; it keeps L_FAIR of each.

    face: [b, m, d] tokens; masks: [b, h, w] of the face in the latents.
    """

    def __init__(self, by_block: dict, face: torch.Tensor, masks: torch.Tensor, denominator: str):
        self.by_block, self.face, self.masks, self.denominator = by_block, face, masks, denominator
        self.fair: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, extra_options: dict) -> torch.Tensor:
        face_block = self.by_block[extra_options["block"]]
        gates = torch.tanh(face_block.alpha_attn), torch.tanh(face_block.alpha_dense)
        attention = partial(attend, extra_options=extra_options)
        changed = gated_self_attention(x, project_face(face_block, self.face), face_block, *gates, attention)
        size = extra_options["activations_shape"][-2:]
        mask = interpolate(self.masks[:, None], size=tuple(size), mode="area").flatten(1)
        self.fair.append(fair(changed - x, x, mask, self.denominator))
        return changed


def step_loss(
    base: Frozen,
    adapter: Fact,
    portraits: Portraits,
    settings: FactSettings,
    step: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return masked diffusion loss + weight x L_FAIR, the mean over the face blocks, of a sampled batch."""
    indices = torch.randint(len(portraits), (settings.batch,), generator=generator)
    shown = torch.where(
        torch.rand(settings.batch, generator=generator) < shuffle_share(settings, step),
        others(portraits, indices, generator),
        indices,
    )
    features = portraits.features["transface"][shown].to(base.device, torch.float32)
    features[torch.rand(settings.batch, generator=generator) < settings.drop] = 0
    captions = base.tokens([portraits.captions[row] for row in indices.tolist()])
    captions[torch.rand(settings.batch, generator=generator) < settings.caption_drop] = base.tokens([""])[0]
    batch = sample_noise(base, portraits.latents[indices], generator)
    masks = portraits.faces[indices].to(base.device, torch.float32)
    patch = FaceBlockPatch(adapter.by_block, adapter.projector(features), masks, settings.denominator)
    context = base.context(base.embeddings(captions))
    denoised = base.denoise(batch.z_t, batch.sigma, context, {"patches": {"middle_patch": [patch]}})
    square = prediction_error(base, denoised, batch.z_0, batch.sigma).square()
    weight = settings.outside + (1 - settings.outside) * masks
    return mean_in_mask(square, weight) + settings.fair * torch.stack(patch.fair).mean()


def make(base: Frozen, portraits: Portraits, settings: FactSettings) -> Fact:
    """Return a fresh adapter for `base` and "transface" features [n, tokens, d].

    Raises ValueError for an unknown denominator.
    """
    if settings.denominator not in DENOMINATORS:
        raise ValueError(
            f"'{settings.denominator}' is no denominator of FACT's L_FAIR; choose one of {', '.join(DENOMINATORS)}."
        )
    torch.manual_seed(settings.seed)
    return Fact(base, portraits.features["transface"].shape[-1], settings).to(base.device)


def make_loss(base: Frozen, adapter: Fact, portraits: Portraits, settings: FactSettings) -> Loss:
    """Return the loss of batches sampled from `portraits`, a function of generator and step."""

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        with base.autocast():
            return step_loss(base, adapter, portraits, settings, step, generator)

    return loss


def conditions(base: Frozen, adapter: Fact, data: tuple[Portraits], rows: torch.Tensor, settings: FactSettings):
    """Return the `Condition`s of drawing some rows [b] of the portraits: with caption and face, and without."""
    (portraits,) = data
    features = portraits.features["transface"][rows].to(base.device, torch.float32)
    masks = portraits.faces[rows].to(base.device, torch.float32)

    def tell(captions: list[str], features: torch.Tensor) -> Condition:
        patch = FaceBlockPatch(adapter.by_block, adapter.projector(features), masks, settings.denominator)
        context = base.context(base.embeddings(base.tokens(captions)))
        return Condition(context, {"patches": {"middle_patch": [patch]}})

    captions = [portraits.captions[row] for row in rows.tolist()]
    return tell(captions, features), tell([""] * len(rows), torch.zeros_like(features))


def make_groups(adapter: Fact, settings: FactSettings) -> list[loop.Group]:
    """Return what learns at which rate, in the order of checkpoints; the projector is among the rest if it can be."""
    named = dict(adapter.named_parameters())
    gates = {name: tensor for name, tensor in named.items() if "alpha_" in name}
    apart = settings.projector != 1
    projector = {name: tensor for name, tensor in named.items() if apart and name.startswith("projector.")}
    rest = {name: tensor for name, tensor in named.items() if name not in gates | projector}
    groups = ((rest, 1.0), (projector, settings.projector), (gates, settings.gates))
    return [loop.Group(parameters, settings.lr * times) for parameters, times in groups if parameters]
