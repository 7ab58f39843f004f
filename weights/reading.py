"""Reading weight files from strangers as data: tensors come in, code never runs.

From a stranger's tensors to a network: sizes without surprises, and errors that name the file.
"""

import pickle
import re
from collections.abc import Callable, Collection
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from . import files, manifest
from .errors import FetchError, RefusedError, disk_errors

# Where training scripts keep the network beside optimisers and counters; the last is Deep3DFaceRecon's.
_NETWORK_KEYS = ("state_dict", "model", "net_recon")
_LARGEST_HEADER = 100_000_000  # the limit of the safetensors format
# What reading sizes from tensors of the wrong shape and loading them raises.
_DOES_NOT_FIT = (ValueError, IndexError, TypeError, RuntimeError)


def numbered(names: Collection[str], prefix: str) -> int:
    """How many modules `names` number after `prefix`: "blocks." with blocks.0.norm.weight, blocks.1.norm.weight is 2.

    Raises ValueError where the numbers are not 0, 1, 2 and so on, so that one name cannot ask for a billion modules.
    """
    numbers = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    if not numbers or numbers != {str(number) for number in range(len(numbers))}:
        raise ValueError(f"the tensors '{prefix}*' are not numbered 0, 1, 2 and so on")
    return len(numbers)


def built(message: str, build: Callable, *arguments):
    """What `build(*arguments)` makes; raises ValueError(`message` and why) where the tensors do not fit together."""
    try:
        return build(*arguments)
    except KeyError as error:
        reason = f"the tensor {error} is missing, so the file is incomplete; fetch it again"
        raise ValueError(f"{message}: {reason}.") from error
    except _DOES_NOT_FIT as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{message}: {reason.removesuffix('.')}.") from error


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors or PyTorch file by name: on the CPU, memory-mapped where the format allows it.

    The format is recognised by the content, so a renamed file is read right. One level of "state_dict", "model" or
    "net_recon" and a prefix "module." that all names share are taken off; parts by name are joined, {"a": {"b": ...}}
    gives "a.b". Whether the values are finite is not looked at.

    Raises ValueError, naming file and remedy, for anything that is not such a file: empty, cut short, a folder,
    a web page, a pickle that asks for more than tensors, or one that holds something else.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder, but a weight file is needed: choose a file inside it.")
    with path.open("rb") as file:
        head = file.read(files.HEAD)
    _refuse_other_files(path, head)
    content = _read_safetensors(path) if _is_safetensors(head) else _read_torch(path, zipped=head[:4] == b"PK\x03\x04")
    return _without_common_prefix(_tensors(path, content))


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a .safetensors file says of itself; nothing for other files. Raises ValueError for a damaged one."""
    path = Path(path)
    with path.open("rb") as file:
        if not _is_safetensors(file.read(files.HEAD)):
            return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(_damaged(path)) from error


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER


def _refuse_other_files(path: Path, head: bytes) -> None:
    if what := files.not_weights(head):
        raise ValueError(f"'{path}' is {what}. {_remedy(path)}")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(_damaged(path)) from error


def _damaged(path: Path) -> str:
    return f"'{path}' is a safetensors file, but cut short or damaged. {_remedy(path)}"


def _read_torch(path: Path, zipped: bool) -> object:
    try:
        if path.suffix == ".safetensors":
            # torch.load trusts this suffix more than the content, so it must not see the name.
            with path.open("rb") as file:
                return torch.load(file, weights_only=True, map_location="cpu")
        return torch.load(str(path), weights_only=True, map_location="cpu", mmap=zipped)
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        raise ValueError(_torch_refusal(path, error)) from error


def _torch_refusal(path: Path, error: Exception) -> str:
    """Our own words: torch's advise to switch the safe loading off."""
    wanted = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if wanted:
        return (
            f"'{path}' was not loaded, because it asks for the Python object {wanted[1]} where only tensors belong, "
            "which could run code: do not trust this file, and look for the same weights as .safetensors."
        )
    return (
        f"'{path}' cannot be read as safetensors or as PyTorch tensors: it is cut short, damaged or another kind of "
        f"file. {_remedy(path)}"
    )


def _remedy(path: Path) -> str:
    entry = manifest.find(str(path))
    if entry is None:
        return f"It has {path.stat().st_size} bytes: compare with the publisher's page and download it again."
    return (
        f"It has {path.stat().st_size} bytes (published: {manifest.size_text(entry)}): "
        f"download it again from {manifest.url(entry)}."
    )


def _tensors(path: Path, content: object) -> dict[str, torch.Tensor]:
    """The dict of tensors in `content`, itself or one level down."""
    if not isinstance(content, dict):
        raise ValueError(_no_state_dict(path, f"a {type(content).__name__}"))
    for key in _NETWORK_KEYS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    content = _flat(path, content)
    strangers = [str(key) for key, value in content.items() if not (isinstance(key, str) and torch.is_tensor(value))]
    if strangers or not content:
        raise ValueError(_no_state_dict(path, f"entries such as '{strangers[0]}'" if strangers else "nothing"))
    return content


def _flat(path: Path, content: dict) -> dict:
    """Adapters are saved in parts, {"image_proj": {"proj.weight": ...}}; as safetensors "image_proj.proj.weight"."""
    flat = {}
    for key, value in content.items():
        is_part = isinstance(key, str) and isinstance(value, dict) and value and all(isinstance(n, str) for n in value)
        part = {f"{key}.{name}": tensor for name, tensor in value.items()} if is_part else {key: value}
        if twice := flat.keys() & part.keys():
            raise ValueError(_no_state_dict(path, f"two entries named '{min(twice)}'"))
        flat.update(part)
    return flat


def _no_state_dict(path: Path, found: str) -> str:
    return f"'{path}' holds {found}, but tensors by name (a state dict) are needed: choose another file."


def _without_common_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Training on several GPUs leaves "module." before every name."""
    if not all(name.startswith("module.") for name in tensors):
        return tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


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
