"""The miniature with everything that measures it, loaded once."""

from collections.abc import Sequence
from dataclasses import dataclass

import comfy.sample
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from ...adapters.loading import load_adapter
from ...encoders.deep3d import EXPRESSION
from ...encoders.loading import load_encoder, load_expression_encoder
from ...faces.align import align_faces
from ...faces.detector import detect_faces
from ...faces.headmask import head_masks
from ...faces.types import Faces
from ...metrics.scores import text_embedding
from ..detector import MiniatureFinder
from ..models import base_model
from ..models.base_model import WEIGHTS
from ..models.recogniser import Recogniser
from ..recipes.common import OUTPUT
from ..training.crops import CROP, align_pixels

ABLATIONS = OUTPUT / "ablations"


@dataclass(frozen=True, eq=False)
class World:
    """The host's objects of the base, the face networks and adapters by what they are, and what scores."""

    model: object
    clip: object
    vae: object
    clip_vision: object
    score_clip: object
    encoders: dict
    adapters: dict
    scorer: Recogniser
    finder: MiniatureFinder
    expression: object

    def text(self, prompt: str) -> list:
        """Return the host's conditioning of a prompt."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))

    def faces(self, images: torch.Tensor) -> Faces:
        """Return the faces that are found in images [n, h, w, 3]; one at most in each."""
        return detect_faces(self.finder, images, search="quick")

    @torch.inference_mode()
    def embed_faces(self, faces: Faces) -> torch.Tensor:
        """Return the scoring recogniser's unit vectors [n, d] of all faces."""
        return normalize(self.scorer(align_pixels(faces)), dim=1)

    @torch.inference_mode()
    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return CLIP's unit vectors [n, d] of pictures."""
        return normalize(self.clip_vision.encode_image(images).image_embeds.float(), dim=1)

    @torch.inference_mode()
    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return CLIP's unit vectors [n, d] of prompts."""
        once = {prompt: text_embedding(self.score_clip, prompt) for prompt in dict.fromkeys(prompts)}
        return normalize(torch.cat([once[prompt] for prompt in prompts]), dim=1)

    @torch.inference_mode()
    def expressions(self, faces: Faces) -> torch.Tensor:
        """Return the expression's coefficients [n, 64] of all faces."""
        if not any(faces.per_image):
            return torch.zeros(0, EXPRESSION.stop - EXPRESSION.start)
        return self.expression.read(faces).coefficients

    def identity(self, kind: str, faces: Faces):
        """Return the FaceId that the encoder of a kind makes of faces, as its method wants it."""
        masked = kind == "transface"
        return self.encoders[kind].encode(align_faces(faces, CROP, head_masks(faces) if masked else None), masked)


def load() -> World:
    """Return the miniature in `WEIGHTS`, with the encoders and adapters of the ablations in `ABLATIONS`, if there are
    any.

    Raises FileNotFoundError where a file of the miniature is missing.
    """
    model, clip, vae = base_model.load_miniature(WEIGHTS)
    score_clip, clip_vision = base_model.load_pair(WEIGHTS)
    paths = {path.stem.removeprefix("miniature_"): path for path in WEIGHTS.glob("*/miniature_*")}
    paths |= {path.stem: path for path in ABLATIONS.glob("*.safetensors")}
    return World(
        model, clip, vae, clip_vision, score_clip,
        {name: load_encoder(str(path)) for name, path in paths.items() if name.startswith(_ENCODERS)},
        {name: load_adapter(str(path)) for name, path in paths.items() if name.startswith(_ADAPTERS)},
        Recogniser.of(load_file(base_model.weight_file(WEIGHTS, "scorer.safetensors"))).float(),
        MiniatureFinder(0.5),
        load_expression_encoder(str(paths["expression"])),
    )  # fmt: skip


def find_newest() -> float:
    """Return when the youngest of the weights was written."""
    return max(path.stat().st_mtime for folder in (WEIGHTS, ABLATIONS) for path in folder.rglob("*") if path.is_file())


_ENCODERS = ("transface", "msid", "arcface")
_ADAPTERS = ("fact", "face2diffusion", "f2d", "infinite_id")


@dataclass(frozen=True)
class ImageSampling:
    """How pictures are drawn."""

    steps: int = 10
    cfg: float = 3.0
    sampler: str = "ddim"
    scheduler: str = "ddim_uniform"


def noise(keys: Sequence[tuple[int, ...]], size: int) -> torch.Tensor:
    """Return noise [n, c, h, w] for keys (person, prompt, seed): the same for every method and in every batch."""
    noises = []
    for key in keys:
        seed = sum(number * 1009**index for index, number in enumerate(key))
        noises.append(torch.randn(base_model.CHANNELS, size, size, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(noises)


def stack(conditionings: Sequence[list]) -> list:
    """Return conditionings of n prompts with the same schedule as one, whose rows are [n, 77, d]."""
    return [[torch.cat([rows for rows, _ in parts]), parts[0][1]] for parts in zip(*conditionings)]


@torch.inference_mode()
def sample(world: World, model, positive: list, start: torch.Tensor, sampling: ImageSampling) -> torch.Tensor:
    """Return images [n, h, w, 3] by the host's sampler.

    positive: a conditioning of n prompts. start: noise [n, c, h, w].
    """
    negative = stack([world.text("")] * len(start))
    latents = comfy.sample.sample(
        model, start, sampling.steps, sampling.cfg, sampling.sampler, sampling.scheduler, positive, negative,
        torch.zeros_like(start), disable_pbar=True, seed=0,
    )  # fmt: skip
    return world.vae.decode(latents)
