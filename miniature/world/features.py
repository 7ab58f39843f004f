"""A face's parts, painted from back to front in the head's frame."""

import math

import numpy as np
import torch

from .canvas import Canvas, blend, glow, paint, stroke, times
from .head import SIDES, Head, Spot, corner_height
from .shapes import arc, both, box, circle, dots, either, ellipse, segment

LABEL = {
    name: number
    for number, name in enumerate(
        (
            *("background", "skin", "left brow", "right brow", "left eye", "right eye", "glasses", "left ear"),
            *("right ear", "earring", "nose", "mouth", "upper lip", "lower lip", "neck", "necklace", "cloth"),
            *("hair", "hat"),
        )
    )
}  # CelebAMask-HQ's numbering; left and right are the subject's
_DARK, _WHITE = (0.10, 0.07, 0.08), (0.97, 0.97, 0.96)


def ears(canvas: Canvas, head: Head) -> None:
    size, turn = head.trait("ear_size"), head.scene.yaw
    for side, sign in SIDES.items():
        x = sign * head.width * 1.0 * math.cos(turn) - 0.16 * math.sin(turn)
        y = 0.3 * head.eyes[side].y + 0.05
        near = canvas.window(x, y, 0.22)
        u, v = near.x - x, near.y - y
        paint(near, ellipse(u + sign * 0.02 * v / 0.1, v, 0.052 * size, 0.098 * size), head.skin, LABEL[f"{side} ear"])
        stroke(near, ellipse(u - sign * 0.004, v + 0.005, 0.026 * size, 0.058 * size), times(head.skin, 0.82))


def face(canvas: Canvas, head: Head) -> torch.Tensor:
    """Paint the bare face and return the distance to its outline."""
    outline = head.outline(canvas.x, canvas.y, canvas.pixel)
    paint(canvas, outline, head.skin, LABEL["skin"])
    if canvas.style == "photo":
        _paint_relief(canvas, head)
    _paint_marks(canvas, head, outline)
    return outline


def _paint_relief(canvas: Canvas, head: Head) -> None:
    """Paint cheeks, eye sockets and the light on forehead and cheekbones: what makes it round."""
    rosy = blend(head.skin, (0.86, 0.30, 0.28), 0.65)
    shadow = times(head.skin, 0.60)
    for side, sign in SIDES.items():
        eye = head.eyes[side]
        cheek = head.spot(sign * 0.56 * head.width, head.tip.y + 0.01)
        _tint(canvas, cheek, 0.10, 0.07, 0.10 + 0.42 * head.trait("blush"), rosy)
        socket = Spot(eye.x - sign * 0.01, eye.y - 0.025, eye.squeeze)
        _tint(canvas, socket, 1.25 * head.trait("eye_size"), 0.065, 0.40, shadow)
    bright = Spot(head.spot(0.25 * head.scene.light_x * head.width, 0).x, -0.55 * head.height, 1.0)
    _tint(canvas, bright, 0.14, 0.08, 0.22 * head.scene.light, blend(head.skin, _WHITE, 0.75))
    below = Spot(head.mouth.x, head.mouth.y + 0.055 + head.trait("lip_thickness"), 1.0)
    _tint(canvas, below, 0.07, 0.018, 0.28, shadow)


def _tint(canvas: Canvas, spot: Spot, rx: float, ry: float, strength: float, colour) -> None:
    """Paint a soft colour on the skin around a spot."""
    near = canvas.window(spot.x, spot.y, 2.2 * max(rx * spot.squeeze, ry))
    glow(near, _bump(near, spot, rx, ry).mul_(strength) * (near.labels == LABEL["skin"]), colour)


def _paint_marks(canvas: Canvas, head: Head, outline: torch.Tensor) -> None:
    """Paint freckles and a mole, the same on every picture of a person."""
    strength = head.trait("freckles")
    if strength > 0:
        rng, freckle = np.random.default_rng(head.subject.number), blend(head.skin, (0.45, 0.20, 0.10), 0.6)
        centres = rng.uniform((-0.62, -0.11), (0.62, 0.07), (20, 2)).tolist()
        spots = [head.spot(x * head.width, head.tip.y + y)[:2] for x, y in centres]
        near = canvas.window(*head.spot(0, head.tip.y - 0.02)[:2], 0.32)
        stroke(near, dots(near.x, near.y, spots, 0.0095), freckle, opacity=0.35 + 0.4 * strength)
    if (size := head.trait("mole_size")) > 0.010:
        spot = head.spot(head.trait("mole_x") * head.width, head.trait("mole_y") * head.height)
        near = canvas.window(spot.x, spot.y, 0.06)
        disc = circle((near.x - spot.x) / spot.squeeze, near.y - spot.y, size)
        stroke(near, disc, (0.22, 0.11, 0.08), opacity=0.92)


def eyes(canvas: Canvas, head: Head) -> None:
    for side, sign in SIDES.items():
        eye, size = head.eyes[side], head.trait("eye_size")
        near = canvas.window(eye.x, eye.y, 1.7 * size)
        opened = getattr(head.look, side)
        u, v = _tilt(near, eye, sign * head.trait("eye_tilt"))
        if opened:
            _paint_open_eye(near, head, u, v, sign, LABEL[f"{side} eye"], opened)
        else:
            _paint_closed_eye(near, head, u, v, LABEL[f"{side} eye"])


def _paint_open_eye(canvas: Canvas, head: Head, u, v, sign: int, label: int, opened: float) -> None:
    size = head.trait("eye_size")
    height = 0.62 * size * head.trait("eye_aspect") * opened + 0.012
    bow = 1 - (u / size).square()
    almond = both(-v - height * bow, v - 0.85 * height * bow, u.abs() - size)
    paint(canvas, almond, blend(_WHITE, head.skin, 0.06), label, line=0.5)
    disc = min(0.54 * size, 1.05 * height + 0.006)
    for radius, colour in ((disc, times(head.iris, 0.5)), (disc - 0.009, head.iris), (0.48 * disc, _DARK)):
        stroke(canvas, both(circle(u, v + 0.1 * height, radius), almond), colour)
    glint = circle(u - 0.32 * disc * (1 if head.scene.light_x > 0 else -1), v + 0.1 * height + 0.36 * disc, 0.24 * disc)
    stroke(canvas, glint, _WHITE, opacity=0.95)
    lid = arc(u, v, 1.04 * size, height, 0.0085 + 0.005 * head.subject.woman, taper=0.45)
    if head.subject.woman:  # a lash at the outer corner
        lid = either(lid, segment(u, v, (sign * 0.9 * size, -0.01), (sign * 1.28 * size, -0.042), 0.008))
    stroke(canvas, lid, blend(_DARK, head.hair, 0.12))
    stroke(canvas, arc(u, v + 0.016, size, height, 0.004), times(head.skin, 0.55), opacity=0.5)
    stroke(canvas, arc(u, v, 0.9 * size, -0.85 * height, 0.0045), times(head.skin, 0.55), opacity=0.7)


def _paint_closed_eye(canvas: Canvas, head: Head, u, v, label: int) -> None:
    size = head.trait("eye_size")
    lid = ellipse(u, v + 0.012, 1.05 * size, 0.045)
    stroke(canvas, lid, times(head.skin, 0.90))
    stroke(canvas, arc(u, v - 0.004, 1.05 * size, -0.026, 0.0125, taper=0.35), blend(_DARK, head.skin, 0.12), label)
    stroke(canvas, arc(u, v + 0.034, 0.9 * size, 0.016, 0.005), times(head.skin, 0.6), opacity=0.5)


def brows(canvas: Canvas, head: Head) -> None:
    thickness, size = head.trait("brow_thickness"), head.trait("eye_size")
    colour = times(blend(head.hair, (0.16, 0.11, 0.09), 0.45), 0.85)
    for side, sign in SIDES.items():
        eye = head.eyes[side]
        y = eye.y - head.trait("brow_height") - head.look.brow
        near = canvas.window(eye.x, y, 1.8 * size)
        turn = head.trait("brow_tilt") + head.look.pinch
        u, v = _tilt(near, Spot(eye.x, y, eye.squeeze), sign * turn)
        stroke(near, arc(u, v, 1.25 * size, 0.022, thickness, taper=0.4), colour, LABEL[f"{side} brow"], opacity=0.92)


def nose(canvas: Canvas, head: Head) -> None:
    tip, wide = head.tip, head.trait("nose_width")
    middle = (tip.x + head.bridge.x) / 2, (tip.y + head.bridge.y) / 2
    near = canvas.window(*middle, 0.75 * (tip.y - head.bridge.y) + 0.06)
    near.labels.masked_fill_(nose_shape(near, head) < 0, LABEL["nose"])
    dark = times(head.skin, 0.58)
    if near.style == "photo":
        _paint_nose_light(near, head, dark)
    side = -1 if head.scene.light_x > 0 else 1
    u, v = (near.x - tip.x) / (0.5 + 0.5 * tip.squeeze), near.y - tip.y
    if near.style != "photo":
        start = (side * 0.030 + head.bridge.x - tip.x, 0.55 * (head.bridge.y - tip.y))
        stroke(near, segment(u, v, start, (side * wide * 0.75, -0.03), 0.006), dark, opacity=0.8)
    under = arc(u, v - 0.026, 0.62 * wide, -0.018, 0.008, taper=0.5)
    wings = [arc(v + 0.004, -sign * (u - sign * wide), 0.034, 0.012, 0.0075, taper=0.6) for sign in (-1, 1)]
    stroke(near, either(under, *wings), dark, opacity=0.75)
    holes = [ellipse(u - sign * 0.50 * wide, v - 0.022, 0.26 * wide + 0.004, 0.0115) for sign in (-1, 1)]
    stroke(near, either(*holes), times(head.skin, 0.34), opacity=0.85)


def nose_shape(canvas: Canvas, head: Head, more: float = 0.0) -> torch.Tensor:
    """Return the distance to the nose's region: from between the eyes, widening, to below the nostrils."""
    tip, bridge, wide = head.tip, head.bridge, head.trait("nose_width")
    along = ((canvas.y - bridge.y) / (tip.y - bridge.y)).clamp(0, 1)
    off = (canvas.x - bridge.x - along * (tip.x - bridge.x)).abs()
    half = 0.024 + (wide - 0.012) * along**3
    return both(off - half - more, bridge.y - canvas.y - more, canvas.y - tip.y - 0.038 - more)


def _paint_nose_light(canvas: Canvas, head: Head, dark) -> None:
    """Paint a shaded flank away from the light, a lit back and tip."""
    tip, bridge, wide = head.tip, head.bridge, head.trait("nose_width")
    along = (canvas.y - bridge.y) / (tip.y - bridge.y)
    ends = (1.15 - along).clamp(0, 0.25) * (along + 0.1).clamp(0, 0.3) * (1 / 0.075)
    off = canvas.x - bridge.x - along * (tip.x - bridge.x)
    side = -1 if head.scene.light_x > 0 else 1
    flank = 0.022 + 0.6 * wide * along.clamp(0, 1).square()
    strength = (0.25 + 0.35 * abs(head.scene.light_x)) * (0.5 + 0.5 * head.scene.light)
    glow(canvas, (-((off - side * flank) / 0.026).square()).exp_() * ends * strength, dark)
    light = blend(head.skin, _WHITE, 0.7)
    glow(canvas, (-(off / 0.018).square()).exp_() * ends * (0.30 * head.scene.light), light)
    glow(canvas, _bump(canvas, Spot(tip.x - side * 0.012, tip.y - 0.014, 1.0), 0.026, 0.022).mul_(0.40), light)


def mouth(canvas: Canvas, head: Head) -> None:
    spot, look = head.mouth, head.look
    half, lip = head.mouth_half, head.trait("lip_thickness")
    near = canvas.window(spot.x, spot.y + 0.03, half + 0.10)
    u, top, bottom = _find_lips(near, head)
    y, bow, ends = near.y, (1 - u * u).clamp(min=0), (u.abs() - 1) * half
    red = blend(blend(head.skin, (0.70, 0.28, 0.27), 0.42), (0.74, 0.11, 0.17), 0.75 * head.trait("lip_colour"))
    dip = 1 - 0.30 * (-(u / 0.16).square()).exp_()
    upper = both(top - lip * bow.pow(0.7) * dip - y, y - top, ends)
    lower = both(bottom - y, y - bottom - 1.25 * lip * bow.pow(0.6), ends)
    if look.open:
        inside = both(top - y, y - bottom, ends)
        stroke(near, inside, (0.30, 0.07, 0.08), LABEL["mouth"])
        teeth = both(inside, y - top - 0.030 - 0.012 * look.open)
        stroke(near, teeth, _WHITE, LABEL["mouth"], opacity=0.95)
        if look.open > 0.8:
            tongue = both(inside, ellipse(u * half, y - bottom - 0.01, 0.6 * half, 0.045))
            stroke(near, tongue, (0.78, 0.32, 0.34), LABEL["mouth"])
    paint(near, upper, times(red, 0.88), LABEL["upper lip"], line=0.35)
    paint(near, lower, red, LABEL["lower lip"], line=0.35)
    seam = both((y - top).abs() - 0.0065, ends - 0.012)
    stroke(near, seam, times(red, 0.42), opacity=0.9 if not look.open else 0.5)
    for sign in (-1, 1):  # the corners
        corner = near.x - spot.x - sign * half * spot.squeeze, y - corner_height(head)
        stroke(near, circle(*corner, 0.011), times(head.skin, 0.5), opacity=0.7)


def mouth_shape(canvas: Canvas, head: Head, more: float = 0.0) -> torch.Tensor:
    """Return the distance to the mouth's region: lips and what is between them."""
    u, top, bottom = _find_lips(canvas, head)
    half, lip = head.mouth_half, head.trait("lip_thickness")
    return both(top - lip - canvas.y - more, canvas.y - bottom - 1.25 * lip - more, (u.abs() - 1) * half - more)


def eye_shape(canvas: Canvas, head: Head, side: str) -> torch.Tensor:
    """Return the distance to an eye's region, open or closed, with its lids."""
    eye, size = head.eyes[side], head.trait("eye_size")
    u, v = _tilt(canvas, eye, SIDES[side] * head.trait("eye_tilt"))
    return ellipse(u, v, 1.25 * size, 0.75 * size)


def glasses(canvas: Canvas, head: Head) -> None:
    """Paint two round rims, a bridge and the arms."""
    size, frame = head.trait("eye_size"), (0.13, 0.12, 0.14)
    radius = 1.5 * size
    near = canvas.window(*head.spot(0, head.eyes["left"].y)[:2], 1.4 * head.width)
    rims = []
    for side, sign in SIDES.items():
        eye = head.spot(sign * 1.04 * head.trait("eye_spacing") * head.width, head.eyes[side].y + 0.012, 0.03)
        u, v = (near.x - eye.x) / eye.squeeze, near.y - eye.y
        lens = box(u, v, radius, 0.86 * radius, 0.6 * radius)
        stroke(near, lens, (0.80, 0.88, 0.95), opacity=0.14)
        rims.append(lens.abs() - 0.0125)
        ear = sign * head.width * 1.02 * math.cos(head.scene.yaw) - 0.10 * math.sin(head.scene.yaw)
        outer, inner = (eye.x + side * radius * eye.squeeze for side in (sign, -sign))
        if sign * (ear - outer) > 0.02:
            rims.append(segment(near.x, near.y, (outer, eye.y - 0.03), (ear, eye.y - 0.03), 0.0125))
        rims.append(segment(near.x, near.y, (inner, eye.y - 0.02), (head.bridge.x, eye.y - 0.035), 0.011))
    stroke(near, either(*rims), frame, LABEL["glasses"])


def _find_lips(canvas: Canvas, head: Head) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return planes: the position across the mouth, -1..1, and where the lips part above and below."""
    spot, look = head.mouth, head.look
    u = (canvas.x - spot.x) / (spot.squeeze * head.mouth_half)
    bow = (1 - u * u).clamp(min=0)
    rest = corner_height(head) + 0.062 * look.curve * bow
    gap = (0.045 + 0.5 * head.mouth_half) * look.open
    return u, rest - 0.30 * gap * bow.sqrt(), rest + 0.70 * gap * bow.sqrt()


def _tilt(canvas: Canvas, spot: Spot, angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the planes of a spot's own frame: across (outer end up by `angle` for the left side) and down."""
    across, down = (canvas.x - spot.x) / spot.squeeze, canvas.y - spot.y
    cos, sin = math.cos(angle), math.sin(angle)
    return across * cos - down * sin, across * sin + down * cos


def _bump(canvas: Canvas, spot: Spot, rx: float, ry: float) -> torch.Tensor:
    """Return a plane that is 1 at the spot and fades smoothly."""
    across, down = (canvas.x - spot.x) / (rx * spot.squeeze), (canvas.y - spot.y) / ry
    return (-(across * across + down * down)).exp_()
