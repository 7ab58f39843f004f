"""Autoencoder, base model and its inpainting variant."""

import comfy.model_sampling
import torch

from ...training import inpainting
from ...training.progress_line import ProgressLine
from ..models import base_model as miniature
from ..models import language
from ..models.autoencoder import Autoencoder, AutoencoderSizes
from ..models.recogniser import Recogniser
from ..training import autoencoder as pixels
from ..training import inpainting_lessons, portraits
from ..training import text_to_image as base
from ..training.crops import as_pixels
from .common import LONG, OUTPUT, device, keep, keep_curve, kept, pictures, traits, vocabulary

_AT_ONCE = 128
_WIDTH = 64
BASE = {
    "batch": 64, "lr": 1.5e-3, "warmup": 200, "ema": 0.998, "named": 0.75, "person": 0.05, "focus": 4.0,
    "time_power": 1.4, **LONG,
}  # fmt: skip
DECODER = {"batch": 32, "lr": 1e-3, "decoder_only": True, "likeness": 0.5, "warmup": 50, "ema": 0.99, **LONG}
INPAINTING = {"batch": 32, "lr": 5e-4, "named": 0.0, "long": 1.0, "warmup": 100, "ema": 0.995, "focus": 8.0, **LONG}


def autoencoder() -> None:
    """4200 steps with little noise in the latents, then 1700 with as much as the base will make."""
    torch.manual_seed(0)
    network = Autoencoder(AutoencoderSizes())
    phases = {
        "ae": pixels.AutoencoderSettings(steps=4200, lr=2e-3, kl=1e-3, noise=0.0, warmup=100, ema=0.995, **LONG),
        "ae2": pixels.AutoencoderSettings(steps=1700, lr=1e-3, warmup=50, ema=0.99, **LONG),
    }
    for name, settings in phases.items():
        _learn(network, name, settings)
        with torch.no_grad():
            pixels.unit_variance(network, as_pixels(pictures("train").pictures(range(0, 4800, 10))))
    keep("autoencoder", network.state_dict())


def decoder(steps: int) -> None:
    """The autoencoder's decoder further, by ArcFace's eyes; the latents stay what they are."""
    network = _autoencoder()
    _learn(network, "decoder", pixels.AutoencoderSettings(steps=steps, **DECODER), Recogniser.of(kept("arcface")))
    keep("autoencoder", network.state_dict())


def _learn(
    network: Autoencoder, name: str, settings: pixels.AutoencoderSettings, eyes: Recogniser | None = None
) -> None:
    """Train an autoencoder, or go on, and leave it with the running average of what it learned."""
    progress = pixels.train(
        network, pictures("train"), settings, device(), OUTPUT / f"{name}.pt", ProgressLine(settings), eyes
    )
    network.cpu()
    own = {key.removeprefix("network."): each for key, each in progress.average.items()}
    network.load_state_dict(network.state_dict() | own)
    keep_curve(name, progress)


@torch.no_grad()
def latents() -> None:
    """The latents of all pictures."""
    network = _autoencoder()
    drawn = pictures("train")
    parts = torch.arange(len(drawn)).split(_AT_ONCE)
    with torch.autocast("cpu", torch.bfloat16):
        made = [network.encode(as_pixels(drawn.pictures(part.tolist()))).half() for part in parts]
    keep("latents", {"latents": torch.cat(made)})


def text_to_image(steps: int) -> None:
    """The base, on `steps` x 64 pictures; from weights that `restore` brought, where there are any."""
    torch.manual_seed(0)
    model = base.Base(vocabulary(), _WIDTH)
    if (OUTPUT / "base.safetensors").is_file():
        _start_from(model, kept("base"))
    captions = language.Captions(pictures("train").captions, vocabulary())
    latent = kept("latents")["latents"]
    faces = portraits.faces(pictures("train"), latent.shape[-1], torch.arange(len(latent)))
    lessons = base.Lessons(latent, _traits(), captions, focus=faces)
    settings = base.BaseSettings(steps=steps, **BASE)
    progress = base.train(model, lessons, alphas_bar(), settings, device(), OUTPUT / "base.pt", ProgressLine(settings))
    model.load_state_dict(progress.average)
    keep_curve("base", progress)
    keep("base", base.checkpoint_weights(model, _autoencoder(), vocabulary()))


def _autoencoder() -> Autoencoder:
    network = Autoencoder(AutoencoderSizes())
    network.load_state_dict(kept("autoencoder"))
    return network


def _traits() -> torch.Tensor:
    """Of who is in each of the pictures."""
    return traits("train").repeat_interleave(pictures("train").recipe.images, dim=0)


def alphas_bar() -> torch.Tensor:
    """SD's noise schedule, [1000]."""
    sigmas = comfy.model_sampling.ModelSamplingDiscrete().sigmas
    return 1 / (1 + sigmas.square())


def inpainting_variant(steps: int) -> None:
    """The base taught to fill masks: its first seven blocks learn, the rest stays the base's."""
    weights = kept("base")
    model = base.Base(vocabulary(), _WIDTH, 2 * miniature.CHANNELS + 1)
    _start_from(model, weights)
    chosen = torch.arange(0, len(pictures("train")), 2)
    drawn, latent = pictures("train"), kept("latents")["latents"][chosen]
    generator = torch.Generator().manual_seed(0)
    masks, painted = inpainting_lessons.drawn_masks(drawn, chosen.tolist(), generator)
    chances = torch.rand(len(chosen), generator=generator).tolist()
    told = map(inpainting_lessons.caption, (drawn.captions[index] for index in chosen), painted, chances)
    captions = language.Captions(list(told), vocabulary())
    conditions = _conditions(weights, model, chosen, masks, latent)
    lessons = base.Lessons(latent, _traits()[chosen], captions, conditions, focus=conditions[:, 0])
    settings = base.BaseSettings(steps=steps, **INPAINTING)
    checkpoint = OUTPUT / "inpainting.pt"
    progress = base.train(model, lessons, alphas_bar(), settings, device(), checkpoint, ProgressLine(settings), _learns)
    keep_curve("inpainting", progress)
    own = {name.removeprefix("unet."): each for name, each in progress.average.items()}
    keep("inpainting", {f"{miniature.UNET}{name}": each.half() for name, each in own.items()})


def _learns(name: str) -> bool:
    return name.startswith(tuple(f"unet.input_blocks.{block}." for block in range(7))) and "emb_layers" not in name


def _start_from(model: base.Base, weights: dict[str, torch.Tensor]) -> None:
    """Begin as the base, which does not look at what more there is in the input."""
    own = {name.removeprefix(miniature.UNET): each.float() for name, each in weights.items() if miniature.UNET in name}
    entry = torch.zeros_like(model.unet.input_blocks[0][0].weight)
    entry[:, : miniature.CHANNELS] = own["input_blocks.0.0.weight"]
    model.unet.load_state_dict(own | {"input_blocks.0.0.weight": entry})
    text = {name.removeprefix(miniature.TEXT_ENCODER): each.float() for name, each in weights.items()}
    model.text.load_weights(text)


def _conditions(weights, model: base.Base, chosen, masks, latent) -> torch.Tensor:
    """What the host gives an inpainting model besides the noise, [n, 1 + c, h, w] float16."""
    unet = miniature.model({name: each.detach() for name, each in model.unet.state_dict().items()})
    vae = miniature.MiniatureVAE({name.removeprefix(miniature.PICTURE): each for name, each in weights.items()
                                  if name.startswith(miniature.PICTURE)})  # fmt: skip
    parts = []
    with torch.inference_mode():
        for rows in torch.arange(len(chosen)).split(_AT_ONCE):
            shown_ = pictures("train").pictures(chosen[rows].tolist()).float() / 255
            parts.append(inpainting.condition(unet, vae, shown_, masks[rows], latent[rows].float()).half().cpu())
    return torch.cat(parts).clone()
