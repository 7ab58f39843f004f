"""What everything is drawn with: layers over a picture, each given by the signed distance to its edge.

A distance is a plane [h, w], negative inside, in the frame's unit (the head's or the picture's own). Every layer is
anti-aliased over one pixel and takes on the style: soft shading, flat colours with outlines, or pencil on paper.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

Colour = tuple[float, float, float] | torch.Tensor  # 0..1; a tensor is a plane [3, h, w]
_PAPER, _GRAPHITE = (0.965, 0.945, 0.905), (0.20, 0.20, 0.23)
_LUMA = torch.tensor([0.30, 0.59, 0.11]).view(3, 1, 1)


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture, or a window of one, in some frame. Windows share their picture's memory.

    rgb, labels: [3, h, w] in 0..1 and [h, w] uint8, drawn upon.
    x, y: [h, w], where every pixel lies in the frame; pixel: how long a pixel is there.
    shade: [h, w], how bright a layer is made by the light.
    hatch: [h, w] in 0..1, where a pencil's hatching lies.
    turn, shift: pixel = turn * (x + i y) + shift.
    """

    rgb: torch.Tensor
    labels: torch.Tensor
    style: str
    x: torch.Tensor
    y: torch.Tensor
    pixel: float
    shade: torch.Tensor
    hatch: torch.Tensor
    turn: complex
    shift: complex

    def to_pixel(self, x: float, y: float) -> complex:
        """Return the pixel (column + i row, centres at integers) at which a point of the frame lies."""
        return self.turn * complex(x, y) + self.shift

    def window(self, x: float, y: float, radius: float) -> "Canvas":
        """Return the part of the canvas within `radius` of a point, at least one pixel."""
        centre, reach = self.to_pixel(x, y), radius * abs(self.turn) + 2
        height, width = self.labels.shape
        rows, columns = _span(centre.imag, reach, height), _span(centre.real, reach, width)
        return Canvas(
            self.rgb[:, rows, columns],
            self.labels[rows, columns],
            self.style,
            *(self.x[rows, columns], self.y[rows, columns], self.pixel),
            *(self.shade[rows, columns], self.hatch[rows, columns]),
            *(self.turn, self.shift - complex(columns.start, rows.start)),
        )


def blank(size: int, style: str) -> Canvas:
    """Return an empty canvas in the picture's own frame: -1..1 from edge to edge, x right and y down."""
    x, y, hatch = _grid(size)
    rgb, labels = torch.zeros(3, size, size), torch.zeros(size, size, dtype=torch.uint8)
    half = size / 2
    return Canvas(rgb, labels, style, x, y, 1 / half, torch.ones(size, size), hatch, half, (half - 0.5) * (1 + 1j))


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[torch.Tensor, ...]:
    """Return x, y and the hatching of an empty canvas; they are shared and never written."""
    line = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    x, y = line.expand(size, size).contiguous(), line[:, None].expand(size, size).contiguous()
    return x, y, torch.sin((x + 1.3 * y) * 46).mul_(1.2).add_(0.2).clamp_(0, 1)


def in_frame(canvas: Canvas, turn: complex, shift: complex) -> Canvas:
    """Return the same canvas in another frame, from which `turn` and `shift` lead to the canvas' present one."""
    back_x, back_y = canvas.x - shift.real, canvas.y - shift.imag
    inverse = 1 / turn
    x = back_x * inverse.real - back_y * inverse.imag
    y = back_x * inverse.imag + back_y * inverse.real
    return replace(
        canvas,
        x=x,
        y=y,
        pixel=canvas.pixel / abs(turn),
        turn=canvas.turn * turn,
        shift=canvas.turn * shift + canvas.shift,
    )


def paint(
    canvas: Canvas,
    distance: torch.Tensor,
    colour: Colour,
    label: int | None = None,
    opacity: float = 1.0,
    soft: float = 1.0,
    line: float = 1.0,
) -> None:
    """Paint a layer: filled, outlined as the style has it, and labelled if a label is given.

    soft: over how many pixels its edge fades in a photo. line: strength of the outline.
    soft: over how many pixels its edge fades in a photo.
    """
    photo = canvas.style == "photo"
    cover = _cover(distance, canvas.pixel * (soft if photo else 1)).mul_(opacity)
    canvas.rgb.lerp_(_tone(canvas, colour), cover)
    if line and not photo:
        half = 0.5 * max(_LINE[canvas.style], 1.1 * canvas.pixel)
        _ink(canvas, distance.abs().sub_(half), colour, 0.85 * line)
    if label is not None:
        canvas.labels.masked_fill_(distance < 0, label)


def stroke(canvas: Canvas, distance: torch.Tensor, colour: Colour, label: int | None = None, opacity: float = 1.0):
    """Paint a layer without an outline: a line, a spot."""
    canvas.rgb.lerp_(_tone(canvas, colour, solid=True), _cover(distance, canvas.pixel).mul_(opacity))
    if label is not None:
        canvas.labels.masked_fill_(distance < 0, label)


def glow(canvas: Canvas, weight: torch.Tensor, colour: Colour) -> None:
    """Paint a soft colour over what is there, `weight` [h, w] in 0..1: in photos only."""
    if canvas.style == "photo":
        canvas.rgb.lerp_(plane(colour), weight)


def plane(colour: Colour) -> torch.Tensor:
    """Return a colour as a tensor [3, 1, 1] or [3, h, w]."""
    return colour if isinstance(colour, torch.Tensor) else _constant(colour)


def blend(one: Colour, other: Colour, share: float | torch.Tensor) -> Colour:
    """Return a colour between one (share 0) and the other (1), pixel by pixel where `share` is a plane [h, w]."""
    if isinstance(share, torch.Tensor):
        return plane(one).lerp(plane(other), share)
    return tuple(a + (b - a) * share for a, b in zip(one, other))


def times(colour: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    """Return a colour made darker or lighter."""
    return tuple(min(channel * factor, 1.0) for channel in colour)


@lru_cache(maxsize=1024)
def _constant(colour: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(colour).view(3, 1, 1)


_LINE = {"sketch": 0.016, "cartoon": 0.018}


def _tone(canvas: Canvas, colour: Colour, solid: bool = False) -> torch.Tensor:
    """Return a colour in the canvas' light, [3, h, w], or as the pencil renders it: the darker the more hatched or
    pressed.
    """
    if canvas.style != "sketch":
        return plane(colour) * canvas.shade
    dark = 1 - (plane(colour) * _LUMA).sum(dim=0) * canvas.shade
    pressed = dark * dark
    if not solid:
        pressed = pressed * (0.30 + 0.55 * canvas.hatch)
    return torch.lerp(plane(_PAPER), plane(_GRAPHITE), pressed)


def _ink(canvas: Canvas, distance: torch.Tensor, colour: Colour, opacity: float) -> None:
    dark = _GRAPHITE if canvas.style == "sketch" else plane(colour) * 0.32
    canvas.rgb.lerp_(plane(dark), _cover(distance, canvas.pixel).mul_(opacity))


def _cover(distance: torch.Tensor, fade: float) -> torch.Tensor:
    """Return the share of each pixel that lies inside, where the edge fades over the length `fade`."""
    return distance.mul(-1 / fade).add_(0.5).clamp_(0, 1)


def _span(centre: float, reach: float, length: int) -> slice:
    first = min(max(math.floor(centre - reach), 0), length - 2)
    return slice(first, max(min(math.ceil(centre + reach) + 1, length), first + 2))
