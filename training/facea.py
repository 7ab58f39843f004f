"""FaceA-Net's test-time tuning (docs/papers.md 6): Eq. 2 of the paper, and what it tunes."""

from dataclasses import dataclass

import torch
from torch.nn.functional import mse_loss

from ..adapters.facea import ATTRIBUTES, embedded_rows, prompt_of, with_features
from .inpainting import Inpainting
from .lora import LoraBranch


def noised(model, z_0: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """z_t: latents [b, c, h, w] with noise of the levels sigma [b], as the host's sampler scales it."""
    return model.model_sampling.noise_scaling(sigma[:, None, None, None], eps, z_0)


def eps_theta(
    model, z_t: torch.Tensor, sigma: torch.Tensor, condition: torch.Tensor, context: torch.Tensor
) -> torch.Tensor:
    """The noise that the host's `model` sees in z_t [b, c, h, w], whether it predicts eps or v itself.

    condition: mask and masked latent [b, 5, h, w]; context: rows of the text encoder [b, 77, width].
    """
    denoised = model.apply_model(z_t, sigma, c_concat=condition, c_crossattn=context)
    return (z_t - denoised) / sigma[:, None, None, None]


def facea_loss(eps: torch.Tensor, *predicted: torch.Tensor) -> torch.Tensor:
    """Eq. 2: |eps - eps_theta(z_t, m_face, T_face)|^2 + |eps - eps_theta(z_t, m_v, T_v)|^2.

    predicted: what was predicted for each term, [b, c, h, w]. Both weigh the same; the mean is over the whole map, for
    the paper puts no mask on the loss.
    """
    return sum(mse_loss(each, eps) for each in predicted)


@dataclass(frozen=True, eq=False)
class Learned:
    """What is tuned, on the device of the training.

    lora: layer -> its branch. features: region -> [n, width]. word: the one of the prompts. rows: region -> the text
    encoder's [1, 77, width] and the first padding row, for the output level; clip: the text encoder, for the input
    level, otherwise None.
    """

    lora: dict[str, LoraBranch]
    features: dict[str, torch.nn.Parameter]
    word: str
    rows: dict[str, tuple[torch.Tensor, int]]
    clip: object = None

    def context(self, regions: list[str]) -> torch.Tensor:
        """The rows [b, 77, width] of the prompts of b regions with what was learned of them."""
        once = {region: self._rows(region) for region in dict.fromkeys(regions)}
        return torch.cat([once[region] for region in regions])

    def _rows(self, region: str) -> torch.Tensor:
        features = self.features[region]
        if self.clip is None:
            return with_features(*self.rows[region], features)
        # The host's text encoder adds in place to what autograd keeps, but not to the weights.
        weights = {weight.untyped_storage().data_ptr() for weight in self.clip.cond_stage_model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda kept: kept if kept.untyped_storage().data_ptr() in weights else kept.clone(), lambda kept: kept
        ):
            return embedded_rows(self.clip, prompt_of(self.word, region), features).to(features.device)


def step_loss(
    model,
    learned: Learned,
    data: Inpainting,
    generator: torch.Generator,
    batch: int,
    attributes: tuple[str, ...] = ATTRIBUTES,
    with_face: bool = True,
) -> torch.Tensor:
    """Draw a batch with replacement and give its loss: each photo's global term, and a drawn attribute's local one.

    model: the host's UNet model with the LoRA beside its layers. data: on its device. attributes: which may be drawn;
    none for no local term. with_face: whether there is a global term.
    """
    photos = torch.randint(len(data.latents), (batch,), generator=generator)
    sigmas = model.model_sampling.sigmas
    t = torch.randint(len(sigmas), (batch,), generator=generator)
    z_0 = data.latents[photos]
    eps = torch.randn(z_0.shape, generator=generator).to(z_0)
    sigma = sigmas.to(z_0)[t]
    terms = [["face"] * batch] if with_face else []
    if attributes:
        terms.append([attributes[v] for v in torch.randint(len(attributes), (batch,), generator=generator)])
    predicted = _predicted(model, learned, data, photos.tolist(), sum(terms, []), noised(model, z_0, sigma, eps), sigma)
    return facea_loss(eps, *predicted.chunk(len(terms)))


def _predicted(model, learned, data, photos, regions, z_t, sigma) -> torch.Tensor:
    """The noise seen in z_t [b, c, h, w] for each of the terms, one after the other, in one call of the UNet."""
    terms = len(regions) // len(photos)
    condition = torch.stack([data.conditions[region][photo] for region, photo in zip(regions, photos * terms)])
    z_t, sigma = z_t.repeat(terms, 1, 1, 1), sigma.repeat(terms)
    return eps_theta(model, z_t, sigma, condition, learned.context(regions))
