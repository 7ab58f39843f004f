"""An inpainted face crop put back into its image (docs/papers.md 2.7, steps 5 and 6).

Two things keep what nobody painted: where the result equals the prepared crop, the image's own pixels stay, so that
what resizing lost never returns; and what the VAE alone changed is taken out again, by its round trip or by its tone.
"""

import numpy as np
import torch
from scipy import ndimage

from ..faces.detector import as_rgb
from .crop import FaceCrop, box_area, dilate, grow, kernel_reach, nearest, put, resize

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
    """Return images [B, H, W, 3] with the inpainted crops `image` [n, size, size, 3] put back, each into its own.

    Several results for the only face of one image give as many images. round_trip: the prepared crops through the
    VAE and back, to return what the VAE lost outside the mask. picture: what to paste into instead of the originals.
    mask: [m, size, size] instead of the crop's own. blend: one of BLENDS. feather: pixels of the crop, inwards from the
    mask's edge. colour_match: see `correct`. Each input may hold one for all. Raises ValueError where sizes or numbers
    do not fit.
    """
    height, width = crop.originals.shape[1:3]
    crop_size = crop.size, crop.size
    originals = crop.originals if picture is None else _check_size(as_rgb(picture), "picture", (height, width))
    single = len(crop.faces) == len(crop.originals) == 1
    parts = {
        "face_crop": range(len(crop.faces)),
        "image": _check_size(as_rgb(image), "image", crop_size),
        "round_trip": [None] if round_trip is None else _check_size(as_rgb(round_trip), "round_trip", crop_size),
        "mask": [None] if mask is None else _check_size(mask.reshape(-1, *mask.shape[-2:]), "mask", crop_size),
    }
    count = max(map(len, (*parts.values(), originals))) if single else len(crop.faces)
    owners = range(count) if single else crop.owners
    results = [whole for (whole,) in _share({"picture": originals}, count if single else len(crop.originals))]
    for owner, (i, image, round_trip, mask) in zip(owners, _share(parts, count)):
        limits = crop.limits[i] if mask is None else 1
        mask = crop.masks[i] if mask is None else mask.float().clamp(0, 1)
        painted = correct(crop, i, image.to(crop.images), round_trip, mask.to(crop.images), colour_match)
        window, whole = crop.windows[i], results[owner]
        soft = blend == "mask"
        weight = mask_weight(mask.cpu().numpy(), feather, window.side) if soft else border_weight(crop, i)
        weight = weight * find_changed(crop, i, painted) * limits
        results[owner] = put(whole, resize(painted, window.side).to(whole), weight.to(whole), window)
    return torch.stack(results)


def correct(
    crop: FaceCrop,
    i: int,
    image: torch.Tensor,
    round_trip: torch.Tensor | None,
    mask: torch.Tensor,
    colour_match: bool,
) -> torch.Tensor:
    """Return the inpainted `image` of crop `i` without what only the VAE did to it; images [size, size, 3].

    Within the mask [size, size] the mean colour that a ring around it lost or gained is taken back, with colour_match;
    outside it the details that the VAE lost (step 5), or without a round trip that colour again. Where image, prepared
    crop and round trip are equal, the result is the image.
    """
    prepared, painted = crop.images[i], (mask > 0).cpu().numpy()
    ring = torch.from_numpy(dilate(painted, _RING) & ~painted & ~_find_black(crop, i)).to(image)[..., None]
    mask = mask[..., None]
    tone = ((prepared - image) * ring).sum(dim=(0, 1)) / ring.sum().clamp(min=1) * colour_match
    lost = tone if round_trip is None else prepared - round_trip.to(image)
    return (image + mask * tone + (1 - mask) * lost).clamp(0, 1)


def mask_weight(mask: np.ndarray, feather: int, side: int) -> torch.Tensor:
    """Return how much of the crop counts under "mask": [side, side] of 0..1 from `mask` [size, size].

    It rises from the mask's edge inwards, so that it is 0 wherever the crop's pixel under an image's is not masked.
    """
    depth = ndimage.distance_transform_edt(np.pad(mask > 0, 1))[1:-1, 1:-1]
    ramp = np.minimum(depth / (feather + 1), 1) * mask
    weight = resize(torch.from_numpy(ramp.astype(np.float32))[..., None], side)[..., 0]
    return weight * torch.from_numpy(nearest(mask > 0, side))


def border_weight(crop: FaceCrop, i: int) -> torch.Tensor:
    """Return how much of the crop counts under "whole crop" (step 6): [side, side] of 0..1 for crop `i`.

    All but a soft border, which fades to 0 at the crop's edge, but not where the image ends there; the face's box
    counts in any case.
    """
    window = crop.windows[i]
    kernel = int(10 * window.side / 256) | 1
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8  # OpenCV's choice for a kernel
    pixels, profiles = np.arange(window.side), []
    for start, length in zip((window.top, window.left), crop.originals.shape[1:3]):
        whole = (pixels >= kernel) | (start <= 0)
        whole &= (pixels < window.side - kernel) | (start + window.side >= length)
        profiles.append(ndimage.gaussian_filter1d(whole.astype(float), sigma, radius=kernel // 2, mode="nearest"))
    weight = np.maximum(np.outer(*profiles), box_area(crop.faces[i].box, window, window.side))
    return torch.from_numpy(weight.astype(np.float32))


def find_changed(crop: FaceCrop, i: int, painted: torch.Tensor) -> torch.Tensor:
    """Return the window's pixels that a change in crop `i` reaches, but no black of other faces: bool [side, side]."""
    window = crop.windows[i]
    changed = ((painted - crop.images[i]).abs().amax(dim=-1) > _ROUNDING).cpu().numpy()
    reached = grow(changed, 2 * kernel_reach(window, crop.size) + 1)
    return torch.from_numpy(nearest(reached & ~_find_black(crop, i), window.side))


def _find_black(crop: FaceCrop, i: int) -> np.ndarray:
    """Return where the black that covers other faces is or would be seen in the image: bool [size, size]."""
    return grow(crop.others[i], 2 * kernel_reach(crop.windows[i], crop.size) + 1)


def _check_size(values: torch.Tensor, name: str, size: tuple[int, int]) -> torch.Tensor:
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


def _share(parts: dict, count: int) -> list[tuple]:
    """Return `count` tuples, one of every part in each; a part of one serves all, any other number is a ValueError."""
    if odd := [f"{name} holds {len(part)}" for name, part in parts.items() if len(part) not in (1, count)]:
        raise ValueError(f"There are {count} results to paste, but {', '.join(odd)}: give one, or one for each.")
    return [tuple(part[i % len(part)] for part in parts.values()) for i in range(count)]
