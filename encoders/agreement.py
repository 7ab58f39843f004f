"""How far photos agree about whose face they show: cosines between their embeddings, all on the CPU in float64."""

from typing import NamedTuple

import torch
from torch.nn.functional import normalize

from .identity import FaceId, check_same_encoder

# The cosine with the mean of a person's other photos below which a photo shows somebody else. Measured with SFace and
# YuNet's points (`python3 likeness.py bench recogniser`): photos of one person have 0.78 and more, 0.76 also where they
# are dark, blurred, grey, small or mirrored; strangers 0.20 at most, and any two of them 0.35.
MIN_AGREEMENT = 0.5
MOST_SHOWN = 40  # photos a side of a table; of more, those that agree least


class Comparison(NamedTuple):
    """The cosines of n photos (rows) with m photos (columns).

    cosines:    [n, m]
    overall:    [n] each row's photo with all columns' photos but itself; [0] for a photo that is alone
    whole:      the cosine of the two people's mean embeddings; None within one person
    threshold:  a photo whose overall value is below it disagrees
    rows, columns:  the photos' numbers in their identity, from 0
    """

    cosines: torch.Tensor
    overall: torch.Tensor
    whole: float | None
    threshold: float
    rows: list[int]
    columns: list[int]


def cosines(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return cosines [n, m] of embeddings [n, d] and [m, d] of length 1."""
    return (first.cpu().double() @ second.cpu().double().T).clamp(-1, 1)


def agreement(embedding: torch.Tensor) -> torch.Tensor:
    """Return per photo the cosine [n] with the normalised mean of the others; [0] for one photo, which has no others.

    embedding: [n, d] of length 1.
    """
    embedding = embedding.cpu().double()
    if len(embedding) < 2:
        return embedding.new_zeros(0)
    others = normalize(embedding.sum(dim=0) - embedding, dim=1)  # a mean and a sum have the same direction
    return (embedding * others).sum(dim=1).clamp(-1, 1)


def compare(face_id: FaceId, other: FaceId | None, threshold: float) -> Comparison:
    """Compare the photos of one identity with each other, or with those of another."""
    return between_photos(face_id, threshold) if other is None else between_identities(face_id, other, threshold)


def between_photos(face_id: FaceId, threshold: float) -> Comparison:
    """Compare the photos of one person with each other."""
    numbers = [*range(len(face_id.embedding))]
    matrix = cosines(face_id.embedding, face_id.embedding)
    return Comparison(matrix, agreement(face_id.embedding), None, threshold, numbers, numbers)


def between_identities(face_id: FaceId, other: FaceId, threshold: float) -> Comparison:
    """Compare each photo of one identity (rows) with those of another (columns).

    Raises ValueError where they come from different encoders.
    """
    check_same_encoder(face_id, other)
    first, second = (
        normalize(identity.embedding.cpu().double().mean(dim=0, keepdim=True)) for identity in (face_id, other)
    )
    return Comparison(
        cosines(face_id.embedding, other.embedding),
        cosines(face_id.embedding, second)[:, 0],
        cosines(first, second).item(),
        threshold,
        [*range(len(face_id.embedding))],
        [*range(len(other.embedding))],
    )


def least_agreeing(comparison: Comparison, most: int = MOST_SHOWN) -> Comparison:
    """Return the part a table has room for: the rows and columns whose photos agree least, in order."""
    matrix = comparison.cosines
    per_column = matrix.mean(dim=0) if comparison.whole is not None else comparison.overall
    rows, columns = _lowest(comparison.overall, matrix.shape[0], most), _lowest(per_column, matrix.shape[1], most)
    return comparison._replace(
        cosines=matrix[rows][:, columns],
        overall=comparison.overall[rows] if len(comparison.overall) else comparison.overall,
        rows=[comparison.rows[row] for row in rows],
        columns=[comparison.columns[column] for column in columns],
    )


def _lowest(values: torch.Tensor, count: int, most: int) -> list[int]:
    return [*range(count)] if count <= most else sorted(values.argsort(stable=True)[:most].tolist())


def find_disagreeing(comparison: Comparison) -> list[int]:
    """Return the rows, from 0, whose photo disagrees."""
    return (comparison.overall < comparison.threshold).nonzero().flatten().tolist()


def digits(value: float) -> str:
    """Write a cosine with two decimals, never as -0.00."""
    return f"{round(float(value), 2) + 0.0:.2f}"


def verdict(comparison: Comparison) -> str:
    """Say in one sentence what the comparison comes to."""
    threshold = digits(comparison.threshold)
    if comparison.whole is not None:
        relation = "agree" if comparison.whole >= comparison.threshold else "disagree"
        return f"The two identities {relation}: {digits(comparison.whole)} as a whole, {threshold} is asked."
    if not len(comparison.overall):
        return "One photo: there is nothing to compare it with."
    rows = find_disagreeing(comparison)
    if len(comparison.rows) == 2:
        relation = "disagree" if rows else "agree"
        return f"The two photos {relation}: {digits(comparison.overall[0])}, {threshold} is asked."
    if not rows:
        return f"All {len(comparison.rows)} photos agree: each at least {threshold} with the others."
    values = ", ".join(f"{comparison.rows[row] + 1} ({digits(comparison.overall[row])})" for row in rows[:MOST_SHOWN])
    more = f" and {len(rows) - MOST_SHOWN} more" if len(rows) > MOST_SHOWN else ""
    subject = "Photo {} disagrees" if len(rows) == 1 else "Photos {} disagree"
    return f"{subject.format(values + more)} with the others; {threshold} is asked."


def table(comparison: Comparison) -> str:
    """Write the comparison as text: a line a photo, `!` at those that disagree, the verdict below."""
    part = least_agreeing(comparison)
    last = "others" if comparison.whole is None else "all"
    lines = ["photo " + "".join(f"{column + 1:>7}" for column in part.columns) + f"{last:>9}"]
    marked = find_disagreeing(part)
    for row, number in enumerate(part.rows):
        overall = f"{digits(part.overall[row]):>9}" if len(part.overall) else f"{'-':>9}"
        values = "".join(f"{digits(value):>7}" for value in part.cosines[row].tolist())
        lines.append(f"{number + 1:>4} {'!' if row in marked else ' '}{values}{overall}")
    if (len(part.rows), len(part.columns)) != (len(comparison.rows), len(comparison.columns)):
        lines.append(f"Only the {MOST_SHOWN} photos that agree least are shown.")
    return "\n".join([*lines, "", verdict(comparison)])
