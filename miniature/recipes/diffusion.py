"""Autoencoder, base model and its inpainting variant."""

import comfy.model_sampling
import torch

from ...training import inpainting
from ...training.progress_line import ProgressLine
from ..models import base_model as miniature
from ..models import language
from ..models.autoencoder import Autoencoder, AutoencoderSizes
from ..models.recogniser import Recogniser
from ..training import autoencoder as autoencoder_training
from ..training import inpainting_lessons, portraits
from ..training import text_to_image as base_training
from ..training.crops import as_pixels
from .common import LONG, OUTPUT, device, load_set, load_tensors, save_losses, save_tensors, traits, vocabulary

_AT_ONCE = 128
_WIDTH = 64
BASE = {
    "batch": 64, "lr": 1.5e-3, "warmup": 200, "ema": 0.998, "named": 0.75, "person": 0.05, "focus": 4.0,
    "time_power": 1.4, **LONG,
}  # fmt: skip
DECODER = {"batch": 32, "lr": 1e-3, "decoder_only": True, "likeness": 0.5, "warmup": 50, "ema": 0.99, **LONG}
INPAINTING = {"batch": 32, "lr": 5e-4, "named": 0.0, "long": 1.0, "warmup": 100, "ema": 0.995, "focus": 8.0, **LONG}


def autoencoder() -> None:
    """Train 4200 steps with little noise in the latents, then 1700 with as much as the base will make."""
    torch.manual_seed(0)
    network = Autoencoder(AutoencoderSizes())
    phases = {
        "ae": autoencoder_training.AutoencoderSettings(
            steps=4200, lr=2e-3, kl=1e-3, noise=0.0, warmup=100, ema=0.995, **LONG
        ),
        "ae2": autoencoder_training.AutoencoderSettings(steps=1700, lr=1e-3, warmup=50, ema=0.99, **LONG),
    }
    for name, settings in phases.items():
        _learn(network, name, settings)
        with torch.no_grad():
            autoencoder_training.unit_variance(network, as_pixels(load_set("train").images(range(0, 4800, 10))))
    save_tensors("autoencoder", network.state_dict())


def decoder(steps: int) -> None:
    """Train the autoencoder's decoder further, by ArcFace's eyes; the latents stay what they are."""
    network = _autoencoder()
    _learn(
        network,
        "decoder",
        autoencoder_training.AutoencoderSettings(steps=steps, **DECODER),
        Recogniser.of(load_tensors("arcface")),
    )
    save_tensors("autoencoder", network.state_dict())


def _learn(
    network: Autoencoder, name: str, settings: autoencoder_training.AutoencoderSettings, eyes: Recogniser | None = None
) -> None:
    """Train an autoencoder, or go on, and leave it with the running average of what it learned."""
    progress = autoencoder_training.train(
        network, load_set("train"), settings, device(), OUTPUT / f"{name}.pt", ProgressLine(settings), eyes
    )
    network.cpu()
    averages = {key.removeprefix("network."): tensor for key, tensor in progress.average.items()}
    network.load_state_dict(network.state_dict() | averages)
    save_losses(name, progress)


@torch.no_grad()
def latents() -> None:
    """Encode all images."""
    network = _autoencoder()
    dataset = load_set("train")
    parts = torch.arange(len(dataset)).split(_AT_ONCE)
    with torch.autocast("cpu", torch.bfloat16):
        made = [network.encode(as_pixels(dataset.images(part.tolist()))).half() for part in parts]
    save_tensors("latents", {"latents": torch.cat(made)})


def text_to_image(steps: int) -> None:
    """Train the base model on `steps` x 64 images; from weights that `restore` brought, where there are any."""
    torch.manual_seed(0)
    model = base_training.BaseNetwork(vocabulary(), _WIDTH)
    if (OUTPUT / "base.safetensors").is_file():
        _start_from(model, load_tensors("base"))
    captions = language.Captions(load_set("train").captions, vocabulary())
    latent = load_tensors("latents")["latents"]
    faces = portraits.faces(load_set("train"), latent.shape[-1], torch.arange(len(latent)))
    lessons = base_training.Lessons(latent, _traits(), captions, focus=faces)
    settings = base_training.BaseSettings(steps=steps, **BASE)
    progress = base_training.train(
        model, lessons, alphas_bar(), settings, device(), OUTPUT / "base.pt", ProgressLine(settings)
    )
    model.load_state_dict(progress.average)
    save_losses("base", progress)
    save_tensors("base", base_training.checkpoint_weights(model, _autoencoder(), vocabulary()))


def _autoencoder() -> Autoencoder:
    network = Autoencoder(AutoencoderSizes())
    network.load_state_dict(load_tensors("autoencoder"))
    return network


def _traits() -> torch.Tensor:
    """Return the traits of the person in each image."""
    return traits("train").repeat_interleave(load_set("train").recipe.images, dim=0)


def alphas_bar() -> torch.Tensor:
    """Return SD's noise schedule, [1000]."""
    sigmas = comfy.model_sampling.ModelSamplingDiscrete().sigmas
    return 1 / (1 + sigmas.square())


def train_inpainting(steps: int) -> None:
    """Train the base model to fill masks: its first seven blocks learn, the rest stays as it is."""
    weights = load_tensors("base")
    model = base_training.BaseNetwork(vocabulary(), _WIDTH, 2 * miniature.CHANNELS + 1)
    _start_from(model, weights)
    chosen = torch.arange(0, len(load_set("train")), 2)
    dataset, latent = load_set("train"), load_tensors("latents")["latents"][chosen]
    generator = torch.Generator().manual_seed(0)
    masks, painted = inpainting_lessons.sample_masks(dataset, chosen.tolist(), generator)
    chances = torch.rand(len(chosen), generator=generator).tolist()
    texts = map(inpainting_lessons.caption, (dataset.captions[index] for index in chosen), painted, chances)
    captions = language.Captions(list(texts), vocabulary())
    conditions = _conditions(weights, model, chosen, masks, latent)
    lessons = base_training.Lessons(latent, _traits()[chosen], captions, conditions, focus=conditions[:, 0])
    settings = base_training.BaseSettings(steps=steps, **INPAINTING)
    checkpoint = OUTPUT / "inpainting.pt"
    progress = base_training.train(
        model, lessons, alphas_bar(), settings, device(), checkpoint, ProgressLine(settings), _learns
    )
    save_losses("inpainting", progress)
    averages = {name.removeprefix("unet."): tensor for name, tensor in progress.average.items()}
    save_tensors("inpainting", {f"{miniature.UNET}{name}": tensor.half() for name, tensor in averages.items()})


def _learns(name: str) -> bool:
    return name.startswith(tuple(f"unet.input_blocks.{block}." for block in range(7))) and "emb_layers" not in name


def _start_from(model: base_training.BaseNetwork, weights: dict[str, torch.Tensor]) -> None:
    """Load the base model's weights; further channels of the input begin at 0."""
    unet = {
        name.removeprefix(miniature.UNET): tensor.float() for name, tensor in weights.items() if miniature.UNET in name
    }
    entry = torch.zeros_like(model.unet.input_blocks[0][0].weight)
    entry[:, : miniature.CHANNELS] = unet["input_blocks.0.0.weight"]
    model.unet.load_state_dict(unet | {"input_blocks.0.0.weight": entry})
    text = {name.removeprefix(miniature.TEXT_ENCODER): tensor.float() for name, tensor in weights.items()}
    model.text.load_weights(text)


def _conditions(weights, model: base_training.BaseNetwork, chosen, masks, latent) -> torch.Tensor:
    """Return what the host gives an inpainting model besides the noise, [n, 1 + c, h, w] float16."""
    unet = miniature.model({name: tensor.detach() for name, tensor in model.unet.state_dict().items()})
    vae = miniature.MiniatureVAE({name.removeprefix(miniature.FIRST_STAGE): tensor for name, tensor in weights.items()
                                  if name.startswith(miniature.FIRST_STAGE)})  # fmt: skip
    parts = []
    with torch.inference_mode():
        for rows in torch.arange(len(chosen)).split(_AT_ONCE):
            images = load_set("train").images(chosen[rows].tolist()).float() / 255
            parts.append(inpainting.condition(unet, vae, images, masks[rows], latent[rows].float()).half().cpu())
    return torch.cat(parts).clone()
