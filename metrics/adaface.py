"""AdaFace's IR networks as published in mk-minchul/AdaFace and in its CVLFace releases, with their parameter names."""

import torch
from torch import nn
from torch.nn.functional import max_pool2d

from ..weights.reading import count_modules
from .layers import Shapes, convolution, linear, norm

CROP = 112
UNUSED_KEYS = ("head.",)  # the classifier of the people it was trained on


class Block(nn.Module):
    """Two convolutions, of which the second has the stride, beside a shortcut."""

    def __init__(self, shapes: Shapes, name: str, stride: int, operations, **factory):
        super().__init__()
        self.stride, inner = stride, f"{name}.res_layer"
        self.res_layer = nn.Sequential(
            norm(shapes, f"{inner}.0", operations, **factory),
            convolution(shapes, f"{inner}.1", operations, **factory),
            norm(shapes, f"{inner}.2", operations, **factory),
            nn.PReLU(shapes[f"{inner}.3.weight"][0], **factory),
            convolution(shapes, f"{inner}.4", operations, stride, **factory),
            norm(shapes, f"{inner}.5", operations, **factory),
        )
        self.shortcut_layer = None
        if f"{name}.shortcut_layer.0.weight" in shapes:
            self.shortcut_layer = nn.Sequential(
                convolution(shapes, f"{name}.shortcut_layer.0", operations, stride, **factory),
                norm(shapes, f"{name}.shortcut_layer.1", operations, **factory),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.shortcut_layer(x) if self.shortcut_layer else max_pool2d(x, 1, self.stride)
        return self.res_layer(x) + shortcut


class AdaFace(nn.Module):
    """IR-18, -50 or -101, whichever the tensors are; each stage begins where the width changes, with a stride of 2."""

    def __init__(self, shapes: Shapes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.input_layer = nn.Sequential(
            convolution(shapes, "input_layer.0", operations, **factory),
            norm(shapes, "input_layer.1", operations, **factory),
            nn.PReLU(shapes["input_layer.2.weight"][0], **factory),
        )
        self.body = nn.Sequential()
        for i in range(count_modules(shapes, "body.")):
            outputs, inputs = shapes[f"body.{i}.res_layer.1.weight"][:2]
            self.body.append(Block(shapes, f"body.{i}", 1 if i and inputs == outputs else 2, operations, **factory))
        self.output_layer = nn.Sequential(
            norm(shapes, "output_layer.0", operations, **factory),
            nn.Dropout(),
            nn.Flatten(),
            linear(shapes, "output_layer.3", operations, **factory),
            nn.BatchNorm1d(shapes["output_layer.4.running_mean"][0], affine=False, **factory),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the vector [n, 512] of crops [n, 3, 112, 112] in -1..1, BGR or RGB as the file's; its length is a
        hint at the crop's quality."""
        return self.output_layer(self.body(self.input_layer(pixels)))

    def identify(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features [n, 1, d] and embedding [n, d], the same, of RGB crops [n, 3, 112, 112] in -1..1."""
        embedding = self(pixels.flip(1))
        return embedding.unsqueeze(1), embedding


class AdaFaceRgb(AdaFace):
    """The same as CVLFace publishes it: its crops are RGB."""

    def identify(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features [n, 1, d] and embedding [n, d], the same, of RGB crops [n, 3, 112, 112] in -1..1."""
        embedding = self(pixels)
        return embedding.unsqueeze(1), embedding
