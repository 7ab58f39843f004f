"""Deep3DFaceRecon: the coefficients of a 3D face model from one picture, with its expression (docs/papers.md 3.3).

A ResNet-50 with seven linear heads: identity 80, expression 64, texture 80, angle 3, light 27, shift 2, depth 1. It was
trained on crops aligned in its own way, which `aligned_crop` repeats; the face model itself is not needed.
"""

from dataclasses import dataclass
from itertools import count, takewhile

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..weights.reading import numbered

CROP = 224
LARGEST = 50_000_000  # pixels of a resized picture that is made as a whole
FACE_SCALE = 102.0  # pixels of the crop to one unit of STANDARD_POINTS
# The mean face of the model: both eyes, nose tip and mouth corners, x to the right, y up, z towards the viewer.
STANDARD_POINTS = np.array(
    [
        [-0.3114865720, 0.2903607786, 0.1337795258],
        [0.3097988665, 0.2897203565, 0.1317952573],
        [0.0032534988, -0.0461793244, 0.5524424314],
        [-0.2521692813, -0.3813391626, 0.2240573168],
        [0.2484661937, -0.3812823594, 0.2223576903],
    ]
)
COEFFICIENTS = 257
EXPRESSION = slice(80, 144)  # of the coefficients
EXPANSION = 4  # of a bottleneck's width, from inside to outside


def weak_perspective(points: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale and shift [2] with which the standard face comes nearest to `points` [5, 2] (x, y up) in least squares.

    The picture is taken as an affine image of the standard face: x = r1 X + shift, y = r2 X + shift. The scale is the
    mean length of r1 and r2.
    """
    homogeneous = np.hstack([STANDARD_POINTS, np.ones((len(STANDARD_POINTS), 1))])
    solution = np.linalg.lstsq(homogeneous, points, rcond=None)[0]  # [4, 2]
    return float(np.linalg.norm(solution[:3], axis=0).mean()), solution[3]


def aligned_crop(image: torch.Tensor, points: np.ndarray) -> torch.Tensor:
    """The crop [224, 224, 3] in 0..1 that the regressor expects of the face with five `points` [5, 2] in `image`.

    image: [H, W, 3] in 0..1. It is resized (bicubic, without turning it) until the standard face is `FACE_SCALE` large,
    and cut around it; black outside. Raises ValueError where the points are not finite or coincide.
    """
    height, width = image.shape[:2]
    upright = np.stack([points[:, 0], height - 1 - points[:, 1]], axis=1).astype(np.float64)
    if not np.isfinite(upright).all() or np.ptp(upright, axis=0).max() < 1:
        raise ValueError("Cannot align a face whose five points coincide or are not finite; detect it again.")
    scale, shift = weak_perspective(upright)
    zoom = FACE_SCALE / scale
    resized = int(width * zoom), int(height * zoom)
    left, top = (
        int(size / 2 - CROP / 2 + (at - before / 2) * zoom)
        for size, at, before in zip(resized, (shift[0], height - shift[1]), (width, height))
    )
    pixels = (image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    crop = _resized_part(Image.fromarray(pixels), resized, left, top)
    return torch.from_numpy(np.array(crop, dtype=np.float32) / 255)


def _resized_part(picture: Image.Image, size: tuple[int, int], left: int, top: int) -> Image.Image:
    """The crop at (left, top) of `picture` resized to `size`."""
    if size[0] * size[1] <= LARGEST:
        return picture.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + CROP, top + CROP))
    # A tiny face makes the whole huge: only the part is made, which differs by a rounding here and there.
    crop = Image.new("RGB", (CROP, CROP))
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = (min(start + CROP, limit) for start, limit in zip((left, top), size))
    if x0 < x1 and y0 < y1:
        fx, fy = picture.width / size[0], picture.height / size[1]
        box = x0 * fx, y0 * fy, min(x1 * fx, picture.width), min(y1 * fy, picture.height)
        part = picture.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=box)
        crop.paste(part, (x0 - left, y0 - top))
    return crop


@dataclass(frozen=True)
class RegressorSizes:
    """Sizes of one regressor: `stem` channels after the first layer, `stages` of (blocks, inner width), `heads`."""

    stem: int
    stages: tuple[tuple[int, int], ...]
    heads: tuple[int, ...]

    @classmethod
    def of(cls, state_dict: dict) -> "RegressorSizes":
        """Read the sizes from a published state dict."""
        heads = numbered(state_dict, "final_layers.")
        return cls(
            stem=state_dict["backbone.conv1.weight"].shape[0],
            stages=tuple(
                (numbered(state_dict, f"backbone.layer{i}."), state_dict[f"backbone.layer{i}.0.conv1.weight"].shape[0])
                for i in takewhile(lambda i: f"backbone.layer{i}.0.conv1.weight" in state_dict, count(1))
            ),
            heads=tuple(state_dict[f"final_layers.{i}.weight"].shape[0] for i in range(heads)),
        )


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, operations, **factory):
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = operations.Conv2d(inputs, width, 1, bias=False, **factory)
        self.bn1 = nn.BatchNorm2d(width, **factory)
        self.conv2 = operations.Conv2d(width, width, 3, stride, 1, bias=False, **factory)
        self.bn2 = nn.BatchNorm2d(width, **factory)
        self.conv3 = operations.Conv2d(width, outputs, 1, bias=False, **factory)
        self.bn3 = nn.BatchNorm2d(outputs, **factory)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                operations.Conv2d(inputs, outputs, 1, stride, bias=False, **factory),
                nn.BatchNorm2d(outputs, **factory),
            )

    def forward(self, x):
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        out = self.bn3(self.conv3(out))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class Backbone(nn.Module):
    def __init__(self, sizes: RegressorSizes, operations, **factory):
        super().__init__()
        self.conv1 = operations.Conv2d(3, sizes.stem, 7, 2, 3, bias=False, **factory)
        self.bn1 = nn.BatchNorm2d(sizes.stem, **factory)
        inputs = sizes.stem
        for number, (blocks, width) in enumerate(sizes.stages, 1):
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 2 if block == 0 and number > 1 else 1
                stage.append(Bottleneck(inputs, width, stride, operations, **factory))
                inputs = width * EXPANSION
            self.add_module(f"layer{number}", stage)
        self.stages = len(sizes.stages)
        self.outputs = inputs

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for number in range(1, self.stages + 1):
            x = getattr(self, f"layer{number}")(x)
        return x.mean(dim=(2, 3), keepdim=True)


class Regressor(nn.Module):
    """The regressor of any size; `operations` is a namespace of layers such as `torch.nn` or the host's `comfy.ops`."""

    def __init__(self, sizes: RegressorSizes, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.heads = sizes.heads
        self.backbone = Backbone(sizes, operations, **factory)
        self.final_layers = nn.ModuleList(
            operations.Conv2d(self.backbone.outputs, width, 1, **factory) for width in sizes.heads
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the coefficients: [n, 3, 224, 224] RGB in 0..1 -> [n, 257]."""
        x = self.backbone(pixels)
        return torch.cat([head(x) for head in self.final_layers], dim=1).flatten(1)
