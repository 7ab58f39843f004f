"""A recogniser's ONNX graph as a torch network, which the host manages as any other.

Knows the operations of which face recognisers are made (ResNets, MobileFaceNets, their quantised weights), no more.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from .onnx_file import OnnxGraph, OnnxNode


class UnknownOperationError(ValueError):
    """A graph has an operation that `OnnxNetwork` does not know, or in a way it does not know."""


def _one_size(inputs: list) -> list:
    """Return two tensors of which one has the size of both together, so that a file cannot ask for more and more."""
    first, second = inputs
    if torch.broadcast_shapes(first.shape, second.shape) not in (first.shape, second.shape):
        raise UnknownOperationError("tensors that grow against each other")
    return inputs


def _dequantise(inputs: list, attributes: dict) -> torch.Tensor:
    """Return (x - zero point) * scale; a scale holds for all, for an index of `axis` or for a block of indices."""
    x, scale, *zero = inputs
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)

    def spread(values: torch.Tensor) -> torch.Tensor:
        if block:
            each = min(block, x.shape[axis])
            return values.float().repeat_interleave(each, dim=axis).narrow(axis, 0, x.shape[axis])
        if values.ndim == 1 and values.numel() > 1:
            return values.float().reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
        return values.float()

    x = x.float()
    if zero:
        x = x - _one_size([x, spread(zero[0])])[1]
    return torch.mul(*_one_size([x, spread(scale)]))


def _reshape(inputs: list, attributes: dict) -> torch.Tensor:
    x, shape = inputs
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())])


def _flatten(inputs: list, attributes: dict) -> torch.Tensor:
    (x,), axis = inputs, attributes.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _constant(inputs: list, attributes: dict) -> torch.Tensor:
    for name in ("value_float", "value_floats", "value_int", "value_ints"):
        if name in attributes:
            return torch.tensor(attributes[name])
    return attributes["value"]


_MOST = 1 << 26  # numbers that a convolution gives: a ResNet-100's first one gives 800,000
_FUNCTIONS: dict[str, Callable[[list, dict], torch.Tensor]] = {
    "Add": lambda inputs, attributes: torch.add(*_one_size(inputs)),
    "Sub": lambda inputs, attributes: torch.sub(*_one_size(inputs)),
    "Mul": lambda inputs, attributes: torch.mul(*_one_size(inputs)),
    "Div": lambda inputs, attributes: torch.div(*_one_size(inputs)),
    "MatMul": lambda inputs, attributes: inputs[0] @ inputs[1],
    "Relu": lambda inputs, attributes: inputs[0].relu(),
    "Sigmoid": lambda inputs, attributes: inputs[0].sigmoid(),
    "Identity": lambda inputs, attributes: inputs[0],
    "Dropout": lambda inputs, attributes: inputs[0],
    "GlobalAveragePool": lambda inputs, attributes: inputs[0].mean(dim=(2, 3), keepdim=True),
    "Transpose": lambda inputs, attributes: inputs[0].permute(attributes["perm"]),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "DequantizeLinear": _dequantise,
    "Constant": _constant,
}
_FOLDED = ("Identity", "Transpose", "Reshape", "DequantizeLinear", "Constant")  # where all inputs are known
_LAYERS = ("Conv", "BatchNormalization", "PRelu", "Gemm")


def largest_pixel(graph: OnnxGraph) -> float | None:
    """Return what white is to a graph that brings its pixels to -1..1 itself, 255 or 1; None where it does not.

    Such a graph begins with additions and multiplications by constants, as in (x - 127.5) * 0.0078125.
    """
    nodes, tensors = fold_constants(graph)
    (value,) = graph.inputs
    scale, shift = 1.0, 0.0
    for node in nodes:
        if node.inputs[0] != value or node.operation not in ("Add", "Sub", "Mul", "Div"):
            break
        constant = float(tensors[node.inputs[1]].float().mean())
        if node.operation in ("Mul", "Div"):
            factor = constant if node.operation == "Mul" else 1 / constant
            scale, shift = scale * factor, shift * factor
        else:
            shift += constant if node.operation == "Add" else -constant
        value = node.outputs[0]
    if (scale, shift) == (1.0, 0.0):
        return None
    return 255.0 if (1 - shift) / scale > 2 else 1.0


def fold_constants(graph: OnnxGraph) -> tuple[list[OnnxNode], dict[str, torch.Tensor]]:
    """Return the nodes that depend on an input, and all tensors that do not: the file's, and what is made of them."""
    tensors, left = dict(graph.tensors), []
    for node in graph.nodes:
        if node.operation in _FOLDED and all(name in tensors for name in node.inputs):
            tensors[node.outputs[0]] = _FUNCTIONS[node.operation](
                [tensors[name] for name in node.inputs], node.attributes
            )
        else:
            left.append(node)
    return left, tensors


class PRelu(nn.Module):
    """A slope below 0 for every channel."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.prelu(x, self.weight.to(x))


class OnnxNetwork(nn.Module):
    """The graph's one output from its one input, in float32; sizes are those of the file's tensors.

    Raises UnknownOperationError.
    """

    def __init__(self, graph: OnnxGraph, operations, **factory):
        super().__init__()
        if unknown := sorted({node.operation for node in graph.nodes} - _FUNCTIONS.keys() - set(_LAYERS)):
            raise UnknownOperationError(", ".join(unknown))
        nodes, tensors = fold_constants(graph)
        (self.source,), (self.target,) = graph.inputs, graph.outputs
        self.layers = nn.ModuleList()
        self.steps: list[tuple[Callable | int, list[str | torch.Tensor], str, dict]] = []
        for node in nodes:
            names = [name for name in node.inputs if name]
            if node.operation in _FUNCTIONS:
                arguments = [_as_float32(tensors[name]) if name in tensors else name for name in names]
                self.steps.append((_FUNCTIONS[node.operation], arguments, node.outputs[0], node.attributes))
                continue
            weights = [tensors[name].float() for name in names[1:]]
            self.steps.append((len(self.layers), names[:1], node.outputs[0], {}))
            self.layers.append(_make_layer(node, weights, operations, factory))
        self._last_use = {name: i for i, step in enumerate(self.steps) for name in step[1] if isinstance(name, str)}
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {self.source: x}
        for i, (step, arguments, output, attributes) in enumerate(self.steps):
            inputs = [values[part] if isinstance(part, str) else part.to(x.device) for part in arguments]
            if isinstance(step, int):
                values[output] = self.layers[step](_check_size(self.layers[step], inputs[0]))
            else:
                values[output] = step(inputs, attributes)
            for part in arguments:
                if isinstance(part, str) and self._last_use[part] == i:
                    values.pop(part, None)
        return values[self.target]


def _check_size(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return `x`, unless a convolution would make more of it than a recogniser's ever does."""
    if isinstance(layer, nn.Conv2d) and len(x) * layer.out_channels * x.shape[-1] * x.shape[-2] > _MOST:
        raise UnknownOperationError(f"a convolution with {layer.out_channels} channels of {list(x.shape[-2:])} pixels")
    return x


def _as_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _make_layer(node: OnnxNode, weights: list[torch.Tensor], operations, factory: dict) -> nn.Module:
    """Return the layer of a node that has weights, filled with them."""
    attributes = node.attributes
    if node.operation == "PRelu":
        return PRelu(weights[0].flatten())
    if node.operation == "BatchNormalization":
        scale, bias, mean, variance = weights
        layer = operations.BatchNorm2d(len(scale), eps=attributes.get("epsilon", 1e-5), **factory)
        layer.load_state_dict(
            {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance}, strict=False
        )
        return layer
    if node.operation == "Gemm":
        weight = weights[0] if attributes.get("transB", 0) else weights[0].T
        if attributes.get("transA", 0) or {attributes.get("alpha", 1.0), attributes.get("beta", 1.0)} != {1.0}:
            raise UnknownOperationError("a matrix product that is scaled or turned")
        layer = operations.Linear(*weight.shape[::-1], bias=len(weights) > 1, **factory)
        bias = weights[1].flatten().expand(len(weight)) if len(weights) > 1 else None
    else:
        layer, weight, bias = _make_convolution(attributes, weights, operations, factory)
    layer.load_state_dict({"weight": weight.contiguous(), **({} if bias is None else {"bias": bias.contiguous()})})
    return layer


def _make_convolution(attributes: dict, weights: list[torch.Tensor], operations, factory: dict):
    weight, bias = weights[0], weights[1] if len(weights) > 1 else None
    pads, groups = attributes.get("pads", [0, 0, 0, 0]), attributes.get("group", 1)
    if (
        weight.ndim != 4
        or pads[:2] != pads[2:]
        or not all(0 <= pad <= 16 for pad in pads)
        or attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    ):
        raise UnknownOperationError("a convolution that is padded otherwise")
    layer = operations.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        tuple(attributes.get("strides", (1, 1))),
        tuple(pads[:2]),
        tuple(attributes.get("dilations", (1, 1))),
        groups,
        bias=bias is not None,
        **factory,
    )
    return layer, weight, bias
