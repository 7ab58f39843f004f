"""From scores to the numbers that a table prints."""

import math

import torch

from ...metrics.differences import class_diversity, pose_diversity
from ...metrics.scores import harmonic_mean
from ...metrics.similarity import identity_summary, pair_cosines, text_similarity
from ...metrics.statistics import best_of_curve, frechet_distance, separation, spread
from ..training.expression import classes
from ..world.captions import caption
from ..world.scenes import EXPRESSIONS, scene
from .instruments import World
from .people import PHOTOS, HeldOutPerson


def summary(scores: dict[str, torch.Tensor], background: torch.Tensor | None, real: torch.Tensor) -> dict[str, float]:
    """Return the numbers of one method.

    scores: of `measure.scores`; background: [seeds, n], or None; real: CLIP's vectors [m, d] of renders.
    A deviation is that between seeds; of a diversity, which is of all seeds together, the standard error over people.
    """
    identity, text = scores["identity"], scores["text"]
    both = harmonic_mean(identity.nan_to_num(), text)
    person, words, harmonic = spread(identity), spread(text), spread(both)
    outside = None if background is None else spread(background)
    expressions, rolls = _expressions(scores["expression"]), _rolls(scores["points"])
    return {
        "identity": person.mean,
        "identity_deviation": person.deviation,
        "undetected": float(identity.isnan().float().mean()),
        "identity_all": identity_summary(identity.flatten()).all,
        "text": words.mean,
        "text_deviation": words.deviation,
        "direction": spread(scores["direction"]).mean,
        "harmonic": harmonic.mean,
        "harmonic_deviation": harmonic.deviation,
        "background": outside.mean if outside else math.nan,
        "background_deviation": outside.deviation if outside else math.nan,
        "expression_diversity": float(expressions.mean()),
        "expression_diversity_deviation": _error(expressions),
        "pose_diversity": float(rolls.mean()),
        "pose_diversity_deviation": _error(rolls),
        "distance": frechet_distance(scores["seen"].flatten(0, 1), real),
        "best_of": best_of_curve(both.T, both.T),
    }


def _error(values: torch.Tensor) -> float:
    return float(values.std() / len(values) ** 0.5)


def _expressions(coefficients: torch.Tensor) -> torch.Tensor:
    """Return how evenly the expressions of one person and prompt spread over the seeds, 0..1, [n].

    Only those whose images all have a face.
    """
    kinds = classes(coefficients.nan_to_num().flatten(0, 1)).unflatten(0, coefficients.shape[:2]).T
    whole = ~coefficients.isnan().any(dim=2).any(dim=0)
    return class_diversity(kinds[whole], len(EXPRESSIONS))


def _rolls(points: torch.Tensor) -> torch.Tensor:
    """Return the deviation of the roll in degrees over the seeds of one person and prompt, [n].

    Only those whose images all have a face.
    """
    points_of_people = points.transpose(0, 1)
    whole = ~points_of_people.flatten(1).isnan().any(dim=1)
    return pose_diversity(points_of_people[whole]).roll


def limits(world: World, people: list[HeldOutPerson]) -> dict[str, float]:
    """Return scores of renders: identity of one person and of two, AUC of the scorer, and text."""
    embeddings = torch.cat([world.embed_faces(faces) for held in people for faces in (held.reference, held.others)])
    count = len(embeddings) // len(people)
    same, different = pair_cosines(embeddings, torch.arange(len(people)).repeat_interleave(count))
    return {
        "same": float(same.mean()),
        "different": float(different.mean()),
        "auc": separation(same, different),
        "text": _real_text(world, people),
    }


def _real_text(world: World, people: list[HeldOutPerson]) -> float:
    """Return CLIP-T of the people's real renders with what they show."""
    texts = [caption(held.subject, scene(held.subject.number, 0, 0, PHOTOS)) for held in people]
    return float(
        text_similarity(
            world.embed_images(torch.cat([held.reference.images for held in people])), world.embed_prompts(texts)
        ).mean()
    )
