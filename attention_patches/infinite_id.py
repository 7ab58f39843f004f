"""Infinite-ID inside the host's UNet: an identity stream and a text stream in one batch, mixed at self-attention.

Wherever the host knows a batch of B images, the UNet is given 2 B: the identity stream's and then the text stream's.
Both take the same path through the UNet, so nothing that cuts, tiles or repeats batches parts them. Between the sampler
and the UNet, where other nodes deal the images out in windows, the text stream lies in further channels of its image.
Patches of adapters see the identity's rows alone, as a call of its own: the text stream stays the stock picture.
"""

import logging
from dataclasses import dataclass, field, replace

import torch
from comfy.conds import CONDConstant
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.utils import repeat_to_batch_size

from ..adapters.unet_blocks import transformer_blocks
from .calls import Schedule, attend, describe_calls, list_packs
from .mixed_attention import adain, adain_mean, mixed_keys_values
from .same_noise import SameNoise

STREAMS, STYLE = "likeness_streams", "likeness_style"  # in the options of a call with both, and of one stream's half
WRAPPER_KEY = "likeness_infinite_id"
MIXINGS = ("mixed", "mutual", "off")
STYLES = ("none", "AdaIN-mean", "AdaIN")
TRAJECTORIES = ("own", "same latent")
PARTS = {"down": "input", "middle": "middle", "up": "output"}


@dataclass(frozen=True)
class Streams:
    """How the two streams of a UNet call act on each other, and where they lie in its batch.

    mixing:          one of MIXINGS: the identity stream attends to both streams, to the text stream only (the paper's
                     "mutual" ablation), or to itself
    style:           one of STYLES: what its keys and values take over from the text stream's
    style_strength:  0..1, how much of that
    parts:           where they act, the host's names of parts of the UNet
    trajectory:      one of TRAJECTORIES: the text stream is sampled as the identity's is, or starts from its latent at
                     every step
    images:          B: every run of 2 B rows holds B images' identity stream and then their text stream, whether the
                     runs are the host's chunks, tiles or regions
    options:         the `model_options` of the call, to name other nodes
    halves:          what `describe_half` has made
    """

    mixing: str
    style: str
    style_strength: float
    parts: tuple[str, ...] = tuple(PARTS.values())
    trajectory: str = "own"
    images: int = 1
    options: dict = field(default_factory=dict, compare=False)
    halves: dict = field(default_factory=dict, compare=False)

    def split(self, x: torch.Tensor, pieces: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the identity rows and the text rows of x [runs * 2 B * pieces, ...], each [runs * B * pieces, ...].

        pieces: rows of each image. Raises RuntimeError for rows that are no such runs.
        """
        if len(x) % (2 * self.images * pieces):
            raise self.refuse(len(x))
        identity, text = x.unflatten(0, (-1, 2, self.images * pieces)).unbind(1)
        return identity.flatten(0, 1), text.flatten(0, 1)

    def refuse(self, rows: int) -> RuntimeError:
        """Return the error for rows of a tensor in a block that are not those of two streams."""
        others = ", ".join(list_packs(self.options)) or "another node"
        return RuntimeError(
            f"Infinite-ID: a block of the UNet has {rows} rows, which cannot be told apart into the two streams of "
            f"{self.images} images. Beside Likeness there are patches of {others}: use one of them at a time, or "
            "bypass Infinite-ID Mixing."
        )

    def side_by_side(self, x: torch.Tensor, pieces: int = 1) -> torch.Tensor:
        """Return both streams' tokens in one row, [runs * 2 B, n, d] -> [runs * B, 2 n, d]; a view where B is 1."""
        rows = x.unflatten(0, (-1, 2, self.images * pieces))
        return rows.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def join(self, identity: torch.Tensor, text: torch.Tensor, pieces: int = 1) -> torch.Tensor:
        """Return [runs * 2 B, ...] of the two parts that `split` gives."""
        run = (-1, self.images * pieces)
        return torch.stack((identity.unflatten(0, run), text.unflatten(0, run)), dim=1).flatten(0, 2)

    def describe_half(self, extra_options: dict) -> dict:
        """Return the options of a call with one stream's rows alone, as patches would know it without the other."""
        half = {name: value for name, value in extra_options.items() if name != STREAMS} | {STYLE: self}
        for name in ("original_shape", "activations_shape", "sigmas"):
            if name in half:
                half[name] = self._halve(name, half[name])
        return half

    def _halve(self, name: str, whole):
        """Return half of a shape or of the noise levels: the same object for the same, which patches know a call by."""
        if self.halves.get(name, (None,))[0] is not whole:
            self.halves[name] = whole, whole[: self.images] if name == "sigmas" else [whole[0] // 2, *whole[1:]]
        return self.halves[name][1]

    def restyles(self, block: tuple) -> bool:
        """Return whether the identity stream takes over a style in a block."""
        return self.style != "none" and self.style_strength != 0 and block[0] in self.parts

    def restyle(self, x: torch.Tensor, target: torch.Tensor, block: tuple) -> torch.Tensor:
        """Return keys or values [rows, n, dim] in the text stream's style, [rows, m, dim]; as they are without one."""
        if not self.restyles(block):
            return x
        return torch.lerp(x, (adain_mean if self.style == "AdaIN-mean" else adain)(x, target), self.style_strength)


class MixedSelfAttention:
    """What the host calls in place of a UNet's self-attentions.

    previous: what stood there before, by block; where there is nothing, the host's own attention runs. One object
    serves all blocks, because a compiled model may call that of one block for another's.
    heads:    as in `TwoStreams`
    """

    def __init__(self, previous: dict, heads: dict):
        self.previous = previous
        self.heads = heads

    @torch.compiler.disable
    def __call__(self, q, k, v, extra_options):
        block = (*extra_options["block"], extra_options.get("block_index", 0))
        extra_options.setdefault("n_heads", self.heads.get(block))
        previous, streams = self.previous.get(block), extra_options.get(STREAMS)
        attention = previous or attend
        if streams is None or streams.mixing == "off":
            return attention(q, k, v, extra_options)
        pieces, rest = divmod(len(q), len(k))  # of an image, as HyperTile cuts the queries: keys and values follow
        if rest:
            raise streams.refuse(len(k))
        k, v = (part.reshape(len(q), -1, part.shape[-1]) for part in (k, v))
        (q_id, q_t), (k_id, k_t), (v_id, v_t) = (streams.split(part, pieces) for part in (q, k, v))
        half = streams.describe_half(extra_options)
        keys, values = k_t, v_t
        if streams.mixing == "mixed" and streams.restyles(block):
            keys, values = streams.restyle(k_id, k_t, block), streams.restyle(v_id, v_t, block)
            keys, values = mixed_keys_values(keys, values, k_t, v_t)
        elif streams.mixing == "mixed":
            keys, values = (streams.side_by_side(part, pieces) for part in (k, v))
        identity = attention(q_id, keys, values, half)
        if previous and streams.trajectory == "own":
            # What it sees last is the sampler's whole batch: Self-Attention Guidance goes by it after the call.
            text = streams.split(previous(q, k, v, extra_options), pieces)[1]
        else:
            text = attention(q_t, k_t, v_t, half)
        return streams.join(identity, text, pieces)


class IdentityCrossAttention:
    """What the host calls in place of cross-attentions that other patches have replaced: the text stream keeps its own.

    patches: by the host's keys; one object serves all, as in `MixedSelfAttention`; heads: as in `TwoStreams`
    """

    def __init__(self, patches: dict, heads: dict):
        self.patches = patches
        self.heads = heads

    @torch.compiler.disable
    def __call__(self, q, k, v, extra_options):
        """Return the patch's output for the identity's rows, and the host's for the text stream's.

        k and v may have rows behind those of q, which are another pack's (NAG); the first belong to q.
        """
        block = (*extra_options["block"], extra_options.get("block_index", 0))
        extra_options.setdefault("n_heads", self.heads.get(block))
        patch, streams = self.patches.get(block) or self.patches[block[:2]], extra_options.get(STREAMS)
        if streams is None:
            return patch(q, k, v, extra_options)
        (q_id, q_t), (k_id, k_t), (v_id, v_t) = (streams.split(part[: len(q)]) for part in (q, k, v))
        half = streams.describe_half(extra_options)
        return streams.join(patch(q_id, k_id, v_id, half), attend(q_t, k_t, v_t, half))


class IdentityPatch:
    """What the host calls in place of a patch between the attentions: the text stream is kept from it."""

    def __init__(self, patch):
        self.patch = patch

    @torch.compiler.disable
    def __call__(self, x, extra_options):
        """Return the patch's output for the identity's rows, and the text stream's as they are."""
        streams = extra_options.get(STREAMS)
        if streams is None:
            return self.patch(x, extra_options)
        identity, text = streams.split(x)
        return streams.join(self.patch(identity, streams.describe_half(extra_options)), text)


@dataclass(frozen=True)
class TextStreamInChannels:
    """The host's context handler of a run with two trajectories: it packs [2 B, c, h, w] as [B, 2 c, h, w].

    So the windows of other nodes, cut out of the batch inside, hold whole images. previous: the context windows of the
    host, None without; noise: what must be off while the model runs.
    """

    previous: object
    noise: SameNoise

    def should_use_context(self, *call):
        """Return True: every call is packed."""
        return True

    def execute(self, calc_cond_batch, model, conds, x, timestep, model_options):
        """Return the predictions for x, [2 B, c, h, w] for each of `conds`."""
        call = (model, conds, pack(x), timestep[: len(timestep) // 2], model_options)
        with self.noise.paused():
            if self.previous and self.previous.should_use_context(*call):
                results = self.previous.execute(calc_cond_batch, *call)
            else:
                results = calc_cond_batch(*call)
        return [unpack(result) for result in results]


def pack(x: torch.Tensor) -> torch.Tensor:
    """Put the second half of a batch into channels behind the first, [2 B, c, ...] -> [B, 2 c, ...]."""
    return torch.cat(x.chunk(2), dim=1)


def unpack(x: torch.Tensor) -> torch.Tensor:
    """Undo `pack`, [B, 2 c, ...] -> [2 B, c, ...]."""
    return torch.cat(x.chunk(2, dim=1))


@dataclass(frozen=True)
class TwoStreams:
    """Carries the text stream along: through the whole sampling, or beside every step's identity latent.

    streams:   how they act on each other while the schedule is on
    blocks:    where the self-attention mixes
    heads:     of the attention in each block, for a pack that runs the host's blocks and does not tell
    """

    streams: Streams
    schedule: Schedule
    blocks: tuple[tuple, ...]
    heads: dict[tuple, int]

    def around_run(self, executor, *args, **kwargs):
        """Come nearest to the sampler, inside what other nodes do to its noise: OUTER_SAMPLE wrapper."""
        options = executor.class_obj.model_options["transformer_options"]
        add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, WRAPPER_KEY, prepare_both, options)
        add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, WRAPPER_KEY, self.around_sampler, options)
        return executor(*args, **kwargs)

    def around_sampler(
        self,
        executor,
        guider,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        *args,
        **kwargs,
    ):
        """Sample both streams from the same noise and return the first: SAMPLER_SAMPLE wrapper.

        With the same latent for both the sampler knows nothing of them.
        """
        images, options = len(noise), extra_args["model_options"]
        self.install(options["transformer_options"])
        if self.streams.trajectory == "same latent":
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs)
        same_noise = SameNoise(2 * images)
        options["context_handler"] = TextStreamInChannels(options.get("context_handler"), same_noise)
        batch = (part if part is None else torch.cat((part, part)) for part in (noise, latent_image, denoise_mask))

        def report_identity(step, x0, x, steps):
            return callback(step, x0[:images], x[:images], steps)

        with same_noise:
            return executor(guider, sigmas, extra_args, callback and report_identity, *batch, *args, **kwargs)[:images]

    def install(self, options: dict):
        """Put the mixing into a run's transformer options, around whatever other nodes have put there."""
        slots = options.setdefault("patches_replace", {})
        for_identity = slots.get("attn2", {})
        between = options.get("patches", {}).get("middle_patch", [])
        if not for_identity and not between:
            logging.warning(
                "Infinite-ID Mixing: the model has no face in it, so both streams are the same picture, and yours is "
                "the one you would get without this node. Connect Apply Image Adapter before or after it."
            )
        if for_identity:
            slots["attn2"] = dict.fromkeys(for_identity, IdentityCrossAttention(for_identity, self.heads))
        between[:] = [IdentityPatch(patch) for patch in between]
        replaced = slots.setdefault("attn1", {})
        previous = {block: replaced.get(block, replaced.get(block[:2])) for block in self.blocks}
        # As other packs write them, without index in the block; where one has it, the host looks there first.
        keys = {block[:2] for block in self.blocks} | (set(self.blocks) & replaced.keys())
        replaced.update(dict.fromkeys(keys, MixedSelfAttention(previous, self.heads)))
        add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, WRAPPER_KEY, self.around_step, options)

    def around_step(self, executor, model, conds, x, timestep, model_options):
        """Give the UNet both streams and tell its patches of them: the innermost CALC_COND_BATCH wrapper."""
        images, own = len(x), self.streams.trajectory == "own"
        streams = replace(self.streams, images=images, options=model_options, halves={})
        if not self.schedule.is_on(model_options["transformer_options"] | {"sigmas": timestep}):
            if not own:
                return executor(model, conds, x, timestep, model_options)
            streams = replace(streams, mixing="off", style="none")
        options = model_options | {"transformer_options": model_options["transformer_options"] | {STREAMS: streams}}
        conds = [entries and [fit_entry(entry, images) for entry in entries] for entries in conds]
        both = unpack(x) if own else torch.cat((x, x))
        results = executor(model, conds, both, torch.cat((timestep, timestep)), options)
        return [pack(result) if own else result[:images] for result in results]

    def apply(self, model):
        """Return a clone of `model` with both streams."""
        model = model.clone()
        describe_calls(model)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, self.around_run)
        return model


def prepare_both(executor, model, noise_shape, *args, **kwargs):
    """Have the host make room for both streams: PREPARE_SAMPLING wrapper."""
    return executor(model, [2 * noise_shape[0], *noise_shape[1:]], *args, **kwargs)


def fit_entry(entry: dict, images: int) -> dict:
    """Return a condition's entry whose prompts and masks have one row or one for each image.

    The host repeats and cuts them to the rows of its batch; for twice the rows it would not do the same.
    """
    fitted = {
        name: cond._copy_with(repeat_to_batch_size(cond.cond, images)) if _has_rows(cond, images) else cond
        for name, cond in entry["model_conds"].items()
    }
    masks = {"mask": entry["mask"][:images]} if "mask" in entry else {}
    return entry | {"model_conds": fitted} | masks


def _has_rows(cond, images: int) -> bool:
    return (
        isinstance(getattr(cond, "cond", None), torch.Tensor)
        and not isinstance(cond, CONDConstant)
        and cond.cond.shape[0] not in (1, images)
    )


def apply_infinite_id(
    model, mixing="mixed", style="none", style_strength=1.0, start_percent=0.0, end_percent=1.0, trajectory="own",
    parts=("down", "middle", "up"),
):  # fmt: skip
    """Return a clone of `model` whose identity stream is mixed with a text stream (docs/papers.md 5).

    model:           the host's ModelPatcher, with image cross-attention applied before or after
    mixing, style, style_strength, trajectory: as in `Streams`
    start_percent, end_percent: part of the sampling in which the streams are mixed, 0..1
    parts:           which parts of the UNet mix, keys of PARTS

    Without mixing and style, in no part of the UNet or of the sampling the model is left as it was, bit for bit.
    Raises ValueError for a model without transformer blocks of a UNet, or with two streams already.
    """
    blocks = transformer_blocks(model.get_model_object("diffusion_model"))
    if not blocks:
        what = type(model.model.model_config).__name__
        raise ValueError(f"Infinite-ID mixes the self-attention of SD and SDXL UNets; {what} has none of that kind.")
    if model.get_wrappers(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY):
        raise ValueError("This model has been through an Infinite-ID Mixing already: keep one of the two.")
    unstyled = style == "none" or style_strength == 0
    if (mixing == "off" and unstyled) or not parts or start_percent >= end_percent:
        return model.clone()
    names = tuple(PARTS[part] for part in parts)
    streams = Streams(mixing, style, style_strength, names, trajectory)
    heads = {block: module.n_heads for block, module in blocks.items()}
    mixed = tuple(block for block in blocks if block[0] in names)
    return TwoStreams(streams, Schedule(start_percent, end_percent), mixed, heads).apply(model)
