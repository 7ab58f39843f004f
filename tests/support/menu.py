"""The host's own nodes, called as its menu offers them: what a test of "beside every node" is made of."""

import asyncio

import torch
from comfy_api.latest import io

import nodes

MISSING = object()
SETTINGS = {
    "ContextWindowsManual": {"dim": 0, "context_length": 2, "context_overlap": 0},  # of images
    "HyperTile": {"tile_size": 32},  # at the tests' sizes the default cuts nothing
    "PatchModelAddDownscale": {"end_percent": 1.0},
}  # what a node needs to do its work on a small image
ELSEWHERE = ("TorchCompileModel",)  # has tests of its own
MERGES = ("ModelMergeSD1", "ModelMergeSDXL")  # of the other base models there are as many, which leave a UNet alone


def load() -> dict[str, type]:
    """Return the host's nodes by their ids."""
    if "EasyCache" not in nodes.NODE_CLASS_MAPPINGS:
        asyncio.run(nodes.init_builtin_extra_nodes())
    return nodes.NODE_CLASS_MAPPINGS


def find(kind: str, given: str) -> dict[str, type]:
    """Return the nodes that give a `kind` and take a `given`."""
    return {
        name: node
        for name, node in load().items()
        if kind in node.RETURN_TYPES
        and any(value[0] == given for value in _list_inputs(node).values())
        and name not in ELSEWHERE
        and not name.startswith("Likeness")
        and not (name.startswith("ModelMerge") and node.CATEGORY.endswith("model specific") and name not in MERGES)
    }


def has_schedule(node: type) -> bool:
    """Return whether a node acts in a part of the sampling, so that two steps say little of it."""
    return "start_percent" in _list_inputs(node)


def call(name: str, model=None, positive=None, negative=None, other=None):
    """Return what a node gives, called with its defaults and the tests' small things; MISSING where it wants more.

    model: for the first input of its type; other: for the others
    """
    node, arguments, models = load()[name], {}, iter((model,))
    for key, value in _list_inputs(node).items():
        kind, options = value[0], value[1] if len(value) > 1 else {}
        if key in SETTINGS.get(name, {}):
            arguments[key] = SETTINGS[name][key]
        elif kind == "MODEL":
            arguments[key] = next(models, other)
        elif kind == "CONDITIONING":
            arguments[key] = negative if any(word in key for word in ("neg", "empty")) else positive
        else:
            arguments[key] = _choose_value(kind, options)
        if arguments[key] is MISSING:
            return MISSING
    run = node.execute if issubclass(node, io.ComfyNode) else getattr(node(), node.FUNCTION)
    result = run(**arguments)
    return result.args if isinstance(result, io.NodeOutput) else result


def _list_inputs(node: type) -> dict:
    """Return the inputs that a node cannot do without, and what a second model would do with."""
    inputs = node.INPUT_TYPES()
    pairs = {key: value for key, value in inputs.get("optional", {}).items() if key in ("model_negative", "negative")}
    return inputs.get("required", {}) | pairs


def _choose_value(kind, options):
    things = {
        "MASK": lambda: torch.ones(1, 64, 64).tril(),
        "IMAGE": lambda: torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1)),
        "LATENT": lambda: {"samples": torch.zeros(1, 4, 8, 8)},
        "LATENT_OPERATION": lambda: lambda latent, **_: 0.9 * latent,
        "BOOLEAN": lambda: False,
        "STRING": lambda: "",
        "FLOAT": lambda: options.get("min", 0.0),
        "INT": lambda: options.get("min", 0),
    }
    if "default" in options:
        return options["default"]
    if isinstance(kind, list) or kind == "COMBO":
        choices = kind if isinstance(kind, list) else options.get("options", [])
        return choices[0] if choices else MISSING
    return things[kind]() if kind in things else MISSING
