"""Compilation of those parts of a frozen UNet that take tensors alone: layers of residual blocks, and feed-forwards.

The attentions, between which the patches of adapters stand, are the library's own kernels already.
"""

import torch
from comfy.ldm.modules.attention import FeedForward
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch.utils._triton import has_triton

_SHAPES = 64  # of blocks, each of which is compiled apart; torch's own limit is 8, and leaves the rest as it is


def compile_parts(model: torch.nn.Module, device: torch.device) -> None:
    """Have the parts of `model` compiled when they are first called; the numbers are the same but for rounding.

    Raises ValueError where what torch compiles with is not there.
    """
    import torch._dynamo  # takes seconds: the pack's nodes import this module

    _check(device)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for part in model.modules():
        if isinstance(part, FeedForward):
            part.compile()
        if isinstance(part, ResBlock):  # whose own call gradient checkpointing replaces
            part.in_layers.compile()
            part.out_layers.compile()


def _check(device: torch.device) -> None:
    if device.type != "cpu":
        if not has_triton():
            raise ValueError("compile = true needs Triton on a GPU: 'python -m pip install triton', or leave it out.")
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ValueError("compile = true needs a C++ compiler on a CPU, and there is none: leave it out.") from error
