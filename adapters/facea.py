"""What FaceA-Net learns of one person: a LoRA, and rows of features behind five prompts' words (docs/papers.md 6.3).

A prompt such as "a man left eye" names a part of the face, and its learned features say whose. On the output level they
stand among the rows of the text encoder's output, in place of the first padding rows; on the input level they are word
embeddings behind the words.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import comfy.sd
import torch

from . import prompt_text

REGIONS = ("face", "left eye", "right eye", "nose", "mouth")  # the subject's left is left
ATTRIBUTES = REGIONS[1:]
LEVELS = ("output", "input")
_SAMPLED = 16  # weights that are looked at for a fingerprint
_SIGNS = 1 << 14  # of each of them


@dataclass(frozen=True, eq=False)
class FaceaIdentity:
    """One person as FaceA-Net learned them.

    lora:       LoRA of the UNet, by the names the host's LoRA loaders read
    features:   region -> learned features [n, width] float32; the regions are `REGIONS`
    level:      one of LEVELS: whether the features are rows of the text encoder's output or word embeddings
    word:       "man" or "woman", or what else stood in the prompts
    base:       `fingerprint` of the model they were trained on
    base_name:  what that model is called
    settings:   how they were trained, in words
    """

    lora: dict[str, torch.Tensor]
    features: dict[str, torch.Tensor]
    level: str
    word: str
    base: str
    base_name: str
    settings: dict[str, str]


def write_prompt(word: str, region: str) -> str:
    """Return the prompt that a region's features belong to: "a man face", "a woman left eye"."""
    return f"a {word} {region}"


def encode_text(clip, text: str) -> tuple[torch.Tensor, int]:
    """Return the rows [1, 77, width] of the host's CLIP for `text`, and the index of the first padding row among them.

    Row 0 starts the text, its k tokens follow, row k + 1 ends it; the first padding row is k + 2.
    Raises ValueError where `clip` is not one SD text encoder, or the text is longer than it reads at once.
    """
    tokens, words = _tokenise(clip, text)
    return clip.encode_from_tokens(tokens).float(), words + 2


def insert_features(rows: torch.Tensor, first: int, features: torch.Tensor) -> torch.Tensor:
    """Return `rows` [B, 77, width] with `features` [n, width] as rows first .. first + n - 1; differentiable.

    Raises ValueError where the features have another width or reach beyond the last row.
    """
    length, width = rows.shape[1:]
    check_width(width, features)
    if first + len(features) > length:
        raise ValueError(f"{len(features)} learned features do not fit behind {first} rows of {length}: use fewer.")
    features = features.to(rows).expand(len(rows), -1, -1)
    return torch.cat((rows[:, :first], features, rows[:, first + features.shape[1] :]), dim=1)


def encode_with_embeddings(clip, text: str, embeddings: torch.Tensor) -> torch.Tensor:
    """Return the rows [1, 77, width] of the host's CLIP for `text` and word embeddings [n, width]; differentiable.

    Raises ValueError as `encode_text` does, and where the embeddings have another width or do not fit behind the text.
    """
    tokens, words = _tokenise(clip, text)
    check_width(get_word_embeddings(clip).shape[1], embeddings)
    ((name, (chunk,)),) = tokens.items()
    if words + 2 + len(embeddings) > len(chunk):
        raise ValueError(f"{len(embeddings)} learned features do not fit behind '{text}': use fewer.")
    learned = [(embedding, 1.0) for embedding in embeddings]
    chunk = [*chunk[: words + 1], *learned, *chunk[words + 1 : len(chunk) - len(learned)]]
    return clip.encode_from_tokens({name: [chunk]}).float()


def get_word_embeddings(clip) -> torch.Tensor:
    """Return the token embedding [tokens, width] of a CLIP of one encoder."""
    clip.load_model()
    stage = clip.cond_stage_model
    return getattr(stage, stage.clip).transformer.get_input_embeddings().weight


def encode_region(clip, identity: FaceaIdentity, region: str) -> tuple[torch.Tensor, int]:
    """Return the rows [1, 77, width] of a region's prompt with what was learned, and how many are not padding."""
    text, features = write_prompt(identity.word, region), identity.features[region]
    rows, first = encode_text(clip, text)
    filled = (
        insert_features(rows, first, features)
        if identity.level == "output"
        else encode_with_embeddings(clip, text, features)
    )
    return filled, first + len(features)


def check_width(width: int, features: torch.Tensor) -> None:
    """Raise ValueError unless the features are `width` wide, as the rows or words they stand among."""
    if features.shape[-1] != width:
        raise ValueError(
            f"The FaceA identity has features {features.shape[-1]} wide, but the connected CLIP works with {width}: "
            "connect the CLIP of the checkpoint that the identity was trained with."
        )


def _tokenise(clip, text: str) -> tuple[dict, int]:
    """Return what the host's tokeniser makes of `text`, and how many tokens the text itself has."""
    chunks = prompt_text.tokenise(clip, text)
    if len(chunks) != 1 or not hasattr(clip.cond_stage_model, "clip") or len(next(iter(chunks.values()))[0]) != 77:
        raise ValueError(
            f"FaceA works with a CLIP of one text encoder, as SD 1.x and 2.x inpainting models have; the connected one "
            f"has the parts {', '.join(sorted(chunks))}. Connect the CLIP of the inpainting checkpoint."
        )
    ((name, tokens),) = chunks.items()
    if len(tokens) != 1:
        raise ValueError(f"'{text[:60]}...' is longer than the text encoder reads at once: shorten it to 75 tokens.")
    return {name: [[token[:2] for token in tokens[0]]]}, sum(token[2] != 0 for token in tokens[0])


def apply_lora(model, identity: FaceaIdentity, strength: float):
    """Return a clone of the host's `model` with the identity's LoRA at `strength`; at 0 the model as it is.

    Raises ValueError where the layers the LoRA belongs to are not the model's.
    """
    if strength == 0:
        return model.clone()
    check_layers(model, identity)
    return comfy.sd.load_lora_for_models(model, None, identity.lora, strength, 0)[0]


def check_layers(model, identity: FaceaIdentity) -> None:
    """Raise ValueError unless every layer of the identity's LoRA is one of `model`, of the same size."""
    weights = model.model_state_dict()
    for up in (name for name in identity.lora if name.endswith(".lora_up.weight")):
        layer = up.removesuffix(".lora_up.weight")
        shape = [identity.lora[up].shape[0], identity.lora[f"{layer}.lora_down.weight"].shape[1]]
        weight = weights.get(f"{layer}.weight")
        if weight is None or list(weight.shape) != shape:
            has = "none of that name" if weight is None else f"one of {list(weight.shape)}"
            raise ValueError(
                f"This FaceA identity was trained on {identity.base_name}; it has a layer {layer} of {shape}, but the "
                f"connected model has {has}. Connect {identity.base_name} or another inpainting model of its kind."
            )


def fingerprint(model) -> str:
    """Return 64 hex digits that stand for the weights of a model patcher's UNet, without what is patched onto them.

    Made of the signs of some of the weights: signs are the same whatever dtype the weights are stored as.
    """
    weights = model.get_key_patches("diffusion_model.")
    names = sorted(name for name, [(weight, _), *_] in weights.items() if weight.ndim > 1)
    digest = hashlib.sha256("\n".join(names).encode())
    for name in names[:: max(1, len(names) // _SAMPLED)]:
        weight, convert = weights[name][0]
        values = convert(weight, inplace=False).flatten()[:_SIGNS].float()
        digest.update(torch.signbit(values).cpu().numpy().tobytes())
    return digest.hexdigest()


def name_base(model) -> str:
    """Return what the host loaded `model` from, or its kind where that is not known."""
    _, arguments, *_ = model.cached_patcher_init or (None, ())
    path = next((argument for argument in arguments if isinstance(argument, str)), None)
    return Path(path).name if path else type(model.model.model_config).__name__


def warn_of_base(identity: FaceaIdentity, model) -> str | None:
    """Return a sentence where `model` is not the one the identity was trained on; None where it is."""
    if fingerprint(model) == identity.base:
        return None
    return (
        f"This FaceA identity was trained on {identity.base_name}, but the connected model ({name_base(model)}) has "
        f"other weights: the likeness may suffer. Load {identity.base_name}, or train the identity on this model."
    )
