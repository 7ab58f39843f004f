"""What PuLID sees of a person: a raw ArcFace embedding, and EVA02-CLIP's view of the face in grey on white.

docs/papers.md 4.6 has the numbers; the authors' two ways of choosing a face are one here, the chosen one.
"""

from dataclasses import dataclass
from hashlib import sha256

import comfy.model_management
import comfy.model_patcher
import numpy as np
import torch
from torch.nn.functional import interpolate, normalize, pad

from ..faces.align import in_template_order, warp
from ..faces.geometry import similarity
from ..faces.parsing import FaceParser
from ..faces.types import Faces
from .face_encoder import FaceEncoder
from .identity import FaceId

KIND = "pulid"
CROP = 512
FFHQ_512 = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
BORDER = (132, 133, 135)  # RGB of what lies outside of the photo
WHITE_LABELS = (0, 7, 8, 9, 14, 15, 16, 18)  # background, ears and earrings, neck and necklace, clothes, hat
FACE_WIDTH, EMBEDDING_WIDTH, TAPS = 512, 768, 5
# The authors' presets: zero tokens (docs/papers.md 4.6) by the projector's version, and how the face is added.
METHODS = {
    "fidelity": ({"pulid": 8, "pulid-v1.1": 20}, "ortho_v2"),
    "style": ({"pulid": 16, "pulid-v1.1": 16}, "ortho"),
    "neutral": ({"pulid": 0, "pulid-v1.1": 0}, "none"),
}
_LONGEST = 1024  # pixels of a photo's longer side, to which larger ones are shrunk
_GREY = (0.299, 0.587, 0.114)
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


def cut_portraits(faces: Faces) -> torch.Tensor:
    """Return the crops [n, 512, 512, 3] of all faces, upright as FFHQ has them, with a grey border."""
    longest = max(faces.images.shape[1:3])
    scale = min(1.0, _LONGEST / longest)
    crops = [faces.images.new_zeros(0, CROP, CROP, 3)]
    for image, face in faces.pairs:
        if scale < 1:
            image = interpolate(image.movedim(-1, 0)[None], scale_factor=scale, mode="bicubic", antialias=True)
            image = image[0].clamp(0, 1).movedim(0, -1)
        points = (in_template_order(np.float64(face.points)) + 0.5) * scale - 0.5
        matrix = similarity(points, FFHQ_512)
        cut = warp(pad(image, (0, 1), value=1.0), matrix, CROP)  # the fourth channel: how much of a pixel is photo
        border = torch.tensor(BORDER).to(cut) / 255
        crops.append((cut[..., :3] + (1 - cut[..., 3:]) * border)[None])
    return torch.cat(crops)


def prepare_pixels(crops: torch.Tensor, labels: torch.Tensor, size: int) -> torch.Tensor:
    """Return what EVA02-CLIP reads of crops [n, H, W, 3] in 0..1: [n, 3, size, size], normalised as CLIP's pixels are.

    labels: [n, H, W] of CelebAMask-HQ; everything but face and hair becomes white, the rest grey.
    """
    white = torch.isin(labels, torch.tensor(WHITE_LABELS, device=labels.device))
    grey = torch.where(white, 1.0, crops @ torch.tensor(_GREY).to(crops))
    grey = interpolate(grey[:, None], size=(size, size), mode="bicubic", align_corners=False)
    mean, std = (torch.tensor(numbers).to(grey)[:, None, None] for numbers in (_MEAN, _STD))
    return (grey - mean) / std


def pack(vector: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """Return both as one identity's features [n, rows, d]: first the vector [n, v], filled up with zeros, as rows.

    hidden_states: [n, taps, m, d]
    """
    width = hidden_states.shape[-1]
    filled = pad(vector, (0, -vector.shape[1] % width)).unflatten(1, (-1, width))
    return torch.cat((filled, hidden_states.flatten(1, 2)), dim=1)


def unpack(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return vector [n, 512 + 768] and hidden states [n, 5, m, d] of the features that `pack` makes."""
    length = FACE_WIDTH + EMBEDDING_WIDTH
    rows = -(-length // features.shape[-1])
    return features[:, :rows].flatten(1)[:, :length], features[:, rows:].unflatten(1, (TAPS, -1))


def add_zero_tokens(tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Return tokens [2, m, D] with `count` zeros behind, which draw attention to nothing and so soften the face."""
    return pad(tokens, (0, 0, 0, count))


@dataclass(frozen=True)
class PulidEncoder:
    """PuLID's three networks as one encoder.

    recogniser: an ArcFace encoder (antelopev2's glintr100 for the published files); eva: patcher of `Eva02`, from the
    file `eva_name`; parser: blanks what is not face or hair
    """

    recogniser: FaceEncoder
    eva: comfy.model_patcher.ModelPatcher
    eva_name: str
    eva_sha256: str
    parser: FaceParser
    kind: str = KIND
    crop_size: int = CROP

    def __post_init__(self):
        if self.recogniser.kind != "arcface":
            raise ValueError(
                f"PuLID reads an ArcFace recogniser, 512 wide, but {self.recogniser.name} is of the kind "
                f"{self.recogniser.kind}: choose antelopev2's glintr100.onnx in Load PuLID Encoder."
            )

    @property
    def name(self) -> str:
        return f"{self.recogniser.name} + {self.eva_name}"

    @property
    def sha256(self) -> str:
        """A digest of both files', since identities of other weights do not mix."""
        return sha256(f"{self.recogniser.sha256} {self.eva_sha256}".encode()).hexdigest()

    def encode_faces(self, faces: Faces, masks: torch.Tensor | None = None) -> FaceId:
        """Encode faces; photos are compared by the recogniser's embedding. masks: not used, the parser blanks."""
        face = self.recogniser.encode_faces(faces)
        crops = cut_portraits(faces)
        pixels = prepare_pixels(crops, self.parser.label(crops), self.eva.model.image_size)
        comfy.model_management.load_models_gpu([self.eva])
        embedding, hidden_states = self.eva.model(pixels.to(self.eva.load_device, torch.float32))
        vector = torch.cat((face.features[:, 0], normalize(embedding, dim=1).to(face.features)), dim=1)
        features = pack(vector, hidden_states.to(face.features))
        return FaceId(self.kind, self.name, self.sha256, features, face.embedding, crops, True)
