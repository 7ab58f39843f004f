"""The workflows in API form, made to run on the built-in checkpoints."""

import json
from pathlib import Path

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows" / "api"
BUILT_IN = {
    "ckpt_name": "likeness_builtin_sd15.ckpt",
    "encoder_name": "likeness_builtin_transface.pt",
    "adapter_name": "likeness_builtin_fact.ckpt",
    "detector": "opencv: haar cascade",
    "parser_name": "likeness_builtin_bisenet.pth",
    "lora_name": "likeness_builtin_lora_sd15.safetensors",
    "control_net_name": "likeness_builtin_controlnet_sd15.pth",
}
# Where one input names files of several families, by the published name.
BUILT_IN_FOR = {
    "msid.pt": "likeness_builtin_msid.pt",
    "mapping.pt": "likeness_builtin_mapping.pt",
    "epoch_20.pth": "likeness_builtin_deep3d.pth",
    "clip-vit-large-patch14.safetensors": {
        "CLIPLoader": "likeness_builtin_clip_l.pt",
        "CLIPVisionLoader": "likeness_builtin_clip_vision_l.pt",
    },
}


def built_in(class_type: str, key: str, value):
    """The built-in file for what a workflow names, or the value itself."""
    file = BUILT_IN_FOR.get(value, BUILT_IN.get(key, value)) if isinstance(value, str) else value
    return file[class_type] if isinstance(file, dict) else file


def workflow(name: str, size: int = 64, steps: int = 2) -> dict:
    """A published workflow with its weights' names swapped and its picture shrunk to `size` px and `steps` steps."""
    graph = json.loads((WORKFLOWS / f"{name}.json").read_text())
    for node in graph.values():
        node["inputs"] = {key: built_in(node["class_type"], key, value) for key, value in node["inputs"].items()}
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"].update(width=size, height=size)
        if node["class_type"] == "LikenessPrepareFaceCrop":
            node["inputs"].update(size=size)
        if node["class_type"] == "KSampler":
            node["inputs"].update(steps=steps)
    return graph


def only(graph: dict, class_type: str) -> str:
    """The id of the one node of a class."""
    (node,) = (key for key, value in graph.items() if value["class_type"] == class_type)
    return node
