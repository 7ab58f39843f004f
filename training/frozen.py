"""A frozen base model in the training of adapters: noise in, the host's own prediction out, nothing of it learns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import comfy.model_base
import torch

from ..adapters.unet_blocks import BLOCKS, recognise_base, transformer_blocks
from .compiling import compile_parts
from .plain_attention import quick_on
from .precision import cast_to, compute_dtype
from .recompute import recompute
from .text_model import text_rows

_SIZE_WIDTH = 256  # of each of the six numbers in SDXL's y


@dataclass(frozen=True, eq=False)
class Frozen:
    """model: the host's BaseModel, and text, the text model of CLIP-L in `clip`: both on the training's `device`.

    kind: "SD1.5" or "SDXL". SDXL, whose text comes from two encoders, has no `text`: only trainings without words know
    it.
    """

    model: comfy.model_base.BaseModel
    text: torch.nn.Module | None
    clip: object
    device: torch.device
    kind: str = "SD1.5"

    @property
    def width(self) -> int:
        """The width of the rows that cross-attentions read."""
        return transformer_blocks(self.model.diffusion_model)[BLOCKS[self.kind][0]].attn2.to_k.weight.shape[1]

    def tokens(self, captions: Sequence[str]) -> torch.Tensor:
        """Return tokens int32 [n, 77]; of a caption that is longer, the first chunk."""
        once = {text: [token for token, *_ in self.clip.tokenize(text)["l"][0]] for text in dict.fromkeys(captions)}
        return torch.tensor([once[text] for text in captions], dtype=torch.int32)

    def embeddings(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return word and position embeddings [b, 77, d] of tokens [b, 77]."""
        words = self.text.embeddings.token_embedding.weight[tokens.to(self.device, torch.long)]
        return words + self.text.embeddings.position_embedding.weight

    def context(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the rows [b, 77, d] for the UNet of word embeddings with positions [b, 77, d]; differentiable."""
        return text_rows(self.text, embeddings)

    def autocast(self) -> torch.autocast:
        """Return the context in which adapters, whose weights are float32, compute in the base's precision."""
        return cast_to(self.model.get_dtype_inference(), self.device)

    def size_condition(self, sizes: torch.Tensor, height: int, width: int) -> torch.Tensor | None:
        """Return SDXL's y [b, 2816] of pictures of height x width pixels; None for SD1.x.

        sizes: [b, 4], as `Portraits` have them. Its text is none: zeros, as where SDXL learned without one.
        """
        if self.kind != "SDXL":
            return None
        pooled = torch.zeros(1, self.model.adm_channels - 6 * _SIZE_WIDTH)
        target = {"target_height": height, "target_width": width, "pooled_output": pooled}
        named = (dict(zip(("height", "width", "crop_h", "crop_w"), row)) for row in sizes.tolist())
        return torch.cat([self.model.encode_adm(**row, **target) for row in named]).to(self.device)

    def denoise(
        self,
        z_t: torch.Tensor,
        sigma: torch.Tensor,
        context: torch.Tensor,
        options: dict,
        y: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the clean latents, float32, that the model predicts of z_t [b, c, h, w] at levels sigma [b].

        y: SDXL's, see `size_condition`.
        """
        more = {} if y is None else {"y": y}
        return self.model.apply_model(
            z_t, sigma, c_crossattn=context, transformer_options=quick_on(self.device) | options, **more
        )


def freeze(model, clip, precision: str, checkpointing: bool = False, compiled: bool = False) -> Frozen:
    """Return the base model of a model patcher and CLIP, which nobody else uses, computing in one of PRECISIONS.

    checkpointing: less memory, more time. compiled: minutes first, less time then, see `compiling`.
    """
    device = model.load_device
    inner, unet = model.model, model.model.diffusion_model
    unet.dtype = compute_dtype(precision, device)
    inner.manual_cast_dtype = None
    unet.to(device, unet.dtype).requires_grad_(False)
    if compiled:
        compile_parts(unet, device)
    if checkpointing:
        recompute(unet)
    kind, text = recognise_base(unet), None
    if kind == "SD1.5":
        text = clip.cond_stage_model.clip_l.transformer.text_model.to(device, torch.float32).requires_grad_(False)
    return Frozen(inner, text, clip, device, kind)


class Condition(NamedTuple):
    """What the model is told beside noise: rows for the cross-attentions, options for the host, SDXL's y if any."""

    context: torch.Tensor
    options: dict
    y: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class NoisyBatch:
    """A batch in training: clean latents z_0 [b, c, h, w], the same with noise z_t, noise levels sigma [b]."""

    z_0: torch.Tensor
    z_t: torch.Tensor
    sigma: torch.Tensor


def sample_noise(base: Frozen, z_0: torch.Tensor, generator: torch.Generator) -> NoisyBatch:
    """Return latents [b, c, h, w] with noise, all levels of the schedule being equally likely."""
    sampling = base.model.model_sampling
    t = torch.randint(len(sampling.sigmas), (len(z_0),), generator=generator)
    eps = torch.randn(z_0.shape, generator=generator).to(base.device)
    z_0, sigma = z_0.to(base.device, torch.float32), sampling.sigmas.float().cpu()[t].to(base.device)
    return NoisyBatch(z_0, sampling.noise_scaling(sigma[:, None, None, None], eps, z_0), sigma)


def error_scale(base: Frozen, sigma: torch.Tensor) -> torch.Tensor:
    """Return the factor [b, 1, 1, 1] that makes an error in clean latents one in what the model predicts.

    With eps it is 1 / sigma; with v, sqrt(sigma^2 + 1) / sigma. So a mean square of the product is the papers' loss.
    """
    sigma = sigma[:, None, None, None]
    if base.model.model_type == comfy.model_base.ModelType.V_PREDICTION:
        return (sigma.square() + 1).sqrt() / sigma
    return 1 / sigma


def prediction_error(base: Frozen, denoised: torch.Tensor, target: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return the error [b, c, h, w] of the model's prediction, eps or v, where `target` is the clean latent."""
    return (target - denoised) * error_scale(base, sigma)


def mean_in_mask(square: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return sum(square M) / (c sum(M)) of [b, c, h, w] and masks or weights [b, h, w]: the masked diffusion loss."""
    mask = mask[:, None].to(square)
    return (square * mask).sum() / (square.shape[1] * mask.sum()).clamp(min=1e-6)
