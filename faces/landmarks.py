"""Landmarks for faces whose detector gives five points only, from MediaPipe's networks where their file is there.

Parts and heads are masked much closer by landmarks than by an average face laid on five points.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from . import mediapipe
from .align import measure_roll
from .close_up import Window
from .detector import as_bytes
from .mediapipe import MediaPipe
from .types import Face, Faces

_CLOSE_UP = 256  # pixels a side
_SAME_POINTS = 0.3  # eye distances between the mesh's five points and the detector's, in the mean, at most


def complete(faces: Faces) -> Faces:
    """Return `faces` with landmarks for those that have none, where MediaPipe's file is there and sees the face.

    Points, boxes and scores stay. Stand-ins, profiles and drawn faces, which no mesh fits, stay as they are.
    """
    if not any(map(_lacks_landmarks, (face for _, face in faces.pairs))):
        return faces
    reader = next((_load(name, mediapipe.version(name)) for name in mediapipe.ready_files()), None)
    if reader is None:
        return faces
    per_image = []
    for image, present in zip(faces.images, faces.per_image):
        pixels = as_bytes(image[None])[0] if any(map(_lacks_landmarks, present)) else None
        per_image.append(tuple(_read(reader, pixels, face) if _lacks_landmarks(face) else face for face in present))
    return replace(faces, per_image=tuple(per_image))


def _lacks_landmarks(face: Face) -> bool:
    return face.landmarks is None and face.score > 0 and not (face.profile or face.drawn)


def _read(reader: MediaPipe, pixels: np.ndarray, face: Face) -> Face:
    mesh = Window(pixels, face, _CLOSE_UP).read(reader.detect_meshes, measure_roll(face.points))
    if mesh is None:
        return face
    apart = np.linalg.norm(mesh.points - face.points, axis=1).mean()
    near = apart <= _SAME_POINTS * np.hypot(*(face.points[1] - face.points[0]))
    return replace(face, landmarks=mesh.landmarks) if near else face


@lru_cache(maxsize=1)
def _load(name: str, version: tuple) -> MediaPipe:
    return MediaPipe(name, 0.5)
