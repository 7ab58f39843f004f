"""Faces at any place, for tests that need no detector."""

import numpy as np
import torch
from likeness.faces.align import ARCFACE_112
from likeness.faces.types import Face, Faces

_BOX = np.array([[18.0, 22.0], [94.0, 112.0]])  # of a face in the 112 template


def face_at(x: float, y: float, scale: float = 1.0, roll: float = 0.0) -> Face:
    """A face whose middle lies at (x, y); at scale 1 its box is 76 x 90 pixels before it is rolled by degrees."""
    turn = scale * np.exp(1j * np.radians(roll))

    def move(points):
        moved = ((points - _BOX.mean(axis=0)) @ [1, 1j]) * turn + complex(x, y)
        return np.stack([moved.real, moved.imag], axis=1)

    box = move(np.array([[18.0, 22.0], [94.0, 22.0], [94.0, 112.0], [18.0, 112.0]]))
    return Face(move(ARCFACE_112).astype(np.float32), (*box.min(axis=0).tolist(), *box.max(axis=0).tolist()), 1.0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def faces_in(picture: torch.Tensor, *found: Face) -> Faces:
    """One picture [H, W, 3] with its faces."""
    return Faces(picture[None], (found,))
