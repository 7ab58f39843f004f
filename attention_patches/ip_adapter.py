"""Image cross-attention in the host's UNet, in every transformer block on top of the cross-attention that is there."""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from comfy.patcher_extension import CallbacksMP

from ..adapters.unet_blocks import Block, sort_blocks, transformer_blocks
from .adapter_patch import AdapterPatch, Run, check_base, watch
from .calls import ALWAYS, Rows, Schedule, attend, list_packs, read_call, read_rows
from .image_cross_attention import image_cross_attention
from .infinite_id import PARTS, STYLE
from .lora_rows import ALL, LoraOnRows
from .orthogonal_attention import make_orthogonal

KEY = "likeness_ip_adapter"


class ImageAttentionPatch(AdapterPatch):
    """Image cross-attention at every cross-attention of a UNet.

    adapter:      `IpAdapter`, of which only the names and sizes of its blocks are used any more
    keys_values:  [2, m, ...] of `IpAdapter.keys_values`, for the positive and the other rows
    strengths:    s at each block
    method:       one of `orthogonal_attention.METHODS`: what of the image is added where the prompt speaks too
    lora:         a LoRA on some rows, which goes with the image; None: there is none, or it is in the weights
    """

    node = "Apply Image Adapter"

    def __init__(self, adapter, keys_values, strengths, schedule=ALWAYS, mask=None, method="none", lora=None):
        super().__init__(strengths, schedule, mask)
        self.name = adapter.name
        self.adapter = adapter
        self.projected = keys_values
        self.strengths = strengths
        self.method = method
        self.lora = lora

    def apply(self, model):
        """Return a clone of `model` that runs this patch, on top of whatever replaces its cross-attentions."""
        model = self.lora.apply(model) if self.lora else model.clone()
        blocks = transformer_blocks(model.get_model_object("diffusion_model"))
        family = {}
        for block in self.strengths:
            replaced = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
            key = choose_key(block, blocks, replaced)
            previous = replaced.get(key, replaced.get(block[:2]))
            heads = blocks[block].n_heads
            model.set_model_attn2_replace(AttentionReplacement(self, block, family, heads, previous), *key)
        self.attach(model)
        if not model.get_callbacks(CallbacksMP.ON_CLONE, KEY):
            model.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, copy_replacements)
        return model

    def add_image(self, text, q, k, v, block, rows: Rows, extra_options):
        """Return `text` [rows, n, d], the output of the attention of q, k and v, with the image's added.

        Where Infinite-ID has a text stream beside these rows, it may give the image its style.
        """
        read_call(extra_options).reached.add((self, block))
        if self.strengths[block] == 0 or not self.schedule.is_on(extra_options):
            return text
        run = self.run_on(q.device, q.dtype)
        keys, values = self.keys_values(run, block, q, rows)
        if style := extra_options.get(STYLE):
            keys, values = style.restyle(keys, k, block), style.restyle(values, v, block)

        def attention(q, k, v):  # few keys: quantised attention would lose more here than it saves
            image = attend(q, k, v, extra_options, low_precision_attention=False)
            return make_orthogonal(self.method, image, text, q, k, extra_options["n_heads"])

        mask = self.find_region(run, q, rows, extra_options)
        return image_cross_attention(text, q, keys, values, self.strengths[block], mask, attention)

    def guard(self, transformer_options: dict) -> None:
        """See that the host will call this patch; where another node has replaced it, watch that it is called."""
        replaced = transformer_options.get("patches_replace", {}).get("attn2", {})
        for block in self.blocks:
            key = block if block in replaced else block[:2]
            if key not in replaced:
                raise RuntimeError(
                    f"{self.name}: another node has removed its patch at {block} from the model, so that the face is "
                    "lost there. Connect that node before Apply Image Adapter, or remove it."
                )
            if not holds_patch(replaced[key], self):
                replaced[key] = watch(replaced[key], self, block)

    def start(self, device: torch.device, dtype: torch.dtype) -> Run:
        """Move the identity's keys and values to where the UNet runs."""
        return Run(self.adapter.split(self.projected.to(device, dtype)))


class AttentionReplacement:
    """What the host calls in place of one text cross-attention.

    family:    the replacements of the same patch and model by their blocks. A compiled model may call one for another,
               because the host has it compare numbers and not objects; so the one called looks for the one meant
    heads:     of the block's attention, for a pack that runs the host's blocks and does not tell
    previous:  the callable that stood there before, None for the host's own attention

    Other packs of the IPAdapter family find it where they would put their own and call `add`, which changes it in
    place. So every clone of the model gets replacements of its own (`copy_replacements`), and no later node reaches an
    earlier model.
    """

    def __init__(self, patch: ImageAttentionPatch, block: Block, family: dict, heads: int, previous=None, guests=()):
        self.patch = patch
        self.block = block
        self.family = family
        family[block] = self
        self.heads = heads
        self.previous = previous
        self.guests = tuple(guests)

    def add(self, callback, **settings):
        """Take in a guest: callback(out, q, k, v, extra_options, **settings) gives what it adds to the output.

        It is called between the noise levels `sigma_start` and `sigma_end` of its settings.
        """
        self.guests += ((callback, settings),)

    def copy(self, family: dict) -> "AttentionReplacement":
        """Return the same for another model, whose replacements are `family`."""
        return AttentionReplacement(self.patch, self.block, family, self.heads, self.previous, self.guests)

    def holds(self, patch: ImageAttentionPatch) -> bool:
        """Return whether a patch is run here or by the replacement before."""
        return self.patch is patch or holds_patch(self.previous, patch)

    @torch.compiler.disable
    def __call__(self, q, k, v, extra_options):
        """Run the attention that was there, then our own and the guests'.

        k and v may have rows behind those of q, which are another pack's (NAG); the first belong to q.
        """
        block = (*extra_options.get("block", self.block[:2]), extra_options.get("block_index", self.block[2]))
        meant = self.family.get(block, self)
        extra_options.setdefault("n_heads", meant.heads)
        if len(k) > len(q):
            k, v = k[: len(q)], v[: len(q)]
        elif len(k) < len(q):
            raise RuntimeError(
                f"{self.patch.name}: another node hands {len(k)} rows of keys to {len(q)} rows of queries. Beside "
                f"Likeness there are patches of {', '.join(list_packs(read_call(extra_options).options))}."
            )
        rows = read_rows(extra_options, len(q))
        return meant.attend_rows(q, k, v, rows, extra_options)

    def attend_rows(self, q, k, v, rows: Rows, extra_options):
        """Return the output [rows, n, d]."""
        if isinstance(self.previous, AttentionReplacement):
            out = self.previous.attend_rows(q, k, v, rows, extra_options)
        else:
            out = (self.previous or attend)(q, k, v, extra_options)
        out = self.patch.add_image(out, q, k, v, self.block, rows, extra_options)
        for callback, settings in self.guests:
            if _is_due(settings, extra_options):
                out = out + callback(out, q, k, v, extra_options, **settings)
        return out

    def models(self):
        """Return the LoRA's weights and the models of the callable before; the adapter's own have done their work."""
        models = self.previous.models() if hasattr(self.previous, "models") else []
        return [*models, *([self.patch.lora.weights] if self.patch.lora else [])]

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


def holds_patch(found, patch: ImageAttentionPatch) -> bool:
    """Return whether what stands in place of a cross-attention is known to run a patch."""
    return isinstance(found, AttentionReplacement) and found.holds(patch)


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
            return {name.strip(): _read_number(weight) for name, weight in pairs}
        numbers = [_read_number(entry) for entry in entries]
    except ValueError as error:
        shown = " ".join(text.split())[:60]
        raise ValueError(
            f"'{shown}' is no list of layer weights: write one number, \"down=1, middle=0.5, up=0.7\", or a number for "
            "every layer, separated by commas."
        ) from error
    return numbers if len(numbers) > 1 else (numbers or [1.0])[0]


def _read_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def apply_ip_adapter(
    model, adapter, tokens, strength=1.0, start_percent=0.0, end_percent=1.0, weights=1.0, mask=None,
    lora_strength=1.0, method="none", lora_rows=ALL,
):  # fmt: skip
    """Return a clone of `model` whose cross-attentions also look at the image tokens of an identity.

    model:          the host's ModelPatcher of an SD1.5 or SDXL UNet; adapter: `IpAdapter`
    tokens:         [2, m, D] of `IpAdapter.tokens`
    strength:       s of all layers; weights: of single layers, as `spread_strengths` takes them
    start_percent, end_percent: part of the sampling, 0..1
    mask:           [H, W] or [1 or batch, H, W] in 0..1, or None
    lora_strength:  of the LoRA in FaceID files, which acts everywhere in the image and at all steps
    lora_rows:      one of `lora_rows.LORA_ROWS`: on which rows it acts; on all of them it is in the model's weights
    method:         one of `orthogonal_attention.METHODS`

    Strength 0, an empty mask and an empty part of the sampling leave the model as it was, bit for bit.
    Raises ValueError where adapter and model do not belong together.
    """
    remedy = f"Load an {adapter.base} checkpoint or another adapter."
    check_base(model, adapter.widths, adapter.token_dim, adapter.name, adapter.base, "cross-attentions", remedy)
    strengths = {block: strength * weight for block, weight in spread_strengths(adapter.widths, weights).items()}
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-2:])
    schedule = Schedule(start_percent, end_percent)
    if not any(strengths.values()) or schedule.is_empty or (mask is not None and not mask.any()):
        return model.clone()
    keys_values = adapter.keys_values(tokens, model.model.get_dtype_inference())
    has_lora, lora = adapter.lora and lora_strength != 0, None
    if has_lora and lora_rows != ALL:
        layers = adapter.lora_layers(model.model.get_dtype_inference())
        blocks = transformer_blocks(model.get_model_object("diffusion_model"))
        heads = {block: module.n_heads for block, module in blocks.items()}
        lora = LoraOnRows(*layers, heads, lora_strength, lora_rows)
    model = ImageAttentionPatch(adapter, keys_values, strengths, schedule, mask, method, lora).apply(model)
    if has_lora and not lora:
        model.add_patches(adapter.lora, lora_strength)
    return model
