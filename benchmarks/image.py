"""What image cross-attention adds to one UNet call of SDXL, against projecting in every step and the bare attentions.

    base     the UNet alone
    ours     with a FaceID-PlusV2-like adapter of 16 tokens: keys and values were projected once
    (a)      the straightforward way: in every call and layer, project the tokens of both branches, repeat them for the
             batch, attend, multiply by the strength, add
    floor    what ours cannot do without: one attention and one addition per layer as bare kernels

Test weights; sizes and data flow are the true ones. The printed markdown can be pasted into RESULTS.md.
"""

from bench import StopWatch, machine, megabytes_at_most, open_host, spread, table, time_work

open_host()

import statistics  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import comfy.model_management  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.attention import optimized_attention  # noqa: E402
from likeness.adapters.unet_blocks import BLOCKS, transformer_blocks  # noqa: E402
from likeness.attention_patches.calls import CALL, Guidance, UNetCall, attend, read_rows  # noqa: E402
from likeness.attention_patches.ip_adapter import ImageAttentionPatch  # noqa: E402
from networks import unet  # noqa: E402

TOKENS, TOKEN_DIM, STRENGTH = 16, 2048, 0.8
CASES = {"cuda": (torch.bfloat16, 1024, 20), "cpu": (torch.float32, 512, 4)}  # dtype, pixels, rounds of whole calls
LAYER_PIXELS, LAYER_ROUNDS = (512, 1024), 20
IN_A_CALL = {"original_shape": [2, 4, 64, 64], CALL: UNetCall(Guidance({}))}  # what the host and we tell a block
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-1}


class Layers:
    """Test weights of every block's projections, and the keys and values that ours has of them."""

    def __init__(self, widths: dict, dtype, device, references: int = 1):
        draw = torch.Generator().manual_seed(2)
        self.tokens = torch.randn(2, references * TOKENS, TOKEN_DIM, generator=draw).to(device, dtype)
        self.weights = {
            block: [(torch.randn(width, TOKEN_DIM, generator=draw) * TOKEN_DIM**-0.5).to(device, dtype) for _ in "kv"]
            for block, width in widths.items()
        }
        pairs = ((self.tokens @ part.T for part in parts) for parts in self.weights.values())
        self.keys_values = {block: tuple(pair) for block, pair in zip(self.weights, pairs)}

    def patch(self) -> ImageAttentionPatch:
        adapter = SimpleNamespace(name="test", split=lambda keys_values: self.keys_values)
        return ImageAttentionPatch(adapter, self.tokens, dict.fromkeys(self.weights, STRENGTH))


class Ours:
    """The adapter's own patch."""

    def __init__(self, layers: Layers):
        self.patch = layers.patch()

    def __call__(self, text, q, k, v, block, extra_options):
        return self.patch.add_image(text, q, k, v, block, read_rows(extra_options, len(q)), extra_options)


class StraightforwardImage:
    """(a): tokens projected and repeated in every call and block."""

    def __init__(self, layers: Layers):
        self.layers = layers

    def __call__(self, text, q, k, v, block, extra_options):
        batch = q.shape[0] // len(extra_options["cond_or_uncond"])
        to_k, to_v = self.layers.weights[block]
        cond, uncond = (tokens.expand(batch, -1, -1) for tokens in self.layers.tokens.split(1))
        branches = [[cond, uncond][kind] for kind in extra_options["cond_or_uncond"]]
        keys = torch.cat([tokens @ to_k.T for tokens in branches])
        values = torch.cat([tokens @ to_v.T for tokens in branches])
        return text + STRENGTH * optimized_attention(q, keys, values, extra_options["n_heads"])


class ImageFloor:
    """On keys and values repeated for the batch before the clock starts."""

    def __init__(self, layers: Layers, rows: int):
        self.ready = {
            block: [part.repeat_interleave(rows // 2, dim=0).contiguous() for part in pair]
            for block, pair in layers.keys_values.items()
        }

    def __call__(self, text, q, k, v, block, extra_options):
        keys, values = self.ready[block]
        return torch.add(text, optimized_attention(q, keys, values, extra_options["n_heads"]), alpha=STRENGTH)


class TimedAttention:
    """Replaces every cross-attention: the host's own, then a form, timed."""

    def __init__(self, form, device):
        self.form, self.watch = form, StopWatch(device)

    def __call__(self, q, k, v, extra_options):
        text = attend(q, k, v, extra_options)
        self.watch.mark()
        if self.form:
            text = self.form(text, q, k, v, (*extra_options["block"], extra_options["block_index"]), extra_options)
        self.watch.mark()
        return text


def time_layers(forms: dict, widths: dict, dtype, device, pixels: int, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of all layers by themselves on queries of a square image, the forms in turn, by form."""
    draw = torch.Generator().manual_seed(3)
    inputs, narrowest = {}, min(widths.values())
    for block, width in widths.items():
        rows = (pixels * narrowest // (16 * width)) ** 2  # the narrowest blocks work at half the latent's size
        q = torch.randn(2, rows, width, generator=draw).to(device, dtype)
        inputs[block] = torch.randn(2, rows, width, generator=draw).to(device, dtype), q
    samples = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, form in forms.items():
            took = sum(
                time_work(lambda: form(text, q, None, None, block, options(q.shape[2])), device, queued=True)  # noqa: B023
                for block, (text, q) in inputs.items()
            )
            samples[name] += [took] if turn else []
    check(forms, inputs, dtype)
    return samples


def check(forms: dict, inputs: dict, dtype) -> None:
    """Leave the process unless all forms compute the same: their times would say nothing."""
    for block, (text, q) in inputs.items():
        ours, other, floor = (form(text, q, None, None, block, options(q.shape[2])) for form in forms.values())
        for result in (other, floor):
            if float((result - ours).abs().max() / (ours - text).abs().max()) > TOLERANCE[dtype]:
                raise SystemExit(f"the forms differ at {block}")


def options(width: int) -> dict:
    """Return the host's extra options of a block `width` wide for one image, conditional and unconditional."""
    return {"cond_or_uncond": [0, 1], "n_heads": width // 64, "attn_precision": None} | IN_A_CALL


def list_ratios(samples: dict[str, list[float]]) -> list[list]:
    """Return name, time, and the ratio of ours to it, median of the rounds, by form."""
    ours = samples["ours"]
    return [
        [name, spread(values), f"{statistics.median(a / b for a, b in zip(ours, values)):.3f}"]
        for name, values in samples.items()
    ]


def calls(model, dtype, pixels: int):
    """Return a function that calls the UNet once, with a given replacement of all cross-attentions.

    Conditional and unconditional rows go together.
    """
    network, device = model.model.diffusion_model, model.load_device
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(2, 4, pixels // 8, pixels // 8, generator=draw).to(device, dtype)
    text, labels = (torch.randn(2, *shape, generator=draw).to(device, dtype) for shape in [(77, 2048), (2816,)])
    times = torch.full((2,), 500.0, device=device)

    def call(attention):
        patches = {"cond_or_uncond": [0, 1], "patches_replace": {"attn2": dict.fromkeys(BLOCKS["SDXL"], attention)}}
        return network(x, times, text, labels, transformer_options=patches)

    return call


def time_calls(forms: dict, call, device, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return milliseconds of whole UNet calls in turn, and what of them is spent in the form, by form."""
    whole, added = {name: [] for name in forms}, {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, form in forms.items():
            attention = TimedAttention(form, device)
            took = time_work(lambda: call(attention), device)  # noqa: B023
            if turn:
                whole[name].append(took)
                added[name].append(attention.watch.total())
    return whole, added


def find_widths(model) -> dict:
    """Return the widths of a UNet's cross-attentions by their blocks, in the published order."""
    blocks = transformer_blocks(model.model.diffusion_model)
    return {block: blocks[block].attn2.to_q.out_features for block in BLOCKS["SDXL"]}


def run(model, dtype, references: int, pixels: int, layer_pixels, call_rounds: int, layer_rounds: int) -> dict:
    """Measure `references` photos in one adapter, print the section and return its figures."""
    device = model.load_device
    comfy.model_management.load_models_gpu([model])
    widths = find_widths(model)
    layers = Layers(widths, dtype, device, references)
    forms = {"ours": Ours(layers), "(a)": StraightforwardImage(layers), "floor": ImageFloor(layers, 2)}
    print(f"\n### {len(widths)} layers, {references * TOKENS} tokens, {str(dtype).removeprefix('torch.')}\n")
    figures = {}
    for bits in (16, 32):
        numbers = sum(2 * references * TOKENS * 2 * width for width in widths.values())
        print(f"Identity state (keys and values of both branches) in {bits} bits: {numbers * bits / 8e6:.2f} MB.\n")
    for size in layer_pixels:
        print(f"All layers by themselves at {size} px, in turn, ms: median (extremes) of {layer_rounds} rounds:\n")
        samples = time_layers(forms, widths, dtype, device, size, layer_rounds)
        print(table(["form", "ms", "ours / it"], list_ratios(samples)), "\n", flush=True)
        for other in ("(a)", "floor"):
            ratios = [a / b for a, b in zip(samples["ours"], samples[other])]
            figures[f"layers at {size} px / {other}"] = statistics.median(ratios)
    print(f"Whole UNet calls at {pixels} px, in turn, ms: median (extremes) of {call_rounds} rounds:\n")
    call = calls(model, dtype, pixels)
    whole, added = time_calls({"base": None, **forms}, call, device, call_rounds)
    base = statistics.median(whole["base"])
    rows = [
        [name, spread(whole[name]), spread(added[name]), f"{1 + statistics.median(added[name]) / base:.4f}"]
        for name in whole
    ]
    print(table(["form", "whole call", "added", "1 + added / base"], rows))
    figures |= {"base ms": base, "added ms": statistics.median(added["ours"])}
    for other in ("(a)", "floor"):
        figures[f"calls / {other}"] = statistics.median(a / b for a, b in zip(added["ours"], added[other]))
    figures["peak MB"] = megabytes_at_most(lambda: call(TimedAttention(forms["ours"], device)), device)
    figures["base peak MB"] = megabytes_at_most(lambda: call(TimedAttention(None, device)), device)
    return figures


@torch.inference_mode()
def main() -> None:
    device = comfy.model_management.get_torch_device()
    dtype, pixels, rounds = CASES[device.type]
    print(f"Machine: {machine()}.")
    run(unet("SDXL", dtype), dtype, 1, pixels, LAYER_PIXELS, rounds, LAYER_ROUNDS)


if __name__ == "__main__":
    main()
