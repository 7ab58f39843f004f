"""Paint faces in their crops anew, each with the model and the prompt of the person it is to become (FaceA-Net's G_id).

The sampling is the host's: what follows is InpaintModelConditioning and KSampler, crop by crop.
"""

from dataclasses import dataclass
from typing import NamedTuple

import comfy.model_patcher
import comfy.sample
import comfy.utils
import latent_preview
import node_helpers
import torch

from .crop import FaceCrop
from .refine import EVERY_FACE, greyed


@dataclass(frozen=True, eq=False)
class Person:
    """Who a face is to become: model and conditionings of the host, and the face's number or EVERY_FACE."""

    model: comfy.model_patcher.ModelPatcher
    positive: list
    negative: list
    number: int


class Sampling(NamedTuple):
    """The settings of the host's KSampler."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float


def assign(numbers: tuple[int, ...], people: tuple[Person, ...]) -> list[Person]:
    """For each face number the person who names it, or else the one who takes every face."""
    named = {person.number: person for person in people}
    return [named[number if number in named else EVERY_FACE] for number in numbers]


def check_people(people: tuple[Person, ...]) -> None:
    """Raise ValueError where two people claim the same face."""
    numbers = [person.number for person in people]
    for number in set(numbers):
        if numbers.count(number) > 1:
            claimed = "every face" if number == EVERY_FACE else f"face {number}"
            raise ValueError(
                f"{numbers.count(number)} people are to become {claimed}: give each FaceA Person its own index."
            )


def paint(crop: FaceCrop, people: list[Person], vae, sampling: Sampling) -> torch.Tensor:
    """The crops [n, size, size, 3] painted anew within their masks, each as its own one of n `people`.

    The picture a crop is from picks its noise among those of the seed, as a place in a batch does in the host: a face
    becomes the same, whether it is painted alone, or others are in whatever order. Raises ValueError where the crops do
    not divide into latents.
    """
    check_size(crop.size, vae)
    images, masks = crop.images, crop.masks[:, None]
    latents = [(vae.encode(image[None]), vae.encode(greyed(image[None], mask))) for image, mask in zip(images, masks)]
    samples = [latent for latent, _ in latents]
    for person in dict.fromkeys(people):  # one after the other, so that each model is loaded once
        for i in (i for i, wanted in enumerate(people) if wanted is person):
            samples[i] = sample(person, *latents[i], masks[i : i + 1], crop.owners[i], sampling)
    return torch.cat([vae.decode(latent) for latent in samples])


def check_size(side: int, vae) -> None:
    """Raise ValueError unless crops of `side` pixels divide into the latents of the host's `vae`."""
    cell = vae.spacial_compression_encode()
    if side % cell:
        below = side // cell * cell
        sizes = " or ".join(str(size) for size in (below, below + cell) if size)
        raise ValueError(
            f"Crops of {side} x {side} pixels do not divide into this VAE's latents, each of which stands for {cell} x "
            f"{cell} of them: set size to {sizes}."
        )


def sample(
    person: Person, latent: torch.Tensor, masked: torch.Tensor, mask: torch.Tensor, place: int, sampling: Sampling
) -> torch.Tensor:
    """One latent [1, C, h, w] inpainted; `masked`: that of the picture with its `mask` [1, 1, H, W] in grey.

    place: which of the seed's noises is added, from 0.
    """
    model, settings = person.model, sampling._asdict()
    filling = {"concat_latent_image": masked, "concat_mask": mask}
    positive, negative = (
        node_helpers.conditioning_set_values(conditioning, filling)
        for conditioning in (person.positive, person.negative)
    )
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, sampling.seed, [place]),
        positive=positive,
        negative=negative,
        latent_image=latent,
        noise_mask=mask,
        callback=latent_preview.prepare_callback(model, sampling.steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        **settings,
    )
