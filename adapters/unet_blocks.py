"""The transformer blocks of SD1.5's and SDXL's UNets: the host's names of them, and both published numberings.

The host names a block by the part of the UNet, the number of the module in it, and its index among the module's
transformer blocks. Image adapters number attention layers as diffusers lists them: down, up and then the middle, the
self-attention even and the cross-attention odd, so that the n-th transformer block of the list has self-attention 2n
and cross-attention 2n + 1. FACT's files spell the path of each block in diffusers' or in the original code's way.
"""

from typing import NamedTuple

import torch

Block = tuple[str, int, int]  # part of the UNet, number of the module, index of the transformer block in it


def _list_blocks(*modules: tuple[str, int, int]) -> tuple[Block, ...]:
    """Return the blocks of (part, number, how many transformer blocks it holds), in their order."""
    return tuple((part, number, index) for part, number, depth in modules for index in range(depth))


BLOCKS = {
    "SD1.5": _list_blocks(
        *(("input", number, 1) for number in (1, 2, 4, 5, 7, 8)),
        *(("output", number, 1) for number in range(3, 12)),
        ("middle", 0, 1),
    ),
    "SDXL": _list_blocks(
        *(("input", number, 2) for number in (4, 5)),
        *(("input", number, 10) for number in (7, 8)),
        *(("output", number, 10) for number in (0, 1, 2)),
        *(("output", number, 2) for number in (3, 4, 5)),
        ("middle", 0, 10),
    ),
}  # in the order in which image adapters number them

_ORDER = {"input": 0, "middle": 1, "output": 2}
_MODULES = {"input": "input_blocks.{}.1", "middle": "middle_block.1", "output": "output_blocks.{}.1"}
_PROJECTIONS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}


def sort_blocks(blocks) -> list[Block]:
    """Return the blocks in the order in which the UNet runs them."""
    return sorted(blocks, key=lambda block: (_ORDER[block[0]], block[1:]))


def number_attentions(base: str) -> dict[int, Block]:
    """Return the block of every number that image keys and values bear, `<number>.to_k_ip.weight`."""
    return {2 * n + 1: block for n, block in enumerate(BLOCKS[base])}


def list_lora_targets(base: str) -> dict[str, str]:
    """Return the host's weight that each LoRA of a FaceID file changes, by the LoRA's name `<number>.to_q`."""
    targets = {}
    for name, ((part, number, index), attention, projection) in list_lora_layers(base).items():
        module = f"diffusion_model.{_MODULES[part].format(number)}.transformer_blocks.{index}"
        targets[name] = f"{module}.{attention}.{_PROJECTIONS[projection]}.weight"
    return targets


def list_lora_layers(base: str) -> dict[str, tuple[Block, str, str]]:
    """Return the block, the attention "attn1" or "attn2" and the projection "to_q" ... of each LoRA by its name."""
    return {
        f"{2 * n + number}.{projection}": (block, f"attn{number + 1}", projection)
        for n, block in enumerate(BLOCKS[base])
        for number in (0, 1)
        for projection in _PROJECTIONS
    }


def transformer_blocks(unet: torch.nn.Module) -> dict[Block, torch.nn.Module]:
    """Return the transformer blocks of a UNet by the host's names; empty for other models."""
    parts = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
    blocks = {}
    for path, module in unet.named_modules():
        steps = path.split(".")
        if steps[0] in parts and steps[-2:-1] == ["transformer_blocks"] and hasattr(module, "attn2"):
            number = 0 if steps[0] == "middle_block" else int(steps[1])
            blocks[parts[steps[0]], number, int(steps[-1])] = module
    return blocks


def recognise_base(unet: torch.nn.Module) -> str | None:
    """Return the name in `BLOCKS` of the base model whose transformer blocks a UNet has; None for others."""
    blocks = transformer_blocks(unet).keys()
    return next((name for name, expected in BLOCKS.items() if blocks == set(expected)), None)


class FaceBlock(NamedTuple):
    """A block that FACT extends: the host's name of it, and the two published spellings of its keys' prefix."""

    block: tuple[str, int]
    diffusers: str
    original: str


def _name_face_block(part: str, number: int, diffusers: str, original: str) -> FaceBlock:
    suffix = "transformer_blocks.0"
    return FaceBlock((part, number), f"{diffusers}.{suffix}.attn2.processor.", f"{original}.1.{suffix}.fuser.")


FACE_BLOCKS = (
    *(
        _name_face_block("input", 3 * i + j + 1, f"down_blocks.{i}.attentions.{j}", f"input_blocks.{3 * i + j + 1}")
        for i in range(3)
        for j in range(2)
    ),
    _name_face_block("middle", 0, "mid_block.attentions.0", "middle_block"),
    *(
        _name_face_block("output", 3 * i + j, f"up_blocks.{i}.attentions.{j}", f"output_blocks.{3 * i + j}")
        for i in range(1, 4)
        for j in range(3)
    ),
)  # in the order in which the UNet runs them
