"""The adapters, and what the papers compare them with."""

import torch

from ...training import adapter_command, face2diffusion, fact, infinite_id
from ...training.adapter_loop import train_adapter
from ...training.frozen import freeze
from ...training.portraits import Portraits
from ...training.progress_line import ProgressLine
from ..models import base_model as miniature
from ..training import fact_projector
from ..training import portraits as world
from .common import LONG, OUTPUT, device, load_set, load_tensors, save_losses, save_tensors

SHARED = {"batch": 32, "lr": 1e-3, "warmup": 50, "ema": 0.995, **LONG}
FACT = {"gate": 1.0, "queries": 16, "dim": 128, "depth": 2, "projector": 0.02}
FACTS = {
    "fact": {"outside": 0.3, "fair": 0.002},
    "fact_short": {},  # as published, for as few steps as the ablations
    "fact_no_fair": {"fair": 0.0},
    "fact_no_shuffle": {"shuffle": (0.0, 0.0)},
}
PROJECTOR = {"lr": 2e-3, "warmup": 50, "components": 128, **LONG}
F2D = {"dropout": 0.0}  # as the weights were made
F2DS = {
    "face2diffusion": {"focus": 4.0},
    "f2d_short": {},
    "f2d_reconstruction": {"mode": "reconstruction"},
    "f2d_masked": {"mode": "masked"},
    "f2d_no_expression": {"keep_expression": 0.0},
    "f2d_arcface": {},
    "f2d_arcface_multi": {},
    "f2d_again": {"seed": 1},  # how far it and f2d_short, two trainings of one method, differ
}
_ENCODERS = {"f2d_arcface": "msid_deep", "f2d_arcface_multi": "msid_twin"}
INFINITE = {
    "infinite_id": {"focus": 8.0},
    "infinite_id_short": {},
    "infinite_id_text": {"text_off": False},
}
METHODS = ("fact", "face2diffusion", "infinite_id")  # the others are ablations


def projector(steps: int) -> None:
    """Teach FACT's projector by itself of whom a face is; every training of FACT begins with it."""
    torch.manual_seed(0)
    settings, photos = fact_projector.ProjectorSettings(steps=steps, **PROJECTOR), portraits("transface")
    words = load_tensors("base")[f"{miniature.TEXT_ENCODER}text_model.embeddings.token_embedding.weight"]
    network = fact.make_projector(photos.features["transface"].shape[-1], words.shape[1], fact.FactSettings(**FACT))
    checkpoint = OUTPUT / "fact_projector.pt"
    progress = fact_projector.train(
        network.to(device()), photos, settings, device(), checkpoint, ProgressLine(settings)
    )
    save_tensors("fact_projector", network.cpu().state_dict())
    save_losses("fact_projector", progress)


def train(name: str, steps: int) -> None:
    """Train one of FACTS, F2DS and INFINITE on the base, and keep its running average in float16."""
    model, clip, _ = miniature.load_base(str(OUTPUT / "base.safetensors"))
    base, checkpoint = freeze(model, clip, "bfloat16"), OUTPUT / f"{name}.pt"
    if name in FACTS:
        method = adapter_command.METHODS["fact"]
        settings = fact.FactSettings(steps=steps, **(SHARED | FACT | FACTS[name]))
        data = (portraits("transface"),)
        adapter = fact.make(base, *data, settings)
        adapter.projector.load_state_dict(load_tensors("fact_projector"))
    elif name in F2DS:
        method = adapter_command.METHODS["face2diffusion"]
        settings = face2diffusion.Face2DiffusionSettings(steps=steps, hidden=(256, 256), **(SHARED | F2D | F2DS[name]))
        photos = portraits(_ENCODERS.get(name, "msid"), "expression")
        photos.features["msid"] = photos.features.pop(_ENCODERS.get(name, "msid"))
        data, adapter = (photos,), face2diffusion.make(base, photos, settings)
    else:
        method = adapter_command.METHODS["infinite-id"]
        settings = infinite_id.InfiniteIdSettings(
            steps=steps, queries=12, dim=128, depth=2, **(SHARED | INFINITE[name])
        )
        data = portraits("clip", "arcface"), load_tensors("clip_nothing")["nothing"]
        adapter = infinite_id.make(base, data[0], settings)
    progress = train_adapter(method.trainer, base, adapter, data, settings, checkpoint, ProgressLine(settings))
    adapter.load_state_dict(progress.average)
    file = name if name in METHODS else f"ablations/{name}"
    save_tensors(file, {key: tensor.half() for key, tensor in method.state(adapter).items()}, method.metadata)
    save_losses(name, progress)


def portraits(*features: str) -> Portraits:
    """Return photos of the training people, no sketches and cartoons, with the features of some encoders."""
    dataset = load_set("train")
    chosen = [index for index, caption in enumerate(dataset.captions) if caption.startswith("a photo")]
    all_features = {name: load_tensors(f"feat_{name}")[name] for name in features}
    return world.portraits(dataset, load_tensors("latents")["latents"], all_features, torch.tensor(chosen))
