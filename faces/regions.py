"""Where the parts of a face lie, from landmarks alone: outlines as convex corners, and how they are filled.

Coordinates are the picture's pixels (x, y), pixel centres at integers. The subject's left is left: in an upright
portrait the left eye is at the right-hand side of the picture, and mirroring the picture swaps the two.
"""

import numpy as np

from .align import in_template_order, template
from .geometry import convex_hull, ellipse, similarity, turn
from .types import Face

PAIRS = {"both eyes": ("left eye", "right eye"), "brows": ("left brow", "right brow")}


def _indices(text: str) -> list[int]:
    return [int(number) for number in text.split()]


# MediaPipe's FACEMESH contours; the nose, which has no closed one, by its ridge, wings and base.
_MEDIAPIPE = {
    "face": _indices(
        "10 338 297 332 284 251 389 356 454 323 361 288 397 365 379 378 400 377 152 148 176 149 150 136 172 58 132 93 "
        "234 127 162 21 54 103 67 109"
    ),
    "left eye": _indices("263 249 390 373 374 380 381 382 362 466 388 387 386 385 384 398"),
    "right eye": _indices("33 7 163 144 145 153 154 155 133 246 161 160 159 158 157 173"),
    "left brow": _indices("276 283 282 295 285 300 293 334 296 336"),
    "right brow": _indices("46 53 52 65 55 70 63 105 66 107"),
    "nose": _indices("168 6 197 195 5 4 1 2 98 327 64 294 48 278"),
    "mouth": _indices("61 146 91 181 84 17 314 405 321 375 291 185 40 39 37 0 267 269 270 409"),
}
# InsightFace's 106 (2d106det) and the 68 of iBUG: cheeks and chin, then part by part. Neither knows the forehead.
_INSIGHTFACE = {
    "face": list(range(106)),
    "right eye": list(range(33, 43)),
    "right brow": list(range(43, 52)),
    "mouth": list(range(52, 72)),
    "nose": list(range(72, 87)),
    "left eye": list(range(87, 97)),
    "left brow": list(range(97, 106)),
}
_IBUG = {
    "face": list(range(68)),
    "right brow": list(range(17, 22)),
    "left brow": list(range(22, 27)),
    "nose": list(range(27, 36)),
    "right eye": list(range(36, 42)),
    "left eye": list(range(42, 48)),
    "mouth": list(range(48, 68)),
}
# By number of landmarks: what they are called, which of them outline what, whether the forehead must be added.
_LAYOUTS = {
    478: ("MediaPipe landmarks", _MEDIAPIPE, False),
    468: ("MediaPipe landmarks", _MEDIAPIPE, False),
    106: ("InsightFace landmarks", _INSIGHTFACE, True),
    68: ("68 landmarks", _IBUG, True),
}
# An average face for five points, in eye distances (x to the subject's left, y down) in the template's proportions:
# which of the points carry the part, the part's centre from their mean, and its half-axes.
_AVERAGE = {
    "face": ([0, 1], (0.0, 0.62), (1.12, 1.31)),
    "left eye": ([1], (0.0, 0.0), (0.24, 0.11)),
    "right eye": ([0], (0.0, 0.0), (0.24, 0.11)),
    "left brow": ([1], (0.04, -0.27), (0.36, 0.1)),
    "right brow": ([0], (-0.04, -0.27), (0.36, 0.1)),
    "nose": ([2], (0.0, -0.18), (0.37, 0.4)),
    "mouth": ([3, 4], (0.0, 0.06), (0.5, 0.22)),
}
PARTS = tuple(_AVERAGE)
_OTHER_SIDE = {a: b for pair in PAIRS.values() for a, b in (pair, pair[::-1])}


def outline(face: Face, part: str) -> tuple[np.ndarray, str]:
    """The convex corners [k, 2] of `part` (one of PARTS) of `face`, and in words what they come from."""
    landmarks = dense(face)
    if landmarks is None or len(landmarks) not in _LAYOUTS:
        return convex_hull(_average(face, part)), "estimated from five points"
    name, groups, add_forehead = _LAYOUTS[len(landmarks)]
    corners = landmarks[groups[_subjects_side(landmarks, groups, part)]]
    if part == "face" and add_forehead:
        oval = _average(face, part)
        right, left = in_template_order(face.points)[:2]
        corners = np.concatenate([corners, oval[turn(right, left, oval.T) < 0]])  # what is above the eyes
    return convex_hull(corners), name


def dense(face: Face) -> np.ndarray | None:
    """The dense landmarks [n, 2] of `face`, None where there are none or some are not finite numbers."""
    return None if face.landmarks is None or not np.isfinite(face.landmarks).all() else face.landmarks


def _subjects_side(landmarks: np.ndarray, groups: dict, part: str) -> str:
    """`part`, or its counterpart where the landmarks run the wrong way round, as those of a flipped picture do.

    Seen in any picture, the way from a subject's right eye to the left has the mouth to its right-hand side.
    """
    right, left, mouth = (landmarks[groups[name]].mean(axis=0) for name in ("right eye", "left eye", "mouth"))
    return part if turn(right, left, mouth) >= 0 else _OTHER_SIDE.get(part, part)


def _average(face: Face, part: str) -> np.ndarray:
    """An average face's `part` laid on the five points: an ellipse [n, 2]."""
    points = in_template_order(np.asarray(face.points, dtype=np.float64))
    carriers, offset, radii = _AVERAGE[part]
    eyes = template(112)[:2]
    to_picture = similarity(template(112) / np.linalg.norm(eyes[1] - eyes[0]), points)[:, :2]
    return ellipse(offset, radii) @ to_picture.T + points[carriers].mean(axis=0)
