"""What Infinite-ID's mixed attention costs in one UNet call of SDXL, against the counted floor.

    one     the stock UNet on one stream
    two     the stock UNet on identity and text stream together: twice the rows
    mixed   the same with the identity stream's keys and values doubled
    floor   the attentions that `mixed` cannot do without (identity rows over twice the keys, text rows over their own),
            as bare kernels on tensors made ready before, in the same blocks

Test weights; sizes and data flow are the true ones. The printed markdown can be pasted into RESULTS.md.
"""

from bench import machine, megabytes_at_most, open_host, spread, table, time_work

open_host()

import statistics  # noqa: E402

import comfy.model_management  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.attention import optimized_attention  # noqa: E402
from likeness.adapters.unet_blocks import transformer_blocks  # noqa: E402
from likeness.attention_patches.calls import attend  # noqa: E402
from likeness.attention_patches.infinite_id import STREAMS, MixedSelfAttention, Streams  # noqa: E402
from networks import WIDTH, unet  # noqa: E402

CASES = {"cuda": (torch.bfloat16, 1024, 20), "cpu": (torch.float32, 384, 3)}  # dtype, pixels, rounds of whole calls
LAYER_PIXELS, LAYER_ROUNDS = 1024, 6
STREAMS_OF_ONE = Streams("mixed", "none", 0.0, images=1)
SIZES = {640: 10, 1280: 60}  # widths of SDXL's self-attentions, and how many there are


class AttentionRecorder:
    """Keeps what every self-attention is called with in one UNet call."""

    def __init__(self, block, visits):
        self.block, self.visits = block, visits

    def __call__(self, q, k, v, extra_options):
        result = MixedSelfAttention({}, {})(q, k, v, extra_options)
        self.visits[self.block] = (q, k, v, result)
        return result


class MixedFloor:
    """The attentions of one block as bare kernels on tensors made ready before."""

    def __init__(self, q, k, v, result):
        (self.q_id, self.q_t), (k_id, self.k_t), (v_id, self.v_t) = (
            [part.contiguous() for part in STREAMS_OF_ONE.split(tensor)] for tensor in (q, k, v)
        )
        self.keys, self.values = torch.cat((k_id, self.k_t), dim=1), torch.cat((v_id, self.v_t), dim=1)
        self.result = result

    def __call__(self, q, k, v, extra_options):
        optimized_attention(self.q_id, self.keys, self.values, extra_options["n_heads"])
        optimized_attention(self.q_t, self.k_t, self.v_t, extra_options["n_heads"])
        return self.result


def calls(network, dtype, pixels: int):
    """Return a function that calls the UNet with given rows per chunk (cond and uncond) and attn1 replacements."""
    device, side = next(network.parameters()).device, pixels // 8
    generator = torch.Generator().manual_seed(4)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(device, dtype)  # noqa: E731
    latent, text, labels = draw(4, 4, side, side), draw(4, 77, 2048), draw(4, 2816)
    times = torch.full((4,), 500.0, device=device)

    def call(rows: int, replacements: dict):
        options = {
            "cond_or_uncond": [0, 1], "patches_replace": {"attn1": replacements},
            STREAMS: STREAMS_OF_ONE,
        }  # fmt: skip
        return network(latent[:rows], times[:rows], text[:rows], labels[:rows], transformer_options=options)

    return call


def time_layers(sizes: dict[int, int], dtype, device, pixels: int, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of the self-attentions alone, the forms in turn, by form.

    sizes: widths and how many blocks have each, the narrowest first; one of each is timed.
    """
    draw = torch.Generator().manual_seed(3)
    samples = {"two": [], "mixed": [], "floor": []}
    mixed = MixedSelfAttention({}, {})
    layers = []
    for width, count in sizes.items():
        tokens = (pixels * min(sizes) // (16 * width)) ** 2  # the narrowest blocks work at half the latent's size
        q, k, v = (torch.randn(4, tokens, width, generator=draw).to(device, dtype) for _ in "qkv")
        options = {"cond_or_uncond": [0, 1], "n_heads": width // 64, "attn_precision": None, "block": ("input", 4)}
        layers.append(
            (count, (q, k, v), options | {"block_index": 0, STREAMS: STREAMS_OF_ONE}, MixedFloor(q, k, v, None))
        )
    for turn in range(rounds + 1):
        took = dict.fromkeys(samples, 0.0)
        for count, tensors, options, floor in layers:
            for name, form in {"two": attend, "mixed": mixed, "floor": floor}.items():
                took[name] += count * time_work(lambda: form(*tensors, options), device, queued=True)  # noqa: B023
        for name in samples:
            samples[name] += [took[name]] if turn else []
    return samples


def ratio(samples: dict[str, list[float]], name: str, other: str) -> float:
    """Return the median of the rounds' ratios of one form's time to another's."""
    return statistics.median(a / b for a, b in zip(samples[name], samples[other]))


def list_ratios(samples: dict[str, list[float]]) -> list[list]:
    """Return name, time, and the ratios to `two` and `floor` of every form."""
    return [
        [name, spread(values), *(f"{ratio(samples, name, other):.3f}" for other in ("two", "floor"))]
        for name, values in samples.items()
    ]


def run(model, dtype, pixels: int, layer_pixels: int, rounds: int, layer_rounds: int) -> dict[str, float]:
    """Measure a UNet of SDXL, print the section and return its figures."""
    device = model.load_device
    comfy.model_management.load_models_gpu([model])
    network = model.model.diffusion_model
    blocks, call, visits = transformer_blocks(network), calls(network, dtype, pixels), {}
    sizes = {width * network.model_channels // WIDTH: count for width, count in SIZES.items()}
    alone = time_layers(sizes, dtype, device, layer_pixels, layer_rounds)
    print(
        f"The {len(blocks)} self-attentions alone, {layer_pixels} px, ms: median (extremes) of {layer_rounds} rounds:\n"
    )
    print(table(["form", "ms", "/ two", "/ floor"], list_ratios(alone)), flush=True)
    call(4, {block: AttentionRecorder(block, visits) for block in blocks})
    forms = {
        "one": (2, {}),
        "two": (4, {}),
        "mixed": (4, dict.fromkeys(blocks, MixedSelfAttention({}, {}))),
        "floor": (4, {block: MixedFloor(*visits.pop(block)) for block in blocks}),
    }
    samples = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, form in forms.items():
            took = time_work(lambda: call(*form), device)  # noqa: B023
            samples[name] += [took] if turn else []
    print(f"\nWhole UNet calls at {pixels} px, in turn, ms: median (extremes) of {rounds} rounds:\n")
    print(table(["form", "ms", "/ two", "/ floor"], list_ratios(samples)))
    return {
        "layers / floor": ratio(alone, "mixed", "floor"),
        "calls / floor": ratio(samples, "mixed", "floor"),
        "calls / two": ratio(samples, "mixed", "two"),
        "mixed ms": statistics.median(samples["mixed"]),
        "peak MB": megabytes_at_most(lambda: call(*forms["mixed"]), device),
        "two peak MB": megabytes_at_most(lambda: call(*forms["two"]), device),
    }


@torch.inference_mode()
def main() -> None:
    device = comfy.model_management.get_torch_device()
    dtype, pixels, rounds = CASES[device.type]
    print(f"Machine: {machine()}, {str(dtype).removeprefix('torch.')}.\n")
    run(unet("SDXL", dtype), dtype, pixels, LAYER_PIXELS, rounds, LAYER_ROUNDS)


if __name__ == "__main__":
    main()
