"""FaceA's training step at the true size of SD1.5 inpainting: where its time goes, its memory, and what caching saves.

Test weights at the published sizes. The floor is the counted floating point operations of a step divided by the rate at
which this machine multiplies large matrices. The printed markdown can be pasted into RESULTS.md.
"""

import statistics
import time
from dataclasses import dataclass
from functools import partial

from bench import machine, open_host, spread, table

open_host()

import comfy.ldm.models.autoencoder  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import networks  # noqa: E402
import torch  # noqa: E402
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer  # noqa: E402
from comfy.supported_models_base import ClipTarget  # noqa: E402
from kernels import Counter  # noqa: E402
from likeness.adapters.facea import REGIONS, encode_text, write_prompt  # noqa: E402
from likeness.training import inpainting  # noqa: E402
from likeness.training.facea import Learned, batch_loss, sample_batch, step_loss  # noqa: E402
from likeness.training.inpainting import Inpainting, Photos  # noqa: E402
from likeness.training.lora import in_training, make_branches, make_lora  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

CUDA = torch.cuda.is_available()
ROWS, WORD = 4, "woman"
VAE = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
       "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
PARTS = ("data", "forward", "backward", "optimiser")
# Name -> whether blocks are computed twice, pictures and prompts encoded anew in every step, kernels replayed.
LOOPS = {
    "cached": (False, False, False),
    **({"cached, replayed": (False, False, True)} if CUDA else {}),
    "cached, checkpointing": (True, False, False),
    "naive": (False, True, False),
}


@dataclass(frozen=True)
class Size:
    """How large the training is; `width` is that of the UNet's first level. The defaults are the published sizes."""

    pixels: int = 512
    batch: int = 4
    rounds: int = 20
    dtype: torch.dtype = torch.bfloat16
    rank: int = 48
    width: int = networks.WIDTH


@dataclass(frozen=True)
class Setting:
    """What is trained on what."""

    size: Size
    model: object
    clip: object
    vae: object
    photos: Photos
    learned: Learned
    data: Inpainting
    device: torch.device


def make_setting(size: Size) -> Setting:
    """Return a training of SD1.5 inpainting with test weights, on three sampled photos."""
    model = networks.unet("SD15", size.dtype, size.width, in_channels=inpainting.CHANNELS)
    model.model.requires_grad_(False)
    clip = comfy.sd.CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel))
    for parameter in clip.cond_stage_model.parameters():
        parameter.data.normal_(std=0.02)
    weights = comfy.ldm.models.autoencoder.AutoencoderKL(embed_dim=4, ddconfig=VAE).state_dict()
    vae = comfy.sd.VAE(sd={name: torch.randn_like(weight) * 0.02 for name, weight in weights.items()})
    quarter = slice(size.pixels // 4, size.pixels // 2)
    masks = torch.zeros(3, size.pixels, size.pixels)
    masks[:, quarter, quarter] = 1
    photos = Photos(torch.rand(3, size.pixels, size.pixels, 3), dict.fromkeys(REGIONS, masks))
    device = model.load_device
    with torch.no_grad():
        data, rows = prepare(model, clip, vae, photos, device)
    features = {
        region: torch.nn.Parameter(tensor[0, first : first + ROWS].clone()) for region, (tensor, first) in rows.items()
    }
    learned = Learned(make_branches(make_lora(model, size.rank, 0), device), features, WORD, rows)
    return Setting(size, model, clip, vae, photos, learned, data, device)


def prepare(model, clip, vae, photos: Photos, device, regions=REGIONS) -> tuple[Inpainting, dict]:
    """Return what the training computes once: latents and prompts on their device."""
    encoded = inpainting.encode(model, vae, photos)
    conditions = {region: condition.to(device) for region, condition in encoded.conditions.items()}
    rows = {region: encode_text(clip, write_prompt(WORD, region)) for region in regions}
    return Inpainting(encoded.latents.to(device), conditions), {r: (e.to(device), n) for r, (e, n) in rows.items()}


def read_clock() -> float:
    """Return the seconds of a clock, read when the GPU has done its work."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


class BatchLoss(torch.nn.Module):
    """The loss of a batch as a module that has what is learned, the form in which torch records CUDA graphs."""

    def __init__(self, work: Setting):
        super().__init__()
        self.lora = torch.nn.ModuleList(work.learned.lora.values())
        self.loss = partial(batch_loss, work.model.model)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.loss(*tensors)


class Steps:
    """Training steps whose parts are timed.

    naive: encode photos and prompts of the batch anew in each step; replay: record a step's kernels as CUDA graphs and
    replay them, and step with one kernel.
    """

    def __init__(self, work: Setting, naive: bool, replay: bool):
        self.work, self.naive, self.replay = work, naive, replay
        self.loss = BatchLoss(work)
        self.generator = torch.Generator().manual_seed(0)
        lora = [part for branch in work.learned.lora.values() for part in branch.parameters()]
        groups = [{"params": lora}, {"params": [*work.learned.features.values()]}]
        self.optimiser = torch.optim.AdamW(groups, fused=replay)

    def run(self) -> dict[str, float]:
        """Return the seconds of each part of one step."""
        work, clock = self.work, [read_clock()]
        if self.naive:
            self.encode()
        tensors = sample_batch(work.model.model, work.learned, work.data, self.generator, work.size.batch)
        if self.replay:
            self.loss, self.replay = torch.cuda.make_graphed_callables(self.loss, tensors), False
        clock.append(read_clock())
        loss = self.loss(*tensors)
        clock.append(read_clock())
        loss.backward()
        clock.append(read_clock())
        self.optimiser.step()
        self.optimiser.zero_grad()
        clock.append(read_clock())
        return dict(zip(PARTS, (b - a for a, b in zip(clock, clock[1:])))) | {"step": clock[-1] - clock[0]}

    @torch.no_grad()
    def encode(self) -> None:
        """Encode a batch: photos, the same under two masks, and two prompts, as a loop without a cache does it."""
        work, rows = self.work, [i % 3 for i in range(self.work.size.batch)]
        photos = Photos(work.photos.crops[rows], {r: work.photos.masks[r][rows] for r in ("face", "nose")})
        prepare(work.model, work.clip, work.vae, photos, work.device, ("face", "nose"))


def time_loops(work: Setting, loops: dict) -> tuple[dict[str, list[dict[str, float]]], dict[str, float]]:
    """Return the seconds of the parts of every step by loop, and the loops' peak memory in GB (nan without CUDA).

    The loops take turns, so that all see the same load.
    """
    steps = {name: Steps(work, naive, replay) for name, (_, naive, replay) in loops.items()}
    samples, peaks = {name: [] for name in loops}, dict.fromkeys(loops, float("nan"))
    for turn in range(1 + work.size.rounds):  # the first one warms up
        for name, (checkpointing, *_) in loops.items():
            if CUDA:
                torch.cuda.reset_peak_memory_stats()
            with in_training([work.model], work.learned.lora, checkpointing):
                sample = steps[name].run()
            if turn:
                samples[name].append(sample)
            if CUDA:
                peaks[name] = torch.cuda.max_memory_allocated() / 1e9
    return samples, peaks


def count_operations(work: Setting) -> tuple[float, int]:
    """Return the floating point operations of a step without checkpointing, and how many kernels it launches."""
    flops, kernels = FlopCounterMode(display=False), Counter()
    with in_training([work.model], work.learned.lora, False) as unet, flops, kernels:
        step_loss(unet, work.learned, work.data, torch.Generator().manual_seed(0), work.size.batch).backward()
    for parameter in [p for branch in work.learned.lora.values() for p in branch.parameters()]:
        parameter.grad = None
    return flops.get_total_flops(), kernels.count


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating point operations a second of a large matrix product, the best of five."""
    side = 8192 if CUDA else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(5):
        begin = read_clock()
        a @ b
        times.append(read_clock() - begin)
    return 2 * side**3 / min(times)


def run(size: Size, loops: dict = LOOPS) -> dict[str, float]:
    """Measure the loops at one size, print the section and return its figures."""
    work = make_setting(size)
    print(
        f"SD1.5 inpainting, {size.dtype}, {size.pixels} px, batch {size.batch} (two terms each), LoRA rank {size.rank},"
    )
    print(f"median (extremes) of {size.rounds} steps in ms; memory in GB. 'naive' encodes pictures and prompts anew.\n")
    samples, peaks = time_loops(work, loops)
    rows = [
        [name, *(spread([step[part] * 1e3 for step in steps]) for part in (*PARTS, "step")), f"{peaks[name]:.2f}"]
        for name, steps in samples.items()
    ]
    print(table(["loop", *PARTS, "step", "peak GB"], rows))
    (operations, kernels), rate = count_operations(work), matrix_rate(work.device, size.dtype)
    floor = operations / rate
    print(
        f"\nCounted: {operations / 1e12:.2f} TFLOP and {kernels} kernels a step; large matrix products run at "
        f"{rate / 1e12:.2f} TFLOP/s: the floor is {floor * 1e3:.0f} ms."
    )
    figures = {"TFLOP a step": operations / 1e12, "kernels a step": kernels, "floor ms": floor * 1e3}
    for name, steps in samples.items():
        seconds = statistics.median(step["step"] for step in steps)
        print(f"- {name}: {seconds / floor:.2f} x the floor; 1000 steps take {seconds * 1000:.0f} s")
        figures |= {f"{name}: ms a step": seconds * 1e3, f"{name}: / floor": seconds / floor}
        figures |= {f"{name}: s for 1000 steps": seconds * 1000, f"{name}: peak GB": peaks[name]}
    return figures


def main() -> None:
    print(f"Machine: {machine()}\n")
    run(Size() if CUDA else Size(pixels=256, batch=1, rounds=2, dtype=torch.float32))  # so that a run on a CPU ends


if __name__ == "__main__":
    main()
