"""The host's UNets at their true sizes, with drawn weights. To be imported after `open_host`."""

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


def unet(family: str, dtype: torch.dtype):
    """The host's model of a family (a key of LAYOUTS, named as in comfy.supported_models), as a model patcher."""
    config = getattr(comfy.supported_models, family)(LAYOUTS[family])
    config.set_inference_dtype(dtype, None)
    base = config.get_model({}, device=torch.device("cpu"))
    torch.manual_seed(1)
    for name, weight in base.diffusion_model.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, math.prod(weight.shape[1:]) ** -0.5)
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
    return comfy.model_patcher.CoreModelPatcher(
        base,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
