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
