"""Image cross-attention in the host's UNet, in every transformer block on top of the cross-attention that is there."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..adapters.unet_blocks import Block, sort_blocks, transformer_blocks
from .adapter_patch import AdapterPatch, Run, check_base
from .calls import attend, find_sigma_range
from .image_cross_attention import image_cross_attention
from .infinite_id import PARTS, STYLE

KEY = "likeness_ip_adapter"


class ImageAttentionPatch(AdapterPatch):
    """Image cross-attention at every cross-attention of a UNet.

    adapter:      `IpAdapter`, of which only the names and sizes of its blocks are used any more
    keys_values:  [2, m, ...] of `IpAdapter.keys_values`, for the conditional and the unconditional branch
    strengths:    s at each block
    """

    def __init__(self, adapter, keys_values, strengths, sigma_range, mask=None):
        super().__init__(strengths, sigma_range, mask)
        self.adapter = adapter
        self.projected = keys_values
        self.strengths = strengths

    def apply(self, model):
        """Return a clone of `model` that runs this patch, on top of whatever replaces its cross-attentions."""
        model = model.clone()
        blocks = transformer_blocks(model.get_model_object("diffusion_model"))
        family = {}
        for block in self.strengths:
            replaced = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
            key = choose_key(block, blocks, replaced)
            previous = replaced.get(key, replaced.get(block[:2]))
            model.set_model_attn2_replace(AttentionReplacement(self, block, family, previous), *key)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self.around_unet)
        if not model.get_callbacks(CallbacksMP.ON_CLONE, KEY):
            model.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, copy_replacements)
        return model

    def add_image(self, text, q, k, v, block, extra_options):
        """Return `text` [chunks * batch, n, d], the output of the attention of q, k and v, with the image's added.

        Where Infinite-ID has a text stream beside these rows, it may give the image its style.
        """
        run = self.run_on(q.device, q.dtype)
        run.reached.add(block)
        if not run.active or self.strengths[block] == 0:
            return text
        keys, values = self.keys_values(run, block, q, extra_options)
        if style := extra_options.get(STYLE):
            keys, values = style.restyle(keys, k, block), style.restyle(values, v, block)
        return self._add_attention(run, text, q, block, extra_options, keys, values)

    def start(self, device: torch.device, dtype: torch.dtype) -> Run:
        """Move the identity's keys and values to where the UNet runs."""
        return Run(self.adapter.split(self.projected.to(device, dtype)))

    def explain_missed(self, missed: list[tuple]) -> str:
        """Return the sentence for cross-attentions that did not run."""
        return (
            f"{self.adapter.name}: the model ran without {len(missed)} of its {len(self.strengths)} image "
            f"cross-attentions (the first is {missed[0]}). Another node, connected later, skips or replaces these "
            "blocks: remove it or put it before the adapter."
        )

    def _add_attention(self, run: Run, text, q, block, extra_options, keys, values):
        def attention(q, k, v):  # few keys: quantised attention would lose more here than it saves
            return attend(q, k, v, extra_options, low_precision_attention=False)

        mask = self.find_region(run, q, extra_options)
        return image_cross_attention(text, q, keys, values, self.strengths[block], mask, attention)


class AttentionReplacement:
    """What the host calls in place of one text cross-attention.

    family:    the replacements of the same patch and model by their blocks. A compiled model may call one for another,
               because the host has it compare numbers and not objects; so the one called looks for the one meant
    previous:  the callable that stood there before, None for the host's own attention

    Other packs of the IPAdapter family find it where they would put their own and call `add`, which changes it in
    place. So every clone of the model gets replacements of its own (`copy_replacements`), and no later node reaches an
    earlier model.
    """

    def __init__(self, patch: ImageAttentionPatch, block: Block, family: dict, previous=None, guests=()):
        self.patch = patch
        self.block = block
        self.family = family
        family[block] = self
        self.previous = previous
        self.guests = tuple(guests)

    def add(self, callback, **settings):
        """Take in a guest: callback(out, q, k, v, extra_options, **settings) gives what it adds to the output.

        It is called between the noise levels `sigma_start` and `sigma_end` of its settings.
        """
        self.guests += ((callback, settings),)

    def copy(self, family: dict) -> "AttentionReplacement":
        """Return the same for another model, whose replacements are `family`."""
        return AttentionReplacement(self.patch, self.block, family, self.previous, self.guests)

    @torch.compiler.disable
    def __call__(self, q, k, v, extra_options):
        block = (*extra_options["block"], extra_options["block_index"])
        return self.family.get(block, self)._call(q, k, v, extra_options)

    def _call(self, q, k, v, extra_options):
        out = (self.previous or attend)(q, k, v, extra_options)
        out = self.patch.add_image(out, q, k, v, self.block, extra_options)
        for callback, settings in self.guests:
            if _is_due(settings, extra_options):
                out = out + callback(out, q, k, v, extra_options, **settings)
        return out

    def models(self):
        """Return the models of the callable before; the adapter's own weights did their work before sampling."""
        return self.previous.models() if hasattr(self.previous, "models") else []

    def to(self, device_or_dtype):
        """Move the callable before, if it can be moved; there is nothing else to move."""
        if hasattr(self.previous, "to"):
            self.previous = self.previous.to(device_or_dtype)
        return self

    def cleanup(self):
        """Forget the run, here and in the callable before; the host calls this when sampling ends."""
        self.patch.cleanup()
        if hasattr(self.previous, "cleanup"):
            self.previous.cleanup()


def _is_due(settings: dict, extra_options: dict) -> bool:
    """Return whether the call's noise level lies in the range of a guest's settings; without a range it always does."""
    first, last = settings.get("sigma_start"), settings.get("sigma_end")
    if first is None or last is None or "sigmas" not in extra_options:
        return True
    return last <= float(extra_options["sigmas"][0]) <= first


def copy_replacements(model, clone) -> None:
    """Give a clone replacements of its own; a callback of the host's, ON_CLONE."""
    replaced = clone.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    families = defaultdict(dict)
    for key, replacement in replaced.items():
        if isinstance(replacement, AttentionReplacement):
            replaced[key] = replacement.copy(families[replacement.patch])


def choose_key(block: Block, blocks: dict, replaced: dict) -> tuple:
    """Return the host's key of a block: as other packs write it, without index where the block is alone in its module.

    The host looks for the key with index first, so one that is there already is kept.
    """
    alone = sum(other[:2] == block[:2] for other in blocks) == 1
    return block[:2] if alone and block not in replaced else block


def spread_strengths(blocks, weights: float | dict[str, float] | Sequence[float]) -> dict[Block, float]:
    """Return the weight of every block by one number, numbers by stage (keys of PARTS, 1 where left out), or a list.

    A sequence is in the order in which the UNet runs its layers: 16 numbers for SD1.5, 70 for SDXL.
    Raises ValueError for another stage or another count.
    """
    blocks = sort_blocks(blocks)
    if isinstance(weights, dict):
        unknown = [name for name in weights if name not in PARTS]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is no stage of the UNet: use {', '.join(PARTS)}.")
        stages = {PARTS[name]: weight for name, weight in weights.items()}
        return {block: stages.get(block[0], 1.0) for block in blocks}
    if not isinstance(weights, Sequence):
        return dict.fromkeys(blocks, weights)
    if len(weights) != len(blocks):
        raise ValueError(f"There are {len(weights)} layer weights, but this model has {len(blocks)} cross-attentions.")
    return dict(zip(blocks, weights))


def parse_layer_weights(text: str) -> float | dict[str, float] | list[float]:
    """Read layer weights as written in a node: "" (all 1), "0.8", "down=1, middle=0.5, up=0.7" or one for each layer.

    Raises ValueError for anything else.
    """
    entries = [entry.strip() for entry in text.replace("\n", ",").split(",") if entry.strip()]
    try:
        if any("=" in entry for entry in entries):
            pairs = (entry.split("=") for entry in entries)
            return {name.strip(): float(weight) for name, weight in pairs}
        numbers = [float(entry) for entry in entries]
    except ValueError as error:
        raise ValueError(
            f"'{text}' is no list of layer weights: write one number, \"down=1, middle=0.5, up=0.7\", or a number for "
            "every layer, separated by commas."
        ) from error
    return numbers if len(numbers) > 1 else (numbers or [1.0])[0]


def apply_ip_adapter(
    model, adapter, tokens, strength=1.0, start_percent=0.0, end_percent=1.0, weights=1.0, mask=None, lora_strength=1.0
):
    """Return a clone of `model` whose cross-attentions also look at the image tokens of an identity.

    model:          the host's ModelPatcher of an SD1.5 or SDXL UNet; adapter: `IpAdapter`
    tokens:         [2, m, D] of `IpAdapter.tokens`
    strength:       s of all layers; weights: of single layers, as `spread_strengths` takes them
    start_percent, end_percent: part of the sampling, 0..1
    mask:           [H, W] or [1 or batch, H, W] in 0..1, or None
    lora_strength:  of the LoRA in FaceID files, which acts everywhere and at all steps

    Strength 0, an empty mask and an empty part of the sampling leave the model as it was, bit for bit.
    Raises ValueError where adapter and model do not belong together.
    """
    remedy = f"Load an {adapter.base} checkpoint or another adapter."
    check_base(model, adapter.widths, adapter.token_dim, adapter.name, adapter.base, "cross-attentions", remedy)
    strengths = {block: strength * weight for block, weight in spread_strengths(adapter.widths, weights).items()}
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-2:])
    if not any(strengths.values()) or start_percent >= end_percent or (mask is not None and not mask.any()):
        return model.clone()
    keys_values = adapter.keys_values(tokens, model.model.get_dtype_inference())
    span = find_sigma_range(model, start_percent, end_percent)
    model = ImageAttentionPatch(adapter, keys_values, strengths, span, mask).apply(model)
    if adapter.lora and lora_strength != 0:
        model.add_patches(adapter.lora, lora_strength)
    return model
