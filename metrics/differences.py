"""How far pictures differ: before and after a face adapter, and among the pictures made of one person."""

import math
from typing import NamedTuple

import torch
from torch.nn.functional import one_hot


class Change(NamedTuple):
    """Mean absolute differences [n] in the pictures' unit, NaN where there is no such area."""

    outside: torch.Tensor
    inside: torch.Tensor


def change(before: torch.Tensor, after: torch.Tensor, faces: torch.Tensor) -> Change:
    """How much of each picture changed outside its face, which FAIR keeps small (docs/papers.md 2.8), and inside.

    before, after: [n, h, w, 3] in 0..1; faces: masks [n, h, w], bool or 0..1.
    """
    difference = (after - before).abs().mean(dim=-1)
    inside = faces.to(difference)
    return Change(_weighted_mean(difference, 1 - inside), _weighted_mean(difference, inside))


def _weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (values * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))


def class_diversity(classes: torch.Tensor, count: int) -> torch.Tensor:
    """How evenly the pictures of a person spread over expressions, [k]: 0 for one only, 1 for as many as can be.

        - sum_c p_c log p_c / log min(m, count)

    classes: [k, m] int64 in 0..count - 1, those predicted for m pictures, two or more, of each of k people.
    """
    shares = one_hot(classes, count).double().mean(dim=1)
    return torch.special.entr(shares).sum(dim=-1) / math.log(min(classes.shape[1], count))


def vector_diversity(vectors: torch.Tensor) -> torch.Tensor:
    """The mean Euclidean distance [k] of two of a person's m pictures, by their expression or other vectors [k, m, d].

    NaN for a single picture.
    """
    return _mean_of_pairs(torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist"))


def picture_diversity(pictures: torch.Tensor) -> torch.Tensor:
    """The mean absolute difference [k] of two of a person's m pictures [k, m, h, w, 3]; NaN for a single picture."""
    pixels = pictures.flatten(start_dim=2)
    return _mean_of_pairs(torch.cdist(pixels, pixels, p=1)) / pixels.shape[-1]


def _mean_of_pairs(distances: torch.Tensor) -> torch.Tensor:
    first, second = torch.triu_indices(*distances.shape[-2:], offset=1)
    return distances[:, first, second].mean(dim=-1)


class Pose(NamedTuple):
    """How faces lie in their pictures, or how much that varies.

    roll: degrees, positive where the eye at the right is lower; yaw: how far the nose lies from halfway between the
    eyes, along their line, in eye distances; position: middle of the five points; scale: their root mean square
    distance from it, both in the points' unit.
    """

    roll: torch.Tensor
    yaw: torch.Tensor
    position: torch.Tensor
    scale: torch.Tensor


def pose(points: torch.Tensor) -> Pose:
    """The pose [...] (position [..., 2]) of five points [..., 5, 2], x right and y down, in the order of `Face`."""
    right_eye, left_eye, nose = points[..., 0, :], points[..., 1, :], points[..., 2, :]
    line = left_eye - right_eye
    offset = nose - (left_eye + right_eye) / 2
    middle = points.mean(dim=-2)
    return Pose(
        roll=torch.atan2(line[..., 1], line[..., 0]).rad2deg(),
        yaw=(offset * line).sum(dim=-1) / line.square().sum(dim=-1),
        position=middle,
        scale=(points - middle[..., None, :]).square().sum(dim=-1).mean(dim=-1).sqrt(),
    )


def pose_diversity(points: torch.Tensor) -> Pose:
    """Standard deviations [k] of the pose over a person's m pictures; of the position, x and y taken together.

    points: [k, m, 5, 2] of faces that are not upside down, where the roll jumps; NaN for a single picture.
    """
    seen = pose(points)
    position = seen.position.var(dim=1).sum(dim=-1).sqrt()
    return Pose(seen.roll.std(dim=1), seen.yaw.std(dim=1), position, seen.scale.std(dim=1))
