"""Pictures of a method over people, prompts and seeds, and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...faces.types import Faces
from ...metrics.differences import change
from ...metrics.similarity import directional_similarity, identity_similarity, text_similarity
from .instruments import Sampling, World, noise, sampled, stacked
from .methods import NAMELESS, Method
from .people import Held
from .prompts import of_person


@dataclass(frozen=True)
class Plan:
    """people: how many; prompts: of each; seeds: pictures of each prompt."""

    people: int = 100
    prompts: int = 1
    seeds: int = 3


@dataclass(frozen=True, eq=False)
class Drawn:
    """A method's pictures [seeds, n, h, w, 3] uint8, n counting people and, within each, prompts; the prompts [n]."""

    pictures: torch.Tensor
    texts: list[str]

    def of_people(self, start: int, stop: int, plan: Plan) -> "Drawn":
        """What of this was drawn for the people from number `start` to before `stop`."""
        own = slice(start * plan.prompts, stop * plan.prompts)
        return Drawn(self.pictures[:, own], self.texts[own])

    def with_more(self, more: "Drawn") -> "Drawn":
        """This and, after it, what was drawn for further people."""
        return Drawn(torch.cat([self.pictures, more.pictures], dim=1), [*self.texts, *more.texts])


def pictures(world: World, method: Method, people: Sequence[Held], plan: Plan, sampling: Sampling) -> Drawn:
    """Draw every person with every one of their prompts and seeds."""
    made, texts = [], []
    for number, held in enumerate(people):
        model, conditioning = method.prepare(world, held)
        own = of_person(number, method.prompts, plan.prompts)
        keys = [(number, prompt, seed) for seed in range(plan.seeds) for prompt in range(plan.prompts)]
        positive = stacked([conditioning(text) for text in own] * plan.seeds)
        drawn = sampled(world, model, positive, noise(keys, 8), sampling)
        made.append((drawn.unflatten(0, (plan.seeds, plan.prompts)) * 255).round().to(torch.uint8))
        texts += own
    return Drawn(torch.cat(made, dim=1), texts)


@dataclass(frozen=True, eq=False)
class Known:
    """What every method is compared with: by the scorer k photos of each of p people [p, k, d], by CLIP one [p, d]."""

    photos: torch.Tensor
    references: torch.Tensor


def known(world: World, people: Sequence[Held]) -> Known:
    """The people as scorer and CLIP see them."""
    photos = torch.stack([world.who(held.others) for held in people])
    return Known(photos, world.seen(torch.cat([held.reference.images for held in people])))


def faces_in(world: World, drawn: Drawn) -> Faces:
    """The faces found in a method's pictures, seed by seed."""
    return world.faces(drawn.pictures.flatten(0, 1).float() / 255)


def scores(world: World, drawn: Drawn, faces: Faces, people: Known, plan: Plan) -> dict[str, torch.Tensor]:
    """By name the scores [seeds, n] (expressions and points with more dimensions) of a method's pictures.

    faces: of `faces_in`.
    identity: NaN where no face was found. text, direction: CLIP-T and, against a plain photo of a person, dCLIP.
    """
    seeds, n = drawn.pictures.shape[:2]
    found = torch.tensor([len(each) > 0 for each in faces.found])
    owners = torch.arange(n).div(plan.prompts, rounding_mode="floor").repeat(seeds)
    embeddings = torch.zeros(len(found), people.photos.shape[-1])
    embeddings[found] = world.who(faces)
    seen = world.seen(faces.images)
    told = world.told([text.format(who=NAMELESS) for text in drawn.texts]).repeat(seeds, 1)
    nameless = world.told([f"a photo of {NAMELESS}"]).expand_as(told)
    points = torch.full((len(found), 5, 2), torch.nan)
    points[found] = torch.tensor([face.points.tolist() for (face,) in filter(None, faces.found)]).reshape(-1, 5, 2)
    expressions = torch.full((len(found), 64), torch.nan)
    expressions[found] = world.expressions(faces)
    result = {
        "identity": identity_similarity(embeddings, people.photos[owners], found),
        "text": text_similarity(seen, told),
        "direction": directional_similarity(seen, people.references[owners], told, nameless),
        "points": points,
        "expression": expressions,
        "seen": seen,
    }
    return {name: each.unflatten(0, (seeds, n)) for name, each in result.items()}


def background(faces: Faces, base: Faces, seeds: int) -> torch.Tensor:
    """How much the picture outside the face differs from the base model's of the same noise, 0..1, [seeds, n].

    faces, base: of `faces_in`, with the pictures they were found in.
    """
    boxes = torch.zeros(faces.images.shape[:3])
    for each in (base, faces):
        for mask, found in zip(boxes, each.found):
            for face in found:
                x0, y0, x1, y1 = (max(0, round(edge)) for edge in face.box)
                mask[y0:y1, x0:x1] = 1
    return change(base.images, faces.images, boxes).outside.unflatten(0, (seeds, -1))
