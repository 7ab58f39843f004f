"""Several people in one picture: each one's adapter where the person is to be, and each one's prompt there."""

from dataclasses import dataclass
from itertools import combinations

import torch

from ..encoders.identity import FaceId
from ..encoders.pulid import KIND, METHODS, add_zero_tokens
from ..faces.places import blend_places, fill_box, fill_head, resize_mask
from ..faces.types import Face
from .fact import apply_fact
from .ip_adapter import apply_ip_adapter
from .lora_rows import ALL

# What a region does not take over from the common prompt: where and when that holds.
_OF_THE_COMMON_PROMPT = ("mask", "mask_strength", "area", "strength", "start_percent", "end_percent", "pooled_output")
_PULID_METHOD = "fidelity"


@dataclass(frozen=True, eq=False)
class PlacedPerson:
    """A person and where the person is to be.

    face_id, image:  whichever the adapter reads; image [photos, H, W, 3] is what CLIP sees
    prompt:          what to draw there; empty: what the common prompt says
    box:             the place as x, y, width and height in per cent, where there is neither mask nor face
    mask:            the place as [H, W] in 0..1
    face, source:    the place as a face's head, and the size (H, W) of that face's picture
    """

    face_id: FaceId | None
    image: torch.Tensor | None = None
    prompt: str = ""
    box: tuple[float, float, float, float] = (0, 0, 100, 100)
    mask: torch.Tensor | None = None
    face: Face | None = None
    source: tuple[int, int] | None = None

    def fill_place(self, size: tuple[int, int]) -> torch.Tensor:
        """Return the place in a picture of a size (H, W) as a mask [H, W]."""
        if self.mask is not None:
            return resize_mask(self.mask, size)
        if self.face is not None:
            return fill_head(self.face, self.source, size)
        return fill_box(self.box, size)


def make_masks(people: tuple[PlacedPerson, ...], size: tuple[int, int], percent: float) -> torch.Tensor:
    """Return where each person acts, [n, H, W], summing to at most 1; percent: see `blend_places`.

    Raises ValueError for a place that covers nothing.
    """
    places = torch.stack([person.fill_place(size) for person in people])
    for number, place in enumerate(places, 1):
        if not place.any():
            raise ValueError(
                f"The place of person {number} covers nothing of the picture: look at its mask or box in Person in "
                "Place, or choose a face that lies inside the picture."
            )
    return blend_places(places, percent)


def apply_people(
    model, adapter, people, masks, clip_vision=None, strength=1.0, start_percent=0.0, end_percent=1.0, lora_rows=ALL
):
    """Return a clone of `model` that draws each person where its mask [H, W] says.

    The LoRA of a FaceID file acts on the whole image, so that it is added once, with the first person who has a place,
    not once a person; lora_rows: one of `lora_rows.LORA_ROWS`.
    Raises ValueError for an adapter that makes words, and where adapter, identity and model do not belong together.
    """
    if adapter.kind not in ("fact", "ip-adapter"):
        raise ValueError(
            f"{adapter.name} is of the kind {adapter.kind}, which puts people into words and not into places: use "
            "Face to Words, or choose a FACT file or an image adapter in Load Face Adapter."
        )
    settings = {"strength": strength, "start_percent": start_percent, "end_percent": end_percent}
    if adapter.kind == "ip-adapter":
        settings |= {"clip_vision": clip_vision, "lora_rows": lora_rows}
    first = next((number for number, mask in enumerate(masks, 1) if mask.any()), 1)
    for number, (person, mask) in enumerate(zip(people, masks), 1):
        try:
            if adapter.kind == "fact":
                model = _apply_fact(model, adapter, person, mask=mask, **settings)
            else:
                settings["lora_strength"] = float(number == first)
                model = _apply_image(model, adapter, person, mask=mask, **settings)
        except ValueError as error:  # whose it is, the adapter's own words cannot say
            raise ValueError(f"Person {number}: {error}") from error
    return model


def _apply_fact(model, adapter, person: PlacedPerson, **settings):
    if person.face_id is None:
        raise ValueError("there is no face: connect face_id of Person in Place.")
    return apply_fact(model, adapter, person.face_id, **settings)


def _apply_image(model, adapter, person: PlacedPerson, clip_vision, **settings):
    tokens = adapter.tokens(person.face_id, adapter.clip_input(clip_vision, person.image))
    zeros, method = METHODS[_PULID_METHOD] if adapter.format.face == KIND else ({}, "none")
    tokens = add_zero_tokens(tokens, zeros.get(adapter.format.name, 0))
    return apply_ip_adapter(model, adapter, tokens, method=method, **settings)


def find_twins(people: tuple[PlacedPerson, ...]) -> tuple[int, int] | None:
    """Return the numbers, from 1, of the first two people with one and the same face; None where there are none."""
    faces = [(number, person.face_id) for number, person in enumerate(people, 1) if person.face_id]
    return next(
        ((a, b) for (a, one), (b, other) in combinations(faces, 2) if torch.equal(one.embedding, other.embedding)), None
    )


def place_prompts(positive: list, prompts: list, masks: torch.Tensor, common_share: float) -> list:
    """Return the host's conditioning in which each prompt holds in its place and the common one in the rest.

    positive:      the common prompt, the host's list of (text, options)
    prompts:       for each mask [n, H, W] the same of a person's own prompt, or None
    common_share:  how much of the places is the common prompt's all the same, 0..1

    A person's prompt takes over the common one's ControlNets, sizes and hooks. Without prompts of people the common
    one comes back as it was.
    """
    shares = [(1 - common_share) * mask[None] for mask in masks]
    placed = [(prompt, share) for prompt, share in zip(prompts, shares) if prompt is not None]
    if not placed:
        return positive
    shared = {key: value for key, value in positive[0][1].items() if key not in _OF_THE_COMMON_PROMPT}
    rest = 1 - sum(share for _, share in placed)
    common = [_put(text, options, _narrow(options, rest)) for text, options in positive] if rest.any() else []
    return common + [_put(text, shared | options, share) for prompt, share in placed for text, options in prompt]


def _put(text, options: dict, mask: torch.Tensor) -> list:
    return [text, options | {"mask": mask, "set_area_to_bounds": False}]


def _narrow(options: dict, rest: torch.Tensor) -> torch.Tensor:
    """Return `rest` [1, H, W] within the mask that a common prompt may have already."""
    if "mask" not in options:
        return rest
    mask = options["mask"].reshape(-1, *options["mask"].shape[-2:])
    return rest * torch.stack([resize_mask(part, rest.shape[-2:]) for part in mask])
