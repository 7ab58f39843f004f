"""Gradient checkpointing: blocks of a UNet keep only what goes into them, and are computed again on the way back."""

from collections.abc import Callable

import comfy_extras.nodes_train
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock


def recompute(model: torch.nn.Module) -> Callable[[], None]:
    """Let the blocks of `model` be computed twice, which takes less memory and more time; return what undoes it."""
    blocks = [block for block in model.modules() if isinstance(block, (BasicTransformerBlock, ResBlock))]
    hooks = [block.register_forward_pre_hook(_copy_options, with_kwargs=True) for block in blocks]
    for block in blocks:
        comfy_extras.nodes_train.patch(block)

    def undo() -> None:
        for block, hook in zip(blocks, hooks):
            comfy_extras.nodes_train.unpatch(block)
            hook.remove()

    return undo


def _copy_options(block, inputs: tuple, options: dict) -> tuple[tuple, dict]:
    """Return a block's inputs with dicts of its own: the host writes each block's name into one for all of them, and on
    the way back it would hold the last one's.
    """
    return inputs, {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()}
