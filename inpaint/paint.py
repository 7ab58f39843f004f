"""Paint faces in their crops anew, each with the model and the prompt of the person it is to become (FaceA-Net's G_id).

The sampling is the host's: what follows is InpaintModelConditioning and KSampler, crop by crop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import comfy.model_patcher
import comfy.sample
import comfy.utils
import latent_preview
import node_helpers
import torch

from ..faces.types import Faces
from .crop import FaceCrop
from .refine import EVERY_FACE, grey_out


@dataclass(frozen=True, eq=False)
class FacePerson:
    """What a face is to become: model and conditionings of the host, and which face.

    number:         of the face, or EVERY_FACE
    score:          gives every one of `Faces` its likeness to the person, who then becomes the likest face of each
                    image, if that has `min_likeness`; None: the number decides
    """

    model: comfy.model_patcher.ModelPatcher
    positive: list
    negative: list
    number: int
    score: Callable[[Faces], torch.Tensor] | None = None
    min_likeness: float = 0.0


class SamplerSettings(NamedTuple):
    """The settings of the host's KSampler."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float


def assign(crop: FaceCrop, numbers: tuple[int, ...], people: tuple[FacePerson, ...]) -> list[FacePerson | None]:
    """Return for each of the crop's faces, of these numbers, who it becomes.

    That is the person who names its number; else one whom it is like, each person once in an image and the likest pairs
    first; else the one who takes every face; else nobody.

    Raises ValueError where two are one and the same person, of whom the second would become somebody else's face.
    """
    by_number = {person.number: person for person in people if person.score is None}
    owners = [by_number.get(number) if number != EVERY_FACE else None for number in numbers]
    scores = [(person, [float(likeness) for likeness in person.score(crop.found)]) for person in people if person.score]
    if any(one and one == other for (_, one), (_, other) in combinations(scores, 2)):
        raise ValueError(
            "Two of the people are the same person, equally like every face: keep one of them, or choose the faces by "
            "their index without face_id."
        )
    pairs = [
        (likeness, i, person)
        for person, likenesses in scores
        for i, likeness in enumerate(likenesses)
        if likeness >= person.min_likeness
    ]
    taken = set()
    for _, i, person in sorted(pairs, key=lambda pair: -pair[0]):
        if owners[i] is None and (crop.owners[i], person) not in taken:
            owners[i] = person
            taken.add((crop.owners[i], person))
    return [owner or by_number.get(EVERY_FACE) for owner in owners]


def check_people(people: tuple[FacePerson, ...]) -> None:
    """Raise ValueError where two people claim the same face."""
    numbers = [person.number for person in people if person.score is None]
    for number in set(numbers):
        if numbers.count(number) > 1:
            claimed = "every face" if number == EVERY_FACE else f"face {number}"
            raise ValueError(f"{numbers.count(number)} people are to become {claimed}: give each person its own index.")


def paint(crop: FaceCrop, people: list[FacePerson], vae, sampling: SamplerSettings) -> torch.Tensor:
    """Paint the crops [n, size, size, 3] anew within their masks, each as its own one of n `people`.

    The image a crop is from picks its noise among those of the seed, as the index in a batch does in the host: a face
    becomes the same, whether it is painted alone, or others are in whatever order. Raises ValueError where the crops do
    not divide into latents.
    """
    check_size(crop.size, vae)
    images, masks = crop.images, crop.masks[:, None]
    latents = [(vae.encode(image[None]), vae.encode(grey_out(image[None], mask))) for image, mask in zip(images, masks)]
    samples = [latent for latent, _ in latents]
    for person in dict.fromkeys(people):  # one after the other, so that each model is loaded once
        for i in (i for i, owner in enumerate(people) if owner is person):
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
    person: FacePerson,
    latent: torch.Tensor,
    masked: torch.Tensor,
    mask: torch.Tensor,
    index: int,
    sampling: SamplerSettings,
) -> torch.Tensor:
    """Inpaint one latent [1, C, h, w]; `masked`: that of the image with its `mask` [1, 1, H, W] in grey.

    index: which of the seed's noises is added, from 0.
    """
    model, settings = person.model, sampling._asdict()
    filling = {"concat_latent_image": masked, "concat_mask": mask}
    positive, negative = (
        node_helpers.conditioning_set_values(conditioning, filling)
        for conditioning in (person.positive, person.negative)
    )
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, sampling.seed, [index]),
        positive=positive,
        negative=negative,
        latent_image=latent,
        noise_mask=mask,
        callback=latent_preview.prepare_callback(model, sampling.steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        **settings,
    )
