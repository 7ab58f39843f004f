"""What travels on a FACES socket."""

from dataclasses import dataclass

import numpy as np
import torch

SAME_FACE = 0.4  # share of the smaller box, above which two finds are of one face


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one image; all coordinates in pixels (x, y), pixel centres at integers.

    points: [5, 2] float32 in the order of the ArcFace template: subject's right eye (at the image's left in an
        upright face), left eye, nose tip, subject's right mouth corner, left mouth corner. May lie outside the image.
    box: x0, y0, x1, y1, clipped to the image.
    score: the detector's own confidence, 0..1; 0 for a stand-in that no detector found.
    landmarks: [n, 2] dense landmarks, where the detector gives them.
    host: the face as the host's FACE_LANDMARKS hold it, in pixels of this image, where MediaPipe found it.
    profile: seen so far from the side that MediaPipe's mesh does not fit; the points are its detector's own.
    drawn: of the drawn world, in whose faces the networks for photographs see the outlines of others.
    number: the person's number, from 0, in a video whose faces are followed from frame to frame.
    """

    points: np.ndarray
    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray | None = None
    host: dict | None = None
    number: int | None = None
    profile: bool = False
    drawn: bool = False

    @property
    def sides(self) -> tuple[float, float]:
        """Width and height of the box."""
        x0, y0, x1, y1 = self.box
        return x1 - x0, y1 - y0

    @property
    def centre(self) -> np.ndarray:
        """The middle [2] of the box."""
        x0, y0, x1, y1 = self.box
        return np.array([x0 + x1, y0 + y1]) / 2


@dataclass(frozen=True, eq=False)
class Faces:
    """A batch of images and what was found in each.

    images: [B, H, W, 3] float 0..1.
    per_image: for every image its faces, left to right; followed through a video, by their numbers.
    tried: the detector and how it looked, in words; error messages repeat it.
    connection_sets, canonical: the host's mesh topology and reference face, where its networks found the faces: what
        FACE_LANDMARKS need beside `Face.host`.
    skipped: which images of the batch that was searched, from 0, had no face and were left out here.
    """

    images: torch.Tensor
    per_image: tuple[tuple[Face, ...], ...]
    tried: str = ""
    connection_sets: dict[str, frozenset] | None = None
    canonical: dict[str, np.ndarray] | None = None
    skipped: tuple[int, ...] = ()

    @property
    def pairs(self) -> list[tuple[torch.Tensor, Face]]:
        """Every face after its image [H, W, 3], image by image."""
        return [(image, face) for image, faces in zip(self.images, self.per_image) for face in faces]


def list_numbers(faces: tuple[Face, ...]) -> list[int]:
    """Return each face's number: the person's in a followed video, else the face's index from the left, from 0."""
    return [index if face.number is None else face.number for index, face in enumerate(faces)]


def overlap(one: Face, other: Face) -> float:
    """Return the intersection over union of two faces' boxes."""
    a, b = (np.reshape(face.box, (2, 2)) for face in (one, other))
    both = np.prod((np.minimum(a[1], b[1]) - np.maximum(a[0], b[0])).clip(0))
    return float(both / (np.prod(a[1] - a[0]) + np.prod(b[1] - b[0]) - both))


def share(one: Face, other: Face) -> float:
    """Return how much of the smaller of two faces' boxes the other one covers."""
    a, b = (np.reshape(face.box, (2, 2)) for face in (one, other))
    both = np.prod((np.minimum(a[1], b[1]) - np.maximum(a[0], b[0])).clip(0))
    return float(both / max(min(np.prod(a[1] - a[0]), np.prod(b[1] - b[0])), 1e-9))
