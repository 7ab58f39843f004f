"""Faces across the frames of a video: which face is which person, and what a frame without a face borrows."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn.functional import interpolate

from .types import Face

# A face is the one seen before if it is nearer than this many of its sides to where that one was expected, for every
# frame that has passed since; uncertainty grows with the root of the time, and not for ever.
_REACH = 1.0
_LONGEST_REACH = 3.0
_CUT, _SPIKE = 0.06, 2  # of the range of grey values, and times what the pairs of frames around differ by
_JUMP = 0.5  # sides from where it was expected, beyond which a sight may be somebody else's, until the next one tells


@dataclass
class _Track:
    """Where a person was last seen: centre [2] and mean side of the box in pixels, the frame, the way [2] a frame.

    before: the track without that sight, where it was a jump.
    """

    centre: np.ndarray
    side: float
    frame: int
    way: np.ndarray = field(default_factory=lambda: np.zeros(2))
    before: "_Track | None" = None

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
        before = self if self.distance(face, frame) > _JUMP else None
        # Half of the way so far stays: detectors tremble by a pixel or two from frame to frame.
        return _Track(face.centre, _mean_side(face), frame, (way + self.way) / 2, before)

    def is_nearer_before(self, face: Face, frame: int) -> bool:
        """Return whether `face` is where the person was expected, had the last sight, which was a jump, not been."""
        return (
            self.before is not None
            and self.before.distance(face, frame) < min(self.distance(face, frame), self.before.reach(frame))
        )  # fmt: skip

    def reach(self, frame: int) -> float:
        """Return how far from where it was predicted a face may be to be this person's, in sides."""
        return min(_REACH * np.sqrt(frame - self.frame), _LONGEST_REACH)


def number_faces(per_frame: tuple[tuple[Face, ...], ...]) -> tuple[tuple[Face, ...], ...]:
    """Return every frame's faces with the numbers of the persons they belong to, ordered by these.

    per_frame: for every frame its faces, left to right. Persons are numbered from 0 in the order in which they appear;
    a face that is not near to one seen before is somebody new. A person who vanishes keeps the number, and has it again
    when they come back near to where they were last seen. What is seen in one frame only, as a false find is, takes
    nobody's number: it has the last ones, and a person is found again where they were before it.
    """
    tracks: list[_Track] = []
    persons: list[dict[int, int]] = []  # for every frame: index of a face -> index of its track
    for frame, faces in enumerate(per_frame):
        numbers = _recognise(tracks, faces, frame)
        persons.append(numbers)
        for index, face in enumerate(faces):
            if index not in numbers:
                numbers[index] = len(tracks)
                tracks.append(_Track(face.centre, _mean_side(face), frame))
                continue
            person = numbers[index]
            if tracks[person].is_nearer_before(face, frame):
                _disown(tracks, persons[tracks[person].frame], person)
            tracks[person] = tracks[person].extend(face, frame)
    order = _order(persons)
    numbered = (
        [replace(face, number=order[numbers[index]]) for index, face in enumerate(faces)]
        for faces, numbers in zip(per_frame, persons)
    )
    return tuple(tuple(sorted(faces, key=lambda face: face.number)) for faces in numbered)


def _disown(tracks: list[_Track], numbers: dict[int, int], person: int) -> None:
    """Make a track's last sight, with the `numbers` of its frame, a stray one: a track of its own."""
    last = tracks[person]
    index = next(index for index, number in numbers.items() if number == person)
    numbers[index] = len(tracks)
    tracks.append(replace(last, way=np.zeros(2), before=None))
    tracks[person] = last.before


def _order(persons: list[dict[int, int]]) -> dict[int, int]:
    """Return each track's number: in the order of appearance, those that are seen in one frame only at the end."""
    appearances = [numbers[index] for numbers in persons for index in sorted(numbers)]
    sights = Counter(appearances)
    tracks = sorted(sights, key=lambda track: (sights[track] == 1, appearances.index(track)))
    return {track: number for number, track in enumerate(tracks)}


def find_cuts(images: torch.Tensor) -> list[int]:
    """Return the frames of a video, from 0, that a hard cut is before; images: [B, H, W, 3] in 0..1.

    There the picture changes as a whole, and much more than just before and after it: neither a pan nor a fade nor a
    flash is a cut.
    """
    small = interpolate(images.mean(dim=-1, keepdim=True).movedim(-1, 1), size=(16, 16), mode="area")
    steps = [0.0, *(small[1:] - small[:-1]).abs().mean(dim=(1, 2, 3)).tolist(), 0.0]
    return [
        frame
        for frame in range(1, len(images))
        if steps[frame] > max(_CUT, _SPIKE * steps[frame - 1], _SPIKE * steps[frame + 1])
    ]


def report_cuts(images: torch.Tensor) -> str:
    """Return in a sentence where a video cuts, frames counted from 1; nothing where it does not."""
    cuts = [str(frame + 1) for frame in find_cuts(images)]
    if not cuts:
        return ""
    frames = f"frame {cuts[0]}" if len(cuts) == 1 else f"frames {', '.join(cuts[:9])}{' …' * (len(cuts) > 9)}"
    return (
        f"The film cuts before {frames}. Numbers follow people by their place, so look who has which behind a cut, or "
        "split the video there."
    )


def fill_from_nearest(per_image: tuple[tuple[Face, ...], ...]) -> tuple[tuple[Face, ...], ...]:
    """Give images without faces those of the nearest image that has some, of two equally near ones the earlier's.

    At least one image has a face.
    """
    sources = [i for i, faces in enumerate(per_image) if faces]
    return tuple(faces or per_image[min(sources, key=lambda j: (abs(i - j), j))] for i, faces in enumerate(per_image))


def _recognise(tracks: list[_Track], faces: tuple[Face, ...], frame: int) -> dict[int, int]:
    """Return the track for the indices in `faces` that are recognised: best fits first, each person once."""
    fits = [
        (
            min(track.distance(face, frame), track.before.distance(face, frame) if track.before else np.inf),
            number,
            index,
        )
        for number, track in enumerate(tracks)
        for index, face in enumerate(faces)
    ]
    numbers: dict[int, int] = {}
    for distance, number, index in sorted(fits):
        near = distance < tracks[number].reach(frame) or tracks[number].is_nearer_before(faces[index], frame)
        if near and index not in numbers and number not in numbers.values():
            numbers[index] = number
    return numbers


def _mean_side(face: Face) -> float:
    width, height = face.sides
    return float(np.sqrt(width * height))
