"""Which of the found faces to keep, and what to do with a picture that shows none."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from .align import template
from .frames import fill_from_nearest, number_faces
from .types import Face, Faces

RULES = ("largest", "most central", "left to right", "all")
IF_NO_FACE = ("error", "whole picture", "skip", "nearest frame")

_LOOK_BETTER = "Lower min_score, raise det_size for small faces, choose another detector, use a clearer photo"
_MOST_NAMED = 8  # pictures that a message lists before it counts them


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


def follow(
    found: tuple[tuple[Face, ...], ...], rule: str, index: int, image_size: tuple[int, int]
) -> tuple[tuple[Face, ...], ...]:
    """Choose once for all frames of a video and keep that person: `rule` is decided in the first frame with faces.

    index: the person's number (see `frames.number_faces`) for "left to right". "all" keeps everybody, ordered by
    number. A frame in which the person is not seen has no faces. Raises ValueError where nobody has the number.
    """
    numbered = number_faces(found)
    if rule == "all" or not any(numbered):
        return numbered
    if rule == "left to right":
        persons = 1 + max(face.number for faces in numbered for face in faces)
        if not 0 <= index < persons:
            raise ValueError(
                f"Face {index} of the video was asked for, but there {_how_many(persons)} in all its frames: lower "
                "the index."
            )
        wanted = index
    else:
        wanted = choose(next(filter(None, numbered)), rule, index, image_size)[0].number
    return tuple(tuple(face for face in faces if face.number == wanted) for faces in numbered)


def apply_policy(
    faces: Faces, rule: str, index: int, if_no_face: str, video: bool = False, remedy: str = _LOOK_BETTER
) -> Faces:
    """Choose in every picture, and treat pictures without a face as `if_no_face` (one of IF_NO_FACE) says.

    "whole picture" stands in a face whose crop is the centred square of the picture; "skip" drops the picture;
    "nearest frame" takes over the faces, score and all, of the nearest picture that has them, of two equally near ones
    the earlier's. video: the pictures are frames in order, and faces are followed through them, see `follow`.
    remedy: what to do about missing faces, for the message. Raises ValueError where "error" meets a picture without a
    face, where "skip" or "nearest frame" finds none in any picture, or from `choose` and `follow`.
    """
    size = tuple(faces.images.shape[1:3])
    if video:
        chosen = follow(faces.found, rule, index, size)
    else:
        chosen = tuple(_choose_in(i, faces, rule, index, size) for i in range(len(faces.found)))
    missing = [i for i, kept in enumerate(chosen) if not kept]
    if missing and (if_no_face == "error" or if_no_face != "whole picture" and len(missing) == len(chosen)):
        raise ValueError(_no_face_message(faces, chosen, missing, remedy))
    if if_no_face == "skip":
        kept = [i for i in range(len(chosen)) if i not in missing]
        return replace(faces, images=faces.images[torch.tensor(kept)], found=tuple(chosen[i] for i in kept))
    if missing and if_no_face == "nearest frame":
        return replace(faces, found=fill_from_nearest(chosen))
    return replace(faces, found=tuple(kept or (whole_picture(size),) for kept in chosen))


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
        raise ValueError(
            f"Face {index} from the left was asked for, but there {_how_many(len(found))}: lower the index."
        )
    return found[index]


def _how_many(count: int) -> str:
    return "is only 1 face (index 0)" if count == 1 else f"are only {count} faces (index 0 to {count - 1})"


def _choose_in(i: int, faces: Faces, rule: str, index: int, size: tuple[int, int]) -> tuple[Face, ...]:
    try:
        return choose(faces.found[i], rule, index, size)
    except ValueError as error:
        raise ValueError(f"Picture {i + 1} of {len(faces.found)}: {error}") from error


def _no_face_message(faces: Faces, chosen: tuple[tuple[Face, ...], ...], missing: list[int], remedy: str) -> str:
    who = "No face was"
    if any(faces.found[i] for i in missing):  # others are there, not the one followed
        number = next(face.number for kept in chosen for face in kept)
        who = f"Face {number}, as the video numbers them, was not"
    where = ", ".join(str(i + 1) for i in missing[:_MOST_NAMED])
    where += " and more" if len(missing) > _MOST_NAMED else ""
    return (
        f"{who} found in picture {where} of {len(faces.found)} (searched with {faces.tried or 'the chosen detector'}). "
        f'{remedy}, or set if_no_face to "whole picture", "skip" or "nearest frame".'
    )
