"""FaceA-Net's test-time tuning (docs/papers.md 6): Eq. 2 of the paper, and what it tunes."""

from dataclasses import dataclass

import torch
from torch.nn.functional import mse_loss

from ..adapters.facea import ATTRIBUTES, encode_with_embeddings, insert_features, write_prompt
from .inpainting import Inpainting
from .lora import LoraBranch


def add_noise(model, z_0: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Return z_t: latents [b, c, h, w] with noise of the levels sigma [b], as the host's sampler scales it."""
    return model.model_sampling.noise_scaling(sigma[:, None, None, None], eps, z_0)


def eps_theta(
    model, z_t: torch.Tensor, sigma: torch.Tensor, condition: torch.Tensor, context: torch.Tensor
) -> torch.Tensor:
    """Return the noise that the host's `model` sees in z_t [b, c, h, w], whether it predicts eps or v itself.

    condition: mask and masked latent [b, 5, h, w]; context: rows of the text encoder [b, 77, width].
    """
    denoised = model.apply_model(z_t, sigma, c_concat=condition, c_crossattn=context)
    return (z_t - denoised) / sigma[:, None, None, None]


def facea_loss(eps: torch.Tensor, *predicted: torch.Tensor) -> torch.Tensor:
    """Return Eq. 2: |eps - eps_theta(z_t, m_face, T_face)|^2 + |eps - eps_theta(z_t, m_v, T_v)|^2.

    predicted: what was predicted for each term, [b, c, h, w]. Both weigh the same; the mean is over the whole map, for
    the paper puts no mask on the loss.
    """
    return sum(mse_loss(prediction, eps) for prediction in predicted)


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
        """Return the rows [b, 77, width] of the prompts of b regions with what was learned of them."""
        rows = {region: self._encode(region) for region in dict.fromkeys(regions)}
        return torch.cat([rows[region] for region in regions])

    def _encode(self, region: str) -> torch.Tensor:
        features = self.features[region]
        if self.clip is None:
            return insert_features(*self.rows[region], features)
        # The host's text encoder adds in place to what autograd keeps, but not to the weights.
        weights = {weight.untyped_storage().data_ptr() for weight in self.clip.cond_stage_model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: tensor if tensor.untyped_storage().data_ptr() in weights else tensor.clone(),
            lambda tensor: tensor,
        ):
            return encode_with_embeddings(self.clip, write_prompt(self.word, region), features).to(features.device)


def batch_loss(model, z_t, sigma, condition, context, eps) -> torch.Tensor:
    """Return the loss of b photos in k terms: z_t, sigma, condition, context [k b, ...], eps [b, c, h, w].

    model: the host's UNet model with the LoRA beside its layers.
    """
    predicted = eps_theta(model, z_t, sigma, condition, context)
    return facea_loss(eps, *predicted.chunk(len(z_t) // len(eps)))


def sample_batch(
    model,
    learned: Learned,
    data: Inpainting,
    generator: torch.Generator,
    batch: int,
    attributes: tuple[str, ...] = ATTRIBUTES,
    with_face: bool = True,
) -> tuple[torch.Tensor, ...]:
    """Sample photos with replacement and return what `batch_loss` reads: each photo's global term, then its local one.

    data: on its device. attributes: which may be sampled for the local term; none for no such term. with_face: whether
    there is a global term.
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
    regions = sum(terms, [])
    condition = torch.stack([data.conditions[region][photo] for region, photo in zip(regions, photos.tolist() * 2)])
    z_t = add_noise(model, z_0, sigma, eps).repeat(len(terms), 1, 1, 1)
    return z_t, sigma.repeat(len(terms)), condition, learned.context(regions), eps


def step_loss(model, learned: Learned, *arguments, **options) -> torch.Tensor:
    """Return the loss of a batch that `sample_batch` samples."""
    return batch_loss(model, *sample_batch(model, learned, *arguments, **options))
