"""Where the cross-attentions of a published IP-Adapter file sit in the host's UNet.

A file numbers the attention layers as diffusers lists them: down, up and then the middle block, self-attention even and
cross-attention odd. The n-th transformer block of such a list thus has self-attention 2n and cross-attention 2n + 1.
"""

Place = tuple[str, int, int]  # the host's block, its number, and the index of the transformer block inside it


def _places(*blocks: tuple[str, int, int]) -> tuple[Place, ...]:
    """The places of (block, number, how many transformer blocks it holds), in their order."""
    return tuple((block, number, index) for block, number, depth in blocks for index in range(depth))


PLACES = {
    "SD1.5": _places(
        *(("input", number, 1) for number in (1, 2, 4, 5, 7, 8)),
        *(("output", number, 1) for number in range(3, 12)),
        ("middle", 0, 1),
    ),
    "SDXL": _places(
        *(("input", number, 2) for number in (4, 5)),
        *(("input", number, 10) for number in (7, 8)),
        *(("output", number, 10) for number in (0, 1, 2)),
        *(("output", number, 2) for number in (3, 4, 5)),
        ("middle", 0, 10),
    ),
}  # in the published order

_ORDER = {"input": 0, "middle": 1, "output": 2}
_MODULES = {"input": "input_blocks.{}.1", "middle": "middle_block.1", "output": "output_blocks.{}.1"}
_PROJECTIONS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}


def in_unet_order(places) -> list[Place]:
    """The places in the order in which the UNet runs them."""
    return sorted(places, key=lambda place: (_ORDER[place[0]], place[1:]))


def image_numbers(base: str) -> dict[int, Place]:
    """The number that the image keys and values of each place bear, `<number>.to_k_ip.weight`."""
    return {2 * n + 1: place for n, place in enumerate(PLACES[base])}


def lora_targets(base: str) -> dict[str, str]:
    """The host's weight that each LoRA in a FaceID file changes, by the LoRA's name `<number>.to_q`."""
    targets = {}
    for n, (block, number, index) in enumerate(PLACES[base]):
        module = f"diffusion_model.{_MODULES[block].format(number)}.transformer_blocks.{index}"
        for attention in (1, 2):
            for short, projection in _PROJECTIONS.items():
                targets[f"{2 * n + attention - 1}.{short}"] = f"{module}.attn{attention}.{projection}.weight"
    return targets
