"""How sure a mean of many pictures' scores is: people are drawn anew, not pictures, which are not independent."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

DRAWS = 10_000
FEW = 10  # people, under which only their range is given


class Interval(NamedTuple):
    """mean; low, high: where 95 of 100 means of newly drawn people lie, or of fewer than `FEW` people the extremes.

    people: how many. NaN where there is no score.
    """

    mean: float
    low: float
    high: float
    people: int

    @property
    def is_range(self) -> bool:
        """Whether low and high are the people's own extremes."""
        return self.people < FEW


def average_seeds(values: torch.Tensor, people: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
    """Return the cells [people, prompts] of scores [n] of the people and prompts named, means over their seeds.

    NaN scores are left out; empty cells are NaN.
    """
    rows, columns = ({name: place for place, name in enumerate(dict.fromkeys(names))} for names in (people, prompts))
    known = ~values.isnan()
    places = (
        torch.tensor([rows[name] for name in people])[known],
        torch.tensor([columns[name] for name in prompts])[known],
    )
    sums, counts = torch.zeros(2, len(rows), len(columns), dtype=torch.float64)
    sums.index_put_(places, values[known].double(), accumulate=True)
    counts.index_put_(places, torch.ones(int(known.sum()), dtype=torch.float64), accumulate=True)
    return sums / counts


def bootstrap(cells: torch.Tensor, over_prompts: bool = False, seed: int = 0) -> Interval:
    """Return mean and interval of cells: people are drawn with replacement, and keep all their pictures.

    over_prompts: prompts are drawn as well, independently; the claim is then about other prompts too.
    """
    draws = draw_means(cells, over_prompts, seed)
    known = ~cells.isnan()
    per_person = cells.nanmean(dim=1)
    people = int(known.any(dim=1).sum())
    mean = float(cells.nanmean())
    if people < FEW:
        own = per_person[~per_person.isnan()]
        return Interval(mean, *((float(own.min()), float(own.max())) if people else (mean, mean)), people)
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(mean, low, high, people)


def draw_means(cells: torch.Tensor, over_prompts: bool = False, seed: int = 0, draws: int = DRAWS) -> torch.Tensor:
    """Return the means [draws] of newly drawn people; the same seed draws the same people of as many."""
    generator = torch.Generator().manual_seed(seed)
    known = (~cells.isnan()).double()
    values = cells.nan_to_num()
    weights = [_draw_counts(values.shape[0], draws, generator)]
    if over_prompts:
        weights.append(_draw_counts(values.shape[1], draws, generator))
        return ((weights[0] @ values) * weights[1]).sum(dim=1) / ((weights[0] @ known) * weights[1]).sum(dim=1)
    return (weights[0] @ values.sum(dim=1)) / (weights[0] @ known.sum(dim=1)).clamp(min=1)


def _draw_counts(count: int, draws: int, generator: torch.Generator) -> torch.Tensor:
    """Return how often each of `count` is drawn in as many draws with replacement, [draws, count]."""
    drawn = torch.randint(count, (draws, count), generator=generator)
    return torch.zeros(draws, count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())


def gap(first: torch.Tensor, second: torch.Tensor, of_same_people: bool = False, seed: int = 0):
    """Return the interval of the difference of two groups' cells, and how likely so large a one is by chance, 0..1.

    of_same_people: the rows are the same people in both, and are drawn together. The chance is twice the share of draws
    on the other side of 0, at least 2 of all draws. `people` is the smaller group's.
    """
    draws = draw_means(first, seed=seed) - draw_means(second, seed=seed if of_same_people else seed + 1)
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    people = min(int((~cells.isnan()).any(dim=1).sum()) for cells in (first, second))
    difference = float(first.nanmean() - second.nanmean())
    below, above = float((draws <= 0).double().mean()), float((draws >= 0).double().mean())
    return Interval(difference, low, high, people), min(1.0, max(2 * min(below, above), 2 / len(draws)))


def correct(chances: Sequence[float]) -> list[float]:
    """Return chances corrected by Holm's method for how many are asked for."""
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    corrected, highest = [0.0] * len(chances), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, chances[index] * (len(chances) - rank)))
        corrected[index] = highest
    return corrected
