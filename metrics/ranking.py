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

    Of equals, such as images without a face, the one with the better text, then the earlier one, is better.
    """
    scores = {"identity": identity}
    if text is not None:
        scores = {"identity x text": harmonic_mean(identity, text), "identity": identity, "text": text}
    values = list(scores.values())
    leading, last = values[0], values[-1]
    order = sorted(range(len(identity)), key=lambda i: (-float(leading[i]), -float(last[i])))
    return Ranking(order, scores)
