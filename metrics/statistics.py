"""What is said of many scores at once: spread over seeds, separation, best of N, distance of two sets."""

from math import comb
from typing import NamedTuple

import torch


class Spread(NamedTuple):
    """mean over all; deviation: of the seeds' means; error: standard error of the mean. Both NaN for one seed."""

    mean: float
    deviation: float
    error: float


def spread(values: torch.Tensor) -> Spread:
    """Return mean and spread of scores [seeds, n] of the same n images with several seeds; NaN scores are left out."""
    means = values.double().nanmean(dim=1)
    deviation = float(means.std()) if len(means) > 1 else float("nan")
    return Spread(float(means.mean()), deviation, deviation / len(means) ** 0.5)


def separation(same: torch.Tensor, different: torch.Tensor) -> float:
    """Return the area under the ROC curve, 0..1: how often a score of `same` [s] exceeds one of `different` [t].

    Equals count half; 0.5 is chance. NaN where either is empty. The scores are finite.
    """
    ordered = different.sort().values
    below = torch.searchsorted(ordered, same)
    not_above = torch.searchsorted(ordered, same, right=True)
    return float((below + not_above).double().mean() / 2 / len(different))


def verification_accuracy(scores: torch.Tensor, same: torch.Tensor, folds: torch.Tensor) -> float:
    """Return the share of pairs told rightly, the mean of the folds, each by the best threshold of the others (LFW).

    scores [n], finite; same: bool [n], whether a pair is of one person; folds: int64 [n], two different ones at least.
    """
    right = []
    for fold in folds.unique():
        inside = folds == fold
        above = scores[inside] >= _best_threshold(scores[~inside], same[~inside])
        right.append((above == same[inside]).double().mean())
    return float(torch.stack(right).mean())


def _best_threshold(scores: torch.Tensor, same: torch.Tensor) -> float:
    """Return the threshold with which most pairs are told rightly: a score at least as high is one person's."""
    ordered, order = scores.double().sort(descending=True)
    hits = torch.cat((torch.zeros(1), same[order].double().cumsum(0)))
    right = 2 * hits - torch.arange(len(hits))  # less the number of pairs of two people
    ends = torch.full((1,), torch.inf)
    limits = (torch.cat((ends, ordered)) + torch.cat((ordered, -ends))) / 2
    right[1:-1][ordered[1:] == ordered[:-1]] = -torch.inf  # equal scores cannot be parted
    return float(limits[right.argmax()])


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the squared Frechet distance of features [n, d] and [m, d] taken as Gaussian, as FID (docs/papers.md 7.5).

        |mu_1 - mu_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2)

    With C_i = R_i^T R_i the last trace is the sum of R_1 R_2^T's singular values, which needs no root of a matrix that
    is singular where n < d. Raises ValueError for fewer than two rows and for two widths.
    """
    if min(len(first), len(second)) < 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"A Frechet distance needs two sets of at least two rows of the same width, but these are "
            f"{list(first.shape)} and {list(second.shape)}. Give more pictures, and features of one network."
        )
    shift = first.double().mean(dim=0) - second.double().mean(dim=0)
    one, other = _covariance_root(first), _covariance_root(second)
    traces = one.square().sum() + other.square().sum() - 2 * torch.linalg.svdvals(one @ other.T).sum()
    return max(float(shift.square().sum() + traces), 0.0)


def _covariance_root(features: torch.Tensor) -> torch.Tensor:
    """Return R [min(n, d), d] with R^T R the unbiased covariance of the features [n, d], in float64."""
    features = features.double()
    centred = (features - features.mean(dim=0)) / (len(features) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R


def frechet_at_infinity(first: torch.Tensor, second: torch.Tensor, sizes: int = 6, seed: int = 0) -> float:
    """Return the Frechet distance that features [n, d] would have to [m, d] if there were endlessly many of the first.

    Few rows make the distance larger, by a part that falls as 1/n: a line through the distances of `sizes` random
    subsets of n/2 to n rows, without replacement, over 1/n; its value at 0. It may be negative for equal sets.
    """
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))
    counts = torch.linspace(len(first) / 2, len(first), sizes).round().long().tolist()
    distances = torch.tensor([frechet_distance(first[order[:count]], second) for count in counts]).double()
    inverse = 1 / torch.tensor(counts).double()
    slope = ((inverse - inverse.mean()) * (distances - distances.mean())).sum() / (
        inverse - inverse.mean()
    ).square().sum()
    return float(distances.mean() - slope * inverse.mean())


class KernelDistance(NamedTuple):
    """mean and deviation over the subsets, times 1000 as it is printed."""

    mean: float
    deviation: float


def kernel_distance(first: torch.Tensor, second: torch.Tensor, subsets: int = 100, seed: int = 0) -> KernelDistance:
    """Return KID (arXiv 1801.01401) of features [n, d] and [m, d]: the unbiased squared MMD with (x . y / d + 1)^3.

    Of each of `subsets` random subsets of min(1000, n, m) rows of both, without replacement. Unlike FID it does not
    depend on how many there are. Raises ValueError as `frechet_distance`.
    """
    size = min(1000, len(first), len(second))
    if size < 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"A kernel distance needs two sets of at least two rows of the same width, but these are "
            f"{list(first.shape)} and {list(second.shape)}. Give more pictures, and features of one network."
        )
    generator = torch.Generator().manual_seed(seed)
    values = torch.stack([
        _discrepancy(*(
            rows.double()[torch.randperm(len(rows), generator=generator)[:size]] for rows in (first, second)
        ))
        for _ in range(subsets)
    ])  # fmt: skip
    return KernelDistance(float(values.mean()) * 1000, float(values.std()) * 1000 if subsets > 1 else 0.0)


def _discrepancy(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the unbiased squared maximum mean discrepancy of rows [n, d] and [n, d]."""
    n, d = first.shape
    within, other, between = ((a @ b.T / d + 1) ** 3 for a, b in ((first, first), (second, second), (first, second)))
    inner = (within.sum() - within.trace() + other.sum() - other.trace()) / (n * (n - 1))
    return inner - 2 * between.mean()


def chance_of_best(scores: torch.Tensor, n: int) -> torch.Tensor:
    """Return for every image the probability [pairs, M] to have the best score among n taken from its row's M.

    The image with j better ones is the best of C(M - 1 - j, n - 1) of all C(M, n) subsets; of equals the earlier one
    is better. Raises ValueError for n outside 1..M and for scores [pairs, M] that are NaN.
    """
    count = scores.shape[1]
    if not 1 <= n <= count:
        raise ValueError(f"The best of {n} cannot be taken of {count} pictures a pair: give n from 1 to {count}.")
    if scores.isnan().any():
        raise ValueError(
            f"{int(scores.isnan().sum())} of {scores.numel()} scores are NaN and cannot be ranked: give pictures "
            "without a face a number, 0 in the paper."
        )
    chances = [comb(count - 1 - better, n - 1) / comb(count, n) for better in range(count)]
    better = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return torch.tensor(chances, dtype=torch.float64, device=scores.device)[better]


def best_of_curve(chosen_by: torch.Tensor, values: torch.Tensor) -> dict[int, float]:
    """Return for N = 1, 2, 4, ... up to M the expected value of the best image of N (docs/papers.md 7.4).

    The exact mean over all subsets of the M images of a pair of person and prompt, then over the pairs. chosen_by,
    values: [pairs, M], the scores that choose and those looked up at the chosen, without NaN; the same for the curve
    of the choosing score.
    """
    sizes = [2**power for power in range(chosen_by.shape[1].bit_length())]
    return {n: float((chance_of_best(chosen_by, n) * values).sum(dim=1).mean()) for n in sizes}
