"""What patches of adapters share: runs, rows, regions, the schedule, and that the face is not lost unseen."""

import logging
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from comfy.patcher_extension import WrappersMP

from ..adapters.unet_blocks import transformer_blocks
from .calls import COMPILED, Rows, Schedule, describe_calls, find_guidance, list_packs, name_pack, read_call


@dataclass
class Run:
    """What one sampling run on one device needs and no step changes.

    faces:    by block the identity's keys and values for (positive, other) rows, [2, m, d] each or in one, [2, m, 2 d]
    rows:     by batch layout and block the same for every row of the batch, [rows, m, ...]
    masks:    the region at token resolution, by resolution and batch layout
    """

    faces: dict[tuple, tuple[torch.Tensor, ...]]
    rows: dict[tuple, dict] = field(default_factory=dict)
    masks: dict[tuple, torch.Tensor] = field(default_factory=dict)


class AdapterPatch(ABC):
    """One identity through one adapter, at `blocks` of a UNet.

    name:      of node or file, for sentences
    blocks:    the host's names of them
    schedule:  the part of the sampling in which the adapter is on
    mask:      [1 or batch, H, W] in 0..1, where in the image it acts; None: everywhere
    """

    name: str
    node: str

    def __init__(self, blocks, schedule: Schedule, mask: torch.Tensor | None = None):
        self.blocks = tuple(blocks)
        self.schedule = schedule
        self.mask = mask
        self._runs: dict[torch.device, Run] = {}

    @abstractmethod
    def start(self, device: torch.device, dtype: torch.dtype) -> Run:
        """Work out what the steps of a sampling run share, on its device and in its precision."""

    @abstractmethod
    def guard(self, transformer_options: dict) -> None:
        """See that the host will call this patch in every block; where another node took its place, watch that.

        Raises RuntimeError where nobody can call it any more.
        """

    def cleanup(self):
        """Forget what the run made; the host calls this when sampling ends."""
        self._runs.clear()

    def attach(self, model) -> None:
        """Have `model` describe its calls, and look at the end of a sampling whether the face was in it."""
        describe_calls(model)
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "likeness_adapter", self.around_sampling)

    def around_sampling(self, executor, guider, sigmas, extra_args, *args, **kwargs):
        """See that the face gets into the image: SAMPLER_SAMPLE wrapper.

        A cache that answers for the UNet or for some of its blocks is no fault: it remembers the face, too. Raises
        RuntimeError where no block has run in all of the sampling.
        """
        options = extra_args["model_options"]
        self.guard(options["transformer_options"])
        samples = executor(guider, sigmas, extra_args, *args, **kwargs)
        guidance, size = find_guidance(options), len(self.blocks)
        calls = {count: number for (patch, count), number in guidance.reached.items() if patch is self}
        if guidance.calls and not calls and COMPILED in options:
            torch.compiler.reset()
            raise RuntimeError(
                f"{self.name}: the model ran {guidance.calls} times without its {size} blocks, so that the face is "
                "not in the image: it ran as it had been compiled before without a face. That is forgotten now: queue "
                "it again, and it is compiled with the face."
            )
        if guidance.calls and not calls:
            around = options.get("model_function_wrapper") or type(guider.inner_model.diffusion_model)
            raise RuntimeError(
                f"{self.name}: the model ran {guidance.calls} times without its {size} blocks, so that the face is "
                f"not in the image. {name_pack(around)} runs the model in a way of its own: use {self.node} without it."
            )
        if fewer := guidance.calls - calls.get(size, 0):
            logging.info(
                f"{self.name}: {fewer} of {guidance.calls} calls of the model were answered without some of its {size} "
                "blocks, by a cache or another node; what was remembered has the face in it."
            )
        return samples

    def run_on(self, device: torch.device, dtype: torch.dtype) -> Run:
        """Return the run on a device; the first block of a sampling starts it."""
        if device not in self._runs:
            self._runs[device] = self.start(device, dtype)
        return self._runs[device]

    @staticmethod
    def keys_values(run: Run, block: tuple, like: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, ...]:
        """Return a block's part of `run.faces` for every row of a stream [rows, m, ...], made once per batch layout."""
        expanded = run.rows.setdefault((rows.roles, len(rows.images), like.dtype), {})
        if block not in expanded:
            expanded[block] = tuple(rows.expand(part.to(like.dtype)) for part in run.faces[block])
        return expanded[block]

    def find_region(self, run: Run, like: torch.Tensor, rows: Rows, extra_options: dict) -> torch.Tensor | None:
        """Return the mask at the tokens of `like` [rows, n, d] as [1 or rows, n, 1]; None where there is none.

        Raises RuntimeError where the UNet sees a part of the latent that cannot be found in the image.
        """
        if self.mask is None:
            return None
        size = find_token_grid(extra_options, like.shape[1])
        layout = (rows, size, like.dtype)
        if layout not in run.masks:
            self._check_whole(rows, extra_options)
            if not run.masks:
                self._warn_of_stretching(read_call(extra_options).size)
            mask = self.mask.to(like.device, torch.float32)
            run.masks[layout] = rows.place(mask, size, read_call(extra_options).size).to(like.dtype)
        return run.masks[layout]

    def _warn_of_stretching(self, latent: tuple[int, int] | None) -> None:
        """Say so where the mask has other proportions than the image: nobody tells that a detailer samples a crop."""
        height, width = self.mask.shape[-2:]
        if latent and abs(height * latent[1] / (width * latent[0]) - 1) > 0.1:
            logging.warning(
                f"{self.name}: a mask of {width} x {height} pixels is stretched over an image of other proportions. If "
                "a node such as a face detailer samples a crop of the image, crop the mask in the same way."
            )

    def _check_whole(self, rows: Rows, extra_options: dict) -> None:
        call = read_call(extra_options)
        if call.size is None or "original_shape" not in extra_options:
            return
        shown = tuple(extra_options["original_shape"][-2:])
        whole = rows.areas[0][:2] if rows.areas[0] else call.size
        if shown != whole:
            around = call.options.get("model_function_wrapper")
            who = name_pack(around) if around else ", ".join(list_packs(call.options)) or "Another node"
            raise RuntimeError(
                f"{self.name}: {who} shows the model a part of the image, {shown[1]} x {shown[0]} of {whole[1]} x "
                f"{whole[0]} in the latent, and does not say which, so that the mask cannot be put where it belongs. "
                f"Disconnect the mask from {self.node}, or remove the node that cuts the image into tiles."
            )


def find_token_grid(extra_options: dict, tokens: int) -> tuple[int, int]:
    """Return (height, width) of a block's tokens; of a pack that does not tell it is found by halving the latent."""
    if "activations_shape" in extra_options:
        return tuple(extra_options["activations_shape"][-2:])
    height, width = extra_options["original_shape"][-2:]
    while height * width > tokens:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return height, width


def watch(found, patch: AdapterPatch, block: tuple | None = None):
    """Return what calls `found`, another node's callable in the place of `patch`, and sees that it calls the patch.

    block: the patch's name of the place; None: it is told by the call
    """

    @torch.compiler.disable
    def call(*args):
        output, extra_options = found(*args), args[-1]
        name = block or extra_options["block"]
        if name in patch.blocks and (patch, name) not in read_call(extra_options).reached:
            raise RuntimeError(
                f"{patch.name}: {name_pack(found)} has replaced it at the block {name} and does not call it, so that "
                f"the face is lost there. Connect that node before {patch.node}, or remove it."
            )
        return output

    return call


def check_base(
    model, widths: dict[tuple, int], token_dim: int, adapter: str, base: str, noun: str, remedy: str
) -> None:
    """Raise ValueError unless the blocks of an adapter are those of the model's UNet.

    widths: of the adapter's blocks by the host's names, with or without index; token_dim: its text width
    adapter, base, noun, remedy: its name, what it fits, what its blocks are called, and what to do otherwise
    """
    blocks = transformer_blocks(model.get_model_object("diffusion_model"))
    if all(len(name) == 2 for name in widths):  # FACT extends the first block of each module
        blocks = {name[:2]: block for name, block in blocks.items() if name[2] == 0}
    model_widths = {name: block.attn2.to_q.in_features for name, block in blocks.items()}
    contexts = {block.attn2.to_k.in_features for block in blocks.values()}
    if model_widths != widths or contexts != {token_dim}:
        raise ValueError(
            f"{adapter} fits {base} with {_describe_blocks(widths, {token_dim}, noun)}, but the connected model is "
            f"{type(model.model.model_config).__name__} with {_describe_blocks(model_widths, contexts, noun)}. {remedy}"
        )


def _describe_blocks(widths: dict, contexts: set[int], noun: str) -> str:
    if not widths:
        return f"no text cross-attention{' blocks' if noun == 'blocks' else 's'} at all"
    sizes, texts = ("/".join(map(str, sorted(numbers))) for numbers in (set(widths.values()), contexts))
    return f"{len(widths)} {noun} {sizes} wide and a text width of {texts}"
