"""The host's UNets at their true sizes, with test weights. To be imported after `open_host`."""

import math

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from likeness.tests.support.checkpoints import SD15_LAYOUT, SDXL_LAYOUT, SHARED

LAYOUTS = {
    "SD15": SHARED | SD15_LAYOUT | {"in_channels": 4, "out_channels": 4, "channel_mult": [1, 2, 4, 4]},
    "SDXL": SHARED | SDXL_LAYOUT | {"in_channels": 4, "out_channels": 4, "channel_mult": [1, 2, 4]},
}
WIDTH = 320  # channels of the first level, as published; multiples of 32 (SD15) and of 64 (SDXL) work


def unet(family: str, dtype: torch.dtype, width: int = WIDTH, **layout):
    """Return the host's model of a family (a key of LAYOUTS) as a model patcher.

    width: channels of the first level; layout: further changes of LAYOUTS. The weights are sampled in float32 where
    the model will compute, so that models of several dtypes are roundings of one another.
    """
    layout = LAYOUTS[family] | {"model_channels": width} | layout
    config = getattr(comfy.supported_models, family)(layout)
    config.set_inference_dtype(dtype, None)
    device = comfy.model_management.get_torch_device()
    base = config.get_model({}, device=device)
    generator = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for name, weight in base.diffusion_model.named_parameters():
            if weight.ndim > 1:
                sampled = torch.randn(weight.shape, generator=generator, device=device)
                weight.copy_(sampled * math.prod(weight.shape[1:]) ** -0.5)
            else:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
    return comfy.model_patcher.CoreModelPatcher(
        base, load_device=device, offload_device=comfy.model_management.unet_offload_device()
    )
