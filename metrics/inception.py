"""Inception-v3 as FID reads it: the weights of 2015-12-05 and the pooling of TensorFlow, names as torchvision's."""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from .layers import ConvNormRelu, Shapes

SIDE = 299
UNUSED_KEYS = ("fc.",)
# The blocks: chains of units, each ending in one unit or in two beside each other; the pool before the last chain.
_WIDE = (("1x1",), ("7x7_1", "7x7_2", "7x7_3"), tuple(f"7x7dbl_{i}" for i in range(1, 6)), ("_pool",))
_LAST = (("1x1",), ("3x3_1", ("3x3_2a", "3x3_2b")), ("3x3dbl_1", "3x3dbl_2", ("3x3dbl_3a", "3x3dbl_3b")), ("_pool",))
_FIRST = (("1x1",), ("5x5_1", "5x5_2"), ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3"), ("_pool",))
BLOCKS = {
    **{f"Mixed_5{letter}": _FIRST for letter in "bcd"},
    "Mixed_6a": (("3x3",), ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3"), ()),
    **{f"Mixed_6{letter}": _WIDE for letter in "bcde"},
    "Mixed_7a": (("3x3_1", "3x3_2"), ("7x7x3_1", "7x7x3_2", "7x7x3_3", "7x7x3_4"), ()),
    **{f"Mixed_7{letter}": _LAST for letter in "bc"},
}
STEM = {  # unit: stride, padding
    "Conv2d_1a_3x3": (2, 0), "Conv2d_2a_3x3": (1, 0), "Conv2d_2b_3x3": (1, 1), "Conv2d_3b_1x1": (1, 0),
    "Conv2d_4a_3x3": (1, 0),
}  # fmt: skip
_POOLED = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")  # followed by a maximum of stride 2


class Block(nn.Module):
    """One Mixed block. A last chain without units is the maximum of stride 2 of a block that halves the size."""

    def __init__(self, shapes: Shapes, name: str, operations, **factory):
        super().__init__()
        self.chains, self.halves = BLOCKS[name], BLOCKS[name][-1] == ()
        self.pool = _max_pool if name == "Mixed_7c" else _mean_pool
        for chain in self.chains:
            for i, units in enumerate(chain):
                halving = {"stride": 2, "padding": 0} if self.halves and i == len(chain) - 1 else {}
                for unit in (units,) if isinstance(units, str) else units:
                    path = f"{name}.branch{unit}"
                    self.add_module(f"branch{unit}", ConvNormRelu(shapes, path, operations, **halving, **factory))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = []
        for chain in self.chains[:-1]:
            outputs.append(self._run(chain, x))
        outputs.append(max_pool2d(x, 3, 2) if self.halves else self._run(self.chains[-1], self.pool(x)))
        return torch.cat(outputs, dim=1)

    def _run(self, chain: tuple, x: torch.Tensor) -> torch.Tensor:
        for units in chain:
            beside = (units,) if isinstance(units, str) else units
            x = torch.cat([getattr(self, f"branch{unit}")(x) for unit in beside], dim=1)
        return x


def _mean_pool(x: torch.Tensor) -> torch.Tensor:
    return avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _max_pool(x: torch.Tensor) -> torch.Tensor:
    return max_pool2d(x, 3, 1, 1)


class Inception(nn.Module):
    """The network to its last spatial mean, 2048 features."""

    def __init__(self, shapes: Shapes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        for name, (stride, padding) in STEM.items():
            self.add_module(name, ConvNormRelu(shapes, name, operations, stride, padding, **factory))
        for name in BLOCKS:
            self.add_module(name, Block(shapes, name, operations, **factory))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return pool3 [n, 2048] of RGB images [n, 3, H, W] in 0..1, squashed to 299 x 299 without anti-aliasing."""
        x = 2 * interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1
        for name, layer in self.named_children():
            x = layer(x)
            if name in _POOLED:
                x = max_pool2d(x, 3, 2)
        return x.mean(dim=(2, 3))
