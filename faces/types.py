"""What travels on a FACES socket."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one picture; all coordinates in pixels (x, y), pixel centres at integers.

    points: [5, 2] float32 in the order of the ArcFace template: subject's right eye (at the picture's left in an
        upright face), left eye, nose tip, subject's right mouth corner, left mouth corner. May lie outside the picture.
    box: x0, y0, x1, y1, clipped to the picture.
    score: the detector's own confidence, 0..1; 0 for a stand-in that no detector found.
    landmarks: [n, 2] dense landmarks, where the detector gives them.
    host: the face as the host's FACE_LANDMARKS hold it, in pixels of this picture, where MediaPipe found it.
    number: the person's number, from 0, in a video whose faces are followed from frame to frame.
    """

    points: np.ndarray
    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray | None = None
    host: dict | None = None
    number: int | None = None


@dataclass(frozen=True, eq=False)
class Faces:
    """A batch of pictures and what was found in each.

    images: [B, H, W, 3] float 0..1.
    found: for every picture its faces, left to right; followed through a video, by their numbers.
    tried: who looked for them and how, in words; error messages repeat it.
    connection_sets, canonical: the host's mesh topology and reference face, where its networks found the faces: what
        FACE_LANDMARKS need beside `Face.host`.
    """

    images: torch.Tensor
    found: tuple[tuple[Face, ...], ...]
    tried: str = ""
    connection_sets: dict[str, frozenset] | None = None
    canonical: dict[str, np.ndarray] | None = None
