"""A small FaceA training on the host's real UNet: photos, masks, latents and prompts of a tenth of the size."""

import contextlib

import torch
from likeness.adapters.facea import REGIONS
from likeness.tests.support import tiny
from likeness.training.facea import Learned
from likeness.training.inpainting import Inpainting
from likeness.training.lora import in_training, make_branches, make_lora

SIDE = 16  # of the latents
# Where the parts lie in the latents: rows and columns, from and to.
PLACES = {
    "face": (3, 14, 3, 13),
    "right eye": (5, 7, 4, 7),
    "left eye": (5, 7, 9, 12),
    "nose": (6, 10, 7, 9),
    "mouth": (10, 12, 5, 11),
}


def drawn(*shape, seed=0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mask(region: str) -> torch.Tensor:
    """[SIDE, SIDE], 1 where the part is."""
    top, bottom, left, right = PLACES[region]
    area = torch.zeros(SIDE, SIDE)
    area[top:bottom, left:right] = 1
    return area


def data(photos=3, seed=1) -> Inpainting:
    latents = drawn(photos, 4, SIDE, SIDE, seed=seed)
    conditions = {}
    for region in REGIONS:
        area = mask(region).expand(photos, 1, -1, -1)
        conditions[region] = torch.cat((area, latents * (1 - area)), dim=1)
    return Inpainting(latents, conditions)


def loaded_model():
    """The tiny inpainting model as a patcher whose weights autograd can work with."""
    model = tiny.model(in_channels=9)
    model.model.requires_grad_(False)
    return model


def learned(model, rank=4, rows=2, seed=3, lora=None) -> Learned:
    prompts = {region: (drawn(1, 77, tiny.TOKEN_DIM, seed=10 + i), 5) for i, region in enumerate(REGIONS)}
    features = {region: torch.nn.Parameter(each[0, 5 : 5 + rows].clone()) for region, (each, _) in prompts.items()}
    return Learned(make_branches(lora or make_lora(model, rank, seed), torch.device("cpu")), features, "man", prompts)


@contextlib.contextmanager
def training(model, what: Learned, checkpointing=False):
    with torch.inference_mode(False), in_training([model], what.lora, checkpointing) as unet_model:
        yield unet_model


@contextlib.contextmanager
def unet_inputs(model):
    """A list to which every call of a host model's UNet adds its (x, timesteps, context)."""
    seen = []

    def look(module, args, kwargs):
        seen.append((args[0].detach().clone(), args[1].detach().clone(), kwargs["context"].detach().clone()))

    handle = model.diffusion_model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
