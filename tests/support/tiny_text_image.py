"""Small networks that score whole images, in files as they are published: CLIP, SigLIP and DINO."""

import io
from pathlib import Path

import sentencepiece
import torch
import transformers
from likeness.tests.support.golden_cases import shrunk_shapes
from likeness.tests.support.golden_recipe import state_dict

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SENTENCES = ["a photo of a woman smiling", "a man with a hat", "an old house by the sea", "a portrait"] * 5


def make_clip(folder: Path) -> Path:
    """Write a CLIP of 32 px into a folder and return that."""
    config = transformers.CLIPConfig(
        text_config=TINY | {"vocab_size": 49408}, vision_config=TINY | {"image_size": 32, "patch_size": 16},
        projection_dim=24,
    )  # fmt: skip
    return _save(transformers.CLIPModel, config, folder)


def make_siglip(folder: Path) -> Path:
    """Write a SigLIP of 32 px with a vocabulary of its own into a folder and return that."""
    config = transformers.SiglipConfig(
        text_config=TINY | {"vocab_size": 60, "max_position_embeddings": 16, "projection_size": 32},
        vision_config=TINY | {"image_size": 32, "patch_size": 16},
    )  # fmt: skip
    _save(transformers.SiglipModel, config, folder)
    return write_tokenizer(folder)


def write_tokenizer(folder: Path) -> Path:
    """Write SigLIP's spiece.model with a vocabulary of 60 into a folder and return that."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=60, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


def make_dino(file: Path) -> Path:
    """Write a DINO of 224 px, a head wide, to a file and return that."""
    shapes = shrunk_shapes("metric_dino_vits16", 6) | {"pos_embed": [1, 197, 64]}
    torch.save(state_dict(shapes, seed=1), file)
    return file


def _save(network, config, folder: Path) -> Path:
    torch.manual_seed(0)
    network(config).save_pretrained(folder)
    return folder
