"""Faces across the frames of a video: who is who, and what a frame without a face borrows."""

from dataclasses import dataclass, field, replace

import numpy as np

from .types import Face

# A face is the one seen before if it is nearer than this many of its sides to where that one was expected, for every
# frame that has passed since; uncertainty grows with the root of the time, and not for ever.
_REACH = 1.0
_LONGEST_REACH = 3.0


@dataclass
class _Person:
    """Where one was last seen: centre [2] and side of the box in pixels, the frame, the way [2] made in one frame."""

    centre: np.ndarray
    side: float
    frame: int
    way: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def expected(self, frame: int) -> np.ndarray:
        """The centre in a later frame, on the way straight ahead, but not farther than a face's side."""
        ahead = self.way * (frame - self.frame)
        return self.centre + ahead * min(1.0, self.side / max(np.hypot(*ahead), 1e-9))


def number_faces(found: tuple[tuple[Face, ...], ...]) -> tuple[tuple[Face, ...], ...]:
    """Every frame's faces with the numbers of the persons they belong to, in the order of these.

    found: for every frame its faces, left to right. The first frame with faces numbers them from 0; whoever is not
    near to a face seen before gets the next number. Whoever vanishes keeps theirs, and has it again when they come
    back near the place where they were last seen.
    """
    persons: list[_Person] = []
    numbered = []
    for frame, faces in enumerate(found):
        numbers = _recognised(persons, faces, frame)
        for place, face in enumerate(faces):
            numbers.setdefault(place, len(persons))
            _note(persons, numbers[place], face, frame)
        named = [replace(face, number=numbers[place]) for place, face in enumerate(faces)]
        numbered.append(tuple(sorted(named, key=lambda face: face.number)))
    return tuple(numbered)


def fill_from_nearest(found: tuple[tuple[Face, ...], ...]) -> tuple[tuple[Face, ...], ...]:
    """Pictures without faces get those of the nearest picture that has some, of two equally near ones the earlier's.

    At least one picture has a face.
    """
    filled = [i for i, faces in enumerate(found) if faces]
    return tuple(faces or found[min(filled, key=lambda j: (abs(i - j), j))] for i, faces in enumerate(found))


def _recognised(persons: list[_Person], faces: tuple[Face, ...], frame: int) -> dict[int, int]:
    """Place in `faces` -> number of the person, best fits first, each person and each face once."""
    fits = [(_distance(person, face, frame), number, place) for number, person in enumerate(persons)
            for place, face in enumerate(faces)]  # fmt: skip
    numbers: dict[int, int] = {}
    for distance, number, place in sorted(fits):
        reach = min(_REACH * np.sqrt(frame - persons[number].frame), _LONGEST_REACH)
        if distance < reach and place not in numbers and number not in numbers.values():
            numbers[place] = number
    return numbers


def _distance(person: _Person, face: Face, frame: int) -> float:
    """How far a face is from where and how large a person was expected: sides of the face, plus doublings in size."""
    centre, side = _place(face)
    way = np.hypot(*(centre - person.expected(frame))) / person.side
    return float(way + abs(np.log2(side / person.side)))


def _note(persons: list[_Person], number: int, face: Face, frame: int) -> None:
    centre, side = _place(face)
    if number == len(persons):
        persons.append(_Person(centre, side, frame))
        return
    person = persons[number]
    way = (centre - person.centre) / (frame - person.frame)
    # Half of the way so far stays: detectors tremble by a pixel or two from frame to frame.
    persons[number] = _Person(centre, side, frame, (way + person.way) / 2)


def _place(face: Face) -> tuple[np.ndarray, float]:
    """Centre [2] and mean side of a face's box."""
    x0, y0, x1, y1 = face.box
    return np.array([x0 + x1, y0 + y1]) / 2, float(np.sqrt((x1 - x0) * (y1 - y0)))
