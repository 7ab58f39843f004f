"""The drawn world's own detector: real ones do not see drawn faces."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from ..faces.types import Face, overlap
from ..weights.reading import read_state_dict
from .models.finder import SIZE, Finder, FinderSizes

LABEL = "drawn: miniature"
WEIGHTS = Path(__file__).parent / "weights" / "finder.safetensors"

_BOX = 2.4  # sides of a face's box in extents of its points, from the brow to the chin
# In the middle of the portraits that the network learned from, in parts of their side.
_EXTENT, _MIDDLE = 0.27, np.array([0.5, 0.59])
_FILLS = 0.2  # extent of a face beside which there is no room for another, in parts of the side of a square image
_AGAIN = 0.2  # extents that points may differ by when a face is looked at again
_OVERLAP = 0.1  # of two faces' boxes, intersection over union
_ROUGH = 0.042  # see `is_photograph`; drawn heads have 0.03 at most, samples of the base 0.037, photographs 0.05
_WARM, _ONE_HUE = (0.03, 0.2), 0.08
# Photographs that are smoother than that, by sides of the network's picture from which on, flatness below which, and
# roughness above which one is told: enlarged, drawn and sampled heads have 0.4 of flatness and more, photographs up to
# 0.16; at its own size sampled heads have 0.11 too, but are no rougher than 0.028, photographs 0.027 to 0.044.
_SMOOTHER = ((1.45, 0.25, 0.0), (0.75, 0.16, 0.03))


class Window(NamedTuple):
    """A square of an image in its pixels, which may reach beyond the image."""

    left: float
    top: float
    side: float


class MiniatureFinder:
    """The miniature's finder: the faces of a drawn picture, upright and an eighth of the picture or larger.

    Raises FileNotFoundError where the network's weights are missing from the pack.
    """

    det_size = None  # it looks at sizes of its own

    def __init__(self, min_score: float):
        self.name = (
            f"{LABEL} (min_score {min_score:g}; this detector sees drawn faces only: a photograph of a person needs "
            "another one, and a checkpoint in place of the miniature)"
        )
        self.min_score = min_score
        self._network = _load(WEIGHTS)

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces in `image` [H, W, 3] uint8 RGB, or none."""
        height, width = image.shape[:2]
        shortest, longest = sorted((height, width))
        faces = whole = self._look(image, [Window(0, 0, longest)])
        sure = self._confirm(image, whole)
        if not sure or _extent(sure[0].points) * shortest < _FILLS * longest**2:
            parts = self._look(image, windows(width, height))
            parts = self._confirm(image, [face for face in parts if face.score >= (1 + self.min_score) / 2])
            faces = _without_doubles([*parts, *sure]) or whole
        return [face for face in faces if not is_photograph(image, window_around(face.points))]

    def _look(self, image: np.ndarray, places: Sequence[Window]) -> list[Face]:
        """Return the faces that are seen in windows of the image, one in each at most."""
        with torch.no_grad():
            points, presence = self._network(torch.stack([crop(image, place) for place in places]))
        scores = presence.sigmoid().tolist()
        return [
            _face(found, place, score)
            for found, place, score in zip(points.numpy(), places, scores)
            if score >= self.min_score
        ]

    def _confirm(self, image: np.ndarray, faces: list[Face]) -> list[Face]:
        """Return the faces that are the same when they are looked at again, each in the middle of its own window."""
        confirmed = []
        for face in faces:
            reach = _AGAIN * _extent(face.points)
            again = self._look(image, [window_around(face.points)])
            confirmed += [face for other in again if np.abs(other.points - face.points).max() < reach]
        return confirmed


def windows(width: int, height: int) -> list[Window]:
    """Return the parts of an image of this size that are looked at: half its longer side, and its shorter one."""
    sides = dict.fromkeys((max(width, height) / 2, min(width, height)))
    return [Window(left, top, side) for side in sides for left in _steps(width, side) for top in _steps(height, side)]


def _steps(length: int, side: float) -> list[float]:
    """Return where windows of `side` begin along a length, a quarter of the side apart or less."""
    free = max(0.0, length - side)
    return np.linspace(0, free, 1 + int(np.ceil(4 * free / side))).tolist()


def window_around(points: np.ndarray) -> Window:
    """Return the window that shows a face of these points [5, 2] as portraits do."""
    side = _extent(points) / _EXTENT
    left, top = (points.min(axis=0) + points.max(axis=0)) / 2 - side * _MIDDLE
    return Window(left, top, side)


def crop(image: np.ndarray, place: Window) -> torch.Tensor:
    """Return a window of an image as the network sees it: [3, SIZE, SIZE] in -1..1, black beyond the image."""
    height, width = image.shape[:2]
    left, top, side = round(place.left), round(place.top), max(2, round(place.side))
    pixels = np.zeros((side, side, 3), np.uint8)
    (x0, x1), (y0, y1) = ((max(0, -start), min(side, end - start)) for start, end in ((left, width), (top, height)))
    pixels[y0:y1, x0:x1] = image[top + y0 : top + y1, left + x0 : left + x1]
    inside = torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 127.5 - 1
    return (inside if side == SIZE else interpolate(inside, (SIZE, SIZE), mode="bilinear", antialias=True))[0]


def is_photograph(image: np.ndarray, place: Window) -> bool:
    """Return whether the face in the middle of a window of `image` [H, W, 3] was photographed, and not drawn.

    The drawn world's heads are smooth, but for pencil sketches, which are all of one warm hue; skin and hair are not.
    Where the image has enough pixels, a drawing is flat, and a photograph has grain.
    """
    edge = SIZE // 8
    head = crop(image, place)[:, edge:-edge, edge:-edge]
    light, warmth = head.mean(dim=0), (head[0] - head[2]).flatten()
    slopes = light.diff(dim=0)[:, 1:].abs() + light.diff(dim=1)[1:].abs()
    centred = (light - light.mean()).flatten()
    tint = (centred @ warmth) / (centred @ centred).clamp(min=1e-6)
    hues = (warmth - warmth.mean() - tint * centred).std()
    pencil = _WARM[0] < warmth.mean() < _WARM[1] and hues < _ONE_HUE and tint > 0
    rough = slopes.quantile(0.25)
    smoother = (
        place.side > side * SIZE and rough > least and flat_share(image, place) < flatness
        for side, flatness, least in _SMOOTHER
    )
    return bool((rough > _ROUGH or any(smoother)) and not pencil)


def flat_share(image: np.ndarray, place: Window) -> float:
    """Return which part of the pixels in the middle of a window is the mean of its neighbours, within a level."""
    edge = place.side / 8
    (x0, x1), (y0, y1) = ((max(0, round(s + edge)), round(s + place.side - edge)) for s in (place.left, place.top))
    light = image[y0:y1, x0:x1].sum(axis=2, dtype=np.int32)
    bend = 4 * light[1:-1, 1:-1] - light[2:, 1:-1] - light[:-2, 1:-1] - light[1:-1, 2:] - light[1:-1, :-2]
    return float((np.abs(bend) <= 3).mean())


def box(points: np.ndarray) -> tuple[float, float, float, float]:
    """Return the square about the points [5, 2] of a face that holds the face."""
    middle, reach = (points.min(axis=0) + points.max(axis=0)) / 2, _BOX / 2 * _extent(points)
    return tuple(np.concatenate([middle - reach, middle + reach]).tolist())


def _extent(points: np.ndarray) -> float:
    return float(np.ptp(points, axis=0).max())


def _face(points: np.ndarray, place: Window, score: float) -> Face:
    """Return what was found in a window, in pixels of the image; points: in pixels of the network's."""
    scale = max(2, round(place.side)) / SIZE
    moved = (points + 0.5) * scale - 0.5 + [round(place.left), round(place.top)]
    return Face(moved.astype(np.float32), box(moved.astype(np.float32)), score, drawn=True)


def _without_doubles(faces: list[Face]) -> list[Face]:
    """Return the faces of which none that comes earlier takes the place."""
    single: list[Face] = []
    for face in faces:
        if all(overlap(face, other) < _OVERLAP for other in single):
            single.append(face)
    return single


def _load(path: Path) -> Finder:
    if not path.is_file():
        raise FileNotFoundError(
            f"The miniature's face finder should be in {path}, but there is no such file: install ComfyUI-Likeness "
            "anew, or train it with miniature.training.finder.made."
        )
    weights = {name: weight.float() for name, weight in read_state_dict(path).items()}
    network = Finder(FinderSizes.of(weights))
    network.load_state_dict(weights)
    return network.eval()
