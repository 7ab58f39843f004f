"""Faces across the frames of a video: which face is which person, and what a frame without a face borrows."""

from dataclasses import dataclass, field, replace

import numpy as np

from .types import Face

# A face is the one seen before if it is nearer than this many of its sides to where that one was expected, for every
# frame that has passed since; uncertainty grows with the root of the time, and not for ever.
_REACH = 1.0
_LONGEST_REACH = 3.0


@dataclass
class _Track:
    """Where a person was last seen: centre [2] and mean side of the box in pixels, the frame, the way [2] a frame."""

    centre: np.ndarray
    side: float
    frame: int
    way: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def predict(self, frame: int) -> np.ndarray:
        """Return the centre [2] in a later frame: straight ahead, but not farther than a face's side."""
        ahead = self.way * (frame - self.frame)
        return self.centre + ahead * min(1.0, self.side / max(np.hypot(*ahead), 1e-9))

    def distance(self, face: Face, frame: int) -> float:
        """Return how far a face is from what was predicted: in sides of the box, plus doublings of its size."""
        way = np.hypot(*(face.centre - self.predict(frame))) / self.side
        return float(way + abs(np.log2(_mean_side(face) / self.side)))

    def extend(self, face: Face, frame: int) -> "_Track":
        """Return the track with `face` as its last sight, in a later frame."""
        way = (face.centre - self.centre) / (frame - self.frame)
        # Half of the way so far stays: detectors tremble by a pixel or two from frame to frame.
        return _Track(face.centre, _mean_side(face), frame, (way + self.way) / 2)


def number_faces(per_frame: tuple[tuple[Face, ...], ...]) -> tuple[tuple[Face, ...], ...]:
    """Return every frame's faces with the numbers of the persons they belong to, ordered by these.

    per_frame: for every frame its faces, left to right. The first frame with faces numbers them from 0; a face that is
    not near to one seen before gets the next number. A person who vanishes keeps the number, and has it again when they
    come back near to where they were last seen.
    """
    tracks: list[_Track] = []
    result = []
    for frame, faces in enumerate(per_frame):
        numbers = _recognise(tracks, faces, frame)
        for index, face in enumerate(faces):
            if index in numbers:
                tracks[numbers[index]] = tracks[numbers[index]].extend(face, frame)
            else:
                numbers[index] = len(tracks)
                tracks.append(_Track(face.centre, _mean_side(face), frame))
        numbered = [replace(face, number=numbers[index]) for index, face in enumerate(faces)]
        result.append(tuple(sorted(numbered, key=lambda face: face.number)))
    return tuple(result)


def fill_from_nearest(per_image: tuple[tuple[Face, ...], ...]) -> tuple[tuple[Face, ...], ...]:
    """Give images without faces those of the nearest image that has some, of two equally near ones the earlier's.

    At least one image has a face.
    """
    sources = [i for i, faces in enumerate(per_image) if faces]
    return tuple(faces or per_image[min(sources, key=lambda j: (abs(i - j), j))] for i, faces in enumerate(per_image))


def _recognise(tracks: list[_Track], faces: tuple[Face, ...], frame: int) -> dict[int, int]:
    """Return the person's number for the indices in `faces` that are recognised: best fits first, each person once."""
    fits = [
        (track.distance(face, frame), number, index)
        for number, track in enumerate(tracks)
        for index, face in enumerate(faces)
    ]
    numbers: dict[int, int] = {}
    for distance, number, index in sorted(fits):
        reach = min(_REACH * np.sqrt(frame - tracks[number].frame), _LONGEST_REACH)
        if distance < reach and index not in numbers and number not in numbers.values():
            numbers[index] = number
    return numbers


def _mean_side(face: Face) -> float:
    width, height = face.sides
    return float(np.sqrt(width * height))
