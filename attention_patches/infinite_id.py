"""Infinite-ID inside the host's UNet: an identity stream and a text stream in one batch, mixed at self-attention.

Every chunk of the batch holds the identity stream's rows and then as many of the text stream's; both take the same
path through the UNet, so the host's splitting of cond and uncond never parts them. `Streams` in the transformer options
tells patches of this call about it: image cross-attention leaves the text rows alone.
"""

import inspect
from dataclasses import dataclass, field, replace

import torch
from comfy.patcher_extension import WrappersMP

from ..adapters.unet_blocks import transformer_blocks
from .calls import STREAMS, attend, find_sigma_range, is_scheduled
from .mixed_attention import adain, adain_mean, mixed_keys_values

WRAPPER_KEY = "likeness_infinite_id"
MIXINGS = ("mixed", "mutual", "off")
STYLES = ("none", "AdaIN-mean", "AdaIN")
TRAJECTORIES = ("own", "same latent")
PARTS = {"down": "input", "middle": "middle", "up": "output"}


@dataclass(frozen=True)
class Streams:
    """How the two streams of a UNet call act on each other.

    mixing:          one of MIXINGS: the identity stream attends to both streams, to the text stream only (the paper's
                     "mutual" ablation), or to itself
    style:           one of STYLES: what its keys and values take over from the text stream's
    style_strength:  0..1, how much of that
    parts:           where they act, the host's names of parts of the UNet
    reached:         the blocks whose self-attention has run in this step
    """

    mixing: str
    style: str
    style_strength: float
    parts: tuple[str, ...] = tuple(PARTS.values())
    reached: set[tuple] = field(default_factory=set, compare=False)

    @staticmethod
    def split(x: torch.Tensor, chunks: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the identity rows and the text rows of [chunks * 2 B, ...], each [chunks * B, ...]."""
        identity, text = x.unflatten(0, (chunks, 2, -1)).unbind(1)
        return identity.flatten(0, 1), text.flatten(0, 1)

    @staticmethod
    def side_by_side(x: torch.Tensor, chunks: int) -> torch.Tensor:
        """Return both streams' tokens in one row, [chunks * 2 B, n, d] -> [chunks * B, 2 n, d]; a view where B is 1."""
        return x.unflatten(0, (chunks, 2, -1)).transpose(1, 2).flatten(2, 3).flatten(0, 1)

    @staticmethod
    def join(identity: torch.Tensor, text: torch.Tensor, chunks: int) -> torch.Tensor:
        """Return [chunks * 2 B, ...] of the two parts that `split` gives."""
        return torch.stack((identity.unflatten(0, (chunks, -1)), text.unflatten(0, (chunks, -1))), dim=1).flatten(0, 2)

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
    """

    def __init__(self, previous: dict):
        self.previous = previous

    @torch.compiler.disable
    def __call__(self, q, k, v, extra_options):
        block = (*extra_options["block"], extra_options["block_index"])
        attention = self.previous.get(block, attend)
        streams = extra_options.get(STREAMS)
        if streams is None:
            return attention(q, k, v, extra_options)
        streams.reached.add(block)
        if streams.mixing == "off":
            return attention(q, k, v, extra_options)
        chunks = len(extra_options["cond_or_uncond"])
        (q_id, q_t), (k_id, k_t), (v_id, v_t) = (streams.split(part, chunks) for part in (q, k, v))
        keys, values = k_t, v_t
        if streams.mixing == "mixed" and streams.restyles(block):
            keys, values = streams.restyle(k_id, k_t, block), streams.restyle(v_id, v_t, block)
            keys, values = mixed_keys_values(keys, values, k_t, v_t)
        elif streams.mixing == "mixed":
            keys, values = (streams.side_by_side(part, chunks) for part in (k, v))
        identity = attention(q_id, keys, values, extra_options)
        return streams.join(identity, attention(q_t, k_t, v_t, extra_options), chunks)

    def models(self):
        """Return the models of the callables before."""
        return [model for previous in self._list_previous("models") for model in previous.models()]

    def to(self, device_or_dtype):
        """Move the callables before, where they can be moved; there is nothing else to move."""
        moved = {previous: previous.to(device_or_dtype) for previous in self._list_previous("to")}
        self.previous = {block: moved.get(previous, previous) for block, previous in self.previous.items()}
        return self

    def cleanup(self):
        """Pass on to the callables before that sampling ends."""
        for previous in self._list_previous("cleanup"):
            previous.cleanup()

    def _list_previous(self, method: str) -> set:
        return {previous for previous in self.previous.values() if hasattr(previous, method)}


@dataclass(frozen=True)
class TwoStreams:
    """Carries the text stream along: through the whole sampling, or beside every step's identity latent.

    streams:      while the noise level lies in `sigma_range` (from, to)
    trajectory:   one of TRAJECTORIES
    blocks:       where the self-attention mixes
    """

    streams: Streams
    sigma_range: tuple[float, float]
    trajectory: str
    blocks: tuple[tuple, ...]

    def around_sampling(self, executor, noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, **kwargs):
        """Sample both streams from the same noise and return the first: OUTER_SAMPLE wrapper of the own trajectory."""
        check_deterministic(sampler)
        batch = noise.shape[0]
        noise, latent_image = torch.cat((noise, noise)), torch.cat((latent_image, latent_image))
        if denoise_mask is not None:
            denoise_mask = torch.cat((denoise_mask, denoise_mask))
        if kwargs.get("latent_shapes"):
            kwargs["latent_shapes"] = [(2 * batch, *shape[1:]) for shape in kwargs["latent_shapes"]]

        def report_identity(step, x0, x, steps):
            return callback(step, x0[:batch], x[:batch], steps)

        report = callback and report_identity
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, report, *args, **kwargs)[:batch]

    def around_step(self, executor, model, conds, x, timestep, model_options):
        """Tell this step's patches of the streams, adding the text stream where it lacks: CALC_COND_BATCH wrapper."""
        active = is_scheduled(self.sigma_range, timestep)
        # Guidance nodes such as PAG ask for one condition more, in which they replace blocks on purpose.
        reached = set() if len(conds) > 1 else set(self.blocks)
        if self.trajectory == "own":
            streams = replace(self.streams if active else Streams("off", "none", 0.0), reached=reached)
            return executor(model, conds, x, timestep, _add_streams(model_options, streams))
        if not active:
            return executor(model, conds, x, timestep, model_options)
        double = torch.cat((x, x)), torch.cat((timestep, timestep))
        streams = replace(self.streams, reached=reached)
        results = executor(model, conds, *double, _add_streams(model_options, streams))
        return [result[: x.shape[0]] for result in results]

    def around_unet(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs):
        """See that the streams were mixed in every block: APPLY_MODEL wrapper; raise RuntimeError otherwise."""
        output = executor(x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs)
        streams = transformer_options.get(STREAMS)
        missed = [block for block in self.blocks if streams and block not in streams.reached]
        if missed:
            raise RuntimeError(
                f"Infinite-ID: the model ran without mixing in {len(missed)} of its {len(self.blocks)} self-attentions "
                f"(the first is {missed[0]}). Another node, connected later, skips or replaces these blocks: remove it "
                "or put it before Infinite-ID Mixing."
            )
        return output

    def apply(self, model):
        """Return a clone of `model` with both streams."""
        model = model.clone()
        replaced = model.model_options["transformer_options"].get("patches_replace", {}).get("attn1", {})
        previous = {block: replaced.get(block, replaced.get(block[:2])) for block in self.blocks}
        attention = MixedSelfAttention({block: attention for block, attention in previous.items() if attention})
        # As other packs write them, without index in the block; where one has it, the host looks there first.
        for key in {block[:2] for block in self.blocks} | (set(self.blocks) & replaced.keys()):
            model.set_model_attn1_replace(attention, *key)
        if self.trajectory == "own":
            model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, self.around_sampling)
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, WRAPPER_KEY, self.around_step)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER_KEY, self.around_unet)
        return model


def _add_streams(model_options: dict, streams: Streams) -> dict:
    return model_options | {"transformer_options": model_options.get("transformer_options", {}) | {STREAMS: streams}}


def check_deterministic(sampler) -> None:
    """Raise ValueError for a sampler that adds noise at every step: the two streams would drift apart by it."""
    function = getattr(sampler, "sampler_function", None)
    parameters = inspect.signature(function).parameters if function else {}
    eta = parameters["eta"].default if "eta" in parameters else 1.0
    churn = getattr(sampler, "extra_options", {}).get("s_churn", 0.0)
    if churn > 0 or ("noise_sampler" in parameters and eta != 0):
        name = getattr(function, "__name__", "this sampler").removeprefix("sample_")
        raise ValueError(
            f"Infinite-ID: {name} adds new noise at every step, which would part the two streams. Choose ddim, euler, "
            'dpmpp_2m, ipndm or another sampler without noise, or set trajectory to "same latent".'
        )


def apply_infinite_id(
    model, mixing="mixed", style="none", style_strength=1.0, start_percent=0.0, end_percent=1.0, trajectory="own",
    parts=("down", "middle", "up"),
):  # fmt: skip
    """Return a clone of `model` whose identity stream is mixed with a text stream (docs/papers.md 5).

    model:           the host's ModelPatcher, with image cross-attention applied before or after
    mixing, style, style_strength, trajectory: as in `Streams` and `TwoStreams`
    start_percent, end_percent: part of the sampling in which the streams are mixed, 0..1
    parts:           which parts of the UNet mix, keys of PARTS

    Without mixing and style, in no part of the UNet or of the sampling the model is left as it was, bit for bit.
    Raises ValueError for a model without transformer blocks of a UNet, or with two streams already.
    """
    blocks = transformer_blocks(model.get_model_object("diffusion_model"))
    if not blocks:
        what = type(model.model.model_config).__name__
        raise ValueError(f"Infinite-ID mixes the self-attention of SD and SDXL UNets; {what} has none of that kind.")
    if model.get_wrappers(WrappersMP.CALC_COND_BATCH, WRAPPER_KEY):
        raise ValueError("This model has been through an Infinite-ID Mixing already: keep one of the two.")
    unstyled = style == "none" or style_strength == 0
    if (mixing == "off" and unstyled) or not parts or start_percent >= end_percent:
        return model.clone()
    names = tuple(PARTS[part] for part in parts)
    blocks = tuple(block for block in blocks if block[0] in names)
    span = find_sigma_range(model, start_percent, end_percent)
    return TwoStreams(Streams(mixing, style, style_strength, names), span, trajectory, blocks).apply(model)
