"""FaceA identities whose LoRA and features are drawn, not learned, and the workflows that use them, made small."""

import comfy.sd
import torch
from likeness.adapters.facea import REGIONS, FaceaIdentity, fingerprint, name_base
from likeness.adapters.facea_file import save_facea
from likeness.tests.support.graphs import example, workflow

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def drawn_identity(model=None, width=768, rows=3, level="output", seed=1, scale=0.05, word="woman") -> FaceaIdentity:
    """Fits the host's `model`, or none: then it has no LoRA. Features are as loud as a text encoder's rows."""
    chance = torch.Generator().manual_seed(seed)
    lora = {}
    for name, weight in {} if model is None else model.model_state_dict().items():
        layer = name.removesuffix(".weight")
        if ".transformer_blocks." in name and name.endswith(".weight") and layer.endswith(ATTENTION):
            lora[f"{layer}.lora_up.weight"] = torch.randn(weight.shape[0], 4, generator=chance) * scale
            lora[f"{layer}.lora_down.weight"] = torch.randn(4, weight.shape[1], generator=chance) * scale
            lora[f"{layer}.alpha"] = torch.tensor(4.0)
    features = {region: torch.randn(rows, width, generator=chance) for region in REGIONS}
    if model is None:
        return FaceaIdentity(lora, features, level, word, "0" * 64, "drawn.ckpt", {})
    return FaceaIdentity(lora, features, level, word, fingerprint(model), name_base(model), {})


def save_drawn(base, names=("her_00001_.safetensors", "she_00001_.safetensors")) -> None:
    """Identities for the small inpainting checkpoint, as files that the published workflows name."""
    path = base / "models" / "checkpoints" / "likeness_builtin_sd15_inpaint.ckpt"
    with torch.inference_mode():
        model, *_ = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)
        folder = base / "models" / "facea"
        for each in (folder, base / "output" / "facea"):  # the host remembers both, and misses them once they are gone
            each.mkdir(parents=True, exist_ok=True)
        for seed, name in enumerate(names):
            save_facea(folder / name, drawn_identity(model, seed=seed))


def small(name: str, size: int = 64, steps: int = 2) -> dict:
    """A published workflow made to run on the small checkpoints, quickly, and with faces in its pictures.

    What SDXL draws there shows nobody, so photos shine through it: that of one person, or of several.
    """
    graph = workflow(name, size, steps)
    for node in list(graph.values()):
        inputs = node["inputs"]
        if node["class_type"] == "LikenessRefineFaces":
            inputs.update(size=size, steps=steps)
        if node["class_type"] in ("LikenessTrainFaceA", "LikenessTransferFaceAAttribute"):
            inputs.update(steps=steps, size=128, mask_expand=4, batch_size=1, preview_every=0)
            if "rank" in inputs:
                inputs.update(rank=4, preset="own: as many as steps says")
        if node["class_type"] == "EmptyLatentImage":
            photo = "three_faces.png" if "two_people" in name else "astronaut.png"
            graph["photo"] = example(photo)
            blend = {"image1": ["photo", 0], "image2": ["6", 0], "blend_factor": 0.1, "blend_mode": "normal"}
            graph["blend"] = {"class_type": "ImageBlend", "inputs": blend}
            for other in graph.values():
                if other["class_type"] in ("LikenessDetectFaces", "LikenessRefineFaces"):
                    other["inputs"]["image"] = ["blend", 0]
    return graph
