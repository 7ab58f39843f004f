"""Backgrounds, in the picture's own frame: -1..1 from edge to edge. `place` 0..1 moves things about."""

import math

import torch

from .canvas import Canvas, paint, plane, stroke, times
from .shapes import both, box, circle, dots, either, ellipse, level, segment

_SOFT = 3.0  # pixels over which edges fade: what is behind a person is out of focus


def background(canvas: Canvas, name: str, layout: float) -> None:
    _BACKGROUNDS[name](canvas, layout)


def _fill(canvas: Canvas, top, bottom) -> None:
    """Paint a gradient over everything."""
    share = (canvas.y + 1) / 2
    paint(canvas, torch.full_like(canvas.x, -1.0), plane(top).lerp(plane(bottom), share), line=0)


def _thing(canvas: Canvas, shape: torch.Tensor, colour, line: float = 0.45) -> None:
    paint(canvas, shape, colour, soft=_SOFT, line=line)


def _beach(canvas: Canvas, layout: float) -> None:
    x, y = canvas.x, canvas.y
    _fill(canvas, (0.45, 0.74, 0.94), (0.82, 0.93, 0.98))
    _thing(canvas, circle(x - 1.4 * layout + 0.7, y + 0.72, 0.13), (1.0, 0.93, 0.60))
    _thing(canvas, -y, (0.15, 0.52, 0.68))
    for row in (0.12, 0.27):
        _thing(canvas, (y - row - 0.02 * (x * 9 + 20 * layout + row * 30).sin()).abs() - 0.012, (0.45, 0.74, 0.82), 0)
    _thing(canvas, 0.45 + 0.05 * (x * 3 + 6 * layout).sin() - y, (0.93, 0.82, 0.60))


def _forest(canvas: Canvas, layout: float) -> None:
    x, y = canvas.x, canvas.y
    _fill(canvas, (0.55, 0.74, 0.45), (0.22, 0.42, 0.22))
    for number in range(6):
        at = -0.95 + 0.38 * number + 0.25 * layout
        _thing(canvas, box(x - at, y, 0.055 + 0.02 * (number % 2), 1.2), (0.30, 0.20, 0.13))
    leaves = -0.62 + 0.10 * (x * 8 + 9 * layout).sin() + 0.06 * (x * 19).sin() - y
    _thing(canvas, -leaves, (0.16, 0.38, 0.17))
    _thing(canvas, 0.62 + 0.06 * (x * 6 + 5 * layout).sin() - y, (0.30, 0.48, 0.20))


def _city(canvas: Canvas, layout: float) -> None:
    x, y = canvas.x, canvas.y
    _fill(canvas, (0.62, 0.76, 0.90), (0.92, 0.90, 0.88))
    greys = ((0.52, 0.55, 0.62), (0.66, 0.60, 0.58), (0.44, 0.50, 0.58), (0.60, 0.63, 0.68))
    for number in range(6):
        at, tall = -1.0 + 0.42 * number + 0.2 * layout, 0.95 + 0.55 * math.sin(number * 2.3 + 5 * layout)
        _thing(canvas, box(x - at, y - 1, 0.18, tall), greys[number % 4])
        panes = both((x - at).abs() - 0.13, 1.06 - tall - y, (((x - at) % 0.13) - 0.065).abs() - 0.035)
        lit = both(panes, ((y % 0.17) - 0.085).abs() - 0.045)
        stroke(canvas, lit, (0.93, 0.88, 0.68), opacity=0.75)


def _mountains(canvas: Canvas, layout: float) -> None:
    x, y = canvas.x, canvas.y
    _fill(canvas, (0.50, 0.70, 0.92), (0.90, 0.94, 0.98))
    for number, (at, tall) in enumerate(((-0.75, 0.72), (0.72, 0.88), (-0.1, 0.55))):
        ridge = tall - 1.05 * (x - at - 0.3 * layout + 0.15).abs() + 0.04 * (x * 17 + number).sin()
        shape = level(0.28 - ridge - y, canvas.pixel)
        _thing(canvas, shape, ((0.46, 0.50, 0.60), (0.40, 0.45, 0.56), (0.50, 0.55, 0.64))[number])
        _thing(canvas, both(shape, y - 0.52 + tall + 0.03 * (x * 25).sin()), (0.96, 0.97, 0.99), 0.2)
    _thing(canvas, 0.42 + 0.04 * (x * 4).sin() - y, (0.36, 0.52, 0.34))


def _desert(canvas: Canvas, layout: float) -> None:
    x, y = canvas.x, canvas.y
    _fill(canvas, (0.55, 0.78, 0.88), (0.98, 0.90, 0.74))
    _thing(canvas, 0.05 + 0.16 * (x * 2.4 + 6 * layout).sin() - y, (0.90, 0.70, 0.42))
    _thing(canvas, 0.35 + 0.12 * (x * 3.1 + 2 + 4 * layout).sin() - y, (0.82, 0.58, 0.32))
    at = -0.78 if layout < 0.5 else 0.78
    cactus = either(
        segment(x, y, (at, -0.45), (at, 0.6), 0.065),
        segment(x, y, (at - 0.16, -0.22), (at - 0.16, 0.0), 0.045),
        segment(x, y, (at - 0.16, 0.0), (at, 0.05), 0.045),
        segment(x, y, (at + 0.15, -0.32), (at + 0.15, -0.12), 0.04),
        segment(x, y, (at + 0.15, -0.12), (at, -0.05), 0.04),
    )
    _thing(canvas, cactus, (0.26, 0.50, 0.28))


def _snow(canvas: Canvas, layout: float) -> None:
    x, y = canvas.x, canvas.y
    _fill(canvas, (0.72, 0.80, 0.90), (0.93, 0.95, 0.98))
    for number in range(5):
        at, foot = -0.92 + 0.46 * number + 0.2 * layout - 0.1, 0.30 + 0.08 * (number % 2)
        tiers = [level((x - at).abs() - 0.55 * (y - foot + low), canvas.pixel) for low in (0.95, 0.70)]
        trees = either(both(tiers[0], y - foot + 0.32), both(tiers[1], y - foot))
        _thing(canvas, trees, (0.20, 0.38, 0.34))
    _thing(canvas, 0.30 + 0.05 * (x * 4 + 5 * layout).sin() - y, (0.97, 0.98, 1.0))
    flakes = [(math.sin(n * 5.1 + 7 * layout), math.sin(n * 3.7 + 2 + 4 * layout)) for n in range(16)]
    stroke(canvas, dots(x, y, flakes, 0.026), (1.0, 1.0, 1.0), opacity=0.9)


def _meadow(canvas: Canvas, layout: float) -> None:
    x, y = canvas.x, canvas.y
    _fill(canvas, (0.42, 0.70, 0.95), (0.85, 0.94, 0.99))
    for at, high in ((-0.6 + 0.5 * layout, -0.72), (0.55 + 0.4 * layout, -0.5)):
        cloud = either(*(ellipse(x - at - step, y - high, 0.17, 0.09) for step in (-0.14, 0.0, 0.15)))
        _thing(canvas, cloud, (0.99, 0.99, 1.0), 0.25)
    _thing(canvas, 0.02 + 0.14 * (x * 1.7 + 5 * layout).sin() - y, (0.50, 0.74, 0.36))
    _thing(canvas, 0.34 + 0.08 * (x * 2.6 + 2 * layout).sin() - y, (0.38, 0.64, 0.28))
    flowers = [(math.sin(n * 4.3 + 6 * layout), 0.70 + 0.26 * math.sin(n * 2.9)) for n in range(18)]
    for kind, colour in enumerate(((0.95, 0.35, 0.40), (0.98, 0.88, 0.35), (0.97, 0.97, 0.99))):
        stroke(canvas, dots(x, y, flowers[kind::3], 0.036), colour)


def _stars(canvas: Canvas, layout: float) -> None:
    x, y = canvas.x, canvas.y
    _fill(canvas, (0.05, 0.07, 0.20), (0.20, 0.22, 0.44))
    stars = [(math.sin(n * 5.7 + 9 * layout), 0.95 * math.sin(n * 3.3 + 1)) for n in range(26)]
    stroke(canvas, dots(x, y, stars, [0.012 + 0.009 * (n % 3) for n in range(26)]), (1.0, 0.98, 0.85))
    side = -0.68 if layout < 0.5 else 0.68
    moon = both(circle(x - side, y + 0.68, 0.17), -circle(x - side - 0.09, y + 0.72, 0.15))
    _thing(canvas, moon, (0.98, 0.95, 0.78))


def _sunset(canvas: Canvas, layout: float) -> None:
    x, y = canvas.x, canvas.y
    _fill(canvas, (0.42, 0.24, 0.52), (1.0, 0.62, 0.30))
    _thing(canvas, circle(x - 1.5 * layout + 0.75, y - 0.12, 0.26), (1.0, 0.86, 0.45))
    for high in (-0.5, -0.22):
        cloud = (y - high - 0.05 * (x * 3 + 8 * layout).sin()).abs() - 0.035 * (1 + (x * 2 + 9 * high).sin())
        _thing(canvas, cloud, (0.86, 0.42, 0.46), 0)
    _thing(canvas, 0.32 + 0.09 * (x * 2.7 + 4 * layout).sin() - y, (0.22, 0.13, 0.26))


def _library(canvas: Canvas, layout: float) -> None:
    _fill(canvas, (0.24, 0.15, 0.10), (0.18, 0.11, 0.08))
    x, y = canvas.x + 0.4 * layout, canvas.y
    column, row = (x / 0.115).floor(), ((y + 0.1) / 0.46).floor()
    tint = (column * 12.9898 + row * 78.233).sin() * 6
    books = torch.stack([0.46 + 0.28 * (tint + shift).sin() for shift in (0.0, 2.0, 4.2)])
    tall = 0.11 + 0.05 * (column * 3.7 + row * 5).sin()
    u, v = x - (column + 0.5) * 0.115, y + 0.1 - (row + 0.5) * 0.46
    spine = both(u.abs() - 0.048, -tall - 0.06 - v, v - 0.17)
    paint(canvas, spine, books.clamp_(0, 1), soft=2, line=0.35)
    shelf = (v - 0.20).abs() - 0.03
    _thing(canvas, shelf, (0.48, 0.31, 0.18))


def _kitchen(canvas: Canvas, layout: float) -> None:
    x, y = canvas.x, canvas.y
    _fill(canvas, (0.80, 0.90, 0.87), (0.68, 0.82, 0.79))
    u, v = (x + 0.3 * layout) % 0.28 - 0.14, y % 0.28 - 0.14
    stroke(canvas, 0.128 - torch.maximum(u.abs(), v.abs()), (0.97, 0.98, 0.97))
    _thing(canvas, box(x, y + 0.42, 2, 0.035), (0.62, 0.42, 0.26))
    reds = ((0.85, 0.32, 0.25), (0.95, 0.78, 0.35), (0.30, 0.48, 0.62), (0.93, 0.92, 0.88))
    for number in range(6):
        at = -0.95 + 0.38 * number + 0.15 * layout
        _thing(canvas, box(x - at, y + 0.565, 0.085, 0.105, 0.03), reds[number % 4])
    _thing(canvas, 0.45 - y, (0.56, 0.38, 0.24))


def _brick_wall(canvas: Canvas, layout: float) -> None:
    _fill(canvas, (0.80, 0.76, 0.70), (0.72, 0.68, 0.63))
    x, y = canvas.x + 0.3 * layout, canvas.y
    row = (y / 0.17).floor()
    column = ((x + 0.2 * (row % 2)) / 0.40).floor()
    u, v = x + 0.2 * (row % 2) - (column + 0.5) * 0.40, y - (row + 0.5) * 0.17
    tint = 1 + 0.16 * (column * 12.9 + row * 7.3).sin()
    paint(canvas, box(u, v, 0.185, 0.070, 0.015), plane((0.68, 0.33, 0.24)) * tint, soft=2, line=0.35)


def _grey_wall(canvas: Canvas, layout: float) -> None:
    _fill(canvas, (0.74, 0.75, 0.77), (0.60, 0.61, 0.64))
    pool = ellipse(canvas.x - layout + 0.5, canvas.y + 0.3, 0.9, 0.8)
    stroke(canvas, pool * 0.02, (0.84, 0.85, 0.87), opacity=0.6)


def _red_curtain(canvas: Canvas, layout: float) -> None:
    fold = (canvas.x * 17 + 6 * layout + 0.6 * (canvas.y * 2).sin()).sin()
    red = plane((0.62, 0.10, 0.14)) * (1 + 0.30 * fold)
    paint(canvas, torch.full_like(canvas.x, -1.0), red, line=0)
    stroke(canvas, level(-fold - 0.86, canvas.pixel), times((0.62, 0.10, 0.14), 0.5), opacity=0.35)


_BACKGROUNDS = {
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "mountains": _mountains,
    "desert": _desert,
    "snow": _snow,
    "meadow": _meadow,
    "stars": _stars,
    "sunset": _sunset,
    "library": _library,
    "kitchen": _kitchen,
    "brick wall": _brick_wall,
    "grey wall": _grey_wall,
    "red curtain": _red_curtain,
}
