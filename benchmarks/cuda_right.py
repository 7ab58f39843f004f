"""The stages of `on_cuda.py` that ask whether a GPU computes what it should. To be imported after `open_host`."""

import asyncio
import contextlib
import gc
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import image
import mixed
import networks
import numpy as np
import sfags
import torch
from bench import COMFY, ROOT
from comfy_extras.mediapipe import face_landmarker
from likeness.adapters.face2diffusion import MappingNetwork, MappingSizes
from likeness.adapters.fact import FACE_BLOCKS
from likeness.adapters.resampler import Resampler, ResamplerSizes
from likeness.attention_patches.fact import FactPatch, apply_fact
from likeness.attention_patches.infinite_id import MixedSelfAttention, apply_infinite_id
from likeness.attention_patches.ip_adapter import ImageAttentionPatch, apply_ip_adapter, spread_strengths
from likeness.encoders.msid import USED_KEYS, Msid, MsidSizes
from likeness.encoders.transface import TransFace, TransFaceSizes
from likeness.faces.bisenet import UNUSED_KEYS, BiSeNet, BiSeNetSizes
from likeness.launcher import environment, hosting
from likeness.launcher.client import Client
from likeness.launcher.client import GraphError as HostError
from likeness.patcher import manage
from likeness.tests.support import checkpoints, mediapipe_file, tiny, tiny_ip
from likeness.tests.support.golden_cases import Case
from likeness.tests.support.golden_unets import make_face_blocks, make_image_adapter, make_unet
from likeness.tests.support.graphs import only, workflow
from PIL import Image

TOLERANCE = 1e-4  # of float32 on a GPU against the authors' float32 on a CPU; TF32 alone would give 1e-3
PHOTO = ROOT / "workflows" / "assets" / "astronaut.png"
TEST_FILES = (
    *(f"attention_patches/test_{name}.py" for name in ("fact_in_host", "ip_in_host", "infinite_id")),
    "attention_patches/test_infinite_id_adapter.py", "inpaint/test_fact_in_host.py", "inpaint/test_paint_in_host.py",
    *(f"training/test_{name}.py" for name in ("facea_loss", "fact", "face2diffusion", "infinite_id")),
)  # fmt: skip

OFF = {
    "strength 0": {"strength": 0.0},
    "empty mask": {"mask": torch.zeros(1, 128, 128)},
    "no part of the sampling": {"start_percent": 0.5, "end_percent": 0.5},
    "a schedule between two steps": {"start_percent": 0.011, "end_percent": 0.012},
}


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the relative L2 distance |a - b| / |b|."""
    return float(torch.linalg.vector_norm(a.double() - b.double()) / torch.linalg.vector_norm(b.double()))


@contextlib.contextmanager
def exact_products():
    """Compute float32 products and convolutions in float32, not in TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@torch.inference_mode()
def measure_goldens(scale, figures: dict) -> None:
    """Compare the networks and the UNets with their authors' numbers, in float32 without TF32."""
    figures["stated tolerance, largest absolute error"] = TOLERANCE
    device = comfy.model_management.get_torch_device()
    with exact_products():
        for name, error in golden_errors(device):
            figures[name] = error
    worst = max((value, name) for name, value in figures.items() if not name.startswith("stated"))
    figures["worst"] = f"{worst[1]}: {worst[0]:.1e}"
    if worst[0] > TOLERANCE:
        raise ValueError(f"{worst[1]} is {worst[0]:.1e} off the authors' numbers")


def golden_errors(device):
    """Yield (name, largest absolute error) of every golden case that runs on a GPU."""
    yield from _encoder_errors(device)
    case = Case("fact_unet")
    unet = make_unet(case, device)
    yield "fact_unet, base", _error(_eps(case, unet), case.output["eps_base"])
    patcher = make_face_blocks(case, device)
    patch = FactPatch(patcher, [face_block.block for face_block in FACE_BLOCKS], None, 1.0)
    for tokens, strength, expected in (("face_tokens", 1.0, "eps_scale1"), ("face_tokens", 0.5, "eps_scale05")):
        rows = []
        for face in case.input[tokens]:  # the golden batch holds two identities, a patch (cond, uncond) of one
            patch = FactPatch(patcher, patch.blocks, face.expand(2, -1, -1), strength)
            rows.append(_eps(case, patch.apply(unet))[len(rows)])
        yield f"fact_unet, {expected}", _error(torch.stack(rows), case.output[expected])
    for base in ("sd15", "sdxl"):
        case = Case(f"ip_unet_{base}_plain")
        unet, adapter = make_unet(case, device), make_image_adapter(case)
        keys_values = adapter.keys_values(case.input["image_tokens"], torch.float32)
        strengths = spread_strengths(adapter.widths, float(case.metadata["scale"]))
        patched = ImageAttentionPatch(adapter, keys_values, strengths).apply(unet)
        yield f"ip_unet_{base}", _error(_eps(case, patched, [0, 1]), case.output["eps"])


def _encoder_errors(device):
    networks_of = {
        "transface_s": (TransFace, TransFaceSizes, lambda key: key != "mask_token", "", "image", "local_tokens"),
        "fact_resampler": (Resampler, ResamplerSizes, None, "local_fac_prj.", "local_tokens", "face_tokens"),
        "f2d_msid": (Msid, MsidSizes, lambda key: key.startswith(USED_KEYS), "", "image", "identity_vector"),
        "bisenet_face_parsing": (
            BiSeNet, BiSeNetSizes, lambda key: not key.startswith(UNUSED_KEYS), "", "image", "logits",
        ),
    }  # fmt: skip
    for name, (network, sizes, used, prefix, source, target) in networks_of.items():
        case = Case(name)
        weights = {key.removeprefix(prefix): part for key, part in case.weights().items() if not used or used(key)}
        module = network(sizes.of(weights)).eval()
        module.load_state_dict(weights)
        expected = case.output[target]
        scale = float(expected.std()) if name.startswith("bisenet") else 1.0
        yield name, _error(module.to(device)(case.input[source].to(device)), expected) / scale
    case = Case("f2d_mapping")
    mapping = MappingNetwork(MappingSizes.of(case.weights())).eval()
    mapping.load_state_dict(case.weights())
    words = mapping.to(device)(case.input["identity_vector"].to(device))
    yield "f2d_mapping", _error(words, torch.stack((case.output["word1"], case.output["word2"]), dim=1))


def _error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double().cpu() - expected.double()).abs().max())


def _eps(case: Case, model, chunks=(0,)) -> torch.Tensor:
    inputs = {name: part.to(model.load_device) for name, part in case.input.items()}
    options = model.model_options["transformer_options"] | {"cond_or_uncond": list(chunks)}
    return model.model.diffusion_model(
        inputs["x"], inputs["timestep"], context=inputs["context"], y=inputs.get("y"), transformer_options=options
    )


@torch.inference_mode()
def measure_halves(scale, figures: dict) -> None:
    """Compare one UNet call in half precisions with float32, with and without each adapter, by relative L2."""
    dtypes = [torch.float32, *scale.dtypes]
    with exact_products():
        outputs = {dtype: _fact_outputs(dtype, scale) for dtype in dtypes}
        _add_halves(figures, outputs)
        outputs = {dtype: _sdxl_outputs(dtype, scale) for dtype in dtypes}
        _add_halves(figures, outputs)


def _add_halves(figures: dict, outputs: dict) -> None:
    exact = outputs.pop(torch.float32)
    for dtype, results in outputs.items():
        for name, result in results.items():
            figures[f"{name}, {str(dtype).removeprefix('torch.')}"] = difference(result, exact[name])
            if not torch.isfinite(result).all():
                raise ValueError(f"{name} is not finite in {dtype}")


def _fact_outputs(dtype, scale) -> dict[str, torch.Tensor]:
    model = sfags.apply_face(networks.unet("SD15", dtype, scale.sd15), dtype, scale.sd15)
    ours = model.model_options["transformer_options"]["patches"]["middle_patch"][0]
    call = sfags.calls(model, 1, scale.pixels[0])
    return {"SD1.5": call(), "SD1.5 with FACT": call([ours], model.wrappers)}


def _sdxl_outputs(dtype, scale) -> dict[str, torch.Tensor]:
    model = networks.unet("SDXL", dtype, scale.sdxl)
    network, device = model.model.diffusion_model, model.load_device
    widths = image.find_widths(model)
    ours, call = image.Ours(image.Layers(widths, dtype, device)), image.calls(model, dtype, scale.pixels[1])
    streams = mixed.calls(network, dtype, scale.pixels[1])
    return {
        "SDXL": call(image.TimedAttention(None, device)),
        "SDXL with image cross-attention": call(image.TimedAttention(ours, device)),
        "SDXL with mixed attention": streams(4, dict.fromkeys(widths, MixedSelfAttention({}, {}))),
    }


def measure_promises(scale, figures: dict) -> None:
    """Sample at a tenth of SD1.5's width and see what must equal what, and that nothing is left."""
    memory = _memory()
    _sample_promises(scale.promised_steps, figures)
    _compile_promises(figures)
    for name in ("sageattention", "flash_attn", "xformers"):
        figures[name] = "installed" if importlib.util.find_spec(name) else "not installed"
    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.soft_empty_cache(True)
    figures["bytes left on the GPU after unloading"] = _memory() - memory


def _sample_promises(steps: int, figures: dict) -> None:
    base, adapter, face, image_adapter = tiny.model(), tiny.adapter(), tiny.face_id(), tiny_ip.adapter("plus")
    with torch.inference_mode():
        tokens = image_adapter.tokens(None, tiny_ip.clip())
    forms = {
        "FACT": lambda model, **settings: apply_fact(model, adapter, face, **settings),
        "image adapter": lambda model, **settings: apply_ip_adapter(model, image_adapter, tokens, **settings),
    }
    first, plain = _sample(steps, base), _sample(steps, base)
    figures["base: queued again"] = _equal(plain, first)
    for state in ("NO_VRAM", "LOW_VRAM"):
        with _vram(state):
            figures[f"base, {state}: off by"] = difference(_sample(steps, base), plain)
    fp8 = tiny.model(torch.float8_e4m3fn, torch.bfloat16)
    figures["base, fp8: off by"] = difference(_sample(steps, fp8), plain)
    for name, apply in forms.items():
        with_face = _sample(steps, _apply(apply, base))
        figures[f"{name}: what it changes"] = difference(with_face, plain)
        figures[f"{name}: queued again"] = _equal(_sample(steps, _apply(apply, base)), with_face)
        for what, settings in OFF.items():
            off, plain = _sample(steps, _apply(apply, base, **settings)), _sample(steps, base)
            figures[f"{name}, {what}: the base model"] = _equal(off, plain)
        for state in ("NO_VRAM", "LOW_VRAM"):
            with _vram(state):
                figures[f"{name}, {state}: off by"] = difference(_sample(steps, _apply(apply, base)), with_face)
        figures[f"{name}, fp8 base: off by"] = difference(_sample(steps, _apply(apply, fp8)), with_face)
    both = _sample(steps, apply_infinite_id(_apply(forms["image adapter"], base)))
    again = _sample(steps, apply_infinite_id(_apply(forms["image adapter"], base)))
    figures["Infinite-ID: queued again"] = _equal(again, both)
    alone = _sample(steps, apply_infinite_id(base))
    figures["Infinite-ID without an identity: off the base model by"] = difference(alone, plain)


def _compile_promises(figures: dict) -> None:
    """Run the base model alone, and with FACT, under the host's compile node; two steps, for compiling takes long."""
    base, adapter, face = tiny.model(), tiny.adapter(), tiny.face_id()
    models = {"base": base, "FACT": _apply(lambda model: apply_fact(model, adapter, face), base)}
    for backend in ("cudagraphs", "inductor") if torch.cuda.is_available() else ():
        for name, model in models.items():
            torch._dynamo.reset()
            figures[f"{name}, compiled by {backend}: off by"] = _compiled(2, model, backend, _sample(2, model))


def _memory() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def _apply(apply, model, **settings):
    with torch.inference_mode():
        return apply(model, **settings)


def _sample(steps: int, model) -> torch.Tensor:
    return tiny.sample(model, steps=steps)


def _equal(a: torch.Tensor, b: torch.Tensor) -> str:
    return "bit for bit" if torch.equal(a, b) else f"off by {difference(a, b):.1e}"


@contextlib.contextmanager
def _vram(state: str):
    """Let the host behave as with --novram or --lowvram."""
    management = comfy.model_management
    before, management.vram_state = management.vram_state, management.VRAMState[state]
    management.unload_all_models()
    try:
        yield
    finally:
        management.unload_all_models()
        management.vram_state = before


def _compiled(steps: int, model, backend: str, expected: torch.Tensor):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    try:
        return difference(_sample(steps, TorchCompileModel.execute(model, backend).args[0]), expected)
    except Exception as error:  # a compiler that is missing is not ours to mend, but to be told of
        print(f"```\n{backend}: {traceback.format_exc()[-3000:]}\n```")
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"


def measure_hosts(scale, figures: dict) -> None:
    """Run one template through real servers, as they start by default and with little memory, and compare pictures."""
    flags = {"as it starts": [], "--novram": ["--novram"], "--lowvram": ["--lowvram"]}
    flags["--disable-dynamic-vram"] = ["--disable-dynamic-vram"]
    if not torch.cuda.is_available():
        flags = {"as it starts": []}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary) / "base"
        environment.make_base(base)
        checkpoints.ensure(base / "models", COMFY)
        detection = base / "models" / "detection"
        detection.mkdir(parents=True, exist_ok=True)
        with torch.inference_mode():
            mediapipe_file.write(detection / mediapipe_file.FILE, mediapipe_file.drawn_states(_photo()))
        shutil.copy(PHOTO, base / "input")
        pictures = {}
        for name, extra in flags.items():
            begin = time.monotonic()
            front_end = Path(temporary) / "front_end"
            front_end.mkdir(exist_ok=True)
            with hosting.start(base, COMFY, extra_args=[*extra, "--front-end-root", front_end]) as host:
                figures[f"{name}: s to start"] = time.monotonic() - begin
                for graph in scale.graphs:
                    begin = time.monotonic()
                    pictures[name, graph] = asyncio.run(_picture(host.url, graph, scale.promised_steps))
                    figures[f"{name}, {graph}: s"] = time.monotonic() - begin
            log = host.log.read_text(encoding="utf-8", errors="replace")
            dynamic = "yes" if "DynamicVRAM support detected" in log else "no"
            figures[f"{name}: dynamic loading"] = dynamic
            for graph in scale.graphs:
                far = np.abs(pictures[name, graph] - pictures["as it starts", graph]).max()
                figures[f"{name}, {graph}: largest difference of a pixel, of 255"] = int(far)


def _photo() -> torch.Tensor:
    pixels = np.asarray(Image.open(PHOTO).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels)[None]


async def _picture(url: str, name: str, steps: int) -> np.ndarray:
    graph = workflow(name, size=64, steps=steps)
    for node in graph.values():
        if node["class_type"] in ("LoadImage", "LikenessExamplePicture"):
            node |= {"class_type": "LoadImage", "inputs": {"image": PHOTO.name}}
        if "detector" in node["inputs"]:
            node["inputs"]["detector"] = f"mediapipe: {mediapipe_file.FILE}"
        if "if_no_face" in node["inputs"]:  # the test's networks know one picture, and none of its close-ups
            node["inputs"]["if_no_face"] = "whole picture"
    async with Client(url) as client:
        try:
            result = await client.run(graph)
        except HostError as error:
            raise ValueError(f"{name}: {error}") from error
    (saved,) = result.images[only(graph, "SaveImage")]
    return np.asarray(Image.open(io.BytesIO(saved.data))).astype(int)


def photo_works(shapes: dict, device) -> dict:
    """Return by name what reads one photo: face parsing, MediaPipe's networks, CLIP-H, in test weights of true size."""
    weights = {key: part for key, part in checkpoints.drawn(shapes, 1).items() if not key.startswith(UNUSED_KEYS)}
    parser = manage(BiSeNet(BiSeNetSizes.of(weights)), weights, torch.device("cpu"), device)
    photo = torch.rand(1, 512, 512, 3)
    pixels = photo.movedim(-1, 1).to(device)
    detector = face_landmarker.FaceLandmarker(detector_variant="full").to(device).eval()
    clip = comfy.clip_vision.load(_file("clip_vision/likeness_builtin_clip_vision_h.pt"))

    def parse():
        comfy.model_management.load_models_gpu([parser])
        return parser.model(pixels)

    return {
        "face parsing": parse,
        "MediaPipe's full-range detector": lambda: detector.detector(pixels[..., :192, :192]),
        "CLIP-H": lambda: clip.encode_image(photo),
    }


def _file(name: str) -> str:
    folder = Path(tempfile.gettempdir()) / "likeness_test_weights"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        path.write_bytes(checkpoints.FILES[name]())
    return str(path)


def run_tests(scale, figures: dict) -> None:
    """Run the tests of graphs, patches and trainings with the host on the GPU; name those that fail."""
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        files = [str(ROOT / "tests" / name) for name in scale.test_files]
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-x" if len(files) == 1 else "--tb=short"]
        device = {"LIKENESS_TEST_DEVICE": "cuda"} if torch.cuda.is_available() else {}
        run = subprocess.run(
            [*command, f"--junitxml={report}", *files], cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, **device, "COMFYUI_PATH": str(COMFY)},
        )  # fmt: skip
        print(f"```\n{run.stdout[-8000:]}{run.stderr[-2000:]}\n```")
        suite = xml.etree.ElementTree.parse(report).getroot()[0]
    for name in ("tests", "failures", "errors", "skipped"):
        figures[name] = int(suite.get(name))
    if figures["failures"] or figures["errors"]:
        raise ValueError("some tests fail with the host on this device")
