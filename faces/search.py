"""The search for faces in one image: as it is and, where that finds none, in other ways."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, product
from typing import NamedTuple, Protocol

import comfy.model_management
import numpy as np
from PIL import Image

from .align import in_template_order, measure_roll
from .types import SAME_FACE, Face, overlap, share

SEARCHES = ("thorough", "quick")

_SIZES = (1 / 2, 3 / 4, 3 / 2, 2)  # of det_size: down for large faces first, then up for small ones
_SMALLEST, _LARGEST = 64, 2048  # what the node's det_size allows
_PLAIN = 0.1  # of score, by which another look must be surer than the one at the image as it is
_NEARER = 2  # times det_size that an image's longer side must have to be looked at from nearer, too
_MOST_REFUSED = 24  # finds of one image that close-ups do not confirm, after which the rest is given up as texture
_SMALL = 8  # times a face in a part of an image, from which on smaller ones are looked for
_FINEST = 192  # pixels a side of the smallest part: of what is smaller, detectors see no more
_NARROW = 16  # parts of an image's longer side, of which one is the border in which a find is confirmed

Move = Callable[[np.ndarray], np.ndarray]  # points [n, 2] to points [n, 2]


class FaceDetector(Protocol):
    """name: the detector and its settings in words, for messages.

    min_score: 0..1, faces below it are not reported. det_size: the size in pixels at which it looks, to be changed on
    a copy; None for a detector with sizes of its own. scans: whether it looks for faces of every size from a small
    one on by itself; False where there is no such attribute. One that has a method `look_closer(image, face) ->
    Face | None` is asked about every find, in pixels of the whole image, and its answer counts; others' finds at odd
    sizes and angles are confirmed in the mirror.
    """

    name: str
    min_score: float
    det_size: int | None

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces in `image` [H, W, 3] uint8 RGB, in pixels of that image, in any order."""


class _Look(NamedTuple):
    """A detector, the pixels it looks at, the way back to the image, and whether a find needs to be confirmed."""

    detector: FaceDetector
    pixels: np.ndarray
    move: Move
    doubtful: bool


def find(detector: FaceDetector, image: np.ndarray, search: str = "thorough", min_size: float = 0) -> list[Face]:
    """Return the faces of `image` [H, W, 3] uint8 RGB from the first group of looks that shows any, or [].

    search: one of SEARCHES. "quick" looks at the image as it is, then within a black border; "thorough" does both in
    all four turns by a quarter, where of several finds of one face the best counts, then looks at other detection
    sizes. min_size: pixels of a box's shorter side below which a face is passed over. Points may lie outside the
    image, boxes are clipped to it, faces outside it are dropped.
    """
    height, width = image.shape[:2]
    factor = max(1, max(image.shape[:2]) // _LARGEST)
    # Turned and bordered copies of a picture of 48 megapixels would take gigabytes.
    reduced = image if factor == 1 else np.asarray(Image.fromarray(image).reduce(factor))
    doubts = _MOST_REFUSED
    for group, looks in enumerate(_group_looks(detector, reduced, search)):
        finds: list[list[Face]] = []
        nearer = search == "thorough" and group == 0
        for look in chain(looks, _nearer_looks(detector, reduced, finds) if nearer else ()):
            comfy.model_management.throw_exception_if_processing_interrupted()
            shown = (move_face(face, look.move) for face in _see(look, finds))
            finds.append([face for face in shown if np.isfinite(face.points).all() and np.isfinite(face.box).all()])
        faces = list(chain(*finds))
        if factor > 1:
            faces = [move_face(face, lambda points: (points + 0.5) * factor - 0.5) for face in faces]
        if hasattr(detector, "look_closer"):
            faces, refused = _look_closer(detector, image, faces, len(finds[0]), doubts)
            doubts -= refused
        faces = tidy(keep_best(faces), (width, height))
        faces = [face for face in faces if min(face.sides) >= min_size]
        if faces or not doubts:
            return faces
    return []


def keep_best(faces: list[Face]) -> list[Face]:
    """Return the faces without those that overlap a surer one; of equally sure ones the earlier stays."""
    best: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(share(face, other) <= SAME_FACE for other in best):
            best.append(face)
    return best


def in_words(detector: FaceDetector, search: str, min_size: float) -> str:
    """Describe how `find` looks at an image in which it finds nothing, for messages."""
    turned, ways = "", ["with a black border around the picture"]
    if search == "thorough":
        turned = ", turned by 90, 180 and 270 degrees too"
        sizes = _further_sizes(detector)
        ways += ["at det_size " + _enumerate(sizes)] if sizes else []
    ignored = f"; faces under {min_size:g} pixels (min_size) do not count" if min_size else ""
    return f"{detector.name}{turned}, then again {_enumerate(ways)}{ignored}"


def other_sizes(det_size: int | None) -> list[int]:
    """Return the sizes tried after `det_size`, multiples of 32: half, three quarters, one and a half, double."""
    if det_size is None:
        return []
    sizes = dict.fromkeys(32 * round(det_size * factor / 32) for factor in _SIZES)
    return [size for size in sizes if _SMALLEST <= size <= _LARGEST and size != det_size]


def turn_back(points: np.ndarray, turns: int, size: tuple[int, int]) -> np.ndarray:
    """Return where points [n, 2] of np.rot90(image, turns) lie in the image of `size` (width, height); turns 0 to 3."""
    (x, y), (width, height) = points.T, size
    places = (x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x)
    return np.stack(places[turns], axis=-1)


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


def _group_looks(detector: FaceDetector, image: np.ndarray, search: str) -> Iterator[Iterator[_Look]]:
    """Yield groups of looks at `image`, each group a better chance than the next.

    Detectors overlook faces that fill an image or touch its edge, as in tight portraits: hence the border, of a
    quarter side. At other sizes and turned, a face is unlikely and texture is not, so there a find has to be confirmed.
    """
    border = max(image.shape[:2]) // 4
    bordered = np.pad(image, ((border, border), (border, border), (0, 0)))
    turns = (0, 1, 2, 3) if search == "thorough" else (0,)
    yield _turn_looks(detector, image, 0, turns)
    # What needs the border is large.
    coarser = _resize(detector, detector.det_size * 3 // 4) if _scans(detector) else detector
    yield _turn_looks(coarser, bordered, border, turns)
    for det_size in _further_sizes(detector) if search == "thorough" else ():
        yield iter([_Look(_resize(detector, det_size), image, lambda points: points, True)])


def _scans(detector: FaceDetector) -> bool:
    return getattr(detector, "scans", False)


def _further_sizes(detector: FaceDetector) -> list[int]:
    """Return the sizes at which the image is looked at in the end; of a detector that scans, the largest will do."""
    sizes = other_sizes(detector.det_size)
    return sizes[-1:] if _scans(detector) else sizes


def _resize(detector: FaceDetector, det_size: int) -> FaceDetector:
    resized = copy.copy(detector)
    resized.det_size = det_size
    return resized


def _turn_looks(detector: FaceDetector, pixels: np.ndarray, shift: int, turns: tuple[int, ...]) -> Iterator[_Look]:
    """Yield looks at `pixels` turned by quarters, whose finds come back to the image that begins at (shift, shift)."""
    size = pixels.shape[1::-1]
    for turn in turns:
        turned = np.ascontiguousarray(np.rot90(pixels, turn))
        yield _Look(detector, turned, lambda points, turn=turn: turn_back(points, turn, size) - shift, turn > 0)


def _nearer_looks(detector: FaceDetector, image: np.ndarray, finds: list[list[Face]]) -> Iterator[_Look]:
    """Yield looks at a large image for faces that are too small in it, such as those of a group's last row.

    They are made in the turn in which most of the faces in `finds` stand, and only for detectors that confirm their
    finds: at twice the size, or, where that is fixed, at overlapping parts of half the size and, if need be, less.
    """
    longest = max(image.shape[:2])
    large = longest >= _NEARER * (detector.det_size or _SMALLEST)
    if not hasattr(detector, "look_closer") or not large:
        return
    # By how nearly they are upright in it: one rolled head may be surest in the turn next to the others'.
    upright = [
        face.score * np.cos(np.radians(measure_roll(face.points) - 90 * np.arange(4))).clip(0)
        for face in keep_best(list(chain(*finds)))
        if not face.profile  # mostly none, before close-ups have looked
    ]
    turn = int(np.argmax(np.sum(upright, axis=0))) if upright else 0
    turned, size = np.ascontiguousarray(np.rot90(image, turn)), image.shape[1::-1]
    if detector.det_size:
        resized = _resize(detector, min(2 * detector.det_size, _LARGEST))
        yield _Look(resized, turned, lambda points: turn_back(points, turn, size), True)
        return
    sides = [longest // 2]
    for side in sides:
        starts = [_spread(length, side) for length in turned.shape[:2]]
        for top, left in product(*starts):
            part = np.ascontiguousarray(turned[top : top + side, left : left + side])
            corner = np.float32([left, top])
            yield _Look(detector, part, lambda points, corner=corner: turn_back(points + corner, turn, size), True)
        # Where a face is small in its part, as in a group, there may be smaller ones.
        small = (max(face.sides) < side / _SMALL for face in chain(*finds) if not face.profile)
        if side // 2 >= _FINEST and any(small):
            sides.append(side // 2)


def _spread(length: int, side: int) -> list[int]:
    """Return where parts of `side` pixels begin that cover `length`, each by half over the one before at least."""
    rest = max(length - side, 0)
    count = -(-rest // max(side // 2, 1))  # rounded up
    return [rest * i // count for i in range(count + 1)] if count else [0]


def _see(look: _Look, before: list[list[Face]]) -> list[Face]:
    """Return what a look shows, in its own pixels; a doubtful find that none of the looks before had, if confirmed."""
    faces = look.detector.detect(look.pixels)
    if not look.doubtful or hasattr(look.detector, "look_closer"):
        return faces
    known = [
        face for face in faces if any(share(move_face(face, look.move), one) > SAME_FACE for one in chain(*before))
    ]
    rest = [face for face in faces if all(face is not one for one in known)]
    return known + (_confirm(look.detector, look.pixels, rest) if rest else [])


def _look_closer(
    detector: FaceDetector, image: np.ndarray, finds: list[Face], plain: int, doubts: int
) -> tuple[list[Face], int]:
    """Return the finds as close-ups show them, of those that overlap the best one; and how many were refused.

    plain: how many of the finds, the first ones, are of the image as it is, and are preferred to others as sure.
    doubts: how many refusals end it.
    """
    ranks = {id(find): find.score + (_PLAIN if index < plain else 0) for index, find in enumerate(finds)}
    faces: list[Face] = []
    refused = 0
    for find in sorted(finds, key=lambda find: -ranks[id(find)]):
        if refused == doubts:
            break
        comfy.model_management.throw_exception_if_processing_interrupted()
        if all(share(find, face) <= SAME_FACE for face in faces):
            closer = detector.look_closer(image, find)
            faces += [closer] if closer else []
            refused += closer is None
    return faces, refused


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
