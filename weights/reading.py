"""Reading weight files from strangers as data: tensors come in, code never runs.

From a stranger's tensors to a network: sizes without surprises, and errors that name the file.
"""

import mmap
import pickle
import re
import zipfile
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
_ARRAY = b"bytearray"
_MOST_MODULES = 200  # of one kind in a network; published ones have 36 at most
# Tensors of a PyTorch file may be views of one memory, which become whole tensors once they are converted. More bytes
# than twice the file's are believed up to these bounds: so many times the file's, and so many.
_LARGEST_SHARING, _LARGEST_SHARED = 4096, 1 << 30
# What reading sizes from tensors of the wrong shape and loading them raises.
_DOES_NOT_FIT = (ValueError, LookupError, TypeError, RuntimeError, AttributeError, ArithmeticError)


def count_modules(names: Collection[str], prefix: str) -> int:
    """Count the modules that `names` number after `prefix`: 2 for "blocks." with blocks.0.weight and blocks.1.weight.

    Raises ValueError where the numbers are not 0, 1, 2 and so on, so that one name cannot ask for a billion modules,
    and for more than any network has, each of which would have to be built.
    """
    numbers = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    if not numbers or numbers != {str(number) for number in range(len(numbers))}:
        raise ValueError(f"the tensors '{prefix}*' are not numbered 0, 1, 2 and so on")
    if len(numbers) > _MOST_MODULES:
        raise ValueError(f"it has {len(numbers)} '{prefix}*', more than the {_MOST_MODULES} of any known network")
    return len(numbers)


def build_network(message: str, build: Callable, *arguments):
    """Return `build(*arguments)`; raise ValueError, `message` and the reason, where the tensors do not fit together."""
    try:
        return build(*arguments)
    except KeyError as error:
        reason = f"the tensor {error} is missing, so the file is incomplete; fetch it again"
        raise ValueError(f"{message}: {reason}.") from error
    except _DOES_NOT_FIT as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{message}: {reason.removesuffix('.')}.") from error


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a .safetensors or PyTorch file by name, on the CPU, memory-mapped where the format allows.

    The format is recognised by the content, so a renamed file is read right. One level of "state_dict", "model" or
    "net_recon" and a prefix "module." that all names share are taken off; names in parts are put together: {"a":
    {"b": ...}} gives "a.b". Whether the values are finite is not checked.

    Raises ValueError, naming file and remedy, for anything that is not such a file: empty, cut short, a folder,
    a web page, a pickle that asks for more than tensors, one that holds something else, or tensors that would take far
    more memory than the file.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder, but a weight file is needed: choose a file inside it.")
    with path.open("rb") as file:
        head = file.read(files.HEAD)
    if reason := files.not_weights(head):
        raise ValueError(f"'{path}' is {reason}. {_advise(path)}")
    if _is_safetensors(head):
        try:
            content = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(_explain_damage(path)) from error
    else:
        content = _load_torch(path, zipped=head[:4] == b"PK\x03\x04")
    tensors = _find_tensors(path, content)
    _check_memory(path, tensors)
    if all(name.startswith("module.") for name in tensors):  # training on several GPUs leaves it
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of a .safetensors file, {} for any other file; raise ValueError for a damaged one."""
    path = Path(path)
    with path.open("rb") as file:
        if not _is_safetensors(file.read(files.HEAD)):
            return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(_explain_damage(path)) from error


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER


def _explain_damage(path: Path) -> str:
    return f"'{path}' is a safetensors file, but cut short or damaged. {_advise(path)}"


def _load_torch(path: Path, zipped: bool) -> object:
    """Return what a PyTorch file holds; a refusal has our own words, since torch's advise unsafe loading."""
    try:
        _refuse_bombs(path, zipped)
        if path.suffix == ".safetensors":
            # torch.load trusts this suffix more than the content, so it must not see the name.
            with path.open("rb") as file:
                return torch.load(file, weights_only=True, map_location="cpu")
        return torch.load(str(path), weights_only=True, map_location="cpu", mmap=zipped)
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        wanted = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if wanted:
            message = (
                f"'{path}' was not loaded, because it asks for the Python object {wanted[1]} where only tensors "
                "belong, which could run code: do not trust this file, and look for the same weights as .safetensors."
            )
        else:
            message = (
                f"'{path}' cannot be read as safetensors or as PyTorch tensors: it is cut short, damaged or another "
                f"kind of file. {_advise(path)}"
            )
        raise ValueError(message) from error


def _refuse_bombs(path: Path, zipped: bool) -> None:
    """Raise ValueError for a PyTorch file that takes memory while it is read: compressed, or with an array of bytes.

    Such an array is the one object among those that torch lets in of which a number says how large it is.
    """
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if sum(record.file_size for record in archive.infolist()) > path.stat().st_size:
                raise ValueError("torch does not compress what it saves, nor save it twice in one place")
            has_array = any(_ARRAY in archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    else:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            has_array = content.find(_ARRAY) >= 0
    if has_array:
        raise ValueError("weights are no arrays of bytes")


def _advise(path: Path) -> str:
    """Say how large the file is and where to get it again."""
    entry = manifest.find(str(path))
    if entry is None:
        return f"It has {path.stat().st_size} bytes: compare with the publisher's page and download it again."
    return (
        f"It has {path.stat().st_size} bytes (published: {manifest.size_text(entry)}): "
        f"download it again from {manifest.url(entry)}."
    )


def _find_tensors(path: Path, content: object) -> dict[str, torch.Tensor]:
    """Return the dict of tensors in `content`, itself or one level down.

    Adapters are saved in parts, {"image_proj": {"proj.weight": ...}}; as safetensors "image_proj.proj.weight".
    """
    if not isinstance(content, dict):
        raise ValueError(_refuse_content(path, f"a {type(content).__name__}"))
    content = next((content[key] for key in _NETWORK_KEYS if isinstance(content.get(key), dict)), content)
    flat = {}
    for key, value in content.items():
        is_part = isinstance(key, str) and isinstance(value, dict) and value and all(isinstance(n, str) for n in value)
        part = {f"{key}.{name}": tensor for name, tensor in value.items()} if is_part else {key: value}
        if twice := flat.keys() & part.keys():
            raise ValueError(_refuse_content(path, f"two entries named '{min(twice)}'"))
        flat.update(part)
    strangers = [str(key) for key, value in flat.items() if not (isinstance(key, str) and torch.is_tensor(value))]
    if strangers or not flat:
        raise ValueError(_refuse_content(path, f"entries such as '{strangers[0]}'" if strangers else "nothing"))
    return flat


def _check_memory(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Raise ValueError for tensors that are no plain arrays, or views that take far more memory than the file."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
            raise ValueError(_refuse_content(path, f"'{name}', which is no plain tensor of numbers ({kind})"))
    size, total = path.stat().st_size, sum(tensor.nbytes for tensor in tensors.values())
    if total > max(2 * size, min(_LARGEST_SHARING * size, _LARGEST_SHARED)):
        raise ValueError(
            f"'{path}' was not loaded: with {size} bytes it holds views that would take {total / 1e9:.3g} GB of memory "
            f"as tensors. Do not trust this file. {_advise(path)}"
        )


def _refuse_content(path: Path, content: str) -> str:
    return f"'{path}' holds {content}, but tensors by name (a state dict) are needed: choose another file."


def rewrite(source: Path, target: Path, origin: dict[str, str]) -> None:
    """Write the tensors of `source` to `target` as safetensors, with `origin` as the metadata.

    Raises RefusedError where `source` holds anything but tensors by name; nothing in it is run.
    """
    try:
        tensors = _separate(read_state_dict(source))
    except ValueError as error:
        raise RefusedError(f"it could not be rewritten as safetensors: {error}") from error
    try:
        with disk_errors(target):
            safetensors.torch.save_file(tensors, target, metadata={"format": "pt", **origin})
    except safetensors.SafetensorError as error:
        raise FetchError(f"{target} could not be written ({error}).") from error


def _separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors contiguous, each with its own memory: safetensors know neither strides nor shared memory."""
    memories, separate = set(), {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        memory = tensor.untyped_storage().data_ptr()
        shared = memory in memories
        separate[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
        memories.add(memory)
    return separate
