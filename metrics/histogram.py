"""Two people as a recogniser sees them: cosines of one person's photos and of two people's, and what lies between."""

from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw

from ..encoders.agreement import digits
from ..encoders.identity import FaceId, check_same_encoder
from ..graphics import BLUE, FAINT, GRID, INK, PAPER, to_tensor, wrap, write
from .similarity import pair_cosines
from .statistics import separation

_ORANGE = (226, 118, 46)  # told from blue by colour-blind eyes
_WIDTH, _HEIGHT, _MARGIN, _LINE, _LETTERS = 760, 320, 40, 26, 19  # pixels
_BINS = 40  # over cosines of -1 to 1


@dataclass(frozen=True, eq=False)
class Pairs:
    """same, different: cosines of all pairs of photos of one person, and of two; threshold: what tells them apart.

    auc: how often a pair of one person has the higher cosine. Threshold and auc are None without a pair of one person.
    """

    file: str
    same: torch.Tensor
    different: torch.Tensor
    threshold: float | None
    auc: float | None


def compare_people(first: FaceId, second: FaceId) -> Pairs:
    """Return the pairs of two people's photos; raises ValueError where two encoders read them."""
    check_same_encoder(first, second)
    vectors = torch.cat((first.embedding, second.embedding)).cpu().double()
    people = torch.tensor([0] * len(first.embedding) + [1] * len(second.embedding))
    same, different = pair_cosines(vectors, people)
    if not len(same):
        return Pairs(first.file, same, different, None, None)
    return Pairs(first.file, same, different, find_threshold(same, different), separation(same, different))


def find_threshold(same: torch.Tensor, different: torch.Tensor) -> float:
    """Return the cosine that errs least, both kinds of pairs weighing alike; the middle of the widest such gap."""
    values = torch.cat((same, different)).sort().values
    limits = torch.cat((values[:1] - 0.01, values, values[-1:] + 0.01))
    middles, gaps = (limits[1:] + limits[:-1]) / 2, limits[1:] - limits[:-1]
    right = [float((same >= middle).double().mean() + (different < middle).double().mean()) for middle in middles]
    best = max(right)
    return float(max((gap, middle) for gap, middle, share in zip(gaps, middles, right) if share == best)[1])


def describe(pairs: Pairs) -> str:
    """Say in a few sentences what the comparison comes to."""
    apart = f"Two people, {len(pairs.different)} pairs: {_range(pairs.different)}."
    if pairs.threshold is None:
        return f"{apart} There are no two photos of one person to compare with: give each person two or more."
    right = int((pairs.same >= pairs.threshold).sum() + (pairs.different < pairs.threshold).sum())
    return (
        f"One person, {len(pairs.same)} pairs: {_range(pairs.same)}. {apart} A threshold of {digits(pairs.threshold)} "
        f"puts {right} of {len(pairs.same) + len(pairs.different)} pairs right (AUC {pairs.auc:.3f}, {pairs.file})."
    )


def _range(cosines: torch.Tensor) -> str:
    return f"{digits(cosines.mean())} on average, {digits(cosines.min())} to {digits(cosines.max())}"


def draw_histogram(pairs: Pairs) -> torch.Tensor:
    """Return the histogram [1, H, W, 3]: shares of the pairs of one person (blue) and of two (orange) by cosine."""
    lines = wrap(describe(pairs), _LETTERS, _WIDTH - 2 * _MARGIN)
    floor = 2 * _MARGIN + _LINE * len(lines) + _HEIGHT
    sheet = Image.new("RGB", (_WIDTH, floor + 2 * _MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet, "RGBA")
    for number, line in enumerate(lines):
        write(pen, (_MARGIN, _MARGIN + _LINE * number), line, _LETTERS, INK)
    counts = [torch.histc(part.float(), _BINS, -1, 1) for part in (pairs.different, pairs.same)]
    shares = [count / count.sum().clamp(min=1) for count in counts]
    most = max(float(share.max()) for share in shares)
    for share, colour in zip(shares, (_ORANGE, BLUE)):
        for number, value in enumerate(share.tolist()):
            if value:
                left, right = _across(-1 + 2 * number / _BINS), _across(-1 + 2 * (number + 1) / _BINS)
                pen.rectangle((left + 1, floor - value / most * _HEIGHT, right - 1, floor), fill=(*colour, 190))
    for mark in (-1, -0.5, 0, 0.5, 1):
        pen.line((_across(mark), floor, _across(mark), floor + 6), fill=FAINT)
        write(pen, (_across(mark), floor + 8), f"{mark:g}", 16, FAINT, "ma")
    pen.line((_across(-1), floor, _across(1), floor), fill=GRID)
    if pairs.threshold is not None:
        pen.line((_across(pairs.threshold), floor - _HEIGHT, _across(pairs.threshold), floor), fill=INK, width=2)
    write(pen, (_across(-1), floor + 34), "two people", 16, _ORANGE)
    write(pen, (_across(1), floor + 34), "one person", 16, BLUE, "ra")
    return to_tensor(sheet)


def _across(cosine: float) -> int:
    return round(_MARGIN + (cosine + 1) / 2 * (_WIDTH - 2 * _MARGIN))
