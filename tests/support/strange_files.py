"""Small good files of every family of weights, and the strange files that may be made of them."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from likeness.adapters.loading import load_adapter
from likeness.encoders.loading import load_encoder, load_expression_encoder
from likeness.faces.parsing import load_parser
from likeness.tests.support import tiny, tiny_ip
from likeness.tests.support.checkpoints import (
    bisenet_shapes,
    deep3d_shapes,
    drawn,
    fact_shapes,
    mapping_shapes,
    msid_shapes,
    transface_shapes,
)


class Family(NamedTuple):
    """What loads a file of a family by its path, and the shapes of a small one by the names of its tensors."""

    load: Callable[[str], object]
    shapes: dict[str, tuple[int, ...]]

    def tensors(self) -> dict[str, torch.Tensor]:
        return drawn(self.shapes, seed=1)


_FACT = fact_shapes(tiny.WIDTHS, token_dim=8, face_dim=8, dim=64, inner=64, tokens=2, depth=1)
SMALL = {
    "transface": Family(load_encoder, transface_shapes(dim=16, depth=2, embedding=8)),
    "msid": Family(load_encoder, msid_shapes(dim=12, depth=3, taps=(0, 2))),
    "expression": Family(load_expression_encoder, deep3d_shapes(4, ((1, 4), (1, 8), (1, 12), (1, 16)))),
    "parser": Family(load_parser, bisenet_shapes((1, 1, 1, 1), (4, 8, 12, 16), 4, 4)),
    "fact": Family(load_adapter, _FACT),
    "mapping": Family(load_adapter, mapping_shapes(6, 4, 8, 8)),
    "faceid": Family(load_adapter, tiny_ip.shapes("faceid", lora_rank=2)),
    "plus": Family(load_adapter, tiny_ip.shapes("plus")),
    "infinite-id": Family(load_adapter, tiny_ip.infinite_id_shapes("SD1.5")),
}


def write(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    """Write a safetensors file and return its path."""
    path.write_bytes(safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    return str(path)


def drop(rng, tensors, name):
    del tensors[name]


def rename(rng, tensors, name):
    parts = name.split(".")
    at = rng.randrange(len(parts))
    parts[at] = rng.choice(["", "x", "7", "99999999999", "-1", "0.0", parts[at] + "é", "weight"])
    tensors[".".join(parts)] = tensors.pop(name)


def reshape(rng, tensors, name):
    tensor = tensors[name]
    changes = [tensor.flatten(), tensor[None], tensor.new_zeros(()), tensor.new_zeros(3, 0, 2)]
    if tensor.ndim:
        changes += [tensor[:0], torch.cat((tensor, tensor)), tensor[: len(tensor) // 2], tensor.transpose(0, -1)]
    tensors[name] = rng.choice(changes)


def retype(rng, tensors, name):
    kinds = [torch.int8, torch.bool, torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.complex64]
    tensors[name] = tensors[name].to(rng.choice(kinds))


def poison(rng, tensors, name):
    tensors[name] = torch.full_like(tensors[name].float(), rng.choice([float("nan"), float("inf"), 0.0]))


def change_header(rng: random.Random, data: bytes) -> bytes:
    """Return safetensors with a few bytes of their header changed, perhaps cut short."""
    data = bytearray(data)
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(8) if rng.random() < 0.2 else rng.randrange(header)
        data[position] = rng.randrange(256)
    return bytes(data[: rng.choice([len(data), header, rng.randrange(len(data))])] if rng.random() < 0.3 else data)


def change_bytes(rng: random.Random, content: bytes) -> bytes:
    """Return a file with a few bytes changed, lost or added, anywhere."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(content))
        content[at : at + rng.choice([0, 1, 20])] = rng.randbytes(rng.choice([0, 1, 1, 20]))
    return bytes(content)


def flip_bytes(rng: random.Random, content: bytes) -> bytes:
    """Return a file of the same length with one to three other bytes: what a reader without a checksum may swallow."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def change_tensors(rng: random.Random, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors with one to three things wrong with them."""
    tensors = dict(tensors)
    for _ in range(rng.randint(1, 3)):
        rng.choice([drop, rename, reshape, retype, poison])(rng, tensors, rng.choice(list(tensors)))
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def mutate(rng: random.Random, tensors: dict[str, torch.Tensor]) -> bytes:
    """Return a safetensors file with something wrong with it."""
    if rng.random() < 0.3:
        return change_header(rng, safetensors.torch.save(tensors))
    return safetensors.torch.save(change_tensors(rng, tensors))


def mutate_torch(rng: random.Random, tensors: dict[str, torch.Tensor]) -> bytes:
    """Return a PyTorch file, new or old, with something wrong with it: its tensors, their strides or any bytes."""
    changed = change_tensors(rng, tensors) if rng.random() < 0.7 else dict(tensors)
    if rng.random() < 0.3:
        name = rng.choice(list(changed))
        changed[name] = torch.ones(()).expand(rng.choice([(1,), (1 << 15, 1 << 15), (1 << 10, 1 << 10, 1 << 10)]))
    buffer = io.BytesIO()
    torch.save(changed, buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    return change_bytes(rng, buffer.getvalue()) if rng.random() < 0.5 else buffer.getvalue()
