"""The miniature's autoencoder: pictures of 96 pixels to 8 x 8 latents of 16 channels and back.

All convolutions work at a third of the picture's resolution or less: a pixel's 3 x 3 neighbours are channels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

SHRINK = 12  # pixels of a picture's side to one of the latents'
_GROUPS = 8


@dataclass(frozen=True)
class AutoencoderSizes:
    """channels: of the latents; encoder, decoder: widths of the levels, from fine to coarse and from coarse to fine.

    stem: pixels to a side of what the first convolution sees as one.
    """

    channels: int = 16
    encoder: tuple[int, ...] = (48, 64, 128)
    decoder: tuple[int, ...] = (160, 96, 48)
    stem: int = 3

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor]) -> "AutoencoderSizes":
        """Return the sizes of a state dict."""
        counts = [sum(name.startswith(f"{part}.levels.") and name.endswith(".0.first.weight") for name in weights)
                  for part in ("encoder", "decoder")]  # fmt: skip
        encoder, decoder = (
            tuple(len(weights[f"{part}.levels.{level}.0.first.weight"]) for level in range(count))
            for part, count in zip(("encoder", "decoder"), counts)
        )
        stem = math.isqrt(weights["encoder.entry.weight"].shape[1] // 3)
        return cls(len(weights["encoder.exit.weight"]) // 2, encoder, decoder, stem)


class Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), on [b, width, h, w]."""

    def __init__(self, width: int, operations=nn, **factory):
        super().__init__()
        self.norm1 = operations.GroupNorm(_GROUPS, width, **factory)
        self.first = operations.Conv2d(width, width, 3, padding=1, **factory)
        self.norm2 = operations.GroupNorm(_GROUPS, width, **factory)
        self.second = operations.Conv2d(width, width, 3, padding=1, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(functional.silu(self.norm1(x)))
        return x + self.second(functional.silu(self.norm2(h)))


class Encoder(nn.Module):
    """[b, 3, h, w] in -1..1 -> mean and log variance, [b, 2 c, h / 12, w / 12] for three levels."""

    def __init__(self, sizes: AutoencoderSizes, operations=nn, **factory):
        super().__init__()
        widths, self.stem = sizes.encoder, sizes.stem
        self.entry = operations.Conv2d(3 * sizes.stem**2, widths[0], 3, padding=1, **factory)
        self.levels = nn.ModuleList(nn.Sequential(Block(width, operations, **factory)) for width in widths)
        self.downs = nn.ModuleList(
            operations.Conv2d(fine, coarse, 3, stride=2, padding=1, **factory)
            for fine, coarse in zip(widths, widths[1:])
        )
        self.exit = operations.Conv2d(widths[-1], 2 * sizes.channels, 1, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.levels[0](self.entry(functional.pixel_unshuffle(x, self.stem)))
        for down, level in zip(self.downs, self.levels[1:]):
            x = level(down(x))
        return self.exit(functional.silu(x))


class Decoder(nn.Module):
    """[b, c, h, w] -> [b, 3, 12 h, 12 w] for three levels."""

    def __init__(self, sizes: AutoencoderSizes, operations=nn, **factory):
        super().__init__()
        widths, self.stem = sizes.decoder, sizes.stem
        self.entry = operations.Conv2d(sizes.channels, widths[0], 3, padding=1, **factory)
        self.levels = nn.ModuleList(
            nn.Sequential(Block(width, operations, **factory), Block(width, operations, **factory)) for width in widths
        )
        self.ups = nn.ModuleList(
            operations.Conv2d(coarse, fine, 3, padding=1, **factory) for coarse, fine in zip(widths, widths[1:])
        )
        self.norm = operations.GroupNorm(_GROUPS, widths[-1], **factory)
        self.exit = operations.Conv2d(widths[-1], 3 * sizes.stem**2, 3, padding=1, **factory)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.levels[0](self.entry(z))
        for up, level in zip(self.ups, self.levels[1:]):
            x = level(up(functional.interpolate(x, scale_factor=2.0, mode="nearest")))
        return functional.pixel_shuffle(self.exit(functional.silu(self.norm(x))), self.stem)


class Autoencoder(nn.Module):
    """What the host's VAE object calls: `encode` gives the mean, `decode` the picture, both without a scale."""

    def __init__(self, sizes: AutoencoderSizes, operations=nn, **factory):
        super().__init__()
        self.encoder = Encoder(sizes, operations, **factory)
        self.decoder = Decoder(sizes, operations, **factory)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.moments(x)[0]

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log variance [b, c, h / 12, w / 12] of the latents of images [b, 3, h, w] in -1..1."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 4)

    def latent_size(self, size) -> tuple[int, ...]:
        """Return height and width of the latents of pictures of `size` (height, width)."""
        shrink = self.decoder.stem * 2 ** len(self.decoder.ups)
        return tuple(side // shrink for side in size)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(z)
