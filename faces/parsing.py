"""Face parsing: which pixels of a face are skin, hair, eye and so on, by BiSeNet as trained on CelebAMask-HQ.

The network was trained on CelebA-HQ's portraits, so every face is turned upright and cut as that data set was cut; the
probabilities, not the labels, are laid back into the image, which keeps edges smooth at any scale.

CelebAMask-HQ names eyes, brows and ears left and right. Which of its names is which side is not relied upon here: both
names are taken together and divided by the face's own axis, so that the subject's left is left in every image.
"""

from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import numpy as np
import torch
from scipy import ndimage

from ..patcher import manage_small
from ..weights.reading import build_network, read_state_dict
from .align import in_template_order, warp
from .bisenet import UNUSED_KEYS, BiSeNet, BiSeNetSizes
from .geometry import PixelBox, box_corners, invert, move
from .headmask import head_of_labels
from .types import Face

LABELS = (
    *("background", "skin", "left brow", "right brow", "left eye", "right eye", "glasses", "left ear", "right ear"),
    *("earring", "nose", "mouth", "upper lip", "lower lip", "neck", "necklace", "cloth", "hair", "hat"),
)  # CelebAMask-HQ, in the network's order
SIZE = 512  # pixels a side of the crop, as in training
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of pixels in 0..1
# CelebA-HQ's crop (Karras et al. 2018, appendix C): side in eye distances and in distances from eyes to mouth, the
# larger counts; the centre lies this share of the way from the eyes to the mouth.
_SIDE_BY_EYES, _SIDE_BY_MOUTH, _CENTRE = 4.0, 3.6, 0.1

_SIDED = {"eye": (4, 5), "brow": (2, 3)}
_PARTS = {"face": (1, 2, 3, 4, 5, 6, 10, 11, 12, 13), "nose": (10,), "mouth": (11, 12, 13), "hair": (17,)}
_FACE_AND_EARS = tuple(range(1, 14))  # what FACT's parsing calls face (docs/papers.md 2.2)
_PERSON = (*range(1, 16), 17, 18)  # down to the neck: clothes of people side by side touch
_SIGNATURE = (
    "cp.resnet.conv1.weight",
    "cp.arm16.conv.conv.weight",
    "ffm.convblk.conv.weight",
    "conv_out.conv_out.weight",
)


@dataclass(frozen=True)
class FaceParser:
    """A loaded parsing network. name: its weight file. patcher: owns the `BiSeNet`."""

    name: str
    patcher: comfy.model_patcher.ModelPatcher

    def parse(self, image: torch.Tensor, face: Face) -> "Parsing":
        """Return what `face` consists of in its image [H, W, 3] in 0..1."""
        to_crop = find_parsing_crop(face)
        probabilities = self._run(_cut(image, to_crop)[None])[0].softmax(dim=0).cpu().numpy()
        points = move(in_template_order(np.float64(face.points)), to_crop)
        return Parsing(probabilities * _find_person(probabilities, points), to_crop, points)

    def label(self, crops: torch.Tensor) -> torch.Tensor:
        """Return the number of the likeliest of `LABELS`, [n, H, W], in upright crops [n, H, W, 3] in 0..1."""
        return torch.cat([self._run(crop[None]).argmax(dim=1) for crop in crops]).to(crops.device)

    def _run(self, crops: torch.Tensor) -> torch.Tensor:
        comfy.model_management.load_models_gpu([self.patcher])
        pixels = ((crops - torch.tensor(_MEAN).to(crops)) / torch.tensor(_STD).to(crops)).movedim(-1, 1)
        return self.patcher.model(pixels.to(self.patcher.load_device, torch.float32))


@dataclass(frozen=True, eq=False)
class Parsing:
    """One parsed face.

    probabilities:  [19, S, S], of every label at every pixel of the crop; all 0 where somebody else is
    to_crop:        [2, 3], from the image to the crop
    points:         [5, 2], the face's points in the crop
    """

    probabilities: np.ndarray
    to_crop: np.ndarray
    points: np.ndarray

    def part(self, part: str) -> np.ndarray:
        """Return how probable `part` ("face", "left eye", ...) is at every pixel of the crop, [S, S]."""
        side, _, what = part.partition(" ")
        if what not in _SIDED:
            return self._sum(_PARTS[part])
        # The subject's left: in the upright crop, right of the line from eyes to mouth.
        eyes, mouth = self.points[:2].mean(axis=0), self.points[3:].mean(axis=0)
        rows, columns = np.indices(self.probabilities.shape[1:])
        left = (columns - eyes[0]) * (mouth[1] - eyes[1]) > (rows - eyes[1]) * (mouth[0] - eyes[0])
        return self._sum(_SIDED[what]) * (left == (side == "left"))

    def bounds(self, part: str) -> np.ndarray | None:
        """Return the corners [4, 2], in the image, of the crop's box that holds `part`; None where nothing is."""
        probability = self._sum(_PERSON) if part == "head" else self.part(part)
        rows, columns = (np.flatnonzero((probability >= 0.5).any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return None
        margin = 2 + len(rows) // 16  # for the pixels between, and the dilation of a head
        (x0, x1), (y0, y1) = ((line[0] - margin, line[-1] + margin) for line in (columns, rows))
        return move(box_corners(x0, y0, x1, y1), invert(self.to_crop))

    def fill(self, part: str, box: PixelBox) -> np.ndarray:
        """Return where `part`, or the head as FACT cuts it, is likelier than not in a box of the image: bool [h, w]."""
        if part == "head":
            face, hair = (self._lay_back(self._sum(labels), box) for labels in (_FACE_AND_EARS, _PARTS["hair"]))
            return head_of_labels(face, hair)
        return self._lay_back(self.part(part), box)

    def _sum(self, labels: tuple[int, ...]) -> np.ndarray:
        return self.probabilities[list(labels)].sum(axis=0)

    def _lay_back(self, probability: np.ndarray, box: PixelBox) -> np.ndarray:
        x0, y0, x1, y1 = box
        matrix = self.to_crop[::-1, 1::-1]  # scipy counts row, column
        offset = matrix @ [y0, x0] + self.to_crop[::-1, 2]
        shape = (y1 - y0, x1 - x0)
        return ndimage.affine_transform(probability, matrix, offset, shape, order=1, mode="constant") >= 0.5


def load_parser(path: str) -> FaceParser:
    """Load the face parser at `path`, whatever the file is called.

    Raises ValueError naming the file when it cannot be read, is no BiSeNet as published, or knows other labels.
    """
    state_dict = read_state_dict(path)
    name = Path(path).name
    missing = [key for key in _SIGNATURE if key not in state_dict]
    if missing:
        raise ValueError(
            f"{name} is not a BiSeNet face parser: the tensor '{missing[0]}' is missing. Choose 79999_iter.pth (also "
            "known as parsing_bisenet.pth) in Load Face Parser."
        )
    patcher = build_network(f"{name} looks like BiSeNet but its tensors do not fit together", _make_bisenet, state_dict)
    classes = patcher.model.conv_out.conv_out.out_channels
    if classes != len(LABELS):
        raise ValueError(
            f"{name} tells {classes} labels apart, but a face parser must know CelebAMask-HQ's {len(LABELS)}: choose "
            "79999_iter.pth in Load Face Parser."
        )
    return FaceParser(name, patcher)


def find_parsing_crop(face: Face) -> np.ndarray:
    """Return the similarity [2, 3] from the image to the upright crop of `SIZE` pixels that CelebA-HQ has of a face.

    The crop's horizontal axis is the mean of the way from eye to eye and of the way from mouth to eyes, turned by a
    right angle, so that it stays stable where a turned head brings the eyes together.
    """
    right, left, _, *corners = in_template_order(np.float64(face.points)) @ [1, 1j]
    eyes, mouth = (right + left) / 2, sum(corners) / 2
    across, down = left - right, mouth - eyes
    axis = across - 1j * down
    side = max(_SIDE_BY_EYES * abs(across), _SIDE_BY_MOUTH * abs(down))
    if not np.isfinite(side) or abs(axis) < 1e-6:
        raise ValueError("Cannot parse a face whose five points coincide or are not finite; detect it again.")
    a = axis.conjugate() / abs(axis) * SIZE / side
    b = (SIZE - 1) / 2 * (1 + 1j) - a * (eyes + _CENTRE * down)
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _make_bisenet(state_dict: dict) -> comfy.model_patcher.ModelPatcher:
    weights = {key: value for key, value in state_dict.items() if not key.startswith(UNUSED_KEYS)}
    return manage_small(BiSeNet, BiSeNetSizes.of(weights), weights)


def _cut(image: torch.Tensor, to_crop: np.ndarray) -> torch.Tensor:
    """Return the crop [SIZE, SIZE, 3] on the CPU, of the image averaged over squares where the face is larger."""
    side = max(1, round(1 / np.hypot(*to_crop[:, 0])))
    side = min(side, *image.shape[:2])
    smaller = torch.nn.functional.avg_pool2d(image.movedim(-1, 0), side).movedim(0, -1)
    # Pixel centres at integers: the centre of a square of n pixels from 0 lies at (n - 1) / 2.
    scale = to_crop[:, :2] * side
    shift = to_crop[:, :2].sum(axis=1, keepdims=True) * (side - 1) / 2 + to_crop[:, 2:]
    return warp(smaller, np.hstack([scale, shift]), SIZE).cpu()


def _find_person(probabilities: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the pixels [S, S] of the person with these points, with a rim of one pixel: no neighbours in the crop."""
    pieces, count = ndimage.label(probabilities[list(_PERSON)].sum(axis=0) >= 0.5, structure=np.ones((3, 3)))
    columns, rows = points.round().astype(int).clip(0, pieces.shape[0] - 1).T
    votes = np.bincount(pieces[rows, columns], minlength=count + 1)
    if not votes[1:].any():  # the points miss everything that was seen
        votes = np.bincount(pieces.ravel())
    votes[0] = 0
    return ndimage.maximum_filter((pieces == votes.argmax()) & (pieces > 0), 3)
