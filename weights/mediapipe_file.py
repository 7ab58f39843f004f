"""MediaPipe's published files as safetensors: the names of ComfyUI's own MediaPipe networks, and of our larger mesh.

Each TensorFlow Lite network computes with its weights in the order in which the modules below are named.
"""

import itertools
import struct
import zipfile
from pathlib import Path

import safetensors.torch
import torch

from . import tflite
from .errors import RefusedError, disk_errors

_FULL_RANGE_TAPS = {4: 0, 7: 1, 10: 2}  # block of the backbone -> the lateral convolution that follows it
_FULL_RANGE_DECODER = (2, 2, 1)  # blocks a level
_SHORT_RANGE_BLOCKS, _FULL_RANGE_BLOCKS, _MESH_BLOCKS, _MIXER_BLOCKS = 16, 15, 34, 4
# The lines of the mesh, each a way from point to point.
_LINES = {
    "face_oval": (
        "10 338 297 332 284 251 389 356 454 323 361 288 397 365 379 378 400 377 152 148 176 149 150 136 172 58 132 93 "
        "234 127 162 21 54 103 67 109 10",
    ),
    "lips": (
        "61 146 91 181 84 17 314 405 321 375 291", "61 185 40 39 37 0 267 269 270 409 291",
        "78 95 88 178 87 14 317 402 318 324 308", "78 191 80 81 82 13 312 311 310 415 308",
    ),
    "left_eye": ("263 249 390 373 374 380 381 382 362", "263 466 388 387 386 385 384 398 362"),
    "right_eye": ("33 7 163 144 145 153 154 155 133", "33 246 161 160 159 158 157 173 133"),
    "left_eyebrow": ("276 283 282 295 285", "300 293 334 296 336"),
    "right_eyebrow": ("46 53 52 65 55", "70 63 105 66 107"),
    "irises": ("474 475 476 477 474", "469 470 471 472 469"),
    "nose": ("168 6 197 195 5 4 1 19 94 2", "98 97 2 326 327 294 278 344 440 275 4 45 220 115 48 64 98"),
}  # fmt: skip


def convert_landmarker(source: Path, target: Path, origin: dict[str, str]) -> None:
    """Write a face_landmarker.task as safetensors: short-range detector, 478-point mesh, blendshapes, reference face.

    `origin` becomes the metadata. Raises RefusedError where the file is damaged or its networks are other ones.
    """
    try:
        with zipfile.ZipFile(source) as file:
            contents = {name: file.read(name) for name in file.namelist()}
    except (zipfile.BadZipFile, EOFError) as error:
        raise RefusedError(f"{source.name} is cut short or damaged ({error}).") from error
    tensors = {}
    for member, prefix, names in (
        ("face_detector.tflite", "detector_short", _name_short_range()),
        ("face_landmarks_detector.tflite", "mesh", _name_mesh()),
        ("face_blendshapes.tflite", "blendshapes", _name_blendshapes()),
    ):
        tensors |= _read(contents.get(member, b""), names, prefix, f"{member} in {source.name}")
    tensors |= _read_geometry(contents.get("geometry_pipeline_metadata_landmarks.binarypb", b""), source.name)
    tensors |= {f"topology.{name}": _edges(*lines) for name, lines in _LINES.items()}
    _save(tensors, target, origin)


def convert_full_range(source: Path, target: Path, origin: dict[str, str]) -> None:
    """Write the full-range detector as safetensors; otherwise as `convert_landmarker`."""
    _save(_read(source.read_bytes(), _name_full_range(), "detector_full", source.name), target, origin)


CONVERTERS = {"mediapipe-landmarker": convert_landmarker, "mediapipe-full-range": convert_full_range}


def _name_short_range() -> list[str]:
    blocks = [f"blocks.{i}.{part}" for i in range(_SHORT_RANGE_BLOCKS) for part in ("depthwise", "pointwise")]
    return ["stem", *blocks, "cls_16", "cls_8", "reg_16", "reg_8"]


def _name_full_range() -> list[str]:
    names = ["stem"]
    for i in range(_FULL_RANGE_BLOCKS):
        names += _name_full_range_block(f"backbone.{i}")
        if i in _FULL_RANGE_TAPS:
            names.append(f"lateral_convs.{_FULL_RANGE_TAPS[i]}")
    names.append("top_conv")
    for level, count in enumerate(_FULL_RANGE_DECODER):
        for i in range(count):
            names += _name_full_range_block(f"decoder_levels.{level}.{i}")
        if level < len(_FULL_RANGE_DECODER) - 1:
            names.append(f"decoder_reduce_convs.{level}")
    return [*names, "cls_conv", "cls_dw", "reg_conv", "reg_dw"]


def _name_full_range_block(name: str) -> list[str]:
    return [f"{name}.{part}" for part in ("dw1", "pw1", "dw2", "pw2")]


def _name_mesh() -> list[str]:
    parts = ("reduce", "prelu_reduce", "depthwise", "expand", "prelu_out")
    blocks = [f"blocks.{i}.{part}" for i in range(_MESH_BLOCKS) for part in parts]
    return ["stem", "prelu_stem", *blocks, "head_tongue", "head_presence", "head_landmarks"]


def _name_blendshapes() -> list[str]:
    parts = ("ln1", "token_mlp1", "token_mlp2", "ln2", "channel_mlp1", "channel_mlp2")
    blocks = [f"blocks.{i}.{part}" for i in range(_MIXER_BLOCKS) for part in parts]
    return ["token_reduce", "token_embed", "cls_token", *blocks, "head"]


def _read(data: bytes, names: list[str], prefix: str, source: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a network by the names of its modules; raise RefusedError where they are not as many."""
    try:
        layers = [tensors for tensors in map(_to_torch, tflite.operators(data)) if tensors]
    except ValueError as error:
        raise RefusedError(f"{source} is {error}.") from error
    if len(layers) != len(names):
        raise RefusedError(f"{source} is another network: it has {len(layers)} layers with weights, not {len(names)}.")
    linear = prefix == "blendshapes"
    result = {}
    for name, tensors in zip(names, layers, strict=True):
        if name == "cls_token":
            result[f"{prefix}.{name}"] = tensors["weight"].reshape(1, 1, -1)
            continue
        for part, tensor in tensors.items():
            result[f"{prefix}.{name}.{part}"] = tensor.flatten(1) if linear and tensor.ndim == 4 else tensor
    return result


def _to_torch(operator: tflite.Operator) -> dict[str, torch.Tensor]:
    """Return weight and bias as PyTorch lays them out; {} for numbers that are no weights, such as an epsilon."""
    weight, *bias = map(torch.tensor, operator.constants)
    biases = {"bias": bias[0]} if bias else {}
    if operator.code == tflite.CONV_2D:  # out, height, width, in
        return {"weight": weight.permute(0, 3, 1, 2), **biases}
    if operator.code == tflite.DEPTHWISE_CONV_2D:  # 1, height, width, channels
        return {"weight": weight.permute(3, 0, 1, 2), **biases}
    return {"weight": weight.flatten()} if weight.ndim else {}


def _read_geometry(data: bytes, source: str) -> dict[str, torch.Tensor]:
    """Return the reference face: its points, those by which a head's pose is found and their weights, its triangles."""
    try:
        metadata = _fields(data)
        mesh, basis = _fields(metadata[1][0]), [_fields(reference) for reference in metadata[2]]
        points = torch.tensor(mesh[3]).reshape(-1, 5)[:, :3]  # then come two numbers of a texture
        triangles = torch.tensor(mesh[4], dtype=torch.int32).reshape(-1, 3)
        indices = torch.tensor([reference.get(1, [0])[0] for reference in basis], dtype=torch.int32)
        weights = torch.tensor([reference[2][0] for reference in basis])
    except (KeyError, IndexError, RuntimeError, struct.error) as error:
        raise RefusedError(f"the reference face in {source} is cut short or damaged.") from error
    return {
        "canonical_vertices": points,
        "procrustes_indices": indices,
        "procrustes_weights": weights,
        "topology.tesselation": torch.cat([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]),
    }


def _fields(data: bytes) -> dict[int, list]:
    """Return the fields of a protocol buffer by number: each a list of integers, of floats or of bytes."""
    fields, at = {}, 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 5:
            value, at = struct.unpack_from("<f", data, at)[0], at + 4
        else:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _edges(*lines: str) -> torch.Tensor:
    pairs = [pair for line in lines for pair in itertools.pairwise(map(int, line.split()))]
    return torch.tensor(pairs, dtype=torch.int32)


def _save(tensors: dict[str, torch.Tensor], target: Path, origin: dict[str, str]) -> None:
    with disk_errors(target):
        metadata = {"format": "pt", **origin}
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target, metadata)
