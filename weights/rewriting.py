"""From a PyTorch file to the same tensors as safetensors, with a note of where they came from."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch

from .disk import disk_errors
from .errors import FetchError, RefusedError
from .reading import read_state_dict


def rewrite(source: Path, target: Path, origin: dict[str, str]) -> None:
    """Write the tensors of `source` to `target` as safetensors, with `origin` as the metadata.

    Raises RefusedError where `source` holds anything but tensors by name; nothing in it is run.
    """
    try:
        tensors = _apart(read_state_dict(source))
    except ValueError as error:
        raise RefusedError(f"it could not be rewritten as safetensors: {error}") from error
    try:
        with disk_errors(target):
            safetensors.torch.save_file(tensors, target, metadata={"format": "pt", **origin})
    except safetensors.SafetensorError as error:
        raise FetchError(f"{target} could not be written ({error}).") from error


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The format knows neither strides nor two names for one memory: every tensor gets what it needs of its own."""
    seen, apart = set(), {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise ValueError(
                f"'{name}' is a tensor of a kind ({tensor.dtype}, {tensor.layout}) safetensors cannot hold."
            )
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone(memory_format=torch.contiguous_format) if memory in seen else tensor.contiguous()
        seen.add(memory)
    return apart
