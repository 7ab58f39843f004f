"""How far expression, light, pose and shape of faces lie apart, by Deep3DFaceRecon (docs/papers.md 7.7)."""

import torch

# Of the 257 coefficients (docs/papers.md 3.3). FACT compares three with the template, the shape with the reference.
SLICES = {"expression": slice(80, 144), "light": slice(227, 254), "pose": slice(224, 227), "shape": slice(0, 80)}


def coefficient_distances(result: torch.Tensor, other: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return distances [n] of coefficients [n, 257] by name: "expression_l2", "expression_mse" and so on.

    l2: the Euclidean norm of the difference. mse: the mean of its squares. NaN where one of the rows is, which has no
    face. The paper names neither; its figures are plausible as l2, that of the pose as mse.
    """
    distances = {}
    for name, part in SLICES.items():
        difference = result[:, part].double() - other[:, part].double()
        distances[f"{name}_l2"] = difference.norm(dim=1)
        distances[f"{name}_mse"] = difference.square().mean(dim=1)
    return distances


def pose_angle(result: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the angle [n] in degrees by which heads of coefficients [n, 257] are turned against each other."""
    first, second = (_rotation(rows[:, SLICES["pose"]].double()) for rows in (result, other))
    traces = (first * second).sum(dim=(1, 2))
    return ((traces - 1) / 2).clamp(-1, 1).acos().rad2deg()


def _rotation(angles: torch.Tensor) -> torch.Tensor:
    """Return R = Rz Ry Rx [n, 3, 3] of angles [n, 3] in radians: pitch, yaw, roll."""
    matrices = []
    for axis in range(3):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        matrix = torch.eye(3, dtype=angles.dtype).repeat(len(angles), 1, 1)
        matrix[:, i, i] = matrix[:, j, j] = angles[:, axis].cos()
        matrix[:, j, i] = angles[:, axis].sin()
        matrix[:, i, j] = -matrix[:, j, i]
        matrices.append(matrix)
    return matrices[2] @ matrices[1] @ matrices[0]
