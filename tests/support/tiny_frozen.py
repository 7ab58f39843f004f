"""A frozen base in miniature, its weights drawn: SD1.5's blocks 32 wide, CLIP's text model; and portraits for it."""

from functools import cache

import comfy.model_base
import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.sd1_clip import SD1ClipModel
from likeness.miniature.models import base_model
from likeness.training.adapter_loop import train_adapter
from likeness.training.frozen import Frozen, freeze
from likeness.training.portraits import Portraits

CAPTIONS = ["a photo of a man smiling", "a drawing of a woman, at the beach", "a photo of a woman"]
SIDE = 4  # of the latents


def drawn(network, seed: int) -> dict[str, torch.Tensor]:
    """Weights that keep the variance; vectors are 1, or 0 where they are added."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5
        if weight.ndim > 1
        else torch.ones_like(weight) * name.endswith("weight")
        for name, weight in network.state_dict().items()
        if weight.is_floating_point()
    }


@cache
def weights() -> tuple[dict, dict]:
    """Those of the UNet and of the text encoder."""
    unet = UNetModel(**base_model.unet_layout(32), operations=comfy.ops.manual_cast)
    text = drawn(SD1ClipModel(model_options={"clip_l_model_config": base_model.TEXT}).clip_l.transformer, 2)
    return drawn(unet, 1), text


def host():
    """(MODEL, CLIP), in which every word has an embedding."""
    unet, text = weights()
    return base_model.model(unet), base_model.clip(text, torch.arange(len(text[base_model._EMBEDDING])))


def frozen_base(precision: str = "float32") -> Frozen:
    return freeze(*host(), precision)


def train(trainer, base: Frozen, data: tuple, settings, checkpoint=None, after_step=lambda progress: None) -> tuple:
    """A fresh adapter that was trained, and the progress."""
    adapter = trainer.make(base, data[0], settings)
    return adapter, train_adapter(trainer, base, adapter, data, settings, checkpoint, after_step)


def predicting_eps(of: Frozen) -> Frozen:
    """The same as a model that predicts the noise."""
    of.model.model_type = comfy.model_base.ModelType.EPS
    of.model.model_sampling = comfy.model_base.model_sampling(of.model.model_config, of.model.model_type)
    return of


def portraits(people=(5, 5, 9, 9, 5, 2), **features: tuple[int, ...]) -> Portraits:
    """Drawn portraits with features of the given shapes; the left half of each picture is face."""
    n = len(people)
    draw = torch.Generator().manual_seed(3)
    return Portraits(
        latents=torch.randn(n, base_model.CHANNELS, SIDE, SIDE, generator=draw).half(),
        people=torch.tensor(people),
        captions=[CAPTIONS[i % len(CAPTIONS)] for i in range(n)],
        faces=(torch.arange(SIDE) < SIDE // 2).half().expand(n, SIDE, SIDE).contiguous(),
        features={name: torch.randn(n, *shape, generator=draw).half() for name, shape in features.items()},
    )
