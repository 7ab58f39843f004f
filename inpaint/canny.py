"""Canny's edge detector, bit for bit as OpenCV has it, because ControlNets were trained on OpenCV's lines."""

import numpy as np
from scipy import ndimage

_TAN_22_5 = 13573  # times 2**15: OpenCV sorts gradients into eight directions in fixed point


def canny(picture: np.ndarray, low: int = 100, high: int = 200) -> np.ndarray:
    """The edges of `picture` [H, W] or [H, W, C] uint8 as bool [H, W]: cv2.Canny(picture, low, high).

    Every ridge of the gradient above `low` that is 8-connected to one above `high` counts.
    """
    dx, dy = _strongest_gradient(picture.reshape(*picture.shape[:2], -1))
    magnitude = np.abs(dx) + np.abs(dy)
    ridge = _is_ridge(magnitude, dx, dy) & (magnitude > low)
    pieces, count = ndimage.label(ridge, structure=np.ones((3, 3)))
    strong = np.zeros(count + 1, dtype=bool)
    strong[pieces[ridge & (magnitude > high)]] = True
    return strong[pieces]


def _strongest_gradient(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """3 x 3 Sobel derivatives [H, W], of equally bright channels the first one's with the largest |dx| + |dy|."""
    p = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.int64)
    down, across = p[:-2] + 2 * p[1:-1] + p[2:], p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    dx, dy = down[:, 2:] - down[:, :-2], across[2:] - across[:-2]
    channel = (np.abs(dx) + np.abs(dy)).argmax(axis=2)[..., None]
    return np.take_along_axis(dx, channel, axis=2)[..., 0], np.take_along_axis(dy, channel, axis=2)[..., 0]


def _is_ridge(magnitude: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Where no neighbour along the gradient is larger; of two equals in a row or column, the first counts."""
    height, width = magnitude.shape
    padded = np.pad(magnitude, 1)

    def beside(down: int, right: int) -> np.ndarray:
        return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    x, y = np.abs(dx), np.abs(dy) << 15
    flat, steep = y < x * _TAN_22_5, y > x * (_TAN_22_5 + (1 << 16))
    along_row = (magnitude > beside(0, -1)) & (magnitude >= beside(0, 1))
    along_column = (magnitude > beside(-1, 0)) & (magnitude >= beside(1, 0))
    falling = (magnitude > beside(-1, -1)) & (magnitude > beside(1, 1))
    rising = (magnitude > beside(-1, 1)) & (magnitude > beside(1, -1))
    return np.select([flat, steep, (dx ^ dy) >= 0], [along_row, along_column, falling], rising)
