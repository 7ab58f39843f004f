"""Networks that see images and texts in one space: CLIP and SigLIP, the host's or those that transformers has."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.sd1_clip
import torch
from PIL import Image
from torch.nn.functional import normalize

from ..patcher import manage
from ..weights.files import hash_once
from ..weights.reading import build_network, read_state_dict
from .crops import fit_shorter_side, from_bytes, squash, to_bytes
from .scores import image_embeddings, text_embedding

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MODEL_FILES = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
_BATCH = 16  # images or texts at once
_SIZES = {768: "b", 1024: "l", 1152: "so", 1280: "h"}  # as ViTs are called by their width


def prepare(images: torch.Tensor, crop: Callable[[Image.Image], Image.Image], mean, std) -> torch.Tensor:
    """Return images [n, H, W, 3] in 0..1 as a network wants them, [n, 3, S, S]: 8 bits, cut by `crop`, normalised."""
    pixels = torch.stack([from_bytes(crop(to_bytes(image))) for image in images])
    return ((pixels - torch.tensor(mean)) / torch.tensor(std)).movedim(-1, 1)


class Holder(torch.nn.Module):
    """A network of transformers, which does not let the host write its device on it."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network


@dataclass(frozen=True)
class TextImageNetwork:
    """A CLIP or SigLIP of the layout that its authors publish on the hub.

    kind: "clip" or "siglip"; name: its folder; sha256: of its weights; patcher: owns transformers' network;
    tokenizer: of transformers; side: pixels of the square that it sees.
    """

    kind: str
    name: str
    sha256: str
    patcher: comfy.model_patcher.ModelPatcher
    tokenizer: object
    side: int

    @property
    def label(self) -> str:
        """What its scores are called by, such as "clip b32": size and pixels of a patch."""
        vision = self.patcher.model.network.config.vision_config
        return f"{self.kind} {_SIZES.get(vision.hidden_size, vision.hidden_size)}{vision.patch_size}"

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings [n, d] of length 1, on the CPU, of images [n, H, W, 3] in 0..1."""
        if self.kind == "clip":
            way = (lambda image: fit_shorter_side(image, self.side, self.side)), CLIP_MEAN, CLIP_STD
        else:
            way = (lambda image: squash(image, self.side)), (0.5,) * 3, (0.5,) * 3
        network = self._load()
        return self._collect(
            [network.get_image_features(self._move(prepare(part, *way))) for part in images.split(_BATCH)]
        )

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return embeddings [n, d] of length 1, on the CPU, of texts; what is too long is cut, with a warning."""
        length = self.patcher.model.network.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        for text in texts:
            if len(self.tokenizer(text).input_ids) > length:
                logging.warning(f"{self.name} reads the first {length} tokens of the prompt '{text[:40]}...', no more.")
        network = self._load()
        return self._collect([network.get_text_features(self._move(part)) for part in tokens.input_ids.split(_BATCH)])

    def probability(self, cosines: torch.Tensor) -> torch.Tensor:
        """Return SigLIP's probability that image and text belong together: sigmoid(exp(scale) cosine + bias)."""
        network = self.patcher.model.network
        return (cosines * network.logit_scale.exp().item() + network.logit_bias.item()).sigmoid()

    def _load(self) -> torch.nn.Module:
        comfy.model_management.load_models_gpu([self.patcher])
        return self.patcher.model.network

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.patcher.load_device)

    @staticmethod
    def _collect(outputs: list) -> torch.Tensor:
        return normalize(torch.cat([output.pooler_output.float().cpu() for output in outputs]), dim=-1)


@dataclass(frozen=True)
class HostClip:
    """A CLIP that the host has loaded, `clip` and `clip_vision` being its halves; otherwise as `TextImageNetwork`."""

    clip: object
    clip_vision: object
    name: str
    sha256: str
    kind: str = "clip"
    label: str = "clip"

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings [n, d] of length 1, on the CPU, of images [n, H, W, 3] in 0..1."""
        return normalize(image_embeddings(self.clip_vision, images), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return embeddings [n, d] of length 1, on the CPU, of texts; of each the first 77 tokens."""
        return normalize(torch.cat([text_embedding(self.clip, text) for text in texts]), dim=-1)


def load_text_image(folder: str | Path) -> TextImageNetwork:
    """Load the CLIP or SigLIP in `folder`: config.json and model.safetensors, for SigLIP spiece.model as well.

    Raises ValueError naming folder and file where one of them is missing or is something else. Nothing is fetched.
    """
    import transformers  # takes a second

    folder = Path(folder)
    config = _read_config(folder / "config.json")
    weights_file = next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)
    kinds = {
        "clip": (transformers.CLIPConfig, transformers.CLIPModel),
        "siglip": (transformers.SiglipConfig, transformers.SiglipModel),
    }
    kind = config.get("model_type")
    if kind not in kinds or weights_file is None:
        raise ValueError(
            f"'{folder}' holds no CLIP or SigLIP: a config.json whose model_type is clip or siglip and a "
            f"{' or '.join(MODEL_FILES)} are needed. Fetch them from the publisher's page on the hub."
        )
    make_config, network = kinds[kind]
    state_dict = read_state_dict(weights_file)

    def build():
        module = network(make_config.from_dict(config))
        weights = {f"network.{name}": state_dict[name].float() for name in module.state_dict()}
        return manage(Holder(module), weights, comfy.model_management.text_encoder_offload_device())

    patcher = build_network(f"{weights_file.name} in '{folder}' does not fit its config.json", build)
    tokenizer = _load_tokenizer(kind, folder, transformers)
    side = patcher.model.network.config.vision_config.image_size
    return TextImageNetwork(kind, folder.name, hash_once(weights_file), patcher, tokenizer, side)


def _read_config(file: Path) -> dict:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"'{file}' is no JSON ({error}); fetch it again.") from error
    return config if isinstance(config, dict) else {}


def _load_tokenizer(kind: str, folder: Path, transformers):
    if kind == "clip":  # one for all CLIPs, and the host brings it
        return transformers.CLIPTokenizer.from_pretrained(Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer")
    if not (folder / "spiece.model").is_file():
        raise ValueError(f"'{folder}' lacks SigLIP's spiece.model: fetch it from the publisher's page on the hub.")
    return transformers.SiglipTokenizer(str(folder / "spiece.model"))
