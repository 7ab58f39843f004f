"""Where the parts of a face lie, from landmarks alone: outlines as convex corners, and how they are filled.

Coordinates are the image's pixels (x, y), pixel centres at integers. The subject's left is left: in an upright
portrait the left eye is at the right-hand side of the image, and mirroring the image swaps the two.
"""

import numpy as np

from .align import in_template_order, template
from .geometry import convex_hull, ellipse, move, similarity, turn
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
# which of the points carry the part, the part's centre from their mean, its half-axes, and how far the centre moves
# aside for every eye distance that the nose is beside the middle of eyes and mouth, as it is in a turned face. Fitted
# to MediaPipe's landmarks in photographs of seventeen faces and their mirror images; the half-axes are those of a wide
# face, so that little of a part is missed.
_AVERAGE = {
    "face": ([0, 1], (0.0, 0.58), (1.2, 1.42), -1.6),
    "left eye": ([1], (-0.02, 0.02), (0.28, 0.14), -0.15),
    "right eye": ([0], (0.02, 0.02), (0.28, 0.14), -0.15),
    "left brow": ([1], (0.03, -0.24), (0.45, 0.18), 0.0),
    "right brow": ([0], (-0.03, -0.24), (0.45, 0.18), 0.0),
    "nose": ([2], (0.0, -0.22), (0.4, 0.5), -0.47),
    "mouth": ([3, 4], (0.0, 0.08), (0.58, 0.28), 0.0),
}
_FACE_LEAN = _AVERAGE["face"][3]
PARTS = tuple(_AVERAGE)
_EYE_LINE, _EYE_DISTANCE = 51.6, 35.24  # height of the eyes in the 112 template, and how far apart they are
_MOST_TURNED = 0.6  # eye distances that the nose is aside in a profile
_OTHER_SIDE = {a: b for pair in PAIRS.values() for a, b in (pair, pair[::-1])}


def outline(face: Face, part: str) -> tuple[np.ndarray, str]:
    """Return the convex corners [k, 2] of `part` (one of PARTS) of `face`, and in words what they come from.

    Landmarks may run the wrong way round, as those of a mirrored image do: then the part is its counterpart's.
    """
    landmarks = dense(face)
    if landmarks is None or len(landmarks) not in _LAYOUTS:
        return convex_hull(_average(face, part)), "estimated from five points"
    name, groups, add_forehead = _LAYOUTS[len(landmarks)]
    right, left, mouth = (landmarks[groups[which]].mean(axis=0) for which in ("right eye", "left eye", "mouth"))
    # In any image, the way from a subject's right eye to the left has the mouth to its right-hand side.
    corners = landmarks[groups[part if turn(right, left, mouth) >= 0 else _OTHER_SIDE.get(part, part)]]
    if part == "face" and add_forehead:
        oval = _average(face, part)
        right, left = in_template_order(face.points)[:2]
        corners = np.concatenate([corners, oval[turn(right, left, oval.T) < 0]])  # what is above the eyes
    return convex_hull(corners), name


def dense(face: Face) -> np.ndarray | None:
    """Return the dense landmarks [n, 2] of `face`, None where there are none or some are not finite numbers."""
    return None if face.landmarks is None or not np.isfinite(face.landmarks).all() else face.landmarks


def lay_oval(face: Face, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return points [n, 2] around `face`: an ellipse given in pixels of the 112 template, laid on the five points.

    Where the face has dense landmarks: these, and of the ellipse the half above the eyes, which they never cover.
    """
    points = in_template_order(face.points)
    to_image = similarity(template(112), points)
    # A head is as wide from the side as from the front, and its middle lies behind the nose.
    lean = _FACE_LEAN * _measure_turn(points) * _EYE_DISTANCE
    oval = ellipse(centre + np.array([lean, 0]), radii)
    landmarks = dense(face)
    if landmarks is None:
        return move(oval, to_image)
    return np.concatenate([move(oval[oval[:, 1] < _EYE_LINE], to_image), landmarks])


def _average(face: Face, part: str) -> np.ndarray:
    """Return an average face's `part` laid on the five points: an ellipse [n, 2]."""
    points = in_template_order(np.asarray(face.points, dtype=np.float64))
    carriers, offset, radii, lean = _AVERAGE[part]
    to_image = similarity(template(112) / _EYE_DISTANCE, points)[:, :2]
    centre = np.array(offset) + [lean * _measure_turn(points), 0]
    return ellipse(centre, radii) @ to_image.T + points[carriers].mean(axis=0)


def _measure_turn(points: np.ndarray) -> float:
    """Return by how many eye distances the nose of points [5, 2] is beside the middle of eyes and mouth."""
    across = similarity(template(112) / _EYE_DISTANCE, points)[:, 0]
    beside = points[2] - points[[0, 1, 3, 4]].mean(axis=0)
    return float(np.clip(beside @ across / (across @ across), -_MOST_TURNED, _MOST_TURNED))
