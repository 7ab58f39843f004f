"""Pictures of a method over people, prompts and seeds, and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...faces.types import Faces
from ...metrics.differences import change
from ...metrics.similarity import directional_similarity, identity_similarity, text_similarity
from .instruments import ImageSampling, World, noise, sample, stack
from .methods import NAMELESS, Method
from .people import HeldOutPerson
from .prompts import of_person


@dataclass(frozen=True)
class Plan:
    """people: how many; prompts: of each; seeds: pictures of each prompt."""

    people: int = 100
    prompts: int = 1
    seeds: int = 3


@dataclass(frozen=True, eq=False)
class SampledImages:
    """A method's images [seeds, n, h, w, 3] uint8, n counting people and, within each, prompts; the prompts [n]."""

    images: torch.Tensor
    texts: list[str]

    def of_people(self, start: int, stop: int, plan: Plan) -> "SampledImages":
        """Return the images of the people from number `start` to before `stop`."""
        rows = slice(start * plan.prompts, stop * plan.prompts)
        return SampledImages(self.images[:, rows], self.texts[rows])

    def with_more(self, more: "SampledImages") -> "SampledImages":
        """Return these images and, behind them, those of further people."""
        return SampledImages(torch.cat([self.images, more.images], dim=1), [*self.texts, *more.texts])


def sample_images(
    world: World, method: Method, people: Sequence[HeldOutPerson], plan: Plan, sampling: ImageSampling
) -> SampledImages:
    """Draw every person with every one of their prompts and seeds."""
    made, texts = [], []
    for number, held in enumerate(people):
        model, conditioning = method.prepare(world, held)
        prompts = of_person(number, method.prompts, plan.prompts)
        keys = [(number, prompt, seed) for seed in range(plan.seeds) for prompt in range(plan.prompts)]
        positive = stack([conditioning(text) for text in prompts] * plan.seeds)
        images = sample(world, model, positive, noise(keys, 8), sampling)
        made.append((images.unflatten(0, (plan.seeds, plan.prompts)) * 255).round().to(torch.uint8))
        texts += prompts
    return SampledImages(torch.cat(made, dim=1), texts)


@dataclass(frozen=True, eq=False)
class Known:
    """What every method is compared with: by the scorer k photos of each of p people [p, k, d], by CLIP one [p, d]."""

    photos: torch.Tensor
    references: torch.Tensor


def embed_people(world: World, people: Sequence[HeldOutPerson]) -> Known:
    """Return the people as scorer and CLIP see them."""
    photos = torch.stack([world.embed_faces(held.others) for held in people])
    return Known(photos, world.embed_images(torch.cat([held.reference.images for held in people])))


def find_faces(world: World, samples: SampledImages) -> Faces:
    """Return the faces found in a method's pictures, seed by seed."""
    return world.faces(samples.images.flatten(0, 1).float() / 255)


def score(world: World, samples: SampledImages, faces: Faces, people: Known, plan: Plan) -> dict[str, torch.Tensor]:
    """Return by name the scores [seeds, n] of a method's images; expressions and points have more dimensions.

    faces: of `faces_in`.
    identity: NaN where no face was found. text, direction: CLIP-T and, against a plain photo of a person, dCLIP.
    """
    seeds, n = samples.images.shape[:2]
    is_found = torch.tensor([len(faces_of_image) > 0 for faces_of_image in faces.per_image])
    owners = torch.arange(n).div(plan.prompts, rounding_mode="floor").repeat(seeds)
    embeddings = torch.zeros(len(is_found), people.photos.shape[-1])
    embeddings[is_found] = world.embed_faces(faces)
    image_vectors = world.embed_images(faces.images)
    text_vectors = world.embed_prompts([text.format(who=NAMELESS) for text in samples.texts]).repeat(seeds, 1)
    nameless = world.embed_prompts([f"a photo of {NAMELESS}"]).expand_as(text_vectors)
    points = torch.full((len(is_found), 5, 2), torch.nan)
    found = [face.points.tolist() for (face,) in filter(None, faces.per_image)]
    points[is_found] = torch.tensor(found).reshape(-1, 5, 2)
    expressions = torch.full((len(is_found), 64), torch.nan)
    expressions[is_found] = world.expressions(faces)
    result = {
        "identity": identity_similarity(embeddings, people.photos[owners], is_found),
        "text": text_similarity(image_vectors, text_vectors),
        "direction": directional_similarity(image_vectors, people.references[owners], text_vectors, nameless),
        "points": points,
        "expression": expressions,
        "seen": image_vectors,
    }
    return {name: tensor.unflatten(0, (seeds, n)) for name, tensor in result.items()}


def background(faces: Faces, base: Faces, seeds: int) -> torch.Tensor:
    """Return how much images outside the face differ from the base model's of the same noise: 0..1, [seeds, n].

    faces, base: of `faces_in`, with the pictures they were found in.
    """
    boxes = torch.zeros(faces.images.shape[:3])
    for source in (base, faces):
        for mask, faces_of_image in zip(boxes, source.per_image):
            for face in faces_of_image:
                x0, y0, x1, y1 = (max(0, round(edge)) for edge in face.box)
                mask[y0:y1, x0:x1] = 1
    return change(base.images, faces.images, boxes).outside.unflatten(0, (seeds, -1))
