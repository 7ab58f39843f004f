"""The miniature's inpainting base: pictures with a part to paint anew, as the host's inpainting models receive them."""

from collections.abc import Sequence

import torch
from torch.nn.functional import max_pool2d

from ...adapters.facea import REGIONS, write_prompt
from ..world.dataset import ImageSet

_SHARES = (0.45, 0.3, 0.15, 0.1)  # how often the face, another part of it, a box or the whole picture is to be painted
_WIDER = 6  # pixels by which a part is drawn too large at most


def sample_masks(dataset: ImageSet, indices: Sequence[int], generator: torch.Generator):
    """Return masks [n, h, w], 1 where to paint, and which of REGIONS each is, None where it is no part."""
    parts = dataset.masks(indices).float()
    masks, painted = [], []
    for regions in parts:
        kind = int(torch.multinomial(torch.tensor(_SHARES), 1, generator=generator))
        part = 0 if kind == 0 else 1 + int(torch.randint(len(REGIONS) - 1, (), generator=generator))
        masks.append(_mask(regions[part], kind, generator))
        painted.append(REGIONS[part] if kind < 2 and regions[part].any() else None)
    return torch.stack(masks), painted


def widen(masks: torch.Tensor, pixels: int) -> torch.Tensor:
    """Return masks [n, h, w] grown by so many pixels to every side."""
    return max_pool2d(masks[:, None], 2 * pixels + 1, stride=1, padding=pixels)[:, 0]


def _mask(part: torch.Tensor, kind: int, generator: torch.Generator) -> torch.Tensor:
    size = len(part)
    if kind < 2 and part.any():
        wider = int(torch.randint(_WIDER + 1, (), generator=generator))
        return widen(part[None], wider)[0]
    mask = torch.ones_like(part)
    if kind == 2:
        top, left, bottom, right = torch.randint(size // 2, (4,), generator=generator).tolist()
        mask = torch.zeros_like(part)
        mask[top : size - bottom, left : size - right] = 1
    return mask


def caption(text: str, painted: str | None, chance: float) -> str:
    """Return a picture's caption or, for a part of a face and a chance below 0.3, its words in docs/papers.md 6.1."""
    if painted is None or chance >= 0.3:
        return text
    return write_prompt("woman" if " of a woman" in text else "man", painted)
