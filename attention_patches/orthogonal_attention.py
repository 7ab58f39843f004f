"""PuLID's ways of adding a face to a prompt: the algebra alone (arXiv 2404.16022; docs/papers.md 4.6)."""

import torch

METHODS = ("none", "ortho", "ortho_v2")
LEADING = 5  # identity tokens whose attention decides how much of the face goes in as it is


def project(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return P = (sum_n T I / sum_n T T) T, the part of I along T: over the positions n, for every channel alone.

    image, text: [b, n, d]; computed in float32; 0 where T is.
    """
    wide, along = image.float(), text.float()
    share = (along * wide).sum(dim=1, keepdim=True) / (along * along).sum(dim=1, keepdim=True).clamp(min=1e-30)
    return (share * along).to(image)


def weigh_leading(q: torch.Tensor, keys: torch.Tensor, heads: int) -> torch.Tensor:
    """Return a [b, n, 1], the mean over heads of the softmax weight of q on the first five keys.

    q: [b, n, d]; keys: [b, m, d]; without the usual 1 / sqrt of a head's width, as the authors have it.
    """
    q, keys = (part.float().unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, keys))
    weights = (q @ keys.transpose(2, 3)).softmax(dim=-1)
    return weights[..., :LEADING].sum(dim=-1).mean(dim=1).unsqueeze(-1)


def make_orthogonal(method: str, image, text, q, keys, heads: int) -> torch.Tensor:
    """Return what is added to the text attention T [b, n, d] for the image attention I [b, n, d].

    method "none": I; "ortho": I - P, which leaves alone what the prompt says; "ortho_v2": I + (a - 1) P, as much of P
    as the position looks at the identity
    """
    if method == "none":
        return image
    along = project(image, text)
    if method == "ortho":
        return image - along
    return image + ((weigh_leading(q, keys, heads) - 1) * along).to(image)
