"""The grain of a picture on what was painted into it: film and sensor noise, which a VAE smooths away.

Grain is what a small blur takes out of an image where the image is flat. Blocks of it, from where the original is
flattest, are laid over the painted pixels in a random order, so that its size and its colours come along; their share
makes up what the painted pixels lack. The method is ours; none of the papers has one.
"""

import torch
from torch.nn.functional import conv2d, pad

_BLOCK = 8  # pixels: side of what is taken over as a whole
_FLAT = 0.25  # part of the blocks that counts as flat
_CLIPPED = 0.02  # so near to black or white there is no grain to measure
_SIGMA, _REACH = 2.0, 6  # pixels, of the blur
_ROUNDING = 1e-6


def match_grain(
    image: torch.Tensor, original: torch.Tensor, amount: float, seed: int, blocks: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `image` with the grain of `original`, both [H, W, 3] in 0..1, where the two differ.

        x <- x + a sqrt(1 - v_painted / v_original) n      n: blocks of the original's grain, v: their mean square

    amount: a, 0 and up. blocks: `find_grain` of the original, where that is known. Pixels that are equal stay so to the
    last bit, as does all of an image that has grain enough.
    """
    changed = ((image - original).abs().amax(dim=-1) > _ROUNDING)[..., None]
    blocks = find_grain(original) if blocks is None else blocks
    painted = find_grain(image, changed)
    if not len(blocks) or not len(painted):
        return image
    lacking = 1 - painted.square().mean() / blocks.square().mean().clamp(min=1e-12)
    if lacking <= 0:
        return image
    grained = (image + amount * lacking.sqrt() * _lay_out(blocks, image.shape[:2], seed)).clamp(0, 1)
    return torch.where(changed, grained, image)


def find_grain(image: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
    """Return the grain [n, 8, 8, 3] of the flattest blocks of an image that lie in `where` [H, W, 1], if given."""
    where = torch.ones_like(image[..., :1]) if where is None else where
    smooth = _blur(image)
    grain, smooth, where = (_cut_blocks(part) for part in (image - smooth, smooth, where.float()))
    mean, unrest = smooth.mean(dim=(1, 2, 3)), (smooth.amax(dim=(1, 2)) - smooth.amin(dim=(1, 2))).sum(dim=-1)
    usable = (where.amin(dim=(1, 2, 3)) > 0) & (mean > _CLIPPED) & (mean < 1 - _CLIPPED)
    grain = grain[usable]
    return grain[unrest[usable].argsort()[: max(int(len(grain) * _FLAT), 1)]]


def _blur(image: torch.Tensor) -> torch.Tensor:
    taps = torch.arange(-_REACH, _REACH + 1, device=image.device, dtype=image.dtype)
    taps = torch.softmax(-taps.square() / (2 * _SIGMA**2), dim=0)
    planes = pad(image.movedim(-1, 0)[:, None], (_REACH,) * 4, mode="replicate")
    return conv2d(conv2d(planes, taps[None, None, None]), taps[None, None, :, None])[:, 0].movedim(0, -1)


def _cut_blocks(image: torch.Tensor) -> torch.Tensor:
    """Return the whole blocks [n, 8, 8, c] of an image [H, W, c]."""
    blocks = image.unfold(0, _BLOCK, _BLOCK).unfold(1, _BLOCK, _BLOCK)
    return blocks.flatten(0, 1).movedim(1, -1)


def _lay_out(blocks: torch.Tensor, size: tuple[int, int], seed: int) -> torch.Tensor:
    """Return an image of `size` (H, W) of randomly chosen blocks, each turned by a random number of quarters."""
    rows, columns = (-(-side // _BLOCK) for side in size)
    generator = torch.Generator().manual_seed(seed)
    turned = torch.stack([blocks.rot90(turns, (1, 2)) for turns in range(4)]).flatten(0, 1)
    chosen = turned[torch.randint(len(turned), (rows * columns,), generator=generator)]
    image = chosen.reshape(rows, columns, _BLOCK, _BLOCK, -1).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return image[: size[0], : size[1]]
