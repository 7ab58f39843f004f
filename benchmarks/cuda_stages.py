"""The stages of `on_cuda.py` in order of worth: what runs, at which sizes, for how long at most."""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import comfy.clip_vision
import comfy.model_management
import cuda_right as right
import encoder as encoder_bench
import f2d
import facea
import image
import mixed
import networks
import sfags
import torch
from bench import time_work
from comfy.ldm.modules.attention import optimized_attention
from likeness.adapters.face2diffusion import Face2DiffusionAdapter
from likeness.adapters.fact import FactAdapter
from likeness.attention_patches.infinite_id import MixedSelfAttention
from likeness.encoders.face_encoder import FaceEncoder
from likeness.encoders.loading import msid, transface
from likeness.tests.support.checkpoints import (
    bisenet_shapes,
    drawn,
    fact_shapes,
    mapping_shapes,
    msid_shapes,
    transface_shapes,
)
from likeness.training import face2diffusion, fact, frozen, infinite_id
from likeness.training.portraits import Portraits
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Scale:
    """How large everything is; the defaults are the published sizes.

    sd15, sdxl:    channels of the UNets' first level; pixels: sides of the images for either
    rounds:        (whole UNet calls, passes over layers); steps: training steps timed; promised_steps: sampling steps
    dtypes:        the half precisions; graphs, test_files: what the stages of those names run
    """

    sd15: int = 320
    sdxl: int = 320
    pixels: tuple[int, int] = (512, 1024)
    batches: tuple[int, ...] = (1, 4)
    photos: tuple[int, ...] = (1, 4)
    rounds: tuple[int, int] = (20, 10)
    steps: int = 60
    promised_steps: int = 20
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)
    matrix: int = 8192
    graphs: tuple[str, ...] = ("fact_text_to_image", "faceid_plusv2")
    test_files: tuple[str, ...] = right.TEST_FILES

    @classmethod
    def tiny(cls) -> "Scale":
        """Return sizes with which every stage ends in seconds on a CPU."""
        return cls(
            sd15=32, sdxl=64, pixels=(64, 64), batches=(1,), photos=(1,), rounds=(1, 1), steps=2, promised_steps=2,
            dtypes=(torch.bfloat16,), matrix=256, graphs=("fact_text_to_image",),
            test_files=("attention_patches/test_sfags.py",),
        )  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """run: takes the scale and the dictionary that it fills with figures; seconds: how long it may take."""

    name: str
    seconds: float
    run: Callable[[Scale, dict], None]


def measure_card(scale: Scale, figures: dict) -> None:
    """Measure the rates that floors are made of, with bare kernels."""
    device = comfy.model_management.get_torch_device()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        figures |= {"card": properties.name, "memory GB": properties.total_memory / 1e9}
        figures |= {"torch": torch.__version__, "capability": f"{properties.major}.{properties.minor}"}
    numbers = 32 * scale.matrix**2
    source, target = (torch.empty(numbers, dtype=torch.uint8, device=device) for _ in range(2))
    figures["copy GB/s, read and written"] = 2 * numbers / _best(lambda: target.copy_(source), device) / 1e6
    for dtype in (*scale.dtypes, torch.float32):
        a, b = (torch.randn(scale.matrix, scale.matrix, device=device, dtype=dtype) for _ in range(2))
        took = _best(lambda: a @ b, device)  # noqa: B023
        figures[f"matrix product TFLOP/s, {_short(dtype)}"] = 2 * scale.matrix**3 / took / 1e9
    tokens, width = scale.matrix // 2, 1280
    q = torch.randn(2, tokens, width, device=device, dtype=scale.dtypes[0])
    took = _best(lambda: optimized_attention(q, q, q, width // 64), device)
    figures[f"attention TFLOP/s, {tokens} tokens, {_short(scale.dtypes[0])}"] = 8 * tokens**2 * width / took / 1e9


def _best(work, device, rounds: int = 5) -> float:
    work()
    return min(time_work(work, device) for _ in range(rounds))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.inference_mode()
def measure_fact(scale: Scale, figures: dict) -> None:
    """Time SFAGS in SD1.5 against the straightforward form and the floor; count kernels and waits."""
    for dtype in scale.dtypes:
        for batch in scale.batches:
            result = sfags.run(dtype, batch, scale.sd15, scale.pixels[0], scale.rounds)
            figures |= {f"{_short(dtype)}, batch {batch}: {name}": value for name, value in result.items()}
    model = networks.unet("SD15", scale.dtypes[0], scale.sd15)
    patched = sfags.apply_face(model, scale.dtypes[0], scale.sd15)
    ours = patched.model_options["transformer_options"]["patches"]["middle_patch"][0]
    call = sfags.calls(patched, 1, scale.pixels[0])
    figures |= count(lambda: call([ours], patched.wrappers), call, patched.load_device)


@torch.inference_mode()
def measure_image(scale: Scale, figures: dict) -> None:
    """Time image cross-attention in SDXL with one and four photos against both other forms."""
    dtype = scale.dtypes[0]
    model = networks.unet("SDXL", dtype, scale.sdxl)
    for references in scale.photos:
        result = image.run(model, dtype, references, scale.pixels[1], sorted({*scale.pixels}), *scale.rounds)
        figures |= {f"photos {references}: {name}": value for name, value in result.items()}
    device = model.load_device
    ours, call = (
        image.Ours(image.Layers(image.find_widths(model), dtype, device)),
        image.calls(model, dtype, scale.pixels[1]),
    )
    with_adapter, without = (image.TimedAttention(form, device) for form in (ours, None))
    figures |= count(lambda: call(with_adapter), lambda: call(without), device)


@torch.inference_mode()
def measure_mixed(scale: Scale, figures: dict) -> None:
    """Time Infinite-ID's mixed attention in SDXL against its floor."""
    dtype = scale.dtypes[0]
    model = networks.unet("SDXL", dtype, scale.sdxl)
    figures |= mixed.run(model, dtype, scale.pixels[1], scale.pixels[1], *scale.rounds)
    network = model.model.diffusion_model
    call, ours = mixed.calls(network, dtype, scale.pixels[1]), MixedSelfAttention({}, {})
    blocks = dict.fromkeys(mixed.transformer_blocks(network), ours)
    figures |= count(lambda: call(4, blocks), lambda: call(4, {}), model.load_device)


def measure_f2d(scale: Scale, figures: dict) -> None:
    """Time a step with and without Face2Diffusion's words, and crop to words."""
    with torch.inference_mode():
        model = networks.unet("SD15", scale.dtypes[0], scale.sd15)
        figures |= f2d.run(model, scale.pixels[0], scale.rounds[0], scale.rounds[0])


def count(with_adapter, without, device) -> dict[str, float]:
    """Return the kernels launched and the waits for the GPU in one call with and without the adapter.

    Waits are counted twice: those torch warns of, and the driver's synchronising calls the profiler sees.
    """
    if device.type != "cuda":
        return {}
    figures = {}
    for name, work in (("without", without), ("with", with_adapter)):
        work()
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            work()
            torch.cuda.set_sync_debug_mode("default")
        figures[f"waits {name} the adapter, by torch"] = sum("synchroniz" in str(each.message) for each in caught)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            work()
        events = [event.name for event in profiler.events()]
        # One synchronisation belongs to the profiler itself.
        waits = sum("Synchronize" in event and "Profiler" not in event for event in events)
        figures[f"waits {name} the adapter, by the profiler (its own one included)"] = waits
        figures[f"kernels {name} the adapter"] = sum("LaunchKernel" in event for event in events)
    return figures


def measure_facea(scale: Scale, figures: dict) -> None:
    """Time FaceA's training steps, and extrapolate to a thousand."""
    batch = 4 if scale.sd15 == networks.WIDTH else 1
    size = facea.Size(scale.pixels[0], batch, scale.steps, scale.dtypes[0], width=scale.sd15)
    loops = {name: loop for name, loop in facea.LOOPS.items() if name != "naive"}
    figures |= facea.run(size, loops)


def measure_trainers(scale: Scale, figures: dict) -> None:
    """Time steps of the adapters' trainers on numbers of the true shapes: milliseconds a step, samples a second."""
    model = networks.unet("SD15", scale.dtypes[0], scale.sd15)
    base = frozen.freeze(model, f2d.text_encoder(), "bfloat16" if scale.dtypes[0].itemsize == 2 else "float32")
    portraits = _portraits(scale.pixels[0] // 8)
    shared = {"steps": scale.steps // 3 + 2, "batch": 8 if scale.sd15 == networks.WIDTH else 2}
    runs = {
        "FACT": lambda after: fact.train(base, portraits, fact.FactSettings(**shared), None, after),
        "Face2Diffusion": lambda after: face2diffusion.train(
            base, portraits, face2diffusion.Face2DiffusionSettings(**shared), None, after
        ),
        "Infinite-ID": lambda after: infinite_id.train(
            base, portraits, portraits.features["clip"][0], infinite_id.InfiniteIdSettings(**shared), None, after
        ),
    }
    for name, run in runs.items():
        ends = []
        if base.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run(lambda progress: ends.append(time.perf_counter()))  # noqa: B023
        seconds = statistics.median(b - a for a, b in zip(ends, ends[1:]))
        figures[f"{name}: ms a step of {shared['batch']}"] = seconds * 1e3
        figures[f"{name}: samples a second"] = shared["batch"] / seconds
        if base.device.type == "cuda":
            figures[f"{name}: peak GB"] = torch.cuda.max_memory_allocated() / 1e9


def _portraits(side: int, people: int = 8, photos: int = 2) -> Portraits:
    """Return sampled numbers of the shapes that trainers read, latents `side` wide."""
    generator = torch.Generator().manual_seed(0)

    def sample(*shape: int) -> torch.Tensor:
        return torch.randn(people * photos, *shape, generator=generator).half()

    features = {
        "transface": sample(144, 512), "msid": sample(1, 1536), "expression": sample(64), "clip": sample(257, 1280),
        "arcface": sample(1, 512),
    }  # fmt: skip
    owners = torch.arange(people).repeat_interleave(photos)
    faces = torch.rand(people * photos, side, side, generator=generator).half()
    captions = ["a photo of a woman in a red coat"] * (people * photos)
    return Portraits(sample(4, side, side), owners, captions, faces, features)


@torch.inference_mode()
def measure_encoders(scale: Scale, figures: dict) -> None:
    """Time every network between a photo and an identity, milliseconds a photo."""
    encoder = FaceEncoder("transface", "test.pt", "", transface(drawn(transface_shapes(), seed=1)))
    adapter = FactAdapter(drawn(fact_shapes([32 * level for level in sfags.LEVELS]), seed=2), "test.ckpt")
    device = encoder.patcher.load_device
    _, encoding, projecting, _ = encoder_bench.time_photos(encoder, adapter, 1, scale.rounds[0])
    figures |= {"TransFace": encoding, "FACT's projector": projecting}
    msid_encoder = FaceEncoder("msid", "test.pt", "", msid(drawn(msid_shapes(), seed=1)))
    words = Face2DiffusionAdapter(drawn(mapping_shapes(), seed=2), "test.pt")
    crop = torch.rand(1, 112, 112, 3)
    works = {
        "MSID and mapping": lambda: words.words(msid_encoder.encode(crop, False)),
        **right.photo_works(bisenet_shapes(), device),
    }
    for name, work in works.items():
        work()
        figures[name] = statistics.median(time_work(work, device) for _ in range(scale.rounds[0]))
    try:
        import onnxruntime

        figures["onnxruntime's providers"] = ", ".join(onnxruntime.get_available_providers())
    except ImportError:
        figures["onnxruntime's providers"] = "not installed"


STAGES = (
    Stage("card", 20, measure_card),
    Stage("goldens", 40, right.measure_goldens),
    Stage("halves", 60, right.measure_halves),
    Stage("fact", 70, measure_fact),
    Stage("image", 75, measure_image),
    Stage("mixed", 45, measure_mixed),
    Stage("facea", 60, measure_facea),
    Stage("promises", 60, right.measure_promises),
    Stage("hosts", 90, right.measure_hosts),
    Stage("face2diffusion", 25, measure_f2d),
    Stage("trainers", 60, measure_trainers),
    Stage("encoders", 40, measure_encoders),
    Stage("tests", 200, right.run_tests),
)
