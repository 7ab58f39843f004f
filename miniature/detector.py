"""The drawn world's own detector: real ones do not see drawn faces."""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from ..faces.types import Face
from ..weights.reading import read_state_dict
from .models.finder import SIZE, Finder, FinderSizes

LABEL = "drawn: miniature"
WEIGHTS = Path(__file__).parent / "weights" / "finder.safetensors"

_BOX = 2.4  # sides of a face's box in extents of its points, from the brow to the chin


class MiniatureFinder:
    """The miniature's finder: the one face of a drawn portrait, upright and a quarter of the picture or larger.

    Raises FileNotFoundError where the network's weights are missing from the pack.
    """

    det_size = None  # it looks at one size

    def __init__(self, min_score: float):
        self.name = f"{LABEL} (min_score {min_score:g})"
        self.min_score = min_score
        self._network = _load(WEIGHTS)

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the face in `image` [H, W, 3] uint8 RGB, or none."""
        pixels, scale = _to_working_size(image)
        with torch.no_grad():
            points, presence = self._network(pixels[None])
        score = presence.sigmoid().item()
        points = ((points[0].numpy() + 0.5) / scale - 0.5).astype(np.float32)
        return [Face(points, box(points), score)] if score >= self.min_score else []


def box(points: np.ndarray) -> tuple[float, float, float, float]:
    """Return the square about the points [5, 2] of a face that holds the face."""
    low, high = points.min(axis=0), points.max(axis=0)
    middle, reach = (low + high) / 2, _BOX / 2 * (high - low).max()
    return tuple(np.concatenate([middle - reach, middle + reach]).tolist())


def _to_working_size(image: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Return the picture [3, SIZE, SIZE] in -1..1, black where it is not square, and the scale of x and y [2]."""
    height, width = image.shape[:2]
    factor = SIZE / max(height, width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    pixels = torch.from_numpy(image).movedim(-1, 0)[None].float() / 127.5 - 1
    if size != (height, width):
        pixels = interpolate(pixels, size, mode="bilinear", antialias=True)
    padded = pad(pixels[0], (0, SIZE - size[1], 0, SIZE - size[0]), value=-1.0)
    return padded, np.array([size[1] / width, size[0] / height])


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
