"""Gradient checkpointing: blocks of a UNet keep only what goes into them, and are computed again on the way back."""

from collections.abc import Callable
from functools import partial

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch.utils.checkpoint import checkpoint


def recompute(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Let the blocks of `model` be computed twice, which takes less memory and more time, and return them."""
    blocks = [block for block in model.modules() if isinstance(block, (BasicTransformerBlock, ResBlock))]
    for block in blocks:
        block.forward = partial(_forward, block.forward)
    return blocks


def compute_once(blocks: list[torch.nn.Module]) -> None:
    """Undo what `recompute` did."""
    for block in blocks:
        del block.forward


def _forward(forward: Callable, *args, **options) -> torch.Tensor:
    """Return what `forward` does, keeping its inputs alone.

    The host writes each block's name into one dict of options: a copy still has this block's on the way back.
    """
    options = {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()}
    return checkpoint(forward, *args, use_reentrant=False, **options)
