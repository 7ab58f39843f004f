"""Which of the found faces to keep, and what to do with an image that shows none."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from .align import template
from .frames import fill_from_nearest, number_faces
from .types import Face, Faces

RULES = ("largest", "most central", "left to right", "all")
IF_NO_FACE = ("error", "whole picture", "skip", "nearest frame", "leave as it is")

_LOOK_BETTER = "Lower min_score, raise det_size for small faces, choose another detector, use a clearer photo"
_MOST_NAMED = 8  # images that a message lists before it counts them
_ROW = 1.0  # a face farther below the last than this many of their heights begins the next row


def left_to_right(faces: Sequence[Face]) -> tuple[Face, ...]:
    """Return the faces in rows, the highest first, each row from left to right by the middles of the boxes.

    People who stand beside each other are in one row; whose faces lie quite below all others' are in the next. So a
    pixel more or less does not decide between two who are above each other.
    """
    rows: list[list[Face]] = []
    for face in sorted(faces, key=lambda face: face.centre[1]):
        last = rows[-1][-1] if rows else None
        if last and face.centre[1] - last.centre[1] <= _ROW * (face.sides[1] + last.sides[1]) / 2:
            rows[-1].append(face)
        else:
            rows.append([face])
    return tuple(face for row in rows for face in sorted(row, key=lambda face: face.centre[0]))


def choose(faces: tuple[Face, ...], rule: str, index: int, image_size: tuple[int, int]) -> tuple[Face, ...]:
    """Return the faces that `rule` (one of RULES) asks for; of no faces none.

    index: which face "left to right" keeps, counted from 0; the other rules ignore it. image_size: (H, W).
    Raises ValueError where `index` is beyond the faces.
    """
    faces = left_to_right(faces)
    if rule == "all" or not faces:
        return faces
    if rule == "left to right":
        if not 0 <= index < len(faces):
            raise ValueError(
                f"Face {index} from the left was asked for, but there {_how_many(len(faces))}: lower the index."
            )
        return (faces[index],)
    if rule == "largest":
        return (max(faces, key=lambda face: math.prod(face.sides)),)
    height, width = image_size
    middle = np.array([width - 1, height - 1]) / 2
    return (min(faces, key=lambda face: np.hypot(*(face.centre - middle))),)


def follow(
    per_frame: tuple[tuple[Face, ...], ...], rule: str, index: int, image_size: tuple[int, int]
) -> tuple[tuple[Face, ...], ...]:
    """Choose once for all frames of a video and keep that person.

    `rule` is decided in the first frame with faces that are seen in other frames too, of which one false find is none.

    index: the person's number (see `frames.number_faces`) for "left to right". "all" keeps everybody, ordered by
    number. A frame in which the person is not seen has no faces. Raises ValueError where nobody has the number.
    """
    per_frame = number_faces(per_frame)
    if rule == "all" or not any(per_frame):
        return per_frame
    if rule == "left to right":
        persons = 1 + max(face.number for faces in per_frame for face in faces)
        if not 0 <= index < persons:
            raise ValueError(
                f"Face {index} of the video was asked for, but there {_how_many(persons)} in all its frames: lower "
                "the index."
            )
        number = index
    else:
        sights = Counter(face.number for faces in per_frame for face in faces)
        lasting = (tuple(face for face in faces if sights[face.number] > 1) for faces in per_frame)
        first = next(filter(None, chain(lasting, per_frame)))
        number = choose(first, rule, index, image_size)[0].number
    return tuple(tuple(face for face in faces if face.number == number) for faces in per_frame)


def apply_policy(
    faces: Faces, rule: str, index: int, if_no_face: str, video: bool = False, remedy: str = _LOOK_BETTER
) -> Faces:
    """Choose in every image, and treat images without a face as `if_no_face` (one of IF_NO_FACE) says.

    "whole picture" stands in a face whose crop is the centred square of the image; "skip" drops the image and notes
    it in `Faces.skipped`; "leave as it is" keeps it, without faces;
    "nearest frame" takes over the faces, score and all, of the nearest image that has them, of two equally near ones
    the earlier's. video: the images are frames in order, and faces are followed through them, see `follow`.
    remedy: what to do about missing faces, for the message. Raises ValueError where "error" meets an image without a
    face, where "skip" or "nearest frame" finds none in any image, or from `choose` and `follow`.
    """
    size = tuple(faces.images.shape[1:3])
    if video:
        choices = follow(faces.per_image, rule, index, size)
    else:
        choices = _choose_in_each(faces, rule, index, size)
    missing = [i for i, choice in enumerate(choices) if not choice]
    if missing and (if_no_face == "error" or if_no_face in ("skip", "nearest frame") and len(missing) == len(choices)):
        raise ValueError(_report_missing(faces, choices, missing, remedy))
    if if_no_face == "skip":
        rest = [i for i in range(len(choices)) if i not in missing]
        per_image = tuple(choices[i] for i in rest)
        return replace(faces, images=faces.images[torch.tensor(rest)], per_image=per_image, skipped=tuple(missing))
    if if_no_face == "leave as it is":
        return replace(faces, per_image=choices)
    if missing and if_no_face == "nearest frame":
        return replace(faces, per_image=fill_from_nearest(choices))
    return replace(faces, per_image=tuple(choice or (whole_image(size),) for choice in choices))


def lay_out(faces: Faces, images: torch.Tensor) -> Faces:
    """Return `faces` for nodes that paint faces and leave every other image of the batch as it is.

    Images without a found face have none at all, stand-ins included. Where `images` [B, H, W, C] are all that were
    searched, the skipped ones are in their places again; otherwise they stay away.
    """
    found = [present if any(face.score > 0 for face in present) else () for present in faces.per_image]
    if (len(found) + len(faces.skipped), *faces.images.shape[1:3]) != images.shape[:3]:
        return replace(faces, per_image=tuple(found))
    for i in faces.skipped:  # in ascending order
        found.insert(i, ())
    return replace(faces, images=images, per_image=tuple(found), skipped=())


def report_faceless(faces: Faces) -> str:
    """Return in a sentence how many images had no face, and what became of them; nothing where all had some."""
    missing = len(faces.skipped) or sum(not present for present in faces.per_image)
    if not missing:
        return ""
    total = len(faces.skipped) + len(faces.per_image)
    verb = "was" if missing == 1 else "were"
    fate = f"{verb} skipped" if faces.skipped else f"{verb} left as {'it is' if missing == 1 else 'they are'}"
    return f"{missing} of {total} pictures had no face and {fate}."


def whole_image(image_size: tuple[int, int]) -> Face:
    """Return a stand-in face (score 0) whose crop is the centred square of an image of `image_size` (H, W)."""
    height, width = image_size
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    # Half a pixel in and out: the crop's outer edges, not its outer pixel centres, meet the square's.
    points = (template(112) + 0.5) * side / 112 - 0.5 + [left, top]
    return Face(points.astype(np.float32), (left, top, left + side - 1, top + side - 1), 0.0)


def _how_many(count: int) -> str:
    return "is only 1 face (index 0)" if count == 1 else f"are only {count} faces (index 0 to {count - 1})"


def _choose_in_each(faces: Faces, rule: str, index: int, size: tuple[int, int]) -> tuple[tuple[Face, ...], ...]:
    choices = []
    for i, candidates in enumerate(faces.per_image):
        try:
            choices.append(choose(candidates, rule, index, size))
        except ValueError as error:
            raise ValueError(f"Picture {i + 1} of {len(faces.per_image)}: {error}") from error
    return tuple(choices)


def _report_missing(faces: Faces, choices: tuple[tuple[Face, ...], ...], missing: list[int], remedy: str) -> str:
    subject = "No face was"
    if any(faces.per_image[i] for i in missing):  # others are there, not the one followed
        number = next(face.number for choice in choices for face in choice)
        subject = f"Face {number}, as the video numbers them, was not"
    where = ", ".join(str(i + 1) for i in missing[:_MOST_NAMED])
    where += " and more" if len(missing) > _MOST_NAMED else ""
    return (
        f"{subject} found in picture {where} of {len(faces.per_image)} (searched with "
        f"{faces.tried or 'the chosen detector'}). "
        f'{remedy}, or set if_no_face to "whole picture", "skip", "nearest frame" or "leave as it is".'
    )
