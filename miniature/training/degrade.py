"""Pictures as small models draw them, so that networks trained on drawings also read what is generated."""

import torch
from torch.nn.functional import interpolate

_SOFTEST = 0.35  # of a picture's resolution is left
_BRIGHTNESS = 0.1


def soften(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Return a `share` of the images [b, 3, h, w] in 0..1 at a lower resolution, all a little darker or brighter."""
    batch, _, *size = images.shape
    left = _SOFTEST + (1 - _SOFTEST) * float(torch.rand((), generator=generator))
    small = interpolate(images, scale_factor=left, mode="bilinear", antialias=True)
    soft = interpolate(small, size=size, mode="bilinear")
    chosen = (torch.rand(batch, generator=generator) < share)[:, None, None, None]
    gain = 1 + _BRIGHTNESS * (2 * torch.rand(batch, 1, 1, 1, generator=generator) - 1)
    return (torch.where(chosen, soft, images) * gain).clamp(0, 1)
