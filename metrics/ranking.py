"""Best of N: the order of a batch of images by their scores (docs/papers.md 7.4)."""

from typing import NamedTuple

import torch

from .scores import harmonic_mean


class Ranking(NamedTuple):
    """order: indices of the images from best to worst; scores: by name, the first being what the order is made by."""

    order: list[int]
    scores: dict[str, torch.Tensor]


def rank(identity: torch.Tensor, text: torch.Tensor | None = None) -> Ranking:
    """Rank images by their scores [n]: by identity x text where there are text scores, else by identity.

    Images without a face, whose identity is NaN, come last. Of equals the one with the better text, then the earlier
    one, is better.
    """
    scores = {"identity": identity}
    if text is not None:
        both = harmonic_mean(identity.nan_to_num(), text)
        scores = {"identity x text": both, "identity": identity, "text": text}
    values = [value.nan_to_num().tolist() for value in scores.values()]
    faceless = identity.isnan().tolist()
    order = sorted(range(len(identity)), key=lambda i: (faceless[i], -values[0][i], -values[-1][i]))
    return Ranking(order, scores)
