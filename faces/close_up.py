"""A second look at one find: cut out large, turned upright, read several times.

Detectors of five points that were trained on upright faces read a rolled one as if it stood straighter than it does:
YuNet's points drift by a quarter of the eye distance at 30 degrees, and its points do not tell how far it is rolled.
How sure it is does: the score falls off to both sides of upright. So the roll is where the scores balance, and there
the points are read, at three near angles and mirrored, and averaged.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from .align import measure_roll
from .types import Face

Detect = Callable[[np.ndarray], list[Face]]

# Degrees from the roll thought so far at which the scores are compared, wide first, then close until the roll settles:
# of a face that is rolled by more than the wide sweep reaches, each sweep sees one side of the balance only.
SWEEPS = (np.arange(-60, 61, 20), *[np.arange(-40, 41, 20)] * 4)
_SETTLED = 6  # degrees by which the last sweep moved the roll, under which no further one is needed
_BEST_SCORES = 0.12  # what is farther below the best score than this does not count for the balance
_NEAR = 8  # degrees to either side at which the points are read too
_WINDOW = 2.2  # side of the window in longer sides of the find's box


def read_close_up(
    detect: Detect, image: np.ndarray, face: Face, size: int, sweeps=SWEEPS, between=Image.Resampling.BILINEAR
) -> Face | None:
    """Return the find `face` in `image` [H, W, 3] uint8 RGB as a close-up shows it, None where that shows no face.

    detect: finds faces in a close-up of `size` x `size` pixels. sweeps: degrees from the roll thought so far at which
    scores are compared, one sweep after the other, until one after the first hardly moves the roll. The score is the
    mean of six readings, 0 of one that shows none: a face is one in all of them, texture that was taken for a face
    mostly is not. between: how pixels are filled in where the close-up is larger than the find.
    """
    window = Window(image, face, size, between=between)
    roll = measure_roll(face.points)
    for number, sweep in enumerate(sweeps):
        finds = [window.read(detect, roll + angle) for angle in sweep]
        scores = np.array([find.score if find else 0.0 for find in finds])
        if not scores.any():
            return None
        weights = (scores - (scores.max() - _BEST_SCORES)).clip(0)
        step = weights @ sweep / weights.sum()
        roll += step
        if number and abs(step) < _SETTLED:
            break
    readings = [
        window.read(detect, roll + angle, mirrored) for angle in (-_NEAR, 0, _NEAR) for mirrored in (False, True)
    ]
    shown = [reading for reading in readings if reading]
    if not shown:
        return None
    points, boxes = ([getattr(reading, part) for reading in shown] for part in ("points", "box"))
    score = sum(reading.score for reading in shown) / len(readings)
    return replace(
        face, points=np.mean(points, axis=0).astype(np.float32), box=tuple(np.mean(boxes, axis=0).tolist()), score=score
    )


class Window:
    """A square of an image around one find, to be cut out at any roll."""

    def __init__(
        self,
        image: np.ndarray,
        face: Face,
        size: int,
        share: float = _WINDOW,
        between: Image.Resampling = Image.Resampling.BILINEAR,
    ):
        """Cut `share` longer sides of the find's box, around its points, as `size` pixels; black outside the image."""
        self._centre, self._between = face.points.mean(axis=0, dtype=np.float64), between
        self._size, side = size, max(share * max(face.sides), 2.0)
        # The part of the image that the window reaches at any roll, in whole pixels, shrunk by a whole number.
        limit, reach = np.array(image.shape[1::-1]), side * np.sqrt(0.5) + 2
        low = np.clip(self._centre - reach, 0, limit - 1).astype(int)
        high = np.clip(self._centre + reach + 1, low + 1, limit).astype(int)
        part = Image.fromarray(np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]]))
        shrink = max(1, int(side / size))
        self._part, self._origin, self._shrink = part.reduce(shrink), low, shrink
        self.scale = side / size  # of image pixels in a pixel of the close-up

    def cut(self, roll: float) -> np.ndarray:
        """Return the window [size, size, 3] in which a face rolled by `roll` degrees, clockwise, stands upright."""
        turn = self._turn(roll)
        start = (self._centre + 0.5 - self._origin - turn.sum(axis=1) * self._size / 2) / self._shrink
        (a, b), (d, e) = turn / self._shrink
        square = (self._size, self._size)
        data = (a, b, start[0], d, e, start[1])
        return np.asarray(self._part.transform(square, Image.Transform.AFFINE, data, self._between))

    def read(self, detect: Detect, roll: float, mirrored: bool = False) -> Face | None:
        """Return the surest face that `detect` sees around the middle of the window, in the image's pixels."""
        pixels = self.cut(roll)
        if mirrored:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        middle = (self._size - 1) / 2
        faces = [face for face in detect(pixels) if np.hypot(*(face.points.mean(axis=0) - middle)) < self._size / 4]
        best = max(faces, key=lambda face: face.score, default=None)
        return best and self._move(best, roll, mirrored)

    def _move(self, face: Face, roll: float, mirrored: bool) -> Face:
        """Return a face of the close-up where it is in the image; its box is that of an ellipse in its box, turned."""
        middle, flip = (self._size - 1) / 2, np.array([-1, 1] if mirrored else [1, 1])
        turn = self._turn(roll)
        points, centre, landmarks = (
            None if at is None else ((at - middle) * flip) @ turn.T + self._centre
            for at in (face.points, face.centre, face.landmarks)
        )
        reach = np.hypot(*(turn * np.array(face.sides) / 2).T)
        return replace(
            face,
            points=points[[1, 0, 2, 4, 3]] if mirrored else points,
            box=(*(centre - reach).tolist(), *(centre + reach).tolist()),
            landmarks=landmarks,
        )

    def _turn(self, roll: float) -> np.ndarray:
        """Return the matrix [2, 2] from directions in the close-up to directions in the image."""
        cos, sin = np.cos(np.radians(roll)), np.sin(np.radians(roll))
        return self.scale * np.array([[cos, -sin], [sin, cos]])
