"""An inpainted face crop put back into its picture (docs/papers.md 2.7, steps 5 and 6).

Two things keep what nobody painted: where the result equals the prepared crop, the picture's own pixels stay, so that
what resizing lost never returns; and what the VAE alone changed is taken out again, by its round trip or by its tone.
"""

import numpy as np
import torch
from scipy import ndimage

from ..faces.detector import as_rgb
from ..faces.types import Face
from .crop import FaceCrop, Window, box_area, dilate, grow, kernel_reach, nearest, put, resize

BLENDS = ("mask", "whole crop")

_RING = 0.2  # kernel, as a part of the root of the mask's area, of the ring in which the tone is compared
_ROUNDING = 1e-6  # result + (crop - round trip) is the crop up to this where the result is the round trip


def paste(
    crop: FaceCrop,
    image: torch.Tensor,
    round_trip: torch.Tensor | None,
    picture: torch.Tensor | None,
    mask: torch.Tensor | None,
    blend: str,
    feather: int,
    colour_match: bool,
) -> torch.Tensor:
    """The pictures [B, H, W, 3] with the inpainted crops `image` [n, size, size, 3] put back, each into its own.

    Several results for the only face of one picture give as many pictures. round_trip: the prepared crops through the
    VAE and back, to return what the VAE lost outside the mask. picture: what to paste into instead of the prepared
    pictures. mask: [m, size, size] instead of the crop's own. blend: one of BLENDS. feather: pixels of the crop,
    inwards from the mask's edge. colour_match: see `corrected`. Each input may hold one for all. Raises ValueError
    where sizes or numbers do not fit.
    """
    height, width = crop.pictures.shape[1:3]
    crop_size = crop.size, crop.size
    pictures = crop.pictures if picture is None else _fitting(as_rgb(picture), "picture", (height, width))
    single = len(crop.faces) == len(crop.pictures) == 1
    parts = {
        "face_crop": range(len(crop.faces)),
        "image": _fitting(as_rgb(image), "image", crop_size),
        "round_trip": [None] if round_trip is None else _fitting(as_rgb(round_trip), "round_trip", crop_size),
        "mask": [None] if mask is None else _fitting(mask.reshape(-1, *mask.shape[-2:]), "mask", crop_size),
    }
    count = max(map(len, (*parts.values(), pictures))) if single else len(crop.faces)
    owners = range(count) if single else crop.owners
    pasted = [whole for (whole,) in _one_by_one({"picture": pictures}, count if single else len(crop.pictures))]
    for owner, (i, image, round_trip, mask) in zip(owners, _one_by_one(parts, count)):
        limits = crop.limits[i] if mask is None else 1
        mask = crop.masks[i] if mask is None else mask.float().clamp(0, 1)
        result = _repaired(crop, i, image.to(crop.images), round_trip, mask.to(crop.images), colour_match)
        weight = _weight(crop, i, mask.cpu().numpy(), blend, feather) * _touched(crop, i, result) * limits
        window, picture = crop.windows[i], pasted[owner]
        pasted[owner] = put(picture, resize(result, window.side).to(picture), weight.to(picture), window)
    return torch.stack(pasted)


def corrected(
    image: torch.Tensor,
    prepared: torch.Tensor,
    mask: torch.Tensor,
    round_trip: torch.Tensor | None,
    ring: torch.Tensor,
    colour_match: bool,
) -> torch.Tensor:
    """The inpainted `image` without what only the VAE did to it; pictures [size, size, 3], masks [size, size].

    Within the mask the mean colour that the `ring` around it lost or gained is taken back, with colour_match; outside
    it the details that the VAE lost (step 5), or without a round trip that colour again. image = prepared = round_trip
    comes back as it is.
    """
    mask, ring = mask[..., None], ring[..., None]
    tone = ((prepared - image) * ring).sum(dim=(0, 1)) / ring.sum().clamp(min=1) * colour_match
    lost = tone if round_trip is None else prepared - round_trip
    return (image + mask * tone + (1 - mask) * lost).clamp(0, 1)


def mask_weight(mask: np.ndarray, feather: int, side: int) -> torch.Tensor:
    """How much of the crop counts under "mask": [side, side] of 0..1 from `mask` [size, size].

    It rises from the mask's edge inwards, so that it is 0 wherever the crop's pixel under a picture's is not masked.
    """
    depth = ndimage.distance_transform_edt(np.pad(mask > 0, 1))[1:-1, 1:-1]
    ramp = np.minimum(depth / (feather + 1), 1) * mask
    weight = resize(torch.from_numpy(ramp.astype(np.float32))[..., None], side)[..., 0]
    return weight * torch.from_numpy(nearest(mask > 0, side))


def border_weight(window: Window, face: Face, image_size: tuple[int, int]) -> torch.Tensor:
    """How much of the crop counts under "whole crop" (step 6): [side, side] of 0..1; image_size: (H, W).

    All but a soft border, which fades to 0 at the crop's edge, but not where the picture ends there; the face's box
    counts in any case.
    """
    kernel = int(10 * window.side / 256) | 1
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8  # OpenCV's choice for a kernel
    pixels, profiles = np.arange(window.side), []
    for start, length in zip((window.top, window.left), image_size):
        whole = (pixels >= kernel) | (start <= 0)
        whole &= (pixels < window.side - kernel) | (start + window.side >= length)
        profiles.append(ndimage.gaussian_filter1d(whole.astype(float), sigma, radius=kernel // 2, mode="nearest"))
    weight = np.maximum(np.outer(*profiles), box_area(face.box, window, window.side))
    return torch.from_numpy(weight.astype(np.float32))


def _repaired(
    crop: FaceCrop,
    i: int,
    image: torch.Tensor,
    round_trip: torch.Tensor | None,
    mask: torch.Tensor,
    colour_match: bool,
) -> torch.Tensor:
    painted = (mask > 0).cpu().numpy()
    ring = torch.from_numpy(dilate(painted, _RING) & ~painted & ~_black(crop, i)).to(image)
    round_trip = None if round_trip is None else round_trip.to(image)
    return corrected(image, crop.images[i], mask, round_trip, ring, colour_match)


def _weight(crop: FaceCrop, i: int, mask: np.ndarray, blend: str, feather: int) -> torch.Tensor:
    if blend == "mask":
        return mask_weight(mask, feather, crop.windows[i].side)
    return border_weight(crop.windows[i], crop.faces[i], crop.pictures.shape[1:3])


def _touched(crop: FaceCrop, i: int, result: torch.Tensor) -> torch.Tensor:
    """Pixels of the window that a change in the crop reaches, and not the black of other faces: bool [side, side]."""
    window = crop.windows[i]
    changed = ((result - crop.images[i]).abs().amax(dim=-1) > _ROUNDING).cpu().numpy()
    reached = grow(changed, 2 * kernel_reach(window, crop.size) + 1)
    return torch.from_numpy(nearest(reached & ~_black(crop, i), window.side))


def _black(crop: FaceCrop, i: int) -> np.ndarray:
    """Where the black that covers other faces is or would be seen in the picture: bool [size, size]."""
    return grow(crop.others[i], 2 * kernel_reach(crop.windows[i], crop.size) + 1)


def _fitting(values: torch.Tensor, name: str, size: tuple[int, int]) -> torch.Tensor:
    if values.shape[1:3] != size:
        raise ValueError(
            f"{name} is {values.shape[2]} x {values.shape[1]} pixels, but has to be {size[1]} x {size[0]}: the size "
            + (
                "of the picture the face was cut from."
                if name == "picture"
                else "that Prepare Face Crop or Crop Faces to Refine gave the crop."
            )
        )
    return values


def _one_by_one(parts: dict, count: int) -> list[tuple]:
    """The n-th of every part, for `count` n; a part of one serves all. Raises ValueError for any other number."""
    if odd := [f"{name} holds {len(part)}" for name, part in parts.items() if len(part) not in (1, count)]:
        raise ValueError(f"There are {count} results to paste, but {', '.join(odd)}: give one, or one for each.")
    return [tuple(part[i % len(part)] for part in parts.values()) for i in range(count)]
