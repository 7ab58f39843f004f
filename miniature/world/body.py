"""Neck and clothes, in the head's frame without its roll."""

import torch

from .canvas import Canvas, blend, paint, stroke, times
from .features import LABEL
from .hair import PALETTE
from .head import Head
from .shapes import both, box, circle, ellipse, level, segment


def body(canvas: Canvas, head: Head) -> None:
    """Paint everything below the chin."""
    colour, top = PALETTE[head.scene.clothes_colour], head.low + 0.09
    half = head.trait("neck") * head.width
    if head.scene.clothes == "hoodie":
        hood = ellipse(canvas.x, canvas.y - top, half + 0.20, 0.17)
        paint(canvas, hood, times(colour, 0.66), LABEL["cloth"])
    neck = box(canvas.x / (1 + 0.5 * (canvas.y - top + 0.06).clamp(0, 0.4)), canvas.y - top, half, 0.30)
    paint(canvas, neck, head.skin, LABEL["neck"])
    shade = both(neck, head.outline(canvas.x, canvas.y - 0.075, canvas.pixel))
    paint(canvas, shade, times(head.skin, 0.70), soft=7, opacity=0.85, line=0)
    cloth = both(_shoulders(canvas, top, half), -_neckline(canvas, head, top, half))
    _CLOTHES[head.scene.clothes](canvas, cloth, colour, top, half)


def _shoulders(canvas: Canvas, top: float, half: float) -> torch.Tensor:
    out = (canvas.x.abs() - half).clamp(min=0)
    line = top - 0.02 + 0.26 * out + 2.6 * (out - 0.34).clamp(min=0).square()
    return level(line - canvas.y, canvas.pixel)


def _neckline(canvas: Canvas, head: Head, top: float, half: float) -> torch.Tensor:
    """Return the distance to what the clothes leave bare."""
    deep = {"shirt": 0.12, "jacket": 0.06, "sweater": 0.05, "hoodie": 0.08}[head.scene.clothes]
    if head.scene.clothes == "shirt":  # open to a point
        return level(canvas.x.abs() * (deep + 0.10) / half + canvas.y - top - deep, canvas.pixel)
    return ellipse(canvas.x, canvas.y - top + 0.02, half * 1.02, deep + 0.02)


def _shirt(canvas: Canvas, cloth, colour, top: float, half: float) -> None:
    paint(canvas, cloth, colour, LABEL["cloth"])
    x, y = canvas.x, canvas.y - top
    stroke(canvas, both(cloth, segment(x, y, (0, 0.12), (0, 0.8), 0.006)), times(colour, 0.6))
    for step in range(4):
        stroke(canvas, circle(x - 0.022, y - 0.17 - 0.13 * step, 0.011), times(blend(colour, (1, 1, 1), 0.5), 0.9))
    for sign in (-1, 1):  # the collar's wings
        u = sign * x
        below, above = y - 0.15 + 0.75 * u, 0.12 - 0.21 * u / half - y
        wing = both(level(below, canvas.pixel), level(above, canvas.pixel), u - half - 0.01, -u)
        paint(canvas, both(wing, -y - 0.12), blend(colour, (1, 1, 1), 0.30), LABEL["cloth"])


def _sweater(canvas: Canvas, cloth, colour, top: float, half: float) -> None:
    paint(canvas, cloth, colour, LABEL["cloth"])
    pale = blend(colour, (1, 1, 1), 0.55) if min(colour) < 0.8 else times(colour, 0.72)
    y = canvas.y - top - 0.12 * canvas.x.square()
    stripes = ((y - 0.06) % 0.16 - 0.08).abs() - 0.028
    stroke(canvas, both(cloth + 0.012, stripes, 0.06 - y), pale)
    collar = ellipse(canvas.x, canvas.y - top + 0.02, half * 1.08 + 0.02, 0.10)
    paint(canvas, both(collar, cloth), times(colour, 0.80), LABEL["cloth"], line=0.6)


def _jacket(canvas: Canvas, cloth, colour, top: float, half: float) -> None:
    paint(canvas, cloth, (0.90, 0.90, 0.88), LABEL["cloth"])
    x, y = canvas.x.abs(), canvas.y - top
    opening = level(x - 0.95 * half + 0.42 * (y + 0.05), canvas.pixel)
    paint(canvas, both(cloth, -opening), colour, LABEL["cloth"])
    lapel = both(cloth, -opening, opening - 0.085, y - 0.34 + 0.5 * (x - half).clamp(min=0))
    paint(canvas, lapel, times(colour, 0.74), LABEL["cloth"], line=0.7)


def _hoodie(canvas: Canvas, cloth, colour, top: float, half: float) -> None:
    paint(canvas, cloth, colour, LABEL["cloth"])
    x, y = canvas.x, canvas.y - top
    rim = ellipse(x, y, half + 0.10, 0.17)
    paint(canvas, both(rim, cloth), times(colour, 0.80), LABEL["cloth"], line=0.7)
    for sign in (-1, 1):
        cord = segment(x, y, (sign * 0.10, 0.13), (sign * 0.11, 0.30), 0.011)
        stroke(canvas, cord, (0.95, 0.95, 0.93) if min(colour) < 0.8 else (0.5, 0.5, 0.52))


_CLOTHES = {"shirt": _shirt, "sweater": _sweater, "jacket": _jacket, "hoodie": _hoodie}
