"""Shapes, each as the signed distance [h, w] to its edge, negative inside, at the places x, y of every pixel."""

import torch
from torch.nn.functional import pad


def circle(x, y, radius: float) -> torch.Tensor:
    """Return a disc around the origin."""
    return torch.hypot(x, y) - radius


def dots(x, y, centres, radii) -> torch.Tensor:
    """Return many discs: centres [n][2], one radius for all or [n]."""
    centres, radii = torch.as_tensor(centres, dtype=torch.float32), torch.as_tensor(radii, dtype=torch.float32)
    off = torch.hypot(x - centres[:, 0, None, None], y - centres[:, 1, None, None])
    return (off - radii.view(-1, 1, 1)).amin(dim=0)


def ellipse(x, y, rx: float, ry: float) -> torch.Tensor:
    """Return an ellipse around the origin; near its edge the distance is true to first order."""
    u, v = x / rx, y / ry
    size, slope = torch.hypot(u, v), torch.hypot(u / rx, v / ry)
    return size * (size - 1) / slope.clamp_(min=1e-6)


def box(x, y, half_width: float, half_height: float, corner: float = 0.0) -> torch.Tensor:
    """Return a rectangle around the origin with rounded corners."""
    u, v = x.abs() - (half_width - corner), y.abs() - (half_height - corner)
    return torch.hypot(u.clamp(min=0), v.clamp(min=0)) + torch.maximum(u, v).clamp_(max=0) - corner


def segment(x, y, start: tuple[float, float], end: tuple[float, float], radius: float) -> torch.Tensor:
    """Return a straight stroke with round ends."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = (((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy)).clamp_(0, 1)
    return torch.hypot(x - start[0] - along * dx, y - start[1] - along * dy) - radius


def arc(x, y, half_width: float, rise: float, radius: float, taper: float = 0.0) -> torch.Tensor:
    """Return a bent stroke from (-half_width, 0) over (0, -rise) to (half_width, 0); ends are thinner by `taper`."""
    u = (x / half_width).clamp(-1, 1)
    slope = (1 + (2 * rise / half_width * u).square()).rsqrt_()
    off = (y + rise * (1 - u * u)) * slope
    return torch.hypot(off, x - u * half_width) - radius * (1 - taper * u.abs())


def level(field: torch.Tensor, pixel: float) -> torch.Tensor:
    """Return the distance to where a smooth field [h, w] crosses zero, to first order."""
    across, down = field[1:-1, 2:] - field[1:-1, :-2], field[2:, 1:-1] - field[:-2, 1:-1]
    slope = pad(torch.hypot(across, down)[None], (1, 1, 1, 1), mode="replicate")[0]
    return field * (2 * pixel) / slope.clamp_(min=2e-3 * pixel)


def both(*distances: torch.Tensor) -> torch.Tensor:
    """Return where all shapes are."""
    return _fold(torch.maximum, distances)


def either(*distances: torch.Tensor) -> torch.Tensor:
    """Return where any shape is."""
    return _fold(torch.minimum, distances)


def _fold(join, distances) -> torch.Tensor:
    joined = distances[0]
    for distance in distances[1:]:
        joined = join(joined, distance)
    return joined
