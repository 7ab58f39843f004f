"""People in scenes, drawn: pictures with all that is known of them, always the same for the same numbers.

Every picture is drawn by itself, from back to front, small parts in windows of their own: its planes stay in the
processor's cache, what is not there costs nothing, and no picture depends on the batch it is drawn in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from . import features
from .backgrounds import background
from .body import body
from .canvas import Canvas, blank, in_frame
from .hair import beard, hair, hair_behind, hat
from .head import Head, head_of
from .people import Person
from .scenes import Scene

PARTS = ("face", "left eye", "right eye", "nose", "mouth")
_IS_FACE = torch.tensor([label in (1, 2, 3, 4, 5, 6, 10, 11, 12, 13) for label in range(len(features.LABEL))])
_PIVOT = 0.42j  # a head rolls about its neck
_ZOOM, _RAISED = 1.36, 0.0  # at scale 1: how large heads are drawn, and how far above the middle


@dataclass(frozen=True, eq=False)
class Rendering:
    """A batch of pictures and what is in them.

    images: [b, h, w, 3] float32 in 0..1.
    labels: [b, h, w] uint8, CelebAMask-HQ's numbering (`features.LABEL`): what is seen at every pixel.
    masks: [b, 5, h, w] bool, in the order of PARTS: the region of each part, open or closed, as far as nothing but the
        face's own is before it.
    points: [b, 5, 2] float32 pixels (x, y), centres at integers: the subject's right eye, left eye, nose tip, right and
        left corner of the mouth.
    """

    images: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor
    points: torch.Tensor


def draw(people: Sequence[Person], scenes: Sequence[Scene], size: int = 128) -> Rendering:
    """Draw each person in the scene beside it, `size` pixels a side, on the CPU.

    Raises ValueError for no people, another number of scenes, or pictures of fewer than 16 pixels a side.
    """
    if not people or len(people) != len(scenes):
        raise ValueError(f"Drawing needs one scene for each person, but there are {len(people)} and {len(scenes)}.")
    if size < 16:
        raise ValueError(f"A portrait needs at least 16 pixels a side, not {size}.")
    return Rendering(
        *map(torch.stack, zip(*(_portrait(subject, scene, size) for subject, scene in zip(people, scenes))))
    )


def _portrait(subject: Person, scene: Scene, size: int) -> tuple[torch.Tensor, ...]:
    canvas, head = blank(size, scene.style), head_of(subject, scene)
    position, scale = complex(scene.x, scene.y - _RAISED), _ZOOM * scene.scale
    upright = in_frame(canvas, complex(scale), position)
    turn = scale * complex(math.cos(scene.roll), math.sin(scene.roll))
    frame = in_frame(canvas, turn, position + scale * _PIVOT - turn * _PIVOT)
    lit = replace(frame, shade=_light(frame, head))

    background(canvas, scene.background, scene.layout)
    hair_behind(lit, head)
    body(replace(upright, shade=0.45 + 0.55 * _light(upright, head)), head)  # a body is flatter than a head
    _head(lit, head)
    points = torch.tensor([[pixel.real, pixel.imag] for pixel in (frame.to_pixel(*point) for point in head.points())])
    return canvas.rgb.clamp_(0, 1).movedim(0, -1).contiguous(), canvas.labels, _masks(frame, head), points


def _head(canvas: Canvas, head: Head) -> None:
    """Paint everything on the neck, from back to front."""
    features.ears(canvas, head)
    outline = features.face(canvas, head)
    features.nose(canvas, head)
    beard(canvas, head, outline)
    features.mouth(canvas, head)
    features.eyes(canvas, head)
    features.brows(canvas, head)
    hair(canvas, head)
    if head.scene.glasses:
        features.glasses(canvas, head)
    if head.scene.hat:
        hat(canvas, head)


def _light(canvas: Canvas, head: Head) -> torch.Tensor:
    """Return how bright things are, as on an egg lit from (light_x, light_y); a cartoon knows lit and unlit only."""
    scene = head.scene
    x, y = (canvas.x / (1.25 * head.width)).clamp(-1.3, 1.3), (canvas.y / (1.3 * head.height)).clamp(-1, 1.3)
    facing = scene.light_x * x + 0.7 * scene.light_y * y
    if canvas.style == "cartoon":
        edge = ((facing + 0.42) * (0.10 / canvas.pixel)).clamp_(0, 1)
        return 1 - 0.24 * (0.4 + 0.6 * scene.light) * (1 - edge)
    shade = 1 + scene.light * (0.36 * facing - 0.13 * (x * x + 0.5 * y * y))
    return shade + 0.03


def _masks(canvas: Canvas, head: Head) -> torch.Tensor:
    parts = [
        _IS_FACE[canvas.labels.int()],
        *(features.eye_shape(canvas, head, side) < 0 for side in ("left", "right")),
        features.nose_shape(canvas, head, 0.012) < 0,
        features.mouth_shape(canvas, head, max(0.016, canvas.pixel)) < 0,
    ]
    masks = torch.stack(parts)
    masks[1:] &= masks[0]
    return masks
