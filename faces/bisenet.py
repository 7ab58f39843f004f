"""BiSeNet: the face parsing network of zllrunning/face-parsing.PyTorch (Yu et al. 2018, without its spatial path).

A ResNet reads the picture down to a thirty-second; two attention refinements bring the coarse features back to an
eighth, where they meet the ResNet's own features of that scale. Published parameter names throughout. The two
auxiliary heads `conv_out16` and `conv_out32` serve training only and are left out.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from ..weights.reading import numbered

UNUSED_KEYS = ("conv_out16.", "conv_out32.", "cp.resnet.fc.")  # training's heads; the classifier of the ResNet


@dataclass(frozen=True)
class BiSeNetSizes:
    """Sizes of one BiSeNet: `blocks` and `widths` of the ResNet's four layers, `context` width, `fused` width with its
    `squeeze`, the `head`'s width and the number of `classes`."""

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    context: int
    fused: int
    squeeze: int
    head: int
    classes: int

    @classmethod
    def of(cls, state_dict: dict) -> "BiSeNetSizes":
        """Read the sizes from a published state dict: ResNet-18 has 2 blocks a layer, ResNet-34 has 3, 4, 6 and 3."""

        def width(key: str) -> int:
            return state_dict[f"{key}.weight"].shape[0]

        return cls(
            blocks=tuple(numbered(state_dict, f"cp.resnet.layer{layer}.") for layer in range(1, 5)),
            widths=tuple(width(f"cp.resnet.layer{layer}.0.conv1") for layer in range(1, 5)),
            context=width("cp.arm16.conv.conv"),
            fused=width("ffm.convblk.conv"),
            squeeze=width("ffm.conv1"),
            head=width("conv_out.conv.conv"),
            classes=width("conv_out.conv_out"),
        )


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, operations, **factory):
        super().__init__()
        self.conv1 = operations.Conv2d(inputs, outputs, 3, stride, 1, bias=False, **factory)
        self.bn1 = operations.BatchNorm2d(outputs, **factory)
        self.conv2 = operations.Conv2d(outputs, outputs, 3, 1, 1, bias=False, **factory)
        self.bn2 = operations.BatchNorm2d(outputs, **factory)
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                operations.Conv2d(inputs, outputs, 1, stride, bias=False, **factory),
                operations.BatchNorm2d(outputs, **factory),
            )

    def forward(self, x):
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (shortcut + x).relu()


class ResNet(nn.Module):
    def __init__(self, sizes: BiSeNetSizes, operations, **factory):
        super().__init__()
        self.conv1 = operations.Conv2d(3, sizes.widths[0], 7, 2, 3, bias=False, **factory)
        self.bn1 = operations.BatchNorm2d(sizes.widths[0], **factory)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = sizes.widths[0]
        for layer, (count, width) in enumerate(zip(sizes.blocks, sizes.widths), 1):
            blocks = [BasicBlock(inputs, width, 1 if layer == 1 else 2, operations, **factory)]
            blocks += [BasicBlock(width, width, 1, operations, **factory) for _ in range(count - 1)]
            self.add_module(f"layer{layer}", nn.Sequential(*blocks))
            inputs = width

    def forward(self, x):
        """The features at an eighth, a sixteenth and a thirty-second of the picture's size."""
        x = self.layer1(self.maxpool(self.bn1(self.conv1(x)).relu()))
        eighth = self.layer2(x)
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class ConvBnRelu(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, operations, **factory):
        super().__init__()
        self.conv = operations.Conv2d(inputs, outputs, kernel, 1, kernel // 2, bias=False, **factory)
        self.bn = operations.BatchNorm2d(outputs, **factory)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


class AttentionRefinement(nn.Module):
    """A convolution whose channels are weighted by what the whole picture says about them."""

    def __init__(self, inputs: int, outputs: int, operations, **factory):
        super().__init__()
        self.conv = ConvBnRelu(inputs, outputs, 3, operations, **factory)
        self.conv_atten = operations.Conv2d(outputs, outputs, 1, bias=False, **factory)
        self.bn_atten = operations.BatchNorm2d(outputs, **factory)

    def forward(self, x):
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(adaptive_avg_pool2d(x, 1))).sigmoid()


class ContextPath(nn.Module):
    def __init__(self, sizes: BiSeNetSizes, operations, **factory):
        super().__init__()
        context = sizes.context
        self.resnet = ResNet(sizes, operations, **factory)
        self.arm16 = AttentionRefinement(sizes.widths[2], context, operations, **factory)
        self.arm32 = AttentionRefinement(sizes.widths[3], context, operations, **factory)
        self.conv_head32 = ConvBnRelu(context, context, 3, operations, **factory)
        self.conv_head16 = ConvBnRelu(context, context, 3, operations, **factory)
        self.conv_avg = ConvBnRelu(sizes.widths[3], context, 1, operations, **factory)

    def forward(self, x):
        """The ResNet's features and the context's, both at an eighth of the picture's size."""
        eighth, sixteenth, thirty_second = self.resnet(x)
        coarse = self.arm32(thirty_second) + self.conv_avg(adaptive_avg_pool2d(thirty_second, 1))
        coarse = self.conv_head32(interpolate(coarse, sixteenth.shape[2:]))
        fine = self.conv_head16(interpolate(self.arm16(sixteenth) + coarse, eighth.shape[2:]))
        return eighth, fine


class FeatureFusion(nn.Module):
    def __init__(self, sizes: BiSeNetSizes, operations, **factory):
        super().__init__()
        self.convblk = ConvBnRelu(sizes.widths[1] + sizes.context, sizes.fused, 1, operations, **factory)
        self.conv1 = operations.Conv2d(sizes.fused, sizes.squeeze, 1, bias=False, **factory)
        self.conv2 = operations.Conv2d(sizes.squeeze, sizes.fused, 1, bias=False, **factory)

    def forward(self, spatial, context):
        x = self.convblk(torch.cat((spatial, context), dim=1))
        return x + x * self.conv2(self.conv1(adaptive_avg_pool2d(x, 1)).relu()).sigmoid()


class Head(nn.Module):
    def __init__(self, sizes: BiSeNetSizes, operations, **factory):
        super().__init__()
        self.conv = ConvBnRelu(sizes.fused, sizes.head, 3, operations, **factory)
        self.conv_out = operations.Conv2d(sizes.head, sizes.classes, 1, bias=False, **factory)

    def forward(self, x):
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """BiSeNet of any size; `operations` is a namespace of layers such as `torch.nn` or the host's `comfy.ops`.

    The batch norms hold the statistics of training: the network is right in evaluation mode only.
    """

    def __init__(self, sizes: BiSeNetSizes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.cp = ContextPath(sizes, operations, **factory)
        self.ffm = FeatureFusion(sizes, operations, **factory)
        self.conv_out = Head(sizes, operations, **factory)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of every class at every pixel: [n, 3, H, W] normalised RGB -> [n, classes, H, W], any H and W."""
        logits = self.conv_out(self.ffm(*self.cp(pixels)))
        return interpolate(logits, pixels.shape[2:], mode="bilinear", align_corners=True)
