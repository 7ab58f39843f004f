"""Boxes as other packs hand them on, in the host's form.

BOUNDING_BOX  the host's: {"x", "y", "width", "height"} in pixels, often with "score"; a list; a list per image
BBOX          four numbers, x0, y0, x1, y1 or x, y, width, height; a list (one for each image if so many); or for each
SEGS          the Impact Pack's: ((H, W), segments with `bbox` x0, y0, x1, y1 and `confidence`), of one image
"""

from collections.abc import Iterator

import numpy as np


def to_bounding_boxes(boxes: object, batch: int, size: tuple[int, int]) -> object:
    """Return BBOX and SEGS as BOUNDING_BOX, of `batch` images of `size` (width, height); anything else as it is.

    Packs mean corners, or corner and size, by four numbers: all of one input are corners where all of them could be.
    Raises ValueError for SEGS of an image of another size.
    """
    boxes = _plain(boxes)
    if _is_segs(boxes):
        return _read_segs(boxes, size)
    rows = list(_find_rows(boxes))
    if not rows:
        return boxes
    corners = all(x0 < x1 <= size[0] and y0 < y1 <= size[1] for x0, y0, x1, y1 in rows)
    named = _name_rows(boxes, corners)
    one_each = 1 < batch == len(rows) and isinstance(named, list) and all(isinstance(box, dict) for box in named)
    return [[box] for box in named] if one_each else named


def _is_segs(boxes: object) -> bool:
    if not (isinstance(boxes, (list, tuple)) and len(boxes) == 2 and isinstance(boxes[1], (list, tuple))):
        return False
    return _is_row(boxes[0], 2) and all(hasattr(segment, "bbox") for segment in boxes[1])


def _read_segs(segs: tuple, size: tuple[int, int]) -> list[dict]:
    (height, width), segments = segs
    if (width, height) != size:
        raise ValueError(
            f"bboxes are SEGS of a picture of {width} x {height}, the image is {size[0]} x {size[1]}: detect them in "
            "the same picture."
        )
    scores = [float(np.max(getattr(segment, "confidence", 1.0))) for segment in segments]
    return [_name_sides(segment.bbox, True) | {"score": score} for segment, score in zip(segments, scores)]


def _plain(value: object) -> object:
    """Return arrays and tensors as lists, anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_row(value: object, length: int) -> bool:
    numbers = isinstance(value, (list, tuple)) and len(value) == length
    return numbers and all(isinstance(number, (int, float, np.number)) for number in value)


def _find_rows(value: object) -> Iterator[list]:
    value = _plain(value)
    if _is_row(value, 4):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _find_rows(part)


def _name_rows(value: object, corners: bool) -> object:
    value = _plain(value)
    if _is_row(value, 4):
        return _name_sides(value, corners)
    return [_name_rows(part, corners) for part in value] if isinstance(value, (list, tuple)) else value


def _name_sides(row, corners: bool) -> dict[str, float]:
    x, y, *rest = map(float, row)
    width, height = (rest[0] - x, rest[1] - y) if corners else rest
    return {"x": x, "y": y, "width": width, "height": height}
