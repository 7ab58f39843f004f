"""What arithmetic and bytes say of each mechanism before any card is had, and how many kernels it launches.

    work       floating point operations of one UNet call, conditional and unconditional rows of one image
    bytes      every input and weight read once and every output written once, in 16 bits: what a fused path would move
    intensity  work / bytes; a card's own is its rate by its bandwidth, and below that bytes decide
    least      the longer of work at the card's rate and bytes at its bandwidth
    kernels    operations that launch something, counted on the CPU in the code that runs, at small sizes
    launches   that many launches, `LAUNCH_US` each: what the host's Python needed for one on the machine below

A mechanism whose launches take longer than its `least` is bound by them, and fewer operations help more than faster
ones. The printed markdown can be pasted into RESULTS.md.
"""

from bench import open_host, table

open_host()

from dataclasses import dataclass  # noqa: E402

import facea  # noqa: E402
import image  # noqa: E402
import mixed  # noqa: E402
import sfags  # noqa: E402
import torch  # noqa: E402
from kernels import count_kernels  # noqa: E402
from likeness.adapters.fact import GatedSelfAttention, JoinedSelfAttention  # noqa: E402
from likeness.attention_patches.fact import FactPatch, FactPatches  # noqa: E402
from likeness.patcher import LightCast, manage  # noqa: E402

# TFLOP/s of bfloat16 products and GB/s: of the H200 as `on_cuda.py` measured them, of the H100 as NVIDIA states them.
CARDS = {"H200": (792e12, 4246e9), "H100": (989e12, 3350e9)}
LAUNCH_US = 24  # microseconds: a call of SD1.5 by the host on the H200's machine, 25.9 ms, by its 1101 kernels


@dataclass(frozen=True)
class Mechanism:
    """One mechanism at all its blocks: FLOPs, 16-bit numbers moved, kernels of one block, blocks."""

    name: str
    flops: float
    numbers: float
    kernels: int
    blocks: int


def fact_kernels() -> int:
    """Return the kernels of one face block."""
    torch.manual_seed(0)
    network = torch.nn.ModuleList([GatedSelfAttention(32, 48, LightCast, attention=JoinedSelfAttention)])
    weights = {name: torch.rand_like(part) for name, part in network.state_dict().items()}
    cpu = torch.device("cpu")
    patch = FactPatch(manage(network, weights, cpu, cpu), [("input", 1)], torch.rand(2, 4, 48), 1.0)
    patches = FactPatches((patch,), {})
    options = {"block": ("input", 1), "cond_or_uncond": [0, 1], "n_heads": 4, "attn_precision": None}
    x = torch.rand(2, 16, 32)
    return count_kernels(lambda: patches(x, options))


def image_kernels() -> int:
    """Return the kernels that image cross-attention adds to one layer."""
    block = ("input", 4, 0)
    ours = image.Ours(image.Layers({block: 64}, torch.float32, torch.device("cpu")))
    text, q = torch.rand(2, 2, 16, 64)
    return count_kernels(lambda: ours(text, q, None, None, block, image.options(64)))


def mixed_kernels() -> int:
    """Return the kernels that mixing adds to one self-attention, the host's own attention on two streams taken off."""
    q, k, v = torch.rand(3, 4, 16, 64)
    options = {"cond_or_uncond": [0, 1], "n_heads": 1, "attn_precision": None, "block": ("input", 4), "block_index": 0}
    options[mixed.STREAMS] = mixed.Streams("mixed", "none", 0.0)
    attention = mixed.MixedSelfAttention({}, {})
    stock = count_kernels(lambda: mixed.attend(q, k, v, options))
    return count_kernels(lambda: attention(q, k, v, options)) - stock


def mechanisms() -> list[Mechanism]:
    """Return the mechanisms at the published sizes."""
    levels = [(320 * level, (64 // level) ** 2 if i != 6 else 64) for i, level in enumerate(sfags.LEVELS)]
    products = sum(32 * 2 * n * d * d for d, n in levels)
    attentions = sum(4 * 2 * n * (n + 16) * d for d, n in levels)
    moved = sum(13 * d * d + 2 * 2 * n * d + 2 * 2 * 16 * d for d, n in levels)
    found = [Mechanism("FACT's face blocks, SD1.5, 512 px", products + attentions, moved, fact_kernels(), 16)]
    kernels = image_kernels()
    for pixels in (512, 1024):
        for photos in (1, 4):
            layers = [(d, (pixels * 40 // d) ** 2, count) for d, count in mixed.SIZES.items()]
            tokens = 16 * photos
            flops = sum(count * 4 * 2 * n * tokens * d for d, n, count in layers)
            moved = sum(count * (3 * 2 * n * d + 2 * 2 * tokens * d) for d, n, count in layers)
            name = f"image cross-attention, SDXL, {pixels} px, {tokens} tokens"
            found.append(Mechanism(name, flops, moved, kernels, 70))
    layers = [(d, (1024 * 40 // d) ** 2, count) for d, count in mixed.SIZES.items()]
    flops = sum(count * 4 * 2 * n * n * d for d, n, count in layers)  # the identity stream's second half of the keys
    moved = sum(count * 2 * 2 * n * d for d, n, count in layers)
    found.append(
        Mechanism("mixed attention beside two stock streams, SDXL, 1024 px", flops, moved, mixed_kernels(), 70)
    )
    return found


@torch.inference_mode()
def main() -> None:
    rows = []
    for own in mechanisms():
        launches = own.kernels * own.blocks * LAUNCH_US / 1e3
        least = {card: 1e3 * max(own.flops / rate, 2 * own.numbers / band) for card, (rate, band) in CARDS.items()}
        verdict = "launches" if launches > least["H200"] else "the GPU"
        rows.append([
            own.name, f"{own.flops / 1e9:.1f}", f"{2 * own.numbers / 1e6:.1f}", f"{own.flops / own.numbers / 2:.0f}",
            *(f"{least[card]:.2f}" for card in CARDS), f"{own.kernels} x {own.blocks}", f"{launches:.1f}", verdict,
        ])  # fmt: skip
    print("A card's own intensity: " + ", ".join(f"{card} {rate / band:.0f}" for card, (rate, band) in CARDS.items()))
    print()
    columns = ["mechanism", "GFLOP", "MB", "intensity", *(f"least, {card}, ms" for card in CARDS), "kernels"]
    print(table([*columns, "launches, ms", "bound by"], rows))
    with torch.inference_mode(False):
        _, kernels = facea.count_operations(facea.make_setting(facea.Size(pixels=64, batch=1, width=32)))
    print(f"\nFaceA's training step, bfloat16: {kernels} kernels, {kernels * LAUNCH_US / 1e3:.0f} ms of launches")


if __name__ == "__main__":
    main()
