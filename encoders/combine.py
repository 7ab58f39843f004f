"""Several identities made into one."""

from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import torch
from torch.nn.functional import normalize

from .agreement import agreement, digits
from .identity import FaceId, join

METHODS = ("concatenate", "mean", "median", "drop outliers", "interpolate")


def combine(identities: list[FaceId], method: str, slider: float, min_agreement: float) -> tuple[FaceId, str]:
    """Join the identities into one; return also what was done, in words.

    method: one of `METHODS`; slider, in 0..1, is read by "interpolate", min_agreement, in -1..1, by "drop outliers".
    Raises ValueError where the identities come from different encoders, or are not two to interpolate between.
    """
    if method == "interpolate":
        return _interpolate_two(identities, slider)
    whole = reduce(join, identities)
    photos = len(whole.features)
    if method == "concatenate":
        return whole, f"{_photos(photos)} side by side, of {_count(len(identities), 'identity', 'identities')}."
    if method == "drop outliers":
        return _drop_outliers(whole, identities, min_agreement)
    return {"mean": mean, "median": median}[method](whole), f"The {method} of {_photos(photos)}."


def mean(face_id: FaceId) -> FaceId:
    """Return the mean of all photos as one; an identity of one photo is its own mean, bit for bit."""
    return _pool(face_id, lambda values: values.mean(dim=0, keepdim=True))


def median(face_id: FaceId) -> FaceId:
    """Return the median of all photos, value by value, as one; of an even number the mean of the two in the middle."""
    count = len(face_id.features)

    def pool(values: torch.Tensor) -> torch.Tensor:
        ordered = values.sort(dim=0).values
        return ((ordered[(count - 1) // 2] + ordered[count // 2]) / 2).unsqueeze(0)

    return _pool(face_id, pool)


def interpolate(first: FaceId, second: FaceId, slider: float) -> FaceId:
    """Return one photo, (1 - slider) mean(first) + slider mean(second); at 0 and 1 exactly one of the means."""
    means = mean(first), mean(second)
    both = join(*means)
    if slider in (0, 1):
        return means[int(slider)]
    return _pool(both, lambda values: ((1 - slider) * values[0] + slider * values[1]).unsqueeze(0))


def _pool(face_id: FaceId, pool: Callable[[torch.Tensor], torch.Tensor]) -> FaceId:
    """Pool features, embedding and crops [photos, ...] each to [1, ...]; the embedding gets back its length of 1."""
    if len(face_id.features) == 1:
        return face_id
    return replace(
        face_id,
        features=pool(face_id.features),
        embedding=normalize(pool(face_id.embedding), dim=1),
        crops=pool(face_id.crops),
    )


def outliers(embedding: torch.Tensor, min_agreement: float) -> list[tuple[int, float]]:
    """Return the photos to drop from embeddings [n, d], from 0, with how far each agreed with those left at that time.

    The worst goes first and the others are compared anew, for a wrong photo pulls down the right ones too. It stops
    where all agree by `min_agreement`, and at two photos: which of two is wrong, no comparison can tell.
    """
    rest, dropped = [*range(len(embedding))], []
    while len(rest) > 2:
        values = agreement(embedding[rest])
        worst = int(values.argmin())
        if values[worst] >= min_agreement:
            break
        dropped.append((rest.pop(worst), values[worst].item()))
    return dropped


def _drop_outliers(whole: FaceId, identities: list[FaceId], min_agreement: float) -> tuple[FaceId, str]:
    if not -1 <= min_agreement <= 1:
        raise ValueError(f"Combine Identities: min_agreement is a cosine between -1 and 1, not {min_agreement}.")
    dropped = outliers(whole.embedding, min_agreement)
    rest = sorted({*range(len(whole.features))} - {photo for photo, _ in dropped})
    names = _name_photos(identities)
    lines = [
        f"Dropped {names[photo]}: {digits(value)} with the others, {digits(min_agreement)} is asked."
        for photo, value in dropped
    ]
    lines.append(f"Kept {len(rest)} of {_photos(len(whole.features))}.")
    left = agreement(whole.embedding[rest])
    if len(left) and left.min() < min_agreement:
        lines.append(f"The two that are left disagree ({digits(left[0])}), and which of them is wrong cannot be told.")
    if not dropped:
        return whole, "\n".join(lines)
    return (
        replace(whole, features=whole.features[rest], embedding=whole.embedding[rest], crops=whole.crops[rest]),
        "\n".join(lines),
    )


def _interpolate_two(identities: list[FaceId], slider: float) -> tuple[FaceId, str]:
    if len(identities) != 2:
        raise ValueError(
            "Combine Identities: interpolate goes from one identity to a second one, so two must be connected, not "
            f"{len(identities)}. Join the photos of each person in a node of their own first."
        )
    if not 0 <= slider <= 1:
        raise ValueError(f"Combine Identities: slider must lie between 0 and 1, not at {slider}.")
    first, second = (_photos(len(identity.features)) for identity in identities)
    report = f"{slider:.2f} of the way from the first identity ({first}) to the second ({second})."
    return interpolate(*identities, slider), report


def _name_photos(identities: list[FaceId]) -> list[str]:
    """Return what each photo of the joined identities is called, from 1."""
    pairs = [(number, photo) for number, one in enumerate(identities, 1) for photo in range(1, len(one.features) + 1)]
    if len(identities) == 1:
        return [f"photo {photo}" for _, photo in pairs]
    return [f"photo {photo} of identity {number}" for number, photo in pairs]


def _photos(count: int) -> str:
    return _count(count, "photo", "photos")


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
