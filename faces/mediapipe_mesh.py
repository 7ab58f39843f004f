"""MediaPipe's mesh of 478 points at 256 pixels (face_landmarks_detector.tflite): larger than the one the host has.

Bottleneck blocks: 1x1 to half the channels, depthwise 3x3, 1x1 back, added to what came in; the first block of a
stage halves the resolution with a 2x2 convolution, and max pooling beside it.
"""

import torch
from torch import nn
from torch.nn import functional

from ..weights.reading import count_modules

POINTS = 478


class Block(nn.Module):
    """One bottleneck; a `kernel` of 2 halves height and width."""

    def __init__(self, channels: int, inner: int, result: int, kernel: int):
        super().__init__()
        self.halves, self.added_channels = kernel == 2, result - channels
        self.reduce = nn.Conv2d(channels, inner, kernel, stride=kernel)
        self.prelu_reduce = nn.PReLU(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.expand = nn.Conv2d(inner, result, 1)
        self.prelu_out = nn.PReLU(result)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside = functional.max_pool2d(x, 2) if self.halves else x
        beside = functional.pad(beside, (0, 0, 0, 0, 0, self.added_channels))
        return self.prelu_out(beside + self.expand(self.depthwise(self.prelu_reduce(self.reduce(x)))))


class FaceMesh256(nn.Module):
    """The network; `weights` by the names of its parameters say how large it is.

    Raises KeyError, IndexError or ValueError where they are those of another network.
    """

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        self.stem = nn.Conv2d(3, len(weights["stem.weight"]), 3, stride=2)
        self.prelu_stem = nn.PReLU(len(weights["prelu_stem.weight"]))
        self.blocks = nn.Sequential()
        for i in range(count_modules(weights, "blocks.")):
            inner, channels, kernel, _ = weights[f"blocks.{i}.reduce.weight"].shape
            self.blocks.append(Block(channels, inner, len(weights[f"blocks.{i}.expand.weight"]), kernel))
        channels, side = weights["head_landmarks.weight"].shape[1:3]
        self.head_tongue = nn.Conv2d(channels, 1, side)  # whether the tongue is out: nothing here asks for it
        self.head_presence = nn.Conv2d(channels, 1, side)
        self.head_landmarks = nn.Conv2d(channels, POINTS * 3, side)
        self.input_size = side * 2 ** (1 + sum(block.halves for block in self.blocks))

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return landmarks [n, 478, 3] in pixels of the crops, and the logits [n] of a face being there.

        crops: [n, 3, input_size, input_size] of 0..1.
        """
        x = self.blocks(self.prelu_stem(self.stem(functional.pad(crops, (0, 1, 0, 1)))))
        return self.head_landmarks(x).reshape(-1, POINTS, 3), self.head_presence(x).reshape(-1)
