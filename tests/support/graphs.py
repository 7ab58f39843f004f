"""The workflows in API form, made to run on the built-in checkpoints."""

import json
from pathlib import Path

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows" / "api"
ASSETS = WORKFLOWS.parent / "assets"
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
    "sd_xl_base_1.0.safetensors": "likeness_builtin_sdxl.ckpt",
    "sd-v1-5-inpainting.ckpt": "likeness_builtin_sd15_inpaint.ckpt",
    "models/buffalo_l/w600k_r50.onnx": "likeness_builtin_arcface.onnx",
    "models/antelopev2/glintr100.onnx": "likeness_builtin_arcface.onnx",
    "ip-adapter-faceid-plusv2_sdxl.bin": "likeness_builtin_faceid_plusv2_sdxl.bin",
    "ip-adapter-plus-face_sdxl_vit-h.safetensors": "likeness_builtin_plus_face_sdxl.bin",
    "sdxl_lightning_4step.safetensors": "likeness_builtin_sdxl.ckpt",
    "ip-adapter.bin": "likeness_builtin_instantid.bin",
    "instantid/diffusion_pytorch_model.safetensors": "likeness_builtin_controlnet_sdxl.pth",
    "pulid_v1.1.safetensors": "likeness_builtin_pulid.bin",
    "ip-adapter_pulid_sdxl_fp16.safetensors": "likeness_builtin_pulid.bin",
    "EVA02_CLIP_L_336_psz14_s6B.pt": "likeness_builtin_eva02.pt",
    "face_recognition_sface_2021dec_int8bq.onnx": "likeness_builtin_arcface.onnx",
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": "likeness_builtin_clip_vision_h.pt",
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


def example(name: str) -> dict:
    """The node that gives one of the pack's pictures, as no file lies in the input folder."""
    return {"class_type": "LikenessExamplePicture", "inputs": {"image": f"examples/{name} [temp]"}}


def node(class_type: str, **inputs) -> dict:
    """A node in API form."""
    return {"class_type": class_type, "inputs": inputs}


def only(graph: dict, class_type: str) -> str:
    """The id of the one node of a class."""
    (node,) = (key for key, value in graph.items() if value["class_type"] == class_type)
    return node
