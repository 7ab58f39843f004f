"""The order of images by their scores: which are best, which are like the person (docs/papers.md 7.4)."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from .scores import harmonic_mean

BOTH, PEOPLE = "identity x text", "mean identity"  # what decides where there are several scores
Columns = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores of n images and the order they make.

    order:     indices of the images from best to worst
    scores:    by name, [n] each; the first is what the order was made by, NaN where there is no face
    identity, text: the names of those that say how like the people and how like the prompt an image is
    sources:   what a score comes from, by its name
    """

    order: list[int]
    scores: Columns
    identity: tuple[str, ...]
    text: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def lowest_identity(self) -> torch.Tensor:
        """The identity [n] of whichever of the people an image shows least; NaN without a face."""
        return torch.stack([self.scores[name] for name in self.identity]).amin(dim=0)

    @property
    def mean_text(self) -> torch.Tensor | None:
        """The mean of the text scores [n]; None where there is none."""
        return torch.stack([self.scores[name] for name in self.text]).mean(dim=0) if self.text else None

    def best(self, count: int, min_identity: float) -> list[int]:
        """Return the indices of the best images, `count` at most, the best first.

        min_identity: what each of the people must reach; -1 lets all in, those without a face too.
        """
        accepted = self.accepted(min_identity)
        return [index for index in self.order if accepted[index]][:count]

    def accepted(self, min_identity: float) -> list[bool]:
        """Return for every image whether each of the people reaches `min_identity`; -1 accepts whatever it is."""
        return [min_identity <= -1 or value >= min_identity for value in self.lowest_identity.tolist()]

    def as_rows(self) -> list[dict]:
        """Return a row for JSON for each image: "picture" and "rank" from 1, and its scores, None without a face."""
        scores = {name: values.tolist() for name, values in self.scores.items()}
        return [
            {"picture": index + 1, "rank": self.order.index(index) + 1}
            | {name: None if math.isnan(values[index]) else values[index] for name, values in scores.items()}
            for index in range(len(self.order))
        ]

    def as_csv(self) -> str:
        """Return the rows with a heading, separated by commas; empty where a picture has no face."""
        text, rows = io.StringIO(), self.as_rows()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def as_json(self) -> str:
        """Return the rows as "pictures", and as "sources" which network each score comes from."""
        return json.dumps({"pictures": self.as_rows(), "sources": self.sources}, indent=1, ensure_ascii=False)


def rank(identity: Columns, text: Columns | None = None, more: Columns | None = None, sources=None) -> Ranking:
    """Rank images by their scores [n]: by the harmonic mean of identities and text scores, or by the only one.

    identity: of one or several people, by one or several recognisers; NaN in images without a face, which come last.
    more: scores that are shown, and decide nothing. Of equals the one with the better last of the text scores, else of
    the identities, then the earlier one, is better.
    """
    text = text or {}
    deciding = {**identity, **text}
    scores = {}
    if len(deciding) > 1:
        scores[BOTH if text else PEOPLE] = harmonic_mean(*(value.nan_to_num() for value in deciding.values()))
    scores |= deciding
    main, last = (value.nan_to_num().tolist() for value in (next(iter(scores.values())), [*deciding.values()][-1]))
    faceless = torch.stack([*identity.values()]).isnan().any(dim=0).tolist()
    order = sorted(range(len(main)), key=lambda i: (faceless[i], -main[i], -last[i]))
    return Ranking(order, scores | (more or {}), tuple(identity), tuple(text), sources or {})


def join(first: Ranking, second: Ranking) -> Ranking:
    """Return one ranking by the scores of both, of the same images: those of `second` are numbered where names meet.

    Raises ValueError where the images are not as many.
    """
    if len(first.order) != len(second.order):
        raise ValueError(
            f"The scores before are of {len(first.order)} pictures, these of {len(second.order)}: score the same "
            "pictures in both nodes."
        )
    computed = (BOTH, PEOPLE)
    renamed = {name: free_name(name, first.scores) for name in second.scores if name not in computed}

    def of_both(first_names: Sequence[str], second_names: Sequence[str]) -> Columns:
        names = {name: first.scores[name] for name in first_names}
        return names | {renamed[name]: second.scores[name] for name in second_names}

    others = [
        [name for name in part.scores if name not in (*computed, *part.identity, *part.text)]
        for part in (first, second)
    ]
    sources = first.sources | {renamed[name]: source for name, source in second.sources.items()}
    return rank(of_both(first.identity, second.identity), of_both(first.text, second.text), of_both(*others), sources)


def free_name(name: str, known: Columns) -> str:
    """Return a name, with a number from 2 on behind it where it is known."""
    names = (name, *(f"{name} {number}" for number in range(2, len(known) + 2)))
    return next(free for free in names if free not in known)
