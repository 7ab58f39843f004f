"""The drawn world's convolutional face recogniser: aligned crops of 112 pixels to vectors, in ArcFace's manner."""

from collections.abc import Mapping

import torch
from torch import nn

_SCALE = ".scale"


def in_bytes(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a weight [d, ...] as whole numbers of a byte and a scale [d]: a quarter of its size."""
    scale = weight.abs().flatten(1).amax(dim=1) / 127
    return {name: (weight / _rows(scale, weight)).round().to(torch.int8), f"{name}{_SCALE}": scale}


def _rows(scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))


class RecogniserStage(nn.Module):
    """Half the resolution, then x + conv(relu(bn(conv(x)))), [b, c, h, w] -> [b, width, h / 2, w / 2]."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.down = nn.Conv2d(inputs, width, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(self.down(x)).relu()
        return (x + self.norm3(self.second(self.norm2(self.first(x)).relu()))).relu()


class Recogniser(nn.Module):
    """[b, 3, 112, 112] in -1..1 -> [b, embedding], not normalised. widths: of the stages, from fine to coarse."""

    def __init__(self, widths: tuple[int, ...], embedding: int):
        super().__init__()
        self.stages = nn.ModuleList(RecogniserStage(inputs, width) for inputs, width in zip((3, *widths), widths))
        self.feature = nn.Linear(widths[-1] * (112 // 2 ** len(widths)) ** 2, embedding, bias=False)
        self.norm = nn.BatchNorm1d(embedding)

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor]) -> "Recogniser":
        """Return the network of a state dict with its weights, in evaluation mode; matrices may be `in_bytes`."""
        scaled = {name.removesuffix(_SCALE): scale.float() for name, scale in weights.items() if name.endswith(_SCALE)}
        weights = {name: tensor.float() * _rows(scaled[name], tensor) if name in scaled else tensor
                   for name, tensor in weights.items() if not name.endswith(_SCALE)}  # fmt: skip
        count = sum(name.endswith(".down.weight") for name in weights)
        widths = tuple(len(weights[f"stages.{number}.down.weight"]) for number in range(count))
        network = cls(widths, len(weights["feature.weight"]))
        network.load_state_dict(weights)
        return network.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.norm(self.feature(x.flatten(1)))
