"""Networks under the host's memory management."""

import math

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch.nn.functional import layer_norm, linear


def is_finite(values: torch.Tensor) -> bool:
    """Return whether all numbers of a tensor are finite; reads them once and makes nothing as large as they are."""
    if not values.is_floating_point() or values.numel() == 0:
        return True
    return all(math.isfinite(end.item()) for end in torch.aminmax(values if values.itemsize > 1 else values.float()))


def check_finite(values: torch.Tensor, source: str, remedy: str) -> torch.Tensor:
    """Return what was computed; raise ValueError, with whose it is and what to do, where it is not finite."""
    if is_finite(values):
        return values
    raise ValueError(f"What {source} computed holds NaN or infinite numbers, which would spoil the picture: {remedy}.")


def manage(
    network: torch.nn.Module, weights: dict, offload_device: torch.device, load_device: torch.device | None = None
) -> comfy.model_patcher.ModelPatcher:
    """Load `weights` into `network`, in evaluation mode, and return the host's model patcher that owns it.

    load_device: where it computes; None: where the host has text encoders compute.
    Raises RuntimeError where the weights do not fit the network, ValueError where one of them is not finite.
    """
    if faulty := next((name for name, weight in weights.items() if not is_finite(weight)), None):
        raise ValueError(f"its tensor '{faulty}' holds NaN or infinite numbers; download the file again")
    patcher = comfy.model_patcher.CoreModelPatcher(
        network.eval().requires_grad_(False),
        load_device=load_device or comfy.model_management.text_encoder_device(),
        offload_device=offload_device,
    )
    network.load_state_dict(weights, assign=patcher.is_dynamic())
    return patcher


def manage_small(network: type[torch.nn.Module], sizes, weights: dict) -> comfy.model_patcher.ModelPatcher:
    """Return the patcher of `network` of these `sizes`, in float32 where the host has text encoders compute.

    For small networks whose result steers the image or draws an edge, which should not depend on the card.
    """
    offload_device = comfy.model_management.text_encoder_offload_device()
    module = network(sizes, comfy.ops.manual_cast, torch.float32, offload_device)
    return manage(module, {key: value.float() for key, value in weights.items()}, offload_device)


def _lies_ready(layer: torch.nn.Module, x: torch.Tensor) -> bool:
    """Return whether a layer's weight can be used as it is: where and as `x` is, and with nothing to add to it."""
    weight = layer.weight
    unchanged = not (layer.weight_function or layer.bias_function or hasattr(layer, "_v"))
    return unchanged and weight.dtype == x.dtype and weight.device == x.device


class LightCast(comfy.ops.manual_cast):
    """The host's layers that cast their weights when needed, without its bookkeeping where there is nothing to do.

    In a UNet call on a GPU the bookkeeping takes longer than the layers themselves.
    """

    class Linear(comfy.ops.manual_cast.Linear):
        def forward(self, x):
            return linear(x, self.weight, self.bias) if _lies_ready(self, x) else super().forward(x)

    class LayerNorm(comfy.ops.manual_cast.LayerNorm):
        def forward(self, x):
            if not _lies_ready(self, x):
                return super().forward(x)
            return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
