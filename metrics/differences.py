"""How far images differ: before and after a face adapter, and among the images made of one person."""

import math
from typing import NamedTuple

import torch
from torch.nn.functional import one_hot


class Change(NamedTuple):
    """Mean absolute differences [n] in the images' unit, NaN where there is no such area."""

    outside: torch.Tensor
    inside: torch.Tensor


def change(before: torch.Tensor, after: torch.Tensor, faces: torch.Tensor) -> Change:
    """Return how much of each image changed outside its face, which FAIR keeps small (docs/papers.md 2.8), and inside.

    before, after: [n, h, w, 3] in 0..1; faces: masks [n, h, w], bool or 0..1.
    """
    difference = (after - before).abs().mean(dim=-1)
    inside = faces.to(difference)
    outside, inside = (
        (difference * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)) for weights in (1 - inside, inside)
    )
    return Change(outside, inside)


def class_diversity(classes: torch.Tensor, count: int) -> torch.Tensor:
    """Return how evenly a person's images spread over expressions, [k]: 0 for one only, 1 for as many as can be.

        - sum_c p_c log p_c / log min(m, count)

    classes: [k, m] int64 in 0..count - 1, those predicted for m images, two or more, of each of k people.
    """
    shares = one_hot(classes, count).double().mean(dim=1)
    return torch.special.entr(shares).sum(dim=-1) / math.log(min(classes.shape[1], count))


def vector_diversity(vectors: torch.Tensor) -> torch.Tensor:
    """Return the mean Euclidean distance [k] of two of a person's m images; NaN for a single one.

    vectors: [k, m, d], those of their expressions or others.
    """
    return _mean_of_pairs(torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist"))


def image_diversity(images: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference [k] of two of a person's m images [k, m, h, w, 3]; NaN for a single one."""
    pixels = images.flatten(start_dim=2)
    return _mean_of_pairs(torch.cdist(pixels, pixels, p=1)) / pixels.shape[-1]


def _mean_of_pairs(distances: torch.Tensor) -> torch.Tensor:
    first, second = torch.triu_indices(*distances.shape[-2:], offset=1)
    return distances[:, first, second].mean(dim=-1)


class Pose(NamedTuple):
    """How faces lie in their images, or how much that varies.

    roll: degrees, positive where the eye at the right is lower; yaw: how far the nose lies from halfway between the
    eyes, along their line, in eye distances; position: middle of the five points; scale: their root mean square
    distance from it, both in the points' unit.
    """

    roll: torch.Tensor
    yaw: torch.Tensor
    position: torch.Tensor
    scale: torch.Tensor


def pose(points: torch.Tensor) -> Pose:
    """Return the pose [...] (position [..., 2]) of five points [..., 5, 2], x right, y down, in the order of `Face`."""
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
    """Return standard deviations [k] of the pose over a person's m images; of the position, x and y taken together.

    points: [k, m, 5, 2] of faces that are not upside down, where the roll jumps; NaN for a single image.
    """
    poses = pose(points)
    position = poses.position.var(dim=1).sum(dim=-1).sqrt()
    return Pose(poses.roll.std(dim=1), poses.yaw.std(dim=1), position, poses.scale.std(dim=1))
