"""What the recipes share: where things lie, the drawn sets, progress on the terminal."""

import json
from functools import cache
from pathlib import Path

import comfy.model_management
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ...training import loop
from ...training.distributed import is_main
from ..models import language
from ..world import dataset, people

ROOT = Path(__file__).parents[2]
DATA, OUTPUT = ROOT / "miniature" / "data", ROOT / "output" / "miniature"
SIZE = 96  # pixels of a picture's side
SETS = {"train": (4000, 12), "score": (1500, 10), "test": (128, 8)}  # split -> people, pictures of each
LONG = {"precision": "bfloat16", "cosine": True, "checkpoint_seconds": 120.0}
# Words that the captions do not have and prompts may: FaceA-Net's, and those of its evaluation.
MORE_WORDS = (
    *("a man face", "a woman face", "a man left eye", "a woman right eye", "a man nose", "a woman mouth", "a person"),
    "front face, portrait",
)


def device() -> torch.device:
    """Return the device on which the host computes, and the recipes train."""
    return comfy.model_management.get_torch_device()


@cache
def load_set(split: str) -> dataset.ImageSet:
    """Open a set of rendered images, which is rendered first where it is missing."""
    count, images = SETS[split]
    folder = DATA / split
    dataset.write(folder, dataset.SetRecipe(split=split, people=count, images=images, size=SIZE), processes=2)
    return dataset.read(folder)


@cache
def traits(split: str) -> torch.Tensor:
    """Return what there is to know of the people of a set, [people, k]."""
    numbers = np.unique(load_set(split).people)
    return torch.from_numpy(np.stack([people.as_vector(people.person(int(number))) for number in numbers]))


@cache
def vocabulary() -> language.Vocabulary:
    """Return the words of the base's text encoder."""
    texts = {text for caption in load_set("train").captions for text in language.manners(caption).values()}
    return language.Vocabulary([*sorted(texts), *MORE_WORDS])


def load_tensors(name: str) -> dict[str, torch.Tensor]:
    """Return the tensors that a part left under `name`."""
    return load_file(OUTPUT / f"{name}.safetensors")


def save_tensors(name: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Leave tensors for the parts to come; of several processes that trained together the first does."""
    if not is_main():
        return
    path = OUTPUT / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path, metadata)


def save_losses(name: str, progress: loop.Progress) -> None:
    """Leave the losses of a training; of several processes that trained together the first does."""
    if is_main():
        (OUTPUT / f"{name}.losses.json").write_text(json.dumps([round(loss, 5) for loss in progress.losses]))
