"""The built-in files: small, the same every time, of the published sizes, and accepted by the host's own loaders."""

import hashlib
import logging
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import comfy.utils
import folder_paths
import pytest
import torch
from likeness.tests.support import checkpoints

import nodes

COMFY = Path(folder_paths.__file__).parent
NAMES = {
    "checkpoints/likeness_builtin_sd15.ckpt",
    "checkpoints/likeness_builtin_sd15_inpaint.ckpt",
    "checkpoints/likeness_builtin_sdxl.ckpt",
    "controlnet/likeness_builtin_controlnet_sd15.pth",
    "controlnet/likeness_builtin_controlnet_sdxl.pth",
    "clip_vision/likeness_builtin_clip_vision_h.pt",
    "loras/likeness_builtin_lora_sd15.safetensors",
    "facechain_fact/likeness_builtin_transface.pt",
    "facechain_fact/likeness_builtin_fact.ckpt",
    "face2diffusion/likeness_builtin_msid.pt",
    "face2diffusion/likeness_builtin_mapping.pt",
    "face2diffusion/likeness_builtin_deep3d.pth",
    "clip_vision/likeness_builtin_clip_vision_l.pt",
    "text_encoders/likeness_builtin_clip_l.pt",
    "face_parsing/likeness_builtin_bisenet.pth",
    "insightface/likeness_builtin_arcface.onnx",
    "ipadapter/likeness_builtin_faceid_plusv2_sdxl.bin",
    "ipadapter/likeness_builtin_plus_face_sdxl.bin",
    "instantid/likeness_builtin_instantid.bin",
    "pulid/likeness_builtin_pulid.bin",
    "text_encoders/likeness_builtin_eva02.pt",
}


def count(shapes, without=()):
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(without))


def under(shapes, prefix):
    return {name: shape for name, shape in shapes.items() if name.startswith(prefix)}


def run_apart(models, after):
    """Make the files in a fresh interpreter and return what `after`, which knows of those `made`, prints."""
    start = (
        "import importlib.util, pathlib, sys\n"
        "spec = importlib.util.spec_from_file_location('checkpoints', sys.argv[1])\n"
        "checkpoints = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(checkpoints)\n"
        "made = checkpoints.ensure(*map(pathlib.Path, sys.argv[2:]))\n"
    )
    command = [sys.executable, "-c", start + after, checkpoints.__file__, models, COMFY]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with all built-in files, the only one that the host's loaders search."""
    folder = tmp_path_factory.mktemp("models")
    made = checkpoints.ensure(folder, COMFY)
    assert {path.relative_to(folder).as_posix() for path in made} == NAMES
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("checkpoints", "controlnet", "clip_vision", "loras"):
            known = folder_paths.folder_names_and_paths[kind]
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder / kind)], known[1]))
        yield folder


@pytest.fixture
def warnings(caplog):
    """The messages of the host at warning level or above."""
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def test_published_parameter_counts():
    transface = checkpoints.transface_shapes()
    assert count(transface, without=("running_mean", "running_var", "num_batches_tracked")) == 86_660_864
    fact = checkpoints.fact_shapes([320] * 2 + [640] * 2 + [1280] * 6 + [640] * 3 + [320] * 3)
    blocks = checkpoints.fact_sites()
    assert count(under(fact, "local_fac_prj.")) == 47_492_352
    assert [count(under(fact, blocks[i])) for i in (0, 2, 4)] == [1_888_962, 7_054_722, 27_216_642]
    assert sum(count(under(fact, block)) for block in blocks) == 208_018_272


def test_blocks_follow_the_unet():
    blocks = checkpoints.fact_sites()
    assert len(set(blocks)) == 16
    assert blocks[5] == "down_blocks.2.attentions.1.transformer_blocks.0"
    assert blocks[6] == "mid_block.attentions.0.transformer_blocks.0"
    assert blocks[7] == "up_blocks.1.attentions.0.transformer_blocks.0"
    assert blocks[15] == "up_blocks.3.attentions.2.transformer_blocks.0"


def test_too_few_widths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        checkpoints.fact_shapes([320] * 15)


def test_test_weights_depend_on_name_and_seed_only():
    shapes = checkpoints.transface_shapes(dim=16, depth=2, tokens=4, embedding=8)
    first, second = checkpoints.drawn(shapes, 1), checkpoints.drawn(shapes, 2)
    alone = checkpoints.drawn(under(shapes, "norm."), 1)
    assert torch.equal(first["norm.bias"], alone["norm.bias"])
    assert not torch.equal(first["norm.bias"], second["norm.bias"])
    assert {name: tuple(tensor.shape) for name, tensor in first.items()} == shapes
    assert all(tensor.is_contiguous() for tensor in first.values())


@pytest.mark.parametrize("name", sorted(NAMES))
def test_files_are_small_and_safe_to_read(models, name):
    assert (models / name).stat().st_size < 1_500_000
    if name.endswith(".onnx"):
        return
    tensors = comfy.utils.load_torch_file(str(models / name), safe_load=True)
    for tensor in {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors.values()}.values():
        assert tensor.new_empty(0).set_(tensor.untyped_storage()).isfinite().all()


def test_files_hold_the_true_sizes(models):
    def shapes(name):
        tensors = torch.load(models / "facechain_fact" / name, weights_only=True)
        return {key: tuple(tensor.shape) for key, tensor in tensors.items()}

    assert shapes("likeness_builtin_transface.pt") == checkpoints.transface_shapes()
    fact = shapes("likeness_builtin_fact.ckpt")
    copies = {key for key in fact if ".processor.ln." in key}
    assert len(copies) == 32
    assert {key: fact[key] for key in fact if key not in copies} == checkpoints.fact_shapes([320] * 16)


def test_gates_are_open(models):
    fact = torch.load(models / "facechain_fact/likeness_builtin_fact.ckpt", weights_only=True)
    gates = [float(tensor) for name, tensor in fact.items() if ".alpha_" in name]
    assert len(gates) == 32
    assert 0.49 < min(gates) < max(gates) < 0.91


def test_files_are_small_together(models):
    files = [path for path in models.rglob("*") if path.is_file()]
    assert {path.relative_to(models).as_posix() for path in files} == NAMES
    assert sum(path.stat().st_size for path in files) < 8_000_000


def test_only_what_is_missing_is_made(models):
    path = models / "facechain_fact/likeness_builtin_fact.ckpt"
    before = path.read_bytes()
    path.unlink()
    assert checkpoints.ensure(models, COMFY) == [path]
    assert path.read_bytes() == before


def test_complete_folder_needs_no_torch(models):
    assert run_apart(models, after="print(len(made), 'torch' in sys.modules)") == "0 False\n"


@pytest.mark.slow
def test_another_process_makes_the_same_bytes(models, tmp_path):
    assert run_apart(tmp_path, after="print(len(made))") == f"{len(NAMES)}\n"
    for name in NAMES:
        digests = {hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (models, tmp_path)}
        assert len(digests) == 1, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family", "channels", "cross_attentions"),
    [("sd15", "SD15", 4, 16), ("sd15_inpaint", "SD15", 9, 16), ("sdxl", "SDXL", 4, 70)],
)
def test_host_loads_checkpoint(models, warnings, name, family, channels, cross_attentions):
    model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint(f"likeness_builtin_{name}.ckpt")
    assert type(model.model.model_config).__name__ == family
    assert model.model.diffusion_model.in_channels == channels
    weights = model.model.diffusion_model.state_dict()
    assert sum(key.endswith("attn2.to_k.weight") for key in weights) == cross_attentions
    assert clip.tokenize("a").keys() == ({"l", "g"} if family == "SDXL" else {"l"})
    assert vae.downscale_ratio == 8
    assert warnings() == []


@pytest.mark.slow
def test_host_loads_clip_vision(models, warnings):
    vision = nodes.CLIPVisionLoader().load_clip("likeness_builtin_clip_vision_h.pt")[0]
    output = vision.encode_image(torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)))
    assert output.image_embeds.shape == (1, 1024)
    assert output.penultimate_hidden_states.shape == (1, 257, 1280)
    assert output.image_embeds.isfinite().all()
    assert warnings() == []


@pytest.fixture(scope="module")
def sd15(models):
    """The built-in SD1.5 with two prompts and a negative one, ready for 64 px pictures."""
    model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint("likeness_builtin_sd15.ckpt")
    texts = ("a red cat on a sofa", "photo of a woman in the rain", "blurry")
    cat, woman, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in texts)
    return SimpleNamespace(model=model, clip=clip, vae=vae, cat=cat, woman=woman, negative=negative)


@torch.inference_mode()
def sample(sd15, model, positive, negative):
    """[1, 64, 64, 3]: four steps of the stock graph."""
    latent = nodes.EmptyLatentImage().generate(64, 64)[0]
    latent = nodes.KSampler().sample(model, 1, 4, 5.0, "euler", "normal", positive, negative, latent)[0]
    return nodes.VAEDecode().decode(sd15.vae, latent)[0]


def distance(first, second):
    return float((first - second).abs().mean())


@pytest.fixture(scope="module")
def cat_image(sd15):
    return sample(sd15, sd15.model, sd15.cat, sd15.negative)


@pytest.mark.slow
def test_images_are_coloured_and_follow_the_prompt(sd15, cat_image):
    woman = sample(sd15, sd15.model, sd15.woman, sd15.negative)
    for image in (cat_image, woman):
        assert 0.35 < image.mean() < 0.65
        assert 0.05 < image.std() < 0.3
        assert image.std(dim=-1).mean() > 0.03
        assert ((image == 0) | (image == 1)).float().mean() < 0.05
    assert 0.03 < distance(cat_image, woman) < 0.3


@pytest.mark.slow
@torch.inference_mode()
def test_vae_keeps_colours(sd15):
    corners = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(corners, size=(64, 64)).movedim(1, -1)
    again = sd15.vae.decode(sd15.vae.encode(image))
    assert distance(image, again) < 0.1


@pytest.mark.slow
def test_host_applies_lora(sd15, cat_image, warnings):
    model, _ = nodes.LoraLoader().load_lora(sd15.model, sd15.clip, "likeness_builtin_lora_sd15.safetensors", 1.0, 1.0)
    assert len(model.patches) == 16 * 2 * 2
    assert 0.02 < distance(cat_image, sample(sd15, model, sd15.cat, sd15.negative)) < 0.3
    assert warnings() == []


@pytest.mark.slow
def test_host_applies_controlnet(sd15, cat_image, warnings):
    net = nodes.ControlNetLoader().load_controlnet("likeness_builtin_controlnet_sd15.pth")[0]
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    steered = nodes.ControlNetApplyAdvanced().apply_controlnet(sd15.cat, sd15.negative, net, hint, 1.0, 0.0, 1.0)
    assert 0.02 < distance(cat_image, sample(sd15, sd15.model, *steered)) < 0.3
    assert warnings() == []
