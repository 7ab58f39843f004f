"""FaceNet: InceptionResnetV1 as published in timesler/facenet-pytorch, with its parameter names."""

from itertools import count, takewhile

import torch
from torch import nn
from torch.nn.functional import max_pool2d

from ..weights.reading import count_modules
from .layers import ConvNormRelu, Shapes, convolution, linear, norm

CROP = 160
PIXEL = 127.5 / 128  # its pixels are (x - 127.5) / 128 of 0..255
UNUSED_KEYS = ("logits.",)  # the classifier of the people it was trained on
# How much of each kind of block is added to what came in.
_SCALES = {"repeat_1": 0.17, "repeat_2": 0.10, "repeat_3": 0.20}


def _branch(shapes: Shapes, name: str, operations, stride: int, **factory) -> nn.Module:
    """Return a branch: one unit, or several whose last has the stride; one with a stride is not padded."""
    padding = 0 if stride > 1 else None
    if f"{name}.conv.weight" in shapes:
        return ConvNormRelu(shapes, name, operations, stride, padding, **factory)
    last = count_modules(shapes, f"{name}.") - 1
    units = [ConvNormRelu(shapes, f"{name}.{i}", operations, **factory) for i in range(last)]
    return nn.Sequential(*units, ConvNormRelu(shapes, f"{name}.{last}", operations, stride, padding, **factory))


class Branches(nn.Module):
    """All branches of a block beside each other, as channels."""

    def __init__(self, shapes: Shapes, name: str, operations, stride: int = 1, **factory):
        super().__init__()
        prefix = f"{name}.branch"
        numbers = takewhile(lambda i: any(key.startswith(f"{prefix}{i}.") for key in shapes), count())
        for i in numbers:
            self.add_module(f"branch{i}", _branch(shapes, f"{prefix}{i}", operations, stride, **factory))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [module(x) for name, module in self.named_children() if name.startswith("branch")]
        return torch.cat(branches, dim=1)


class Reduction(Branches):
    """Branches of stride 2, and the maxima beside them."""

    def __init__(self, shapes: Shapes, name: str, operations, **factory):
        super().__init__(shapes, name, operations, stride=2, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([super().forward(x), max_pool2d(x, 3, 2)], dim=1)


class Residual(Branches):
    """Branches whose projection is added, `scale` times, to what came in."""

    def __init__(self, shapes: Shapes, name: str, scale: float, last: bool, operations, **factory):
        super().__init__(shapes, name, operations, **factory)
        self.scale, self.last = scale, last
        self.conv2d = convolution(shapes, f"{name}.conv2d", operations, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.scale * self.conv2d(super().forward(x))
        return x if self.last else x.relu()


class FaceNet(nn.Module):
    """InceptionResnetV1 of the sizes in `shapes`; crops are boxes (see `crops.cut_box`), not aligned."""

    def __init__(self, shapes: Shapes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}

        def unit(name: str, stride: int = 1, padding: int = 0) -> ConvNormRelu:
            return ConvNormRelu(shapes, name, operations, stride, padding, **factory)

        def repeat(name: str) -> nn.Sequential:
            numbers, scale = range(count_modules(shapes, f"{name}.")), _SCALES[name]
            blocks = [Residual(shapes, f"{name}.{i}", scale, False, operations, **factory) for i in numbers]
            return nn.Sequential(*blocks)

        self.conv2d_1a, self.conv2d_2a, self.conv2d_2b = (
            unit("conv2d_1a", 2),
            unit("conv2d_2a"),
            unit("conv2d_2b", 1, 1),
        )
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b, self.conv2d_4a, self.conv2d_4b = unit("conv2d_3b"), unit("conv2d_4a"), unit("conv2d_4b", 2)
        self.repeat_1, self.mixed_6a = repeat("repeat_1"), Reduction(shapes, "mixed_6a", operations, **factory)
        self.repeat_2, self.mixed_7a = repeat("repeat_2"), Reduction(shapes, "mixed_7a", operations, **factory)
        self.repeat_3 = repeat("repeat_3")
        self.block8 = Residual(shapes, "block8", 1.0, True, operations, **factory)
        self.last_linear = linear(shapes, "last_linear", operations, **factory)
        self.last_bn = norm(shapes, "last_bn", operations, eps=1e-3, **factory)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the vector [n, 512], not normalised, of RGB crops [n, 3, S, S] as published, -0.996..0.996."""
        x = pixels
        for name, layer in self.named_children():
            if name.startswith("last"):
                break
            x = layer(x)
        x = self.last_linear(x.mean(dim=(2, 3)))
        return self.last_bn(x[..., None, None]).flatten(1)

    def identify(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features [n, 1, d] and embedding [n, d], the same, of RGB crops [n, 3, S, S] in -1..1."""
        embedding = self(pixels * PIXEL)
        return embedding.unsqueeze(1), embedding
