"""What Infinite-ID's mixed attention costs in one UNet call of SDXL, against the counted floor.

    one     the stock UNet on one stream
    two     the stock UNet on identity and text stream together: twice the rows
    mixed   the same with the identity stream's keys and values doubled
    floor   the attentions that `mixed` cannot do without (identity rows over twice the keys, text rows over their own),
            as bare kernels on tensors made ready before, inside the same UNet call

Weights are drawn, sizes and data flow are the true ones. The printed markdown can be pasted into RESULTS.md.
"""

from bench import elapsed, machine, open_host, spread, table

open_host()

import math  # noqa: E402
import statistics  # noqa: E402

import comfy.model_management  # noqa: E402
import comfy.supported_models  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.attention import optimized_attention  # noqa: E402
from likeness.attention_patches.calls import transformer_blocks  # noqa: E402
from likeness.attention_patches.infinite_id import STREAMS, MixedSelfAttention, Streams  # noqa: E402

SDXL = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "num_head_channels": 64,
    "num_heads": -1, "use_spatial_transformer": True, "use_linear_in_transformer": True, "adm_in_channels": 2816,
    "num_classes": "sequential", "legacy": False, "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
CASES = {"cuda": (torch.bfloat16, 1024, 20), "cpu": (torch.float32, 512, 5)}  # numbers, pixels, rounds


def unet(dtype: torch.dtype, device: torch.device):
    """The host's SDXL UNet with drawn weights, on `device`."""
    config = comfy.supported_models.SDXL(SDXL)
    config.set_inference_dtype(dtype, None)
    network = config.get_model({}, device=torch.device("cpu")).diffusion_model
    torch.manual_seed(1)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, math.prod(weight.shape[1:]) ** -0.5)
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
    return network.to(device)


class Recorder:
    """What every self-attention is called with in one UNet call."""

    def __init__(self, place, visits):
        self.place, self.visits = place, visits

    def __call__(self, q, k, v, extra_options):
        result = MixedSelfAttention({})(q, k, v, extra_options)
        self.visits[self.place] = (q, k, v, result)
        return result


class Floor:
    """The attentions of one block as bare kernels on tensors made ready before."""

    def __init__(self, q, k, v, result):
        (self.q_id, self.q_t), (k_id, self.k_t), (v_id, self.v_t) = (
            [part.contiguous() for part in Streams.split(tensor, 2)] for tensor in (q, k, v)
        )
        self.keys, self.values = torch.cat((k_id, self.k_t), dim=1), torch.cat((v_id, self.v_t), dim=1)
        self.result = result

    def __call__(self, q, k, v, extra_options):
        optimized_attention(self.q_id, self.keys, self.values, extra_options["n_heads"])
        optimized_attention(self.q_t, self.k_t, self.v_t, extra_options["n_heads"])
        return self.result


def calls(network, dtype, pixels: int):
    """A function that calls the UNet with given rows per chunk (cond and uncond) and attn1 replacements."""
    device, side = next(network.parameters()).device, pixels // 8
    generator = torch.Generator().manual_seed(4)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(device, dtype)  # noqa: E731
    latent, text, labels = draw(4, 4, side, side), draw(4, 77, 2048), draw(4, 2816)
    times = torch.full((4,), 500.0, device=device)

    def call(rows: int, replacements: dict):
        options = {
            "cond_or_uncond": [0, 1], "patches_replace": {"attn1": replacements},
            STREAMS: Streams("mixed", "none", 0.0),
        }  # fmt: skip
        return network(latent[:rows], times[:rows], text[:rows], labels[:rows], transformer_options=options)

    return call


@torch.inference_mode()
def main() -> None:
    device = comfy.model_management.get_torch_device()
    dtype, pixels, rounds = CASES[device.type]
    network = unet(dtype, device)
    blocks, call, visits = transformer_blocks(network), calls(network, dtype, pixels), {}
    print(f"Machine: {machine()}. {len(blocks)} blocks, {str(dtype).removeprefix('torch.')}, {pixels} px.\n")
    call(4, {block: Recorder(block, visits) for block in blocks})
    forms = {
        "one": (2, {}),
        "two": (4, {}),
        "mixed": (4, dict.fromkeys(blocks, MixedSelfAttention({}))),
        "floor": (4, {block: Floor(*visits.pop(block)) for block in blocks}),
    }
    times = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, form in forms.items():
            took = elapsed(lambda: call(*form), device)  # noqa: B023
            times[name] += [took] if turn else []
    rows = []
    for name, samples in times.items():
        ratios = [statistics.median(a / b for a, b in zip(samples, times[other])) for other in ("two", "floor")]
        rows.append([name, spread(samples), *(f"{ratio:.3f}" for ratio in ratios)])
    print(table(["form", "whole call, ms", "/ two", "/ floor"], rows))


if __name__ == "__main__":
    main()
