"""Which of the found faces to keep, and what to do with a picture that shows none."""

from collections.abc import Callable

import numpy as np
import torch

from .align import template
from .types import Face, Faces

RULES = ("largest", "most central", "left to right", "all")
IF_NO_FACE = ("error", "whole picture", "skip")


def left_to_right(found: tuple[Face, ...]) -> tuple[Face, ...]:
    """The faces ordered by the horizontal centre of their boxes; equal centres keep their order."""
    return tuple(sorted(found, key=lambda face: face.box[0] + face.box[2]))


def choose(found: tuple[Face, ...], rule: str, index: int, image_size: tuple[int, int]) -> tuple[Face, ...]:
    """Keep the faces that `rule` (one of RULES) asks for; nothing found stays nothing.

    index: which face "left to right" keeps, counted from 0; the other rules ignore it. image_size: (H, W).
    Raises ValueError where `index` is beyond the faces found.
    """
    found = left_to_right(found)
    if rule == "all" or not found:
        return found
    if rule == "left to right":
        return (_at(found, index),)
    return (max(found, key=_box_area if rule == "largest" else _centrality(image_size)),)


def apply_policy(faces: Faces, rule: str, index: int, if_no_face: str) -> Faces:
    """Choose in every picture, and treat pictures without a face as `if_no_face` (one of IF_NO_FACE) says.

    "whole picture" stands in a face whose crop is the centred square of the picture; "skip" drops the picture.
    Raises ValueError where "error" meets a picture without a face, where "skip" leaves nothing, or from `choose`.
    """
    missing = [i for i, found in enumerate(faces.found) if not found]
    if missing and (if_no_face == "error" or if_no_face == "skip" and len(missing) == len(faces.found)):
        raise ValueError(_no_face_message(faces, missing))
    size = tuple(faces.images.shape[1:3])
    chosen = [_choose_in(i, faces, rule, index, size) or (whole_picture(size),) for i in range(len(faces.found))]
    kept = [i for i in range(len(chosen)) if i not in missing or if_no_face != "skip"]
    return Faces(faces.images[torch.tensor(kept)], tuple(chosen[i] for i in kept), faces.tried)


def whole_picture(image_size: tuple[int, int]) -> Face:
    """A stand-in face (score 0) whose crop is the centred square of a picture of `image_size` (H, W)."""
    height, width = image_size
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    # Half a pixel in and out: the crop's outer edges, not its outer pixel centres, meet the square's.
    points = (template(112) + 0.5) * side / 112 - 0.5 + [left, top]
    return Face(points.astype(np.float32), (left, top, left + side - 1, top + side - 1), 0.0)


def _box_area(face: Face) -> float:
    x0, y0, x1, y1 = face.box
    return (x1 - x0) * (y1 - y0)


def _centrality(image_size: tuple[int, int]) -> Callable[[Face], float]:
    height, width = image_size
    return lambda face: -np.hypot(face.box[0] + face.box[2] - width + 1, face.box[1] + face.box[3] - height + 1)


def _at(found: tuple[Face, ...], index: int) -> Face:
    if not 0 <= index < len(found):
        several = f"are only {len(found)} faces (index 0 to {len(found) - 1})"
        count = "is only 1 face (index 0)" if len(found) == 1 else several
        raise ValueError(f"Face {index} from the left was asked for, but there {count}: lower the index.")
    return found[index]


def _choose_in(i: int, faces: Faces, rule: str, index: int, size: tuple[int, int]) -> tuple[Face, ...]:
    try:
        return choose(faces.found[i], rule, index, size)
    except ValueError as error:
        raise ValueError(f"Picture {i + 1} of {len(faces.found)}: {error}") from error


def _no_face_message(faces: Faces, missing: list[int]) -> str:
    where = "picture " + ", ".join(str(i + 1) for i in missing) + f" of {len(faces.found)}"
    return (
        f"No face was found in {where} (searched with {faces.tried or 'the chosen detector'}). Lower min_score, raise "
        'det_size for small faces, choose another detector, use a clearer photo, or set if_no_face to "whole picture" '
        'or "skip".'
    )
