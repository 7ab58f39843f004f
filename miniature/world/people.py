"""Who lives in the drawn world: every person is a handful of numbers, drawn from (seed, person number).

Lengths are in head units: half a picture's side at scale 1. Shares of the face's half width or half height say so.
"""

from dataclasses import dataclass

import numpy as np

SPLITS = {"train": range(0, 100_000), "score": range(100_000, 150_000), "test": range(150_000, 200_000)}
HAIR_STYLES = ("bald", "buzz", "short", "spiky", "curly", "afro", "bob", "long", "bun")
BEARDS = ("none", "stubble", "moustache", "goatee", "chin strap", "full")

TRAITS = {
    "face_width": (0.325, 0.405),  # half the width
    "face_height": (0.430, 0.515),  # half the height, crown to chin
    "jaw": (0.02, 0.36),  # how much narrower it is at the chin
    "jaw_square": (2.0, 3.8),  # exponent of the lower outline: 2 is an ellipse
    "chin": (0.92, 1.10),  # length of the lower half against the upper
    "skin": (0.0, 1.0),  # light to dark
    "undertone": (-1.0, 1.0),  # olive to rosy
    "blush": (0.0, 1.0),
    "eye_size": (0.062, 0.092),  # half the width
    "eye_aspect": (0.36, 0.64),  # height to width
    "eye_spacing": (0.40, 0.51),  # from the middle, in half face widths
    "eye_tilt": (-0.18, 0.24),  # radians, outer corner up
    "eye_colour": (0.0, 1.0),  # dark brown, amber, green, blue, grey
    "eye_height": (-0.13, 0.05),  # in half face heights, down
    "brow_height": (0.085, 0.140),  # above the eye
    "brow_thickness": (0.009, 0.034),  # half of it
    "brow_tilt": (-0.22, 0.22),  # radians, outer end up
    "nose_length": (0.36, 0.52),  # from the eyes' level, in half face heights
    "nose_width": (0.045, 0.095),  # half the width
    "mouth_width": (0.095, 0.170),  # half the width
    "mouth_height": (0.18, 0.27),  # below the nose's tip, in half face heights
    "lip_thickness": (0.014, 0.042),
    "lip_colour": (0.0, 1.0),  # near the skin's to deep red
    "hair_colour": (0.0, 1.0),  # black, brown, auburn, ginger, blond, grey
    "hair_volume": (0.0, 1.0),
    "hairline": (0.56, 0.80),  # above the middle, in half face heights
    "parting": (-1.0, 1.0),
    "ear_size": (0.75, 1.40),
    "neck": (0.50, 0.78),  # half the width, in half face widths
    "mole_x": (-0.70, 0.70),  # in half face widths
    "mole_y": (0.05, 0.62),  # in half face heights
    "mole_size": (0.0, 0.024),  # radius; below 0.010 there is none
    "freckles": (-2.0, 1.0),  # strength; below 0 there are none
}
_OF_WOMEN = {
    **{"jaw": (0.16, 0.36), "jaw_square": (2.0, 2.8), "neck": (0.50, 0.60), "brow_thickness": (0.009, 0.020)},
    **{"lip_thickness": (0.024, 0.042), "eye_size": (0.072, 0.092), "lip_colour": (0.3, 1.0)},
}
_OF_MEN = {
    **{"jaw": (0.02, 0.26), "neck": (0.60, 0.78), "brow_thickness": (0.016, 0.034), "lip_thickness": (0.014, 0.034)},
    **{"lip_colour": (0.0, 0.45)},
}
_HAIR_OF_WOMEN = (0.02, 0.04, 0.09, 0.04, 0.13, 0.12, 0.19, 0.22, 0.15)  # in the order of HAIR_STYLES
_HAIR_OF_MEN = (0.15, 0.15, 0.20, 0.15, 0.14, 0.10, 0.03, 0.06, 0.02)
_BEARDS_OF_MEN = (0.36, 0.13, 0.14, 0.13, 0.10, 0.14)  # in the order of BEARDS

VECTOR_NAMES = (*TRAITS, "woman", *(f"hair: {name}" for name in HAIR_STYLES), *(f"beard: {name}" for name in BEARDS))


@dataclass(frozen=True)
class Person:
    """One person. traits: a number for each of TRAITS, in its unit and within its range."""

    number: int
    woman: bool
    hair: str
    beard: str
    traits: dict[str, float]


def person(number: int, seed: int = 0) -> Person:
    """Return the person `number` of the world `seed`, always the same one. Raises ValueError outside every split's
    range.
    """
    split_of(number)
    rng = np.random.default_rng([seed, 1, number])
    woman = bool(rng.random() < 0.5)
    limits = _OF_WOMEN if woman else _OF_MEN
    traits = {name: float(rng.uniform(*limits.get(name, both))) for name, both in TRAITS.items()}
    hair = HAIR_STYLES[rng.choice(len(HAIR_STYLES), p=_HAIR_OF_WOMEN if woman else _HAIR_OF_MEN)]
    beard = BEARDS[rng.choice(len(BEARDS), p=_BEARDS_OF_MEN)]
    return Person(number, woman, hair, "none" if woman else beard, traits)


def split_of(number: int) -> str:
    """Return the split of a person: "train", "score" (to train the scorer on) or "test" (held out)."""
    for name, numbers in SPLITS.items():
        if number in numbers:
            return name
    last = max(numbers.stop for numbers in SPLITS.values()) - 1
    raise ValueError(f"There is no person number {number}: people are numbered from 0 to {last}.")


def as_vector(subject: Person) -> np.ndarray:
    """Return what there is to know of a person, float32 [len(VECTOR_NAMES)] in -1..1: what a regression head learns to
    tell.

    Traits over the range of all people, then a woman (1) or a man (-1), then hair style and beard as one-hot.
    """
    traits = [2 * (subject.traits[name] - low) / (high - low) - 1 for name, (low, high) in TRAITS.items()]
    kinds = [subject.hair == name for name in HAIR_STYLES] + [subject.beard == name for name in BEARDS]
    return np.float32([*traits, 1 if subject.woman else -1, *kinds])
