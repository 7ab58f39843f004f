"""Aspect-ratio buckets: shapes of about as many pixels, to the nearest of which photos are cut, as SDXL learned."""

import math
from collections.abc import Sequence

Shape = tuple[int, int]  # height and width in pixels


def list_shapes(size: int, cell: int) -> tuple[Shape, ...]:
    """Return shapes from 4 : 1 to 1 : 4 with as many of size x size pixels as they take: at 1024, 17 of SDXL's table.

    Their sides are multiples of a sixteenth of `size`, or what whole latents of `cell` pixels leave of it.
    """
    step = max(size // 16 // cell, 1) * cell
    widths = range(-(-size // 2 // step) * step, size + 1, step)
    narrow = [(size * size // width // step * step, width) for width in widths]
    return (*narrow, *((width, height) for height, width in reversed(narrow) if height != width))


def choose_shape(shapes: tuple[Shape, ...], photo: Shape) -> Shape:
    """Return the shape whose ratio of sides is nearest to a photo's."""
    ratio = photo[0] / photo[1]
    return min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1] / ratio)))


def place_window(photo: Shape, shape: Shape, boxes: Sequence[tuple[float, ...]]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the largest part of a photo that has a shape's ratio.

    It is the middle, moved no farther than to show the boxes, the last one in any case; of one that is larger than the
    part it shows nothing else. boxes: x0, y0, x1, y1 of each in pixels of the photo.
    """
    scale = min(side / wanted for side, wanted in zip(photo, shape))
    height, width = (round(wanted * scale) for wanted in shape)
    top = _place(photo[0], height, [(box[1], box[3]) for box in boxes])
    return top, _place(photo[1], width, [(box[0], box[2]) for box in boxes]), height, width


def _place(length: int, part: int, ranges: list[tuple[float, float]]) -> int:
    """Return where a part of so many of `length` pixels begins, to show from the first to the last of all ranges."""
    start = (length - part) // 2
    for first, last in ranges:
        low, high = sorted((math.ceil(last) + 1 - part, math.floor(first)))
        start = min(max(start, low), high)
    return min(max(start, 0), length - part)
