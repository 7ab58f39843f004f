"""What a person is seen in: pose, light, expression, clothes, place and manner of drawing.

Left and right are the subject's: in a picture of an upright face the left eye is at the right-hand side.
"""

from dataclasses import dataclass, replace

import numpy as np

STYLES = ("photo", "sketch", "cartoon")
EXPRESSIONS = ("neutral", "smile", "open mouth", "frown", "wink left", "wink right")
COLOURS = ("red", "pink", "yellow", "green", "blue", "purple", "white", "black")
CLOTHES = ("shirt", "sweater", "jacket", "hoodie")
HATS = ("cap", "beanie", "fedora", "beret", "crown")
BACKGROUNDS = (
    *("beach", "forest", "city", "mountains", "desert", "snow", "meadow", "stars", "sunset"),
    *("library", "kitchen", "brick wall", "grey wall", "red curtain"),
)
YAW, ROLL, SHIFT, SCALE = 0.5, 0.22, 0.1, (1.0, 1.25)  # the farthest; radians, radians, half sides, times


@dataclass(frozen=True)
class Scene:
    """One picture's circumstances.

    hat: one of HATS, or None.
    x, y: the head's shift from its place in the middle, in half sides, right and down.
    roll: radians, clockwise in the picture; yaw: radians, positive where the subject turns to the picture's right.
    light_x, light_y: where the light comes from, -1..1, right and down; light: its strength, 0..1.
    layout: 0..1, moves things in the background about.
    """

    style: str = "photo"
    expression: str = "neutral"
    background: str = "grey wall"
    clothes: str = "shirt"
    clothes_colour: str = "blue"
    hat: str | None = None
    hat_colour: str = "red"
    glasses: bool = False
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.15
    roll: float = 0.0
    yaw: float = 0.0
    light_x: float = -0.5
    light_y: float = -0.5
    light: float = 0.5
    layout: float = 0.5


def scene(number: int, index: int, seed: int = 0, styles: tuple[float, float, float] = (0.7, 0.12, 0.18)) -> Scene:
    """Return the scene of image `index` of person `number`, always the same one.

    styles: the share of each of STYLES; it changes nothing else about a scene.
    """
    rng = np.random.default_rng([seed, 2, number, index])
    pick, within = rng.choice, rng.uniform
    hatted = within() < 0.3
    return Scene(
        style=STYLES[np.searchsorted(np.cumsum(styles) / sum(styles), within(), side="right")],
        expression=EXPRESSIONS[pick(len(EXPRESSIONS), p=(0.3, 0.25, 0.13, 0.16, 0.08, 0.08))],
        background=str(pick(BACKGROUNDS)),
        clothes=str(pick(CLOTHES)),
        clothes_colour=str(pick(COLOURS)),
        hat=str(pick(HATS)) if hatted else None,
        hat_colour=str(pick(COLOURS)),
        glasses=bool(within() < 0.22),
        x=within(-SHIFT, SHIFT),
        y=within(-SHIFT, SHIFT) * 0.6,
        scale=within(*SCALE),
        roll=within(-ROLL, ROLL),
        yaw=float(np.clip(rng.normal(0, 0.24), -YAW, YAW)),
        light_x=within(-1, 1),
        light_y=within(-1, 0.3),
        light=within(0.2, 1),
        layout=within(),
    )


def mirror(scene: Scene) -> Scene:
    """Return the scene whose image is the mirror image, were person and background symmetric."""
    swap = {"wink left": "wink right", "wink right": "wink left"}
    turned = {name: -getattr(scene, name) for name in ("x", "roll", "yaw", "light_x")}
    return replace(scene, expression=swap.get(scene.expression, scene.expression), **turned)
