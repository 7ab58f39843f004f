"""The host's own CLIP with drawn weights: of any size, and with a look at what its first layer receives."""

import contextlib
import json

import comfy.clip_model
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from likeness.tests.support.golden_recipe import state_dict

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
TARGET = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)


def loaded(weights: dict, embeddings=None, **config):
    """A CLIP of SD1.x with these weights, `text_model.` and so on; `embeddings`: folder of textual inversions."""
    options = {"clip_l_model_config": config, "dtype": torch.float32}
    clip = comfy.sd.CLIP(TARGET, embedding_directory=embeddings, model_options=options)
    missing, unexpected = clip.cond_stage_model.load_sd(weights)
    assert not unexpected and set(missing) <= {"text_projection.weight"}
    return clip


def tiny(seed=7, embeddings=None):
    """A CLIP 64 wide with 2 layers, its embeddings as loud as CLIP's own are beside each other."""
    shapes = {f"text_model.{name}": tuple(shape) for name, shape in _shapes().items()}
    weights = state_dict(shapes, seed)
    weights["text_projection.weight"] = torch.eye(SIZES["hidden_size"])
    return loaded(weights, embeddings, **SIZES)


def _shapes() -> dict:
    file = comfy.sd1_clip.__file__.replace("sd1_clip.py", "sd1_clip_config.json")
    config = json.load(open(file)) | SIZES
    model = comfy.clip_model.CLIPTextModel_(config, torch.float32, "meta", comfy.ops.manual_cast)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@contextlib.contextmanager
def first_layer(clip):
    """A list to which every call's input of the first transformer layer is added, [chunks, 77, width]."""
    seen = []
    layer = clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers[0]
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    try:
        yield seen
    finally:
        handle.remove()
