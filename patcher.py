"""Networks under the host's memory management."""

import comfy.model_management
import comfy.model_patcher
import torch


def managed(
    network: torch.nn.Module, weights: dict, offload_device: torch.device, load_device: torch.device | None = None
) -> comfy.model_patcher.ModelPatcher:
    """`network` with its weights, in evaluation mode, owned by a model patcher.

    load_device: where it computes; None: where the host has text encoders compute.
    Raises RuntimeError where the weights do not fit the network.
    """
    patcher = comfy.model_patcher.CoreModelPatcher(
        network.eval().requires_grad_(False),
        load_device=load_device or comfy.model_management.text_encoder_device(),
        offload_device=offload_device,
    )
    network.load_state_dict(weights, assign=patcher.is_dynamic())
    return patcher
