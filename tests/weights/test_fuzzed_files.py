"""Damaged and strange weight files through every loader: what it can use, or a ValueError that names the file."""

import random
import time

import pytest
import torch
from likeness.adapters.loading import load_adapter
from likeness.encoders.loading import load_encoder, load_expression_encoder
from likeness.faces.parsing import load_parser
from likeness.tests.support import tiny
from likeness.tests.support.checkpoints import (
    bisenet_shapes,
    deep3d_shapes,
    drawn,
    fact_shapes,
    mapping_shapes,
    msid_shapes,
    transface_shapes,
)
from safetensors.torch import save

SMALL = {
    "transface": (load_encoder, transface_shapes(dim=16, depth=2, embedding=8)),
    "msid": (load_encoder, msid_shapes(dim=12, depth=3, taps=(0, 2))),
    "expression": (load_expression_encoder, deep3d_shapes(4, ((1, 4), (1, 8), (1, 12), (1, 16)))),
    "parser": (load_parser, bisenet_shapes((1, 1, 1, 1), (4, 8, 12, 16), 4, 4)),
    "fact": (load_adapter, fact_shapes(tiny.WIDTHS, token_dim=8, face_dim=8, dim=64, inner=64, tokens=2, depth=1)),
    "mapping": (load_adapter, mapping_shapes(6, 4, 8, 8)),
}
SECONDS = 1.0


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


def bytes_changed(rng, data):
    data = bytearray(data)
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(8) if rng.random() < 0.2 else rng.randrange(header)
        data[place] = rng.randrange(256)
    return bytes(data[: rng.choice([len(data), header, rng.randrange(len(data))])] if rng.random() < 0.3 else data)


def mutated(rng, tensors):
    """A file of `tensors` with one to three things wrong with it."""
    if rng.random() < 0.3:
        return bytes_changed(rng, save(tensors))
    tensors = dict(tensors)
    for _ in range(rng.randint(1, 3)):
        rng.choice([drop, rename, reshape, retype, poison])(rng, tensors, rng.choice(list(tensors)))
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def fuzz(tmp_path, family, seed, count):
    load, shapes = SMALL[family]
    tensors = drawn(shapes, seed=1)
    rng = random.Random(seed)
    refused = 0
    for number in range(count):
        path = tmp_path / f"strange_{number}.safetensors"
        path.write_bytes(mutated(rng, tensors))
        begin = time.perf_counter()
        try:
            load(str(path))
        except ValueError as error:
            refused += 1
            assert path.name in str(error) and "\n" not in str(error), f"file {number}: {error}"
        assert time.perf_counter() - begin < 20 * SECONDS, f"file {number}"  # a hang, on however slow a machine
        path.unlink()
    return refused


@pytest.mark.parametrize("family", SMALL)
def test_the_small_files_are_good_ones(tmp_path, family):
    load, shapes = SMALL[family]
    path = tmp_path / "good.safetensors"
    path.write_bytes(save(drawn(shapes, seed=1)))
    load(str(path))


@pytest.mark.parametrize("family", SMALL)
def test_strange_files_are_used_or_refused_by_name(tmp_path, family):
    assert fuzz(tmp_path, family, seed=1, count=40) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALL)
def test_many_strange_files_are_used_or_refused_by_name(tmp_path, family):
    assert fuzz(tmp_path, family, seed=2, count=360) >= 180
