"""Image cross-attention in the host's UNet: in the attn2 slot of every transformer block, on top of what is there."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..adapters.ip_layout import Place, in_unet_order
from .calls import attend, branch_rows, scheduled, token_mask, transformer_blocks
from .fact import sigma_range
from .image_cross_attention import image_cross_attention
from .infinite_id import PARTS, STREAMS

KEY = "likeness_ip_adapter"


@dataclass
class _Run:
    """What one sampling run on one device needs and no step changes.

    layers:   per place the keys and values of (cond, uncond), each [2, m, d]
    rows:     which of (cond, uncond) each batch row takes, per batch layout
    masks:    the region at token resolution, per resolution and batch layout
    reached:  places visited by the UNet call in progress
    """

    layers: dict[Place, tuple[torch.Tensor, torch.Tensor]]
    rows: dict[tuple, torch.Tensor] = field(default_factory=dict)
    masks: dict[tuple, torch.Tensor] = field(default_factory=dict)
    reached: set[Place] = field(default_factory=set)
    active: bool = True


class ImageAttentionPatch:
    """One identity through one adapter, at every cross-attention of a UNet.

    adapter:      `IpAdapter`, of which only the names and sizes of its places are used any more
    keys_values:  [2, m, ...] of `IpAdapter.keys_values`, for the conditional and the unconditional branch
    strengths:    s at each place
    sigma_range:  (from, to), from >= to: the noise levels at which the adapter is on
    mask:         [1 or batch, H, W] in 0..1, where in the picture it acts; None: everywhere
    """

    def __init__(self, adapter, keys_values, strengths, sigma_range, mask=None):
        self.adapter = adapter
        self.keys_values = keys_values
        self.strengths = strengths
        self.sigma_range = sigma_range
        self.mask = mask
        self._runs: dict[torch.device, _Run] = {}

    def apply(self, model):
        """Return a clone of `model` that runs this patch, on top of whatever sits in its attn2 slots."""
        model = model.clone()
        blocks = cross_attentions(model.get_model_object("diffusion_model"))
        family = {}
        for place in self.strengths:
            replaced = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
            slot = slot_of(place, blocks, replaced)
            previous = replaced.get(slot, replaced.get(place[:2]))
            model.set_model_attn2_replace(AttentionSlot(self, place, family, previous), *slot)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self.around_unet)
        if not model.get_callbacks(CallbacksMP.ON_CLONE, KEY):
            model.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, copy_slots)
        return model

    def cleanup(self):
        """Forget what the run made; the slots pass on the host's call when sampling ends."""
        self._runs.clear()

    def around_unet(self, executor, x, t, *args, **kwargs):
        """Decide once per UNet call whether the adapter is on, and see that every layer was reached."""
        run = self._run(x.device, executor.class_obj.get_dtype_inference())
        run.active = scheduled(self.sigma_range, t)
        run.reached.clear()
        output = executor(x, t, *args, **kwargs)
        missed = [place for place in self.strengths if place not in run.reached]
        if missed:
            raise RuntimeError(
                f"{self.adapter.name}: the model ran without {len(missed)} of its {len(self.strengths)} image "
                f"cross-attentions (the first is {missed[0]}). Another node, connected later, skips or replaces these "
                "blocks: remove it or put it before the adapter."
            )
        return output

    def add_image(self, text, q, k, v, place, extra_options):
        """`text` [chunks * batch, n, d], the output of the attention of q, k and v so far, with the image's added.

        Where Infinite-ID has a text stream in the batch, that stays as it is, and gives the image its style.
        """
        run = self._run(q.device, q.dtype)
        run.reached.add(place)
        if not run.active or self.strengths[place] == 0:
            return text
        streams = extra_options.get(STREAMS)
        if streams is None:
            return self._add(run, text, q, place, extra_options, *self._image(run, q, place, extra_options))
        chunks = len(extra_options["cond_or_uncond"])
        (text, other), (q, _), (k, _), (v, _) = (streams.split(part, chunks) for part in (text, q, k, v))
        keys, values = self._image(run, q, place, extra_options)
        keys, values = streams.restyle(keys, k, place), streams.restyle(values, v, place)
        return streams.join(self._add(run, text, q, place, extra_options, keys, values), other, chunks)

    def _image(self, run: _Run, q, place, extra_options):
        """The image's keys and values for every row of q, [rows, m, d] each."""
        chunks = extra_options["cond_or_uncond"]
        layout = (*chunks, q.shape[0])
        if layout not in run.rows:
            run.rows[layout] = branch_rows(chunks, q.shape[0], q.device)
        return (part.index_select(0, run.rows[layout]).to(q.dtype) for part in run.layers[place])

    def _add(self, run: _Run, text, q, place, extra_options, keys, values):
        mask = None if self.mask is None else self._mask(run, q, extra_options)

        def attention(q, k, v):  # few keys: quantised attention would lose more here than it saves
            return attend(q, k, v, extra_options, low_precision_attention=False)

        return image_cross_attention(text, q, keys, values, self.strengths[place], mask, attention)

    def _mask(self, run: _Run, q, extra_options) -> torch.Tensor:
        chunks = len(extra_options["cond_or_uncond"])
        size = tuple(extra_options["activations_shape"][-2:])
        layout = (*size, chunks, q.shape[0])
        if layout not in run.masks:
            run.masks[layout] = token_mask(self.mask, size, chunks, q.shape[0], q)
        return run.masks[layout]

    def _run(self, device: torch.device, dtype: torch.dtype) -> _Run:
        if device not in self._runs:
            self._runs[device] = _Run(self.adapter.split(self.keys_values.to(device, dtype)))
        return self._runs[device]


class AttentionSlot:
    """What the host calls in place of one text cross-attention.

    family:    the slots of the same patch and model by their places. A compiled model may call one for another, because
               the host has it compare numbers and not objects; so the one called looks for the one that was meant
    previous:  the callable that sat in the slot before, None for the host's own attention

    Other packs of the IPAdapter family find it in "their" slot and call `add`, which changes it in place. So every
    clone of the model gets slots of its own (`copy_slots`), and no later node reaches an earlier model.
    """

    def __init__(self, patch: ImageAttentionPatch, place: Place, family: dict, previous=None, guests=()):
        self.patch = patch
        self.place = place
        self.family = family
        family[place] = self
        self.previous = previous
        self.guests = tuple(guests)

    def add(self, callback, **settings):
        """Take in a guest: callback(out, q, k, v, extra_options, **settings) gives what it adds to the output.

        It is called between the noise levels `sigma_start` and `sigma_end` of its settings.
        """
        self.guests += ((callback, settings),)

    def copy(self, family: dict) -> "AttentionSlot":
        """The same in another model, whose slots are `family`."""
        return AttentionSlot(self.patch, self.place, family, self.previous, self.guests)

    @torch.compiler.disable
    def __call__(self, q, k, v, extra_options):
        place = (*extra_options["block"], extra_options["block_index"])
        return self.family.get(place, self)._attend(q, k, v, extra_options)

    def _attend(self, q, k, v, extra_options):
        out = (self.previous or attend)(q, k, v, extra_options)
        out = self.patch.add_image(out, q, k, v, self.place, extra_options)
        for callback, settings in self.guests:
            if _invited(settings, extra_options):
                out = out + callback(out, q, k, v, extra_options, **settings)
        return out

    def models(self):
        """Those of the callable before; the adapter's own weights have done their work before sampling."""
        return self.previous.models() if hasattr(self.previous, "models") else []

    def to(self, device_or_dtype):
        """There is nothing to move here, but perhaps in the callable before."""
        if hasattr(self.previous, "to"):
            self.previous = self.previous.to(device_or_dtype)
        return self

    def cleanup(self):
        """The host calls this when sampling ends."""
        self.patch.cleanup()
        if hasattr(self.previous, "cleanup"):
            self.previous.cleanup()


def _invited(settings: dict, extra_options: dict) -> bool:
    first, last = settings.get("sigma_start"), settings.get("sigma_end")
    if first is None or last is None or "sigmas" not in extra_options:
        return True
    return last <= float(extra_options["sigmas"][0]) <= first


def copy_slots(model, clone) -> None:
    """ON_CLONE: the clone's attn2 slots become its own."""
    slots = clone.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    families = defaultdict(dict)
    for key, slot in slots.items():
        if isinstance(slot, AttentionSlot):
            slots[key] = slot.copy(families[slot.patch])


def slot_of(place: Place, blocks: dict, replaced: dict) -> tuple:
    """The host's key of a place: as other packs write it, without index where a block holds one transformer block.

    The host looks for the key with index first, so one that is there already is kept.
    """
    alone = sum(other[:2] == place[:2] for other in blocks) == 1
    return place[:2] if alone and place not in replaced else place


def cross_attentions(unet) -> dict[Place, torch.nn.Module]:
    """The text cross-attentions of a UNet by the host's names of their places; empty for other models."""
    return {place: block.attn2 for place, block in transformer_blocks(unet).items()}


def layer_strengths(places, weights: float | dict[str, float] | Sequence[float]) -> dict[Place, float]:
    """The weight of every place: one number, numbers by stage (keys of PARTS, 1 where left out), or one for each.

    A sequence is in the order in which the UNet runs its layers: 16 numbers for SD1.5, 70 for SDXL.
    Raises ValueError for another stage or another count.
    """
    places = in_unet_order(places)
    if isinstance(weights, dict):
        unknown = [name for name in weights if name not in PARTS]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is no stage of the UNet: use {', '.join(PARTS)}.")
        stages = {PARTS[name]: weight for name, weight in weights.items()}
        return {place: stages.get(place[0], 1.0) for place in places}
    if not isinstance(weights, Sequence):
        return dict.fromkeys(places, weights)
    if len(weights) != len(places):
        raise ValueError(f"There are {len(weights)} layer weights, but this model has {len(places)} cross-attentions.")
    return dict(zip(places, weights))


def parse_layer_weights(text: str) -> float | dict[str, float] | list[float]:
    """Layer weights as written in a node: "" (all 1), "0.8", "down=1, middle=0.5, up=0.7" or a number for each layer.

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
    strength:       s of all layers; weights: of single layers, as `layer_strengths` takes them
    start_percent, end_percent: part of the sampling, 0..1
    mask:           [H, W] or [1 or batch, H, W] in 0..1, or None
    lora_strength:  of the LoRA in FaceID files, which acts everywhere and at all steps

    Strength 0, an empty mask and an empty part of the sampling leave the model as it was, bit for bit.
    Raises ValueError where adapter and model do not belong together.
    """
    check_base(adapter, model)
    strengths = {place: strength * weight for place, weight in layer_strengths(adapter.widths, weights).items()}
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-2:])
    if not any(strengths.values()) or start_percent >= end_percent or (mask is not None and not mask.any()):
        return model.clone()
    keys_values = adapter.keys_values(tokens, model.model.get_dtype_inference())
    span = sigma_range(model, start_percent, end_percent)
    model = ImageAttentionPatch(adapter, keys_values, strengths, span, mask).apply(model)
    if adapter.lora and lora_strength != 0:
        model.add_patches(adapter.lora, lora_strength)
    return model


def check_base(adapter, model) -> None:
    """Raise ValueError unless every layer of the adapter finds a cross-attention of its width in the model's UNet."""
    found = cross_attentions(model.get_model_object("diffusion_model"))
    widths = {place: attention.to_q.out_features for place, attention in found.items()}
    contexts = {attention.to_k.in_features for attention in found.values()}
    if widths == adapter.widths and contexts == {adapter.token_dim}:
        return
    what = type(model.model.model_config).__name__
    raise ValueError(
        f"{adapter.name} fits {adapter.base} with {_summary(adapter.widths, {adapter.token_dim})}, but the connected "
        f"model is {what} with {_summary(widths, contexts)}. Load an {adapter.base} checkpoint or another adapter."
    )


def _summary(widths: dict, contexts: set[int]) -> str:
    if not widths:
        return "no text cross-attentions at all"
    sizes = "/".join(map(str, sorted(set(widths.values()))))
    return f"{len(widths)} cross-attentions {sizes} wide and a text width of {'/'.join(map(str, sorted(contexts)))}"
