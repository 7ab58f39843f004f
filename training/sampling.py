"""Pictures on the way of a training: the host's own Euler sampler over whatever predicts clean latents."""

from collections.abc import Callable

import comfy.k_diffusion.sampling
import comfy.samplers
import torch


@torch.no_grad()
def sample(
    model, denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], noise: torch.Tensor, steps: int
) -> torch.Tensor:
    """Return the latents [b, c, h, w], as the VAE reads them, that come of noise [b, c, h, w]; on the CPU.

    model: the host's, for its noise levels. denoise: returns clean latents of noisy ones and their levels [b].
    """
    sampling = model.model_sampling
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps).to(noise.device)
    x = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
    return model.process_latent_out(comfy.k_diffusion.sampling.sample_euler(denoise, x, sigmas, disable=True)).cpu()
