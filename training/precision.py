"""The dtype in which networks compute while their parameters, which learn, stay float32."""

from collections.abc import Callable

import comfy.model_management
import torch

from .settings import PRECISIONS


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a precision on `device`: "auto" is bfloat16 where the device is quick at it, else float32.

    Raises ValueError for a precision that is none of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"'{precision}' is no precision; choose one of {', '.join(PRECISIONS)}.")
    if precision == "auto":
        quick = device.type != "cpu" and comfy.model_management.should_use_bf16(device)
        return torch.bfloat16 if quick else torch.float32
    return getattr(torch, precision)


def cast_to(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Return the context in which networks whose parameters are float32 compute in `dtype`."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def lower(network: torch.nn.Module, dtype: torch.dtype) -> Callable:
    """Return `network` as a function that computes in `dtype`; parameters and gradients stay as precise as they are."""
    if dtype == torch.float32:
        return network
    low = {name: parameter.to(dtype) for name, parameter in network.named_parameters()}
    return lambda *inputs: torch.func.functional_call(network, low, inputs)
