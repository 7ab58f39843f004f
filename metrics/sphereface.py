"""SphereFace-20a as published in clcarwin/sphereface_pytorch, with its parameter names."""

import torch
from torch import nn

from .layers import Shapes, convolution, linear

CROP = 112
COLUMNS = slice(8, 104)  # of the crop: the network sees 112 rows of 96
PIXEL = 127.5 / 128  # its pixels are (x - 127.5) / 128 of 0..255
UNUSED_KEYS = ("fc6.",)  # the classifier of the people it was trained on


class SphereFace(nn.Module):
    """Stages of residual pairs, each behind a convolution of stride 2; their number is that of the tensors."""

    def __init__(self, shapes: Shapes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.stages: list[list[str]] = []
        for stage in range(1, 5):
            numbers = range(1, 1 + sum(key.startswith(f"relu{stage}_") for key in shapes))
            self.stages.append([f"{stage}_{i}" for i in numbers])
            for i in numbers:
                name = f"{stage}_{i}"
                layer = convolution(shapes, f"conv{name}", operations, 2 if i == 1 else 1, 1, **factory)
                self.add_module(f"conv{name}", layer)
                self.add_module(f"relu{name}", nn.PReLU(shapes[f"relu{name}.weight"][0], **factory))
        self.fc5 = linear(shapes, "fc5", operations, **factory)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the vector [n, 512], not normalised, of BGR crops [n, 3, 112, 96] as published, -0.996..0.996."""
        x = pixels
        for first, *pairs in self.stages:
            x = self._unit(first, x)
            for inner, outer in zip(pairs[::2], pairs[1::2]):
                x = x + self._unit(outer, self._unit(inner, x))
        return self.fc5(x.flatten(1))

    def _unit(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, f"relu{name}")(getattr(self, f"conv{name}")(x))

    def identify(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features [n, 1, d] and embedding [n, d], the same, of RGB crops [n, 3, 112, 112] in -1..1."""
        embedding = self(pixels[..., COLUMNS].flip(1) * PIXEL)
        return embedding.unsqueeze(1), embedding
