"""Plane geometry of faces: similarities, ellipses, convex hulls, and which pixels lie inside.

Coordinates are a picture's pixels (x, y), pixel centres at integers, y pointing down.
"""

import numpy as np

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, the last two exclusive; may reach beyond the picture


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity (scale, rotation, shift) that brings `source` nearest to `target` in least squares.

    source, target: [n, 2] points. Returns [2, 3] float64, to be applied as M @ (x, y, 1). This is Umeyama's solution;
    in the plane, with points as complex numbers, it is ordinary least squares for t = a s + b and cannot reflect.
    Raises ValueError where the points are not finite, all coincide, or leave the rotation undetermined.
    """
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("Cannot align a face whose points are not finite numbers; detect the face again.")
    s, t = (np.asarray(points, dtype=np.float64) @ [1, 1j] for points in (source, target))
    s_centred, t_centred = s - s.mean(), t - t.mean()
    spread, agreement = np.vdot(s_centred, s_centred).real, np.vdot(s_centred, t_centred)
    if spread < 1e-8 or abs(agreement) < 1e-8:
        raise ValueError("Cannot align a face whose five points coincide or contradict each other; detect it again.")
    a = agreement / spread
    b = t.mean() - a * s.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points [n, 2] where the affine `matrix` [2, 3] brings them."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def ellipse(centre, radii, corners: int = 72) -> np.ndarray:
    """The corners [n, 2] of an ellipse, from the left along its upper half (y points down) and back along the lower."""
    angles = np.pi * (1 + np.arange(corners) * 2 / corners)
    return np.asarray(centre) + np.asarray(radii) * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def convex_hull(points: np.ndarray) -> np.ndarray:
    """The corners [k, 2] of the convex hull of `points` [n, 2], n > 1, in order; points in a line give its two ends.

    Andrew's monotone chain: unlike Qhull it takes coinciding and collinear points as they come.
    """

    def chain(ordered: list) -> list:
        corners = []
        for x, y in ordered:
            while len(corners) > 1 and turn(*corners[-2:], (x, y)) <= 0:
                corners.pop()
            corners.append((x, y))
        return corners[:-1]

    ordered = sorted(points.tolist())
    return np.array(chain(ordered) + chain(ordered[::-1]))


def fill_convex(corners: np.ndarray, window: Window) -> np.ndarray:
    """Which pixels of `window` have their centre in or on the convex polygon `corners` [k, 2]: bool [h, w].

    A polygon too small to hold any pixel's centre fills the one nearest to it, so that a tiny eye is never lost.
    """
    x0, y0, x1, y1 = window
    rows, columns = np.arange(y0, y1)[:, None], np.arange(x0, x1)
    start, end = corners, np.roll(corners, -1, axis=0)
    run = end - start
    crossed = (np.minimum(start, end)[:, 1] <= rows) & (rows <= np.maximum(start, end)[:, 1])
    x = start[:, 0] + run[:, 0] * (rows - start[:, 1]) / np.where(run[:, 1] == 0, 1, run[:, 1])
    left = np.where(crossed, x, np.inf).min(axis=1, keepdims=True)
    right = np.where(crossed, x, -np.inf).max(axis=1, keepdims=True)
    rounding = 1e-6  # corners at pixel centres belong to the polygon
    filled = (left - rounding <= columns) & (columns <= right + rounding)
    if not filled.any():
        column, row = np.rint(corners.mean(axis=0)).astype(int)
        filled[rows[:, 0] == row, columns == column] = True
    return filled


def turn(a, b, c) -> float:
    """Positive where the way a, b, c turns to the right-hand side, as seen with y pointing down."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
