"""Is it the person, is it the prompt: cosines of embeddings that a recogniser or CLIP has made (docs/papers.md 7).

An image without a face has NaN as its identity score, so that it can be counted apart.
"""

from typing import NamedTuple

import torch
from torch.nn.functional import cosine_similarity, normalize

_NO_STEP = 1e-6  # a difference of two embeddings of length 1 that is rounding


def identity_similarity(embeddings: torch.Tensor, references: torch.Tensor, detected: torch.Tensor) -> torch.Tensor:
    """Return for every image the mean cosine [n], -1..1, to its person's; NaN without a face (docs/papers.md 7.1).

    embeddings: [n, d], of any length, where no face was found anything; references: [n, k, d], or [1, k, d] where all
    images are of one person; detected: [n] bool.
    """
    cosines = cosine_similarity(embeddings[:, None], references, dim=-1).mean(dim=-1)
    return cosines.where(detected, torch.nan)


def reference_similarity(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Return for every image the mean cosine [n] with the reference photos: CLIP-I or DINO (docs/papers.md 7.2).

    images: [n, d], references: [k, d], embeddings of whole images by one network, of any length.
    """
    return cosine_similarity(images[:, None], references[None], dim=-1).mean(dim=-1)


class IdentitySummary(NamedTuple):
    """detected: mean over images with a face, NaN without any; all: mean with 0 for the others, as papers print it."""

    detected: float
    all: float
    undetected: int


def identity_summary(similarity: torch.Tensor) -> IdentitySummary:
    """Return the means of identity scores [n], and how many of them are NaN for want of a face (docs/papers.md 7.1)."""
    undetected = int(similarity.isnan().sum())
    return IdentitySummary(float(similarity.nanmean()), float(similarity.nan_to_num().mean()), undetected)


def pair_cosines(embeddings: torch.Tensor, people: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosines of all pairs of images: [s] of two images of one person, [t] of two people.

    Of real images the first ones' mean is what a method can reach at best, the second ones' the level of chance.

    embeddings: [n, d] of any length; people: [n], the number of each image's person.
    """
    unit = normalize(embeddings, dim=-1)
    first, second = torch.triu_indices(len(unit), len(unit), offset=1)
    cosines = (unit @ unit.T)[first, second]
    same = people[first] == people[second]
    return cosines[same], cosines[~same]


def text_similarity(images: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    """Return CLIP-T, the cosine [n] of embeddings of images [n, d], prompts [n, d] or [1, d] (docs/papers.md 7.2)."""
    return cosine_similarity(images, prompts, dim=-1)


def directional_similarity(
    images: torch.Tensor, reference_images: torch.Tensor, prompts: torch.Tensor, reference_prompts: torch.Tensor
) -> torch.Tensor:
    """Return dCLIP [n]: does the image differ from a plain one as its prompt from the plain one? (docs/papers.md 7.2)

        cos(E_img(x) - E_img(x_ref), E_txt(p) - E_txt(p_ref))

    All are CLIP's embeddings, [n, d] or [1, d] of any length, which are brought to length 1 before they are subtracted;
    the references those of "a photo of a person" and of an image made with it. 0 where image or prompt do not differ.
    """
    steps = [
        normalize(a, dim=-1) - normalize(b, dim=-1)
        for a, b in ((images, reference_images), (prompts, reference_prompts))
    ]
    steps = [step * (step.norm(dim=-1, keepdim=True) > _NO_STEP) for step in steps]
    return cosine_similarity(*steps, dim=-1)
