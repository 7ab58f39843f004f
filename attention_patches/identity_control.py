"""InstantID's ControlNet: one that reads a person's tokens in place of the prompt (docs/papers.md 4.7)."""

import comfy.controlnet
import torch
from torch.nn.functional import interpolate

from .calls import read_rows
from .infinite_id import STREAMS

NEUTRAL = comfy.controlnet.ControlBase()  # merges residuals whose strength has been applied


class IdentityControl(comfy.controlnet.ControlNet):
    """A ControlNet for one person; others of the chain, before or behind, go on reading the prompt.

    tokens: [2, m, D] of the positive and the other conditions; mask: [1, H, W] in 0..1 of the image to be made, where
    its residuals go; None: everywhere
    """

    def __init__(self, tokens: torch.Tensor, mask: torch.Tensor | None = None, **settings):
        super().__init__(**settings)
        self.tokens = tokens
        self.mask = mask

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        """Return the residuals of this ControlNet and of those before it, as the host asks for them."""
        previous = self.previous_controlnet
        if previous is not None:
            previous = previous.get_control(x_noisy, t, cond, batched_number, transformer_options)
        streams, count, options = transformer_options.get(STREAMS), len(x_noisy), transformer_options
        if streams:
            count, options = count // 2, streams.describe_half(options)
        tokens = read_rows(options, count).expand(self.tokens.to(x_noisy))
        if streams:
            tokens = streams.join(tokens, tokens)
        with comfy.controlnet.ControlIsolation(self):
            own = super().get_control(
                x_noisy, t, cond | {"crossattn_controlnet": tokens}, batched_number, transformer_options
            )
        if own is None:
            return previous
        if self.mask is not None:
            own = {part: [self._mask(residual) for residual in residuals] for part, residuals in own.items()}
        if streams:  # Infinite-ID's text stream has no face
            own = {
                part: [_keep_identity(streams, residual) for residual in residuals] for part, residuals in own.items()
            }
        return NEUTRAL.control_merge(own, previous, None)

    def _mask(self, residual: torch.Tensor) -> torch.Tensor:
        mask = interpolate(self.mask[:, None], residual.shape[-2:], mode="bilinear", align_corners=False)
        return residual * mask.to(residual)

    def copy(self) -> "IdentityControl":
        """Return the same for another conditioning; the network is shared."""
        copied = type(self)(self.tokens, self.mask)
        copied.take_over(self)
        return copied

    def take_over(self, control: comfy.controlnet.ControlNet) -> None:
        """Share the network and the settings of a ControlNet."""
        self.control_model, self.control_model_wrapped = control.control_model, control.control_model_wrapped
        self.load_device, self.manual_cast_dtype = control.load_device, control.manual_cast_dtype
        control.copy_to(self)


def _keep_identity(streams, residual: torch.Tensor) -> torch.Tensor:
    identity, text = streams.split(residual)
    return streams.join(identity, torch.zeros_like(text))


def make_identity_control(control, tokens: torch.Tensor, mask: torch.Tensor | None) -> IdentityControl:
    """Return the host's ControlNet `control` as one that reads a person's tokens [2, m, D].

    mask: as `IdentityControl`. Raises ValueError where it is another kind of control, or reads another width.
    """
    if type(control) is not comfy.controlnet.ControlNet:
        kind = type(control).__name__
        raise ValueError(
            f"InstantID needs its own ControlNet, which reads a prompt; the one connected is a {kind}. Load "
            "InstantID's ControlNetModel/diffusion_pytorch_model.safetensors in Load ControlNet Model."
        )
    widths = {m.to_k.in_features for name, m in control.control_model.named_modules() if name.endswith("attn2")}
    if widths != {tokens.shape[-1]}:
        raise ValueError(
            f"InstantID's tokens are {tokens.shape[-1]} wide, but the connected ControlNet reads prompts "
            f"{'/'.join(map(str, sorted(widths))) or 'of no width'} wide: it is one for another base model. Load "
            "InstantID's ControlNetModel/diffusion_pytorch_model.safetensors in Load ControlNet Model."
        )
    identity = IdentityControl(tokens, mask)
    identity.take_over(control)
    return identity


def apply_identity_control(conditionings, control: IdentityControl, image, strength: float, span: tuple[float, float]):
    """Return copies of the conditionings that go through `control`, chained behind what they have.

    conditionings: several CONDITIONING, positive and negative alike, so that they share one call of the network
    image: [1, H, W, 3], of five points; span: from where to where in the sampling, in 0..1

    Strength 0, an empty mask and an empty span return them as they are.
    """
    if strength == 0 or span[0] >= span[1] or (control.mask is not None and not control.mask.any()):
        return list(conditionings)
    by_previous = {}

    def chain(previous):
        if previous not in by_previous:
            by_previous[previous] = control.copy().set_cond_hint(image.movedim(-1, 1), strength, span)
            by_previous[previous].set_previous_controlnet(previous)
        return by_previous[previous]

    def extend(values: dict) -> dict:
        return values | {"control": chain(values.get("control")), "control_apply_to_uncond": False}

    return [[[prompt, extend(values)] for prompt, values in conditioning] for conditioning in conditionings]
