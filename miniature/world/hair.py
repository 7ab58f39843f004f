"""Hair, beards and hats, in the head's frame."""

import math

import torch

from .canvas import Canvas, blend, glow, paint, plane, stroke, times
from .features import LABEL
from .head import Head
from .shapes import arc, both, box, circle, either, ellipse, level, segment

PALETTE = {
    "red": (0.80, 0.16, 0.15),
    "pink": (0.95, 0.58, 0.70),
    "yellow": (0.95, 0.80, 0.22),
    "green": (0.20, 0.55, 0.28),
    "blue": (0.17, 0.36, 0.74),
    "purple": (0.48, 0.25, 0.62),
    "white": (0.94, 0.94, 0.93),
    "black": (0.13, 0.13, 0.15),
}
_FRIZZY = ("curly", "afro")


def hair_behind(canvas: Canvas, head: Head) -> None:
    """Paint what lies behind neck and ears."""
    style, volume, height = head.subject.hair, head.trait("hair_volume"), head.height
    x, y = canvas.x + 0.05 * math.sin(head.scene.yaw), canvas.y
    wide = head.width + 0.065 + 0.05 * volume
    if style == "afro":
        shape = _bumpy(x, y + 0.30 * height, 1.18 * head.width + 0.05 + 0.11 * volume, 1.0, 0.016, 15)
    elif style == "curly":
        shape = _bumpy(x, y + 0.16 * height, wide + 0.02, 1.12, 0.026, 9)
    elif style == "bob":
        shape = box(x, y + 0.14 * height, wide, 0.98 * height, 0.85 * head.width)
        shape = both(shape, y - 0.66 * head.low)
    elif style == "long":
        x = x / (1 + 0.16 * (y / height).clamp(-1, 2))
        shape = box(x, y - 0.5 * height, wide, 1.62 * height, 0.95 * head.width)
    elif style == "bun":
        shape = circle(x, y + 1.10 * height, 0.115 + 0.05 * volume)
    else:
        return
    _lock(canvas, head, shape, times(head.hair, 0.80), outer=True)


def hair(canvas: Canvas, head: Head) -> None:
    """Paint what lies on the head, and over ears and forehead."""
    style, volume = head.subject.hair, head.trait("hair_volume")
    if style == "bald":
        return
    x, y = canvas.x, canvas.y
    more = {"buzz": 0.008, "short": 0.03 + 0.045 * volume, "spiky": 0.035, "bun": 0.018 + 0.015 * volume}
    more = more.get(style, 0.045 + 0.045 * volume)
    back = 0.03 * math.sin(head.scene.yaw)
    cap = ellipse(x + back, y + 0.10 * head.height, head.width + more, 0.90 * head.height + more)
    if style == "spiky":
        angle = torch.atan2(x, -y)
        cap = cap - (0.03 + 0.06 * volume) * (1 - (angle * 2.4).frac().abs() * 2).abs() * (-y / head.height).clamp(0, 1)
    if style in _FRIZZY:
        cap = _bumpy(x, y + 0.12 * head.height, head.width + more, 1.16, 0.020, 11)
    shape = both(cap, _hairline(canvas, head))
    if style == "buzz":
        _cut(canvas, head, shape, 0.72)
    else:
        _lock(canvas, head, shape, head.hair)
    if style in ("bob", "long"):
        _sides(canvas, head)


def _hairline(canvas: Canvas, head: Head) -> torch.Tensor:
    """Return the distance to the forehead's edge of the hair, negative above it."""
    style, part = head.subject.hair, head.trait("parting")
    middle = 0.85 * head.spot(0, 0).x
    off = canvas.x - middle
    u = off / (head.width - middle * off.sign())  # 1 at the head's edge on either side
    edge = -head.trait("hairline") * head.height
    if style in ("bob", "long"):  # parted: the hair falls from the parting to both temples
        low = 0.34 * u.abs().clamp(max=1.1) ** (2.2 if style == "long" else 1.2)
        edge = edge + low * (1.0 if style == "long" else 0.7) + 0.10 * part * u
        edge = edge - 0.10 * (-((u - 0.5 * part) / 0.10).square()).exp_()
    else:
        sideburn = 0.52 if head.subject.woman or style == "bun" else 0.62
        edge = edge + sideburn * head.height * 1.25 * u.abs().clamp(max=1.08) ** 5
        if style == "short":
            edge = edge + 0.09 * (u * (1 if part > 0 else -1) + 0.2 * part).clamp(-0.8, 0.8)
        if style == "spiky":
            edge = edge + 0.045 * (u * 9).sin()
        if style in _FRIZZY:
            edge = edge + 0.022 * (u * 14).sin()
    return level(canvas.y - edge, canvas.pixel)


def _sides(canvas: Canvas, head: Head) -> None:
    """Paint strands beside the face, over the ears."""
    bottom = 0.62 * head.low if head.subject.hair == "bob" else head.low + 0.42
    wide = head.width + 0.055 + 0.045 * head.trait("hair_volume")
    sway = 0.05 * math.sin(head.scene.yaw)
    x, y = canvas.x + sway, canvas.y
    for sign in (-1, 1):
        near = 0.035 * (y * 5).sin()
        inner = (0.87 + 0.22 * sign * math.sin(head.scene.yaw)) * head.width - 0.05 * (y / head.height).clamp(0, 1)
        outer = wide + near + 0.05 * y.clamp(min=0)
        strand = both(sign * x - outer, inner + near - sign * x, -0.30 * head.height - y, y - bottom)
        _lock(canvas, head, strand, head.hair, soft=1.4)


def _lock(canvas: Canvas, head: Head, shape: torch.Tensor, colour, outer: bool = False, soft: float = 1.0) -> None:
    """Paint hair of a shape, below the hat if there is one, with strands or curls in a photo."""
    if head.scene.hat:
        shape = both(shape, _brim(head) - 0.02 - canvas.y)
    if canvas.style != "cartoon":
        strength = 0.10 if canvas.style == "photo" else 0.40
        colour = plane(colour) * (1 + strength * _texture(canvas, head))
    paint(canvas, shape, colour, LABEL["hair"], soft=soft + 0.6)
    if not outer and head.subject.hair not in _FRIZZY:
        _sheen(canvas, head, shape)


def _cut(canvas: Canvas, head: Head, shape: torch.Tensor, opacity: float) -> None:
    """Paint hair so short that the skin shows through."""
    if head.scene.hat:
        shape = both(shape, _brim(head) - 0.02 - canvas.y)
    paint(canvas, shape, blend(head.skin, head.hair, opacity), LABEL["hair"], opacity=0.92, soft=2.5, line=0.3)


def _texture(canvas: Canvas, head: Head) -> torch.Tensor:
    x, y = canvas.x, canvas.y
    if head.subject.hair in _FRIZZY:
        return (x * 38 + 2 * (y * 31).sin()).sin() * (y * 40 + 2 * (x * 27).cos()).sin()
    angle = x / (y + 2.4 * head.height).clamp(min=0.3)
    return (angle * 75 + 3 * (angle * 21).sin()).sin()


def _sheen(canvas: Canvas, head: Head, shape: torch.Tensor) -> None:
    """Paint a band of light across the crown."""
    x, y = canvas.x - 0.5 * head.scene.light_x * head.width, canvas.y + 0.74 * head.height
    band = (-(y - 0.35 * x * x).square() * 420 - (x * 3.2).square()).exp_()
    inside = (-shape / 0.02).clamp(0, 1)
    glow(canvas, band * inside * (0.10 + 0.30 * head.scene.light), blend(head.hair, (1.0, 0.97, 0.92), 0.55))


def _bumpy(x, y, radius: float, tall: float, bump: float, count: int) -> torch.Tensor:
    angle = torch.atan2(y, x)
    return ellipse(x, y, radius, radius * tall) - bump * (angle * count).sin()


def beard(canvas: Canvas, head: Head, outline: torch.Tensor) -> None:
    """Paint a beard, before the mouth is painted."""
    kind, colour = head.subject.beard, times(head.hair, 0.88)
    x, y = canvas.x - head.mouth.x, canvas.y - head.mouth.y
    half, lip = head.mouth_half, head.trait("lip_thickness")
    upper = y + 0.035 * head.look.curve + lip + 0.028
    u = x / (half * head.mouth.squeeze)
    moustache = both((upper + 0.038 * u * u - 0.012).abs() - 0.030 + 0.012 * u * u, u.abs() * half - 1.22 * half)
    cheeks = 0.04 + 0.36 * ((canvas.x - 0.6 * head.mouth.x) / head.width).abs().clamp(max=1.1).square()
    jaw = both(outline - 0.008, -(y + cheeks - 0.03))
    around = ellipse(x / head.mouth.squeeze, y + 0.005, half + 0.012, lip + 0.030 + 0.05 * head.look.open)
    if kind == "stubble":
        shape = both(outline, -(y + cheeks + 0.02))
        paint(canvas, shape, blend(head.skin, times(colour, 0.6), 0.55), opacity=0.62, soft=9, line=0)
    elif kind == "moustache":
        _whiskers(canvas, head, moustache, colour)
    elif kind == "goatee":
        chin = ellipse(x / head.mouth.squeeze, y - 0.085, 0.62 * half + 0.03, 0.095)
        _whiskers(canvas, head, either(both(chin, outline - 0.015, 0.5 * lip + 0.030 - y), moustache), colour)
    elif kind == "chin strap":
        _whiskers(canvas, head, both(outline - 0.008, -outline - 0.058, -(y + 0.9 * cheeks)), colour)
    elif kind == "full":
        below = both(jaw, -around)
        _whiskers(canvas, head, either(below, moustache), colour)


def _whiskers(canvas: Canvas, head: Head, shape: torch.Tensor, colour) -> None:
    if canvas.style == "photo":
        colour = plane(colour) * (1 + 0.07 * (canvas.x * 60).sin() * (canvas.y * 34 + canvas.x * 20).sin())
    paint(canvas, shape, colour, opacity=0.95, soft=2.2, line=0.6)


def hat(canvas: Canvas, head: Head) -> None:
    colour = PALETTE[head.scene.hat_colour]
    x, y = canvas.x + 0.02 * math.sin(head.scene.yaw), canvas.y - _brim(head)
    _HATS[head.scene.hat](canvas, head, x, y, colour)


def _brim(head: Head) -> float:
    """Return how high a hat sits."""
    return min(-0.55 * head.height, head.eyes["left"].y - head.trait("brow_height") - 0.10)


def _cap(canvas: Canvas, head: Head, x, y, colour) -> None:
    wide, tall = head.width + 0.05, 0.60 * head.height + 0.05
    dome = both(ellipse(x, y, wide, tall), y - 0.02)
    paint(canvas, dome, colour, LABEL["hat"])
    for bend in (-0.45, 0.45):
        seam = both((ellipse(x, y, abs(bend) * wide, tall)).abs() - 0.004, y - 0.02)
        stroke(canvas, seam, times(colour, 0.7), opacity=0.6)
    turned = 0.30 * math.sin(head.scene.yaw)
    visor = both(ellipse(x - turned, y + 0.015, 0.93 * wide, 0.085), -y - 0.035)
    paint(canvas, visor, times(colour, 0.72), LABEL["hat"])
    paint(canvas, circle(x, y + tall, 0.02), times(colour, 0.72), LABEL["hat"])


def _beanie(canvas: Canvas, head: Head, x, y, colour) -> None:
    wide, tall = head.width + 0.055, 0.66 * head.height + 0.06
    paint(canvas, circle(x, y + tall + 0.02, 0.075), blend(colour, (1, 1, 1), 0.45), LABEL["hat"], soft=2)
    dome = both(ellipse(x, y, wide, tall), y)
    ribs = plane(colour) * (1 + 0.10 * (x / (1.2 - y).clamp(min=0.4) * 70).sin())
    paint(canvas, dome, ribs if canvas.style == "photo" else colour, LABEL["hat"])
    paint(canvas, box(x, y - 0.005, wide + 0.012, 0.058, 0.04), blend(colour, (1, 1, 1), 0.22), LABEL["hat"])


def _fedora(canvas: Canvas, head: Head, x, y, colour) -> None:
    wide = head.width * 0.93 + 0.03
    top = 0.035 * (-(x / 0.10).square()).exp_() - 0.52 * head.height - 0.10
    crown = both(level((x / (1 + 0.22 * y)).abs() - wide, canvas.pixel), top - y, y)
    paint(canvas, crown, colour, LABEL["hat"])
    band = both(crown + 0.004, -0.125 - y)
    stroke(canvas, band, times(colour, 0.45) if max(colour) > 0.3 else (0.55, 0.12, 0.12), LABEL["hat"])
    bend = 0.035 * (x / wide).square()
    paint(canvas, ellipse(x, y + bend - 0.015, wide + 0.17, 0.062), times(colour, 0.88), LABEL["hat"])


def _beret(canvas: Canvas, head: Head, x, y, colour) -> None:
    cos, sin = math.cos(0.22), math.sin(0.22)
    u, v = x - 0.05, y + 0.10
    u, v = u * cos - v * sin, u * sin + v * cos
    paint(canvas, segment(x, y, (0.11, -0.31), (0.13, -0.37), 0.018), times(colour, 0.7), LABEL["hat"])
    paint(canvas, ellipse(u, v, head.width + 0.12, 0.205), colour, LABEL["hat"])
    rim = arc(x, y - 0.01, head.width + 0.01, 0.02, 0.028)
    paint(canvas, rim, times(colour, 0.70), LABEL["hat"])


def _crown(canvas: Canvas, head: Head, x, y, colour) -> None:
    wide = head.width + 0.02
    teeth = ((x / wide * 2.5 + 0.5).frac().abs() * 2 - 1).abs() * 0.15
    shape = level(torch.maximum(-0.14 - teeth - y, y - 0.03 * (1 - (x / wide).square())), canvas.pixel)
    paint(canvas, both(shape, x.abs() - wide), colour, LABEL["hat"])
    trim = both((y + 0.012).abs() - 0.022, x.abs() - wide)
    stroke(canvas, trim, (0.93, 0.77, 0.32), LABEL["hat"])
    for step in (-2, -1, 0, 1, 2):
        gem = circle(x - step * 0.4 * wide, y + 0.105, 0.024)
        stroke(canvas, gem, (0.93, 0.77, 0.32) if step % 2 else (0.95, 0.95, 0.98))


_HATS = {"cap": _cap, "beanie": _beanie, "fedora": _fedora, "beret": _beret, "crown": _crown}
