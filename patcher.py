"""Networks under the host's memory management."""

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch.nn.functional import layer_norm, linear


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
