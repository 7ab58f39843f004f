"""The miniature's face finder: the five points of the one face of a drawn picture, and whether there is a face."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from .autoencoder import Block

SIZE = 96  # pixels of the side of the pictures it looks at
POINTS = 5


@dataclass(frozen=True)
class FinderSizes:
    """widths: of the three levels, from fine to coarse. stem: pixels to a side of what the first convolution sees."""

    widths: tuple[int, int, int] = (24, 48, 80)
    stem: int = 3

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor]) -> "FinderSizes":
        """Return the sizes of a state dict."""
        fine, middle, coarse = (len(weights[f"{level}.weight"]) for level in ("entry", "down1", "down2"))
        return cls((fine, middle, coarse), math.isqrt(weights["entry.weight"].shape[1] // 3))


class Finder(nn.Module):
    """[b, 3, 96, 96] in -1..1 -> points [b, 5, 2], pixels (x, y) in the order of `draw.Rendering`, and presence [b].

    Presence is the log odds that there is a face, judged by what is seen at the five points.
    """

    def __init__(self, sizes: FinderSizes, operations=nn, **factory):
        super().__init__()
        (fine, middle, coarse), self.stem = sizes.widths, sizes.stem
        self.entry = operations.Conv2d(3 * sizes.stem**2, fine, 3, padding=1, **factory)
        self.fine = Block(fine, operations, **factory)
        self.down1 = operations.Conv2d(fine, middle, 3, stride=2, padding=1, **factory)
        self.middle = Block(middle, operations, **factory)
        self.down2 = operations.Conv2d(middle, coarse, 3, stride=2, padding=1, **factory)
        self.coarse = Block(coarse, operations, **factory)
        self.up = operations.Conv2d(coarse, middle, 1, **factory)
        self.both = Block(middle, operations, **factory)
        self.heat = operations.Conv2d(middle, POINTS, 1, **factory)
        self.judge = operations.Linear(POINTS * middle, middle, **factory)
        self.presence = operations.Linear(middle, 1, **factory)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.fine(self.entry(functional.pixel_unshuffle(x, self.stem)))
        x = self.middle(self.down1(x))
        x = x + functional.interpolate(self.up(self.coarse(self.down2(x))), scale_factor=2.0, mode="nearest")
        x = functional.silu(self.both(x))
        heat = self.heat(x).float().flatten(2).softmax(-1).unflatten(2, x.shape[2:])
        at_points = torch.einsum("bkhw, bchw -> bkc", heat.to(x.dtype), x)
        judged = functional.silu(self.judge(at_points.flatten(1)))
        return centres(heat, 2 * self.stem), self.presence(judged).float()[:, 0]


def centres(heat: torch.Tensor, cell: int) -> torch.Tensor:
    """Return centres of mass [b, k, 2] (x, y) of maps [b, k, h, w] of sum 1 with cells of `cell` pixels to a side."""
    rows, columns = (cell * (torch.arange(count, device=heat.device) + 0.5) - 0.5 for count in heat.shape[2:])
    return torch.stack([heat.sum(2) @ columns, heat.sum(3) @ rows], dim=-1)
