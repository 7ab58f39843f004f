"""FaceA's training step at the true size of SD1.5 inpainting: where its time goes, its memory, and what caching saves.

Weights are drawn, sizes are the published ones. The floor is the counted floating point operations of a step divided by
the rate at which this machine multiplies large matrices. The printed markdown can be pasted into RESULTS.md.
"""

import statistics
import time
from dataclasses import dataclass

from bench import machine, open_host, spread, table

open_host()

import comfy.ldm.models.autoencoder  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import networks  # noqa: E402
import torch  # noqa: E402
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer  # noqa: E402
from comfy.supported_models_base import ClipTarget  # noqa: E402
from likeness.adapters.facea import REGIONS, learned_rows, prompt_of  # noqa: E402
from likeness.training import inpainting  # noqa: E402
from likeness.training.facea import Learned, step_loss  # noqa: E402
from likeness.training.inpainting import Inpainting, Photos  # noqa: E402
from likeness.training.lora import branches, fresh_lora, in_training  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

CUDA = torch.cuda.is_available()
SIZE, BATCH, ROUNDS = (512, 4, 20) if CUDA else (256, 1, 2)  # so that a run on a CPU ends
DTYPE = torch.bfloat16 if CUDA else torch.float32
RANK, ROWS, WORD = 48, 4, "woman"
VAE = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
       "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
PARTS = ("data", "forward", "backward", "optimiser")
# Name -> whether blocks are computed twice, whether pictures and prompts are encoded anew in every step.
LOOPS = {"cached": (False, False), "cached, checkpointing": (True, False), "naive": (False, True)}


@dataclass(frozen=True)
class Setting:
    """What is trained on what."""

    model: object
    clip: object
    vae: object
    photos: Photos
    learned: Learned
    data: Inpainting
    device: torch.device


def setting() -> Setting:
    networks.LAYOUTS["SD15"] = networks.LAYOUTS["SD15"] | {"in_channels": inpainting.CHANNELS}
    model = networks.unet("SD15", DTYPE)
    model.model.requires_grad_(False)
    clip = comfy.sd.CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel))
    for parameter in clip.cond_stage_model.parameters():
        parameter.data.normal_(std=0.02)
    drawn = comfy.ldm.models.autoencoder.AutoencoderKL(embed_dim=4, ddconfig=VAE).state_dict()
    vae = comfy.sd.VAE(sd={name: torch.randn_like(weight) * 0.02 for name, weight in drawn.items()})
    masks = torch.zeros(3, SIZE, SIZE)
    masks[:, SIZE // 4 : SIZE // 2, SIZE // 4 : SIZE // 2] = 1
    photos = Photos(torch.rand(3, SIZE, SIZE, 3), dict.fromkeys(REGIONS, masks))
    device = model.load_device
    with torch.no_grad():
        data, rows = prepared(model, clip, vae, photos, device)
    features = {
        region: torch.nn.Parameter(each[0, first : first + ROWS].clone()) for region, (each, first) in rows.items()
    }
    learned = Learned(branches(fresh_lora(model, RANK, 0), device), features, WORD, rows)
    return Setting(model, clip, vae, photos, learned, data, device)


def prepared(model, clip, vae, photos: Photos, device, regions=REGIONS) -> tuple[Inpainting, dict]:
    """What the training computes once: latents and prompts on their device."""
    encoded = inpainting.encode(model, vae, photos)
    conditions = {region: each.to(device) for region, each in encoded.conditions.items()}
    rows = {region: learned_rows(clip, prompt_of(WORD, region)) for region in regions}
    return Inpainting(encoded.latents.to(device), conditions), {r: (e.to(device), n) for r, (e, n) in rows.items()}


def synchronised() -> float:
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


class Steps:
    """Training steps whose parts are timed; `naive` encodes pictures and prompts of the batch anew in each."""

    def __init__(self, work: Setting, naive: bool):
        self.work, self.naive = work, naive
        self.generator = torch.Generator().manual_seed(0)
        lora = [part for branch in work.learned.lora.values() for part in branch.parameters()]
        self.optimiser = torch.optim.AdamW([{"params": lora}, {"params": [*work.learned.features.values()]}])

    def run(self) -> dict[str, float]:
        """Seconds of each part of one step."""
        clock = []
        unet = self.work.model.model.diffusion_model
        hooks = [
            unet.register_forward_pre_hook(lambda *_: clock.append(synchronised())),
            unet.register_forward_hook(lambda *_: clock.append(synchronised())),
        ]
        begin = synchronised()
        if self.naive:
            self.encode()
        loss = step_loss(self.work.model.model, self.work.learned, self.work.data, self.generator, BATCH)
        loss.backward()
        backward = synchronised()
        self.optimiser.step()
        self.optimiser.zero_grad()
        end = synchronised()
        for hook in hooks:
            hook.remove()
        into, out = clock[:2]  # a checkpointed UNet's blocks run again, the UNet itself does not
        parts = into - begin, out - into, backward - out, end - backward
        return dict(zip(PARTS, parts)) | {"step": end - begin}

    @torch.no_grad()
    def encode(self) -> None:
        """Of a batch: each photo, the photo under two masks, and two prompts, as a loop without a cache does it."""
        work, rows = self.work, [i % 3 for i in range(BATCH)]
        photos = Photos(work.photos.crops[rows], {r: work.photos.masks[r][rows] for r in ("face", "nose")})
        prepared(work.model, work.clip, work.vae, photos, work.device, ("face", "nose"))


def measured(work: Setting) -> tuple[list[list[str]], dict[str, float]]:
    """The rows of the table, and the median seconds of a step; the loops take turns, so that all see the same load."""
    steps = {name: Steps(work, naive) for name, (_, naive) in LOOPS.items()}
    samples, peaks = {name: [] for name in LOOPS}, dict.fromkeys(LOOPS, "-")
    for turn in range(1 + ROUNDS):  # the first one warms up
        for name, (checkpointing, _) in LOOPS.items():
            if CUDA:
                torch.cuda.reset_peak_memory_stats()
            with in_training([work.model], work.learned.lora, checkpointing):
                sample = steps[name].run()
            if turn:
                samples[name].append(sample)
            if CUDA:
                peaks[name] = f"{torch.cuda.max_memory_allocated() / 1e9:.2f}"
    rows = [
        [name, *(spread([sample[part] * 1e3 for sample in each]) for part in (*PARTS, "step")), peaks[name]]
        for name, each in samples.items()
    ]
    return rows, {name: statistics.median(sample["step"] for sample in each) for name, each in samples.items()}


def counted(work: Setting) -> float:
    """Floating point operations of a step without checkpointing."""
    with in_training([work.model], work.learned.lora, False) as unet, FlopCounterMode(display=False) as counter:
        step_loss(unet, work.learned, work.data, torch.Generator().manual_seed(0), BATCH).backward()
    for parameter in [p for branch in work.learned.lora.values() for p in branch.parameters()]:
        parameter.grad = None
    return counter.get_total_flops()


def matrix_rate(device: torch.device) -> float:
    """Floating point operations a second of a large matrix product, the best of five."""
    side = 8192 if CUDA else 2048
    a, b = (torch.randn(side, side, device=device, dtype=DTYPE) for _ in range(2))
    times = []
    for _ in range(5):
        begin = synchronised()
        a @ b
        times.append(synchronised() - begin)
    return 2 * side**3 / min(times)


def main() -> None:
    work = setting()
    print(f"Machine: {machine()}\n")
    print(
        f"SD1.5 inpainting, {DTYPE}, {SIZE} px, batch {BATCH} (two terms each), LoRA rank {RANK}, median (extremes) of"
    )
    print(f"{ROUNDS} steps in ms; memory in GB. 'naive' encodes pictures and prompts anew in every step.\n")
    rows, seconds = measured(work)
    print(table(["loop", *PARTS, "step", "peak GB"], rows))
    operations, rate = counted(work), matrix_rate(work.device)
    floor = operations / rate
    print(
        f"\nCounted: {operations / 1e12:.2f} TFLOP a step; large matrix products run at {rate / 1e12:.2f} TFLOP/s: the "
        f"floor is {floor * 1e3:.0f} ms."
    )
    for name, each in seconds.items():
        print(f"- {name}: {each / floor:.2f} x the floor; 1000 steps take {each * 1000:.0f} s")


if __name__ == "__main__":
    main()
