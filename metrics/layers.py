"""Layers whose sizes are those of a published file's tensors, for the networks that score."""

from collections.abc import Mapping

import torch
from torch import nn

Shapes = Mapping[str, tuple[int, ...]]  # of a state dict's tensors, by name


def shapes_of(state_dict: dict[str, torch.Tensor]) -> Shapes:
    """Return the shapes of a state dict's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def convolution(shapes: Shapes, name: str, operations, stride: int = 1, padding=None, **factory) -> nn.Module:
    """Return the convolution whose weights are `name`; padding: so that a stride of 1 keeps the size, unless given."""
    outputs, inputs, *kernel = shapes[f"{name}.weight"]
    padding = tuple(side // 2 for side in kernel) if padding is None else padding
    bias = f"{name}.bias" in shapes
    return operations.Conv2d(inputs, outputs, tuple(kernel), stride, padding, bias=bias, **factory)


def linear(shapes: Shapes, name: str, operations, **factory) -> nn.Module:
    """Return the linear layer whose weights are `name`."""
    outputs, inputs = shapes[f"{name}.weight"]
    return operations.Linear(inputs, outputs, bias=f"{name}.bias" in shapes, **factory)


def norm(shapes: Shapes, name: str, operations, eps: float = 1e-5, **factory) -> nn.Module:
    """Return the batch norm of images whose statistics are `name`."""
    return operations.BatchNorm2d(shapes[f"{name}.running_mean"][0], eps=eps, **factory)


class ConvNormRelu(nn.Module):
    """Inception's unit: a convolution without bias, a norm, a ReLU."""

    def __init__(self, shapes: Shapes, name: str, operations, stride: int = 1, padding=None, **factory):
        super().__init__()
        self.conv = convolution(shapes, f"{name}.conv", operations, stride, padding, **factory)
        self.bn = norm(shapes, f"{name}.bn", operations, eps=1e-3, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu()
