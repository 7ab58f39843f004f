"""The workflows in API form, made to run on the built-in checkpoints."""

import json
from pathlib import Path

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows" / "api"
BUILT_IN = {
    "ckpt_name": "likeness_builtin_sd15.ckpt",
    "encoder_name": "likeness_builtin_transface.pt",
    "adapter_name": "likeness_builtin_fact.ckpt",
    "detector": "opencv: haar cascade",
    "lora_name": "likeness_builtin_lora_sd15.safetensors",
    "control_net_name": "likeness_builtin_controlnet_sd15.pth",
}


def workflow(name: str, size: int = 64, steps: int = 2) -> dict:
    """A published workflow with its weights' names swapped and its picture shrunk to `size` px and `steps` steps."""
    graph = json.loads((WORKFLOWS / f"{name}.json").read_text())
    for node in graph.values():
        node["inputs"].update({key: BUILT_IN[key] for key in node["inputs"].keys() & BUILT_IN.keys()})
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"].update(width=size, height=size)
        if node["class_type"] == "KSampler":
            node["inputs"].update(steps=steps)
    return graph


def only(graph: dict, class_type: str) -> str:
    """The id of the one node of a class."""
    (node,) = (key for key, value in graph.items() if value["class_type"] == class_type)
    return node
