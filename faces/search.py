"""The search for faces in one image: as it is and, where that finds none, in other ways."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import comfy.model_management
import numpy as np

from .align import in_template_order
from .types import Face, overlap

SEARCHES = ("thorough", "quick")

_SIZES = (1 / 2, 3 / 4, 3 / 2, 2)  # of det_size: down for large faces first, then up for small ones
_SMALLEST, _LARGEST = 64, 2048  # what the node's det_size allows
_NARROW = 16  # parts of an image's longer side, of which one is the border in which a find is confirmed

Move = Callable[[np.ndarray], np.ndarray]  # points [n, 2] to points [n, 2]


class FaceDetector(Protocol):
    """name: the detector and its settings in words, for messages.

    min_score: 0..1, faces below it are not reported. det_size: the size in pixels at which it looks, to be changed on
    a copy; None for a detector with sizes of its own.
    """

    name: str
    min_score: float
    det_size: int | None

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces in `image` [H, W, 3] uint8 RGB, in pixels of that image, in any order."""


def find(detector: FaceDetector, image: np.ndarray, search: str = "thorough", min_size: float = 0) -> list[Face]:
    """Return the faces of `image` [H, W, 3] uint8 RGB from the first look that shows any, or [] where no look does.

    search: one of SEARCHES; "quick" looks at the image as it is and within a black border, "thorough" then at other
    detection sizes and at the image turned by quarters. min_size: pixels of a box's shorter side below which a face
    is passed over. Points may lie outside the image, boxes are clipped to it, faces outside it are dropped.
    """
    height, width = image.shape[:2]
    for look, pixels, back, doubtful in _list_looks(detector, image, search):
        comfy.model_management.throw_exception_if_processing_interrupted()
        faces = look.detect(pixels)
        if doubtful and faces:
            faces = _confirm(look, pixels, faces)
        faces = tidy([move_face(face, back) for face in faces], (width, height))
        faces = [face for face in faces if min(face.sides) >= min_size]
        if faces:
            return faces
    return []


def in_words(detector: FaceDetector, search: str, min_size: float) -> str:
    """Describe how `find` looks at an image in which it finds nothing, for messages."""
    ways = ["with a black border around the picture"]
    if search == "thorough":
        sizes = other_sizes(detector.det_size)
        ways += ["at det_size " + _enumerate(sizes)] if sizes else []
        ways.append("turned by 90, 180 and 270 degrees")
    ignored = f"; faces under {min_size:g} pixels (min_size) do not count" if min_size else ""
    return f"{detector.name}, then again {_enumerate(ways)}{ignored}"


def other_sizes(det_size: int | None) -> list[int]:
    """Return the sizes tried after `det_size`, multiples of 32: half, three quarters, one and a half, double."""
    if det_size is None:
        return []
    sizes = dict.fromkeys(32 * round(det_size * factor / 32) for factor in _SIZES)
    return [size for size in sizes if _SMALLEST <= size <= _LARGEST and size != det_size]


def turn_back(points: np.ndarray, turns: int, size: tuple[int, int]) -> np.ndarray:
    """Return where points [n, 2] of np.rot90(image, turns) lie in the image of `size` (width, height); turns 1 to 3."""
    (x, y), (width, height) = points.T, size
    return np.stack([(width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x)][turns - 1], axis=-1)


def move_face(face: Face, move: Move) -> Face:
    """Return `face` with points, box, landmarks and the host's own coordinates moved; a box stays upright."""
    host = face.host and {
        **face.host,
        "landmarks_xy": move(face.host["landmarks_xy"]),
        "bbox_xyxy": np.asarray(_move_box(face.host["bbox_xyxy"], move), np.float32),
    }
    landmarks = None if face.landmarks is None else move(np.asarray(face.landmarks, np.float32))
    return replace(face, points=move(face.points), box=_move_box(face.box, move), landmarks=landmarks, host=host)


def tidy(faces: list[Face], size: tuple[int, int]) -> list[Face]:
    """Put faces in template order and clip their boxes to `size` (width, height); drop those outside or not finite."""
    limit = np.array(size) - 1
    inside = []
    for face in faces:
        corners = np.reshape(face.box, (2, 2)).clip(0, limit)
        if np.isfinite(face.points).all() and (corners[1] > corners[0]).all():
            inside.append(replace(face, points=in_template_order(face.points), box=tuple(corners.ravel().tolist())))
    return inside


def _list_looks(
    detector: FaceDetector, image: np.ndarray, search: str
) -> Iterator[tuple[FaceDetector, np.ndarray, Move, bool]]:
    """Yield the detector that looks, at which pixels, the way back to the image, and whether a find needs confirming.

    Detectors overlook faces that fill an image or touch its edge, as in tight portraits: hence the border, of a
    quarter side. At other sizes and turned, a face is unlikely and texture is not, so there a find has to be confirmed.
    """
    height, width = image.shape[:2]
    yield detector, image, lambda points: points, False
    border = max(height, width) // 4
    bordered = np.pad(image, ((border, border), (border, border), (0, 0)))
    yield detector, bordered, lambda points: points - border, False
    if search == "quick":
        return
    for det_size in other_sizes(detector.det_size):
        resized = copy.copy(detector)
        resized.det_size = det_size
        yield resized, image, lambda points: points, True
    for turns in (1, 2, 3):
        turned = np.ascontiguousarray(np.rot90(image, turns))
        yield detector, turned, lambda points, turns=turns: turn_back(points, turns, (width, height)), True


def _confirm(look: FaceDetector, pixels: np.ndarray, faces: list[Face]) -> list[Face]:
    """Return the sure faces that are found again, as sure, in the mirrored pixels within a narrow border.

    A face is one in the mirror too, anywhere and at any scale; what is seen in texture hangs on the very pixels.
    """
    sure = [face for face in faces if _is_sure(face, look.min_score)]
    if not sure:
        return []
    border, width = max(pixels.shape) // _NARROW, pixels.shape[1]
    mirrored = np.pad(pixels[:, ::-1], ((border, border), (border, border), (0, 0)))
    corner = np.array([width - 1 + border, border])
    again = [
        move_face(face, lambda points: (points - corner) * [-1, 1])
        for face in look.detect(mirrored)
        if _is_sure(face, look.min_score)
    ]
    return [face for face in sure if any(overlap(face, other) > 0.5 for other in again)]


def _is_sure(face: Face, min_score: float) -> bool:
    """Return whether a face is upright, its points are in its box, its score at least halfway from `min_score` to 1."""
    (x0, y0, x1, y1), (x, y) = face.box, face.points.T
    upright = y[:2].mean() < y[3:].mean()
    inside = (x >= x0).all() and (x <= x1).all() and (y >= y0).all() and (y <= y1).all()
    return bool(upright and inside and face.score >= (1 + min_score) / 2)


def _move_box(box: tuple[float, ...], move: Move) -> tuple[float, ...]:
    corners = move(np.reshape(box, (2, 2)))
    return tuple(float(edge) for edge in (*corners.min(axis=0), *corners.max(axis=0)))


def _enumerate(items: list) -> str:
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}" if first else last
