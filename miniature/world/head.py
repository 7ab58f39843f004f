"""Where everything in a face lies once the head is turned and makes a face: numbers only, no pixels.

The head's frame: the origin in the middle of the face, x to the picture's right when upright, y down, 1 is half a
picture's side at scale 1.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .canvas import Colour
from .people import Person
from .scenes import Scene
from .shapes import level

SIDES = {"left": 1, "right": -1}  # the subject's left is at the picture's right

_SKIN = (
    *((0.99, 0.87, 0.79), (0.96, 0.79, 0.67), (0.89, 0.69, 0.54)),
    *((0.76, 0.55, 0.40), (0.60, 0.41, 0.29), (0.44, 0.30, 0.22)),
)
_HAIR = (
    *((0.11, 0.10, 0.12), (0.27, 0.18, 0.13), (0.45, 0.30, 0.18), (0.55, 0.23, 0.13)),
    *((0.80, 0.44, 0.19), (0.92, 0.77, 0.46), (0.75, 0.75, 0.77)),
)
_EYES = ((0.27, 0.16, 0.09), (0.55, 0.36, 0.15), (0.36, 0.52, 0.27), (0.25, 0.47, 0.74), (0.55, 0.62, 0.68))


class Spot(NamedTuple):
    """A place on the face as it is seen. squeeze: how much of its width the turn leaves."""

    x: float
    y: float
    squeeze: float


class Look(NamedTuple):
    """An expression. curve: the mouth's corners, up; open: how far the mouth is; brow: up; pinch: the brows' inner ends
    down, radians; eyes: how far they are open, for the left and the right one."""

    curve: float
    open: float
    brow: float
    pinch: float
    left: float
    right: float


_LOOKS = {
    "neutral": Look(0.10, 0.0, 0.0, 0.0, 1.0, 1.0),
    "smile": Look(0.85, 0.34, 0.004, -0.04, 0.86, 0.86),
    "open mouth": Look(0.0, 1.0, 0.026, -0.12, 1.20, 1.20),
    "frown": Look(-0.75, 0.0, -0.016, 0.34, 0.86, 0.86),
    "wink left": Look(0.50, 0.10, 0.006, 0.0, 0.0, 1.05),
    "wink right": Look(0.50, 0.10, 0.006, 0.0, 1.05, 0.0),
}


@dataclass(frozen=True)
class Head:
    """A person's head in a scene, with its parts where they are seen.

    low: the height of its lower half; mouth_half: half the mouth's width, as far as the jaw has room.
    """

    subject: Person
    scene: Scene
    look: Look
    width: float
    height: float
    low: float
    eyes: dict[str, Spot]
    bridge: Spot
    tip: Spot
    mouth: Spot
    mouth_half: float
    skin: Colour
    hair: Colour
    iris: Colour

    def trait(self, name: str) -> float:
        return self.subject.traits[name]

    def spot(self, x: float, y: float, out: float = 0.0) -> Spot:
        """Return where a point of the unturned face is seen; `out`: how far it stands out of the face."""
        return _turn(self.width, self.scene.yaw, x, y, out)

    def outline(self, x: torch.Tensor, y: torch.Tensor, pixel: float, more: float = 0.0) -> torch.Tensor:
        """Return the distance to the face's outline, `more` wider all around."""
        width, height, low = self.width + more, self.height + more, self.low + more
        down = (y / low).clamp(0, 1.4)
        x = x - math.sin(self.scene.yaw) * self.width * (0.17 * down + 0.05 * (y / height).clamp(-1, 0))
        side = (x / (width * (1 - self.trait("jaw") * down.square()))).square()
        up = (y / height).clamp(max=0).square()
        return level((side + up + down ** self.trait("jaw_square")).sqrt_() - 1, pixel)

    def points(self) -> list[tuple[float, float]]:
        """Return right eye, left eye, nose's tip, right and left corner of the mouth."""
        half, height = self.mouth_half * self.mouth.squeeze, corner_height(self)
        corners = [(self.mouth.x + side * half, height) for side in (-1, 1)]
        return [self.eyes["right"][:2], self.eyes["left"][:2], self.tip[:2], *corners]


def head_of(subject: Person, scene: Scene) -> Head:
    """Return a person's head, turned and with the scene's expression."""
    trait, look = subject.traits, _LOOKS[scene.expression]
    width, height = trait["face_width"], trait["face_height"]
    eye_y = trait["eye_height"] * height
    tip_y = eye_y + trait["nose_length"] * height
    mouth_y = tip_y + trait["mouth_height"] * height
    low = max(height * trait["chin"], mouth_y + 0.10) + 0.035 * max(look.open - 0.4, 0)

    def spot(x: float, y: float, out: float = 0.0) -> Spot:
        return _turn(width, scene.yaw, x, y, out)

    eyes = {side: spot(sign * trait["eye_spacing"] * width, eye_y) for side, sign in SIDES.items()}
    down = mouth_y / low
    jaw = width * (1 - trait["jaw"] * down**2) * math.sqrt(1 - down ** trait["jaw_square"])
    bridge, tip, mouth = spot(0, eye_y, 0.02), spot(0, tip_y, 0.07), _turn(jaw, scene.yaw, 0, mouth_y, 0.02)
    colours = _skin(trait["skin"], trait["undertone"]), _between(_HAIR, trait["hair_colour"])
    return Head(
        *(subject, scene, look, width, height, low, eyes, bridge, tip, mouth),
        min(trait["mouth_width"], 0.60 * jaw),
        *(*colours, _between(_EYES, trait["eye_colour"])),
    )


def corner_height(head: Head) -> float:
    """Return how high the mouth's corners lie: a smile lifts them."""
    return head.mouth.y - 0.035 * head.look.curve


def _turn(width: float, yaw: float, x: float, y: float, out: float) -> Spot:
    across = min(abs(x) / width, 0.98)
    depth = 0.72 * width * math.sqrt(1 - 0.8 * across * across) + out
    slope = 0.8 * 0.72 * x / width / math.sqrt(1 - 0.8 * across * across)
    turned_x = x * math.cos(yaw) + depth * math.sin(yaw)
    return Spot(turned_x, y, min(max(math.cos(yaw) - slope * math.sin(yaw), 0.45), 1.15))


def _skin(tone: float, undertone: float) -> tuple[float, float, float]:
    red, green, blue = _between(_SKIN, tone)
    return red + 0.010 * undertone, green - 0.030 * undertone, blue + 0.035 * undertone


def _between(stops: tuple, share: float) -> tuple[float, float, float]:
    """Return the colour at `share` 0..1 of the way along evenly spaced stops."""
    position = share * (len(stops) - 1)
    first = min(int(position), len(stops) - 2)
    one, other = stops[first], stops[first + 1]
    return tuple(a + (b - a) * (position - first) for a, b in zip(one, other))
