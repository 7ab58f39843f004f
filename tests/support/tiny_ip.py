"""Image adapters that fit the host models of `tiny`, and a host model with all 70 cross-attentions of SDXL."""

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from likeness.adapters.ip_adapter import INFINITE_ID_METADATA, IpAdapter
from likeness.adapters.unet_blocks import BLOCKS
from likeness.encoders.clip_vision import ClipFeatures
from likeness.encoders.identity import FaceId
from likeness.encoders.pulid import KIND, pack
from likeness.tests.support import tiny
from likeness.tests.support.golden_cases import Case
from likeness.tests.support.golden_recipe import state_dict

import nodes

FACE, CLIP = 512, 24  # widths of the features; ArcFace's is the one that tells formats apart
DIM = tiny.TOKEN_DIM
POOLED = 64
WIDTHS = {
    "SD1.5": [32, 32, 64, 64, 128, 128, 128, 128, 128, 64, 64, 64, 32, 32, 32, 128],
    "SDXL": [64] * 4 + [128] * 20 + [128] * 30 + [64] * 6 + [128] * 10,
}  # of the golden UNets, in the published order


def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def resampler(prefix, inputs, dim=64, latents=4, outputs=DIM):
    shapes = {f"{prefix}latents": (1, latents, dim)} if latents else {}
    shapes |= linear(f"{prefix}proj_in", inputs, dim) | linear(f"{prefix}proj_out", dim, outputs)
    shapes |= norm(f"{prefix}norm_out", outputs) | norm(f"{prefix}layers.0.0.norm1", dim)
    shapes |= norm(f"{prefix}layers.0.0.norm2", dim) | norm(f"{prefix}layers.0.1.0", dim)
    sizes = {"0.to_q": (64, dim), "0.to_kv": (128, dim), "0.to_out": (dim, 64)}
    sizes |= {"1.1": (2 * dim, dim), "1.3": (dim, 2 * dim)}
    return shapes | {f"{prefix}layers.0.{name}.weight": shape for name, shape in sizes.items()}


def mlp(prefix, tokens=4):
    return (
        linear(f"{prefix}proj.0", FACE, 16) | linear(f"{prefix}proj.2", 16, tokens * DIM) | norm(f"{prefix}norm", DIM)
    )


def three_layers(name, inputs, outputs):
    shapes = norm(f"{name}.1", 16) | norm(f"{name}.4", 16)
    for place, sides in {"0": (inputs, 16), "3": (16, 16), "6": (16, outputs)}.items():
        shapes |= linear(f"{name}.{place}", *sides)
    return shapes


def pulid(prefix):
    shapes = three_layers(f"{prefix}body", FACE + 768, 5 * DIM)
    for index in range(5):
        for name in (f"mapping_{index}", f"mapping_patch_{index}"):
            shapes |= three_layers(prefix + name, CLIP, DIM)
    return shapes


def pulid_v1_1(prefix, dim=64):
    shapes = {f"{prefix}latents": (1, 6, dim), f"{prefix}proj_out": (dim, DIM)}
    shapes |= three_layers(f"{prefix}id_embedding_mapping", FACE + 768, 5 * dim)
    for index in range(5):
        shapes |= three_layers(f"{prefix}mapping_{index}", CLIP, dim)
    one = {name: shape for name, shape in resampler(prefix, CLIP, dim).items() if ".layers.0." in f".{name}"}
    for layer in range(10):
        shapes |= {name.replace("layers.0.", f"layers.{layer}.", 1): shape for name, shape in one.items()}
    return shapes


PROJECTORS = {
    "ip-adapter": linear("image_proj.proj", CLIP, 4 * DIM) | norm("image_proj.norm", DIM),
    "full-face": linear("image_proj.proj.0", CLIP, CLIP)
    | linear("image_proj.proj.2", CLIP, DIM)
    | norm("image_proj.proj.3", DIM),
    "plus": resampler("image_proj.", CLIP),
    "faceid": mlp("image_proj."),
    "faceid-plus": mlp("image_proj.") | resampler("image_proj.perceiver_resampler.", CLIP, dim=DIM, latents=0),
    "faceid-portrait": mlp("image_proj.", tokens=16),
    "instantid": resampler("image_proj.", FACE),
    "pulid": pulid("image_proj."),
    "pulid-v1.1": pulid_v1_1("image_proj."),
}
PROJECTORS["faceid-plusv2"] = PROJECTORS["faceid-plus"]
PROJECTORS["faceid-portrait-unnorm"] = PROJECTORS["instantid"]


def shapes(kind="faceid", base="SD1.5", lora_rank=0, dim=DIM, widths=None) -> dict:
    """Names and shapes of a published file of the format `kind`."""
    result = dict(PROJECTORS[kind])
    for n, width in enumerate(widths or WIDTHS[base]):
        for part in "kv":
            result[f"ip_adapter.{2 * n + 1}.to_{part}_ip.weight"] = (width, dim)
        for number, context in ((2 * n, width), (2 * n + 1, dim)) if lora_rank else ():
            for part in ("q", "k", "v", "out"):
                inputs = context if part in "kv" else width
                result[f"ip_adapter.{number}.to_{part}_lora.down.weight"] = (lora_rank, inputs)
                result[f"ip_adapter.{number}.to_{part}_lora.up.weight"] = (width, lora_rank)
    return result


def infinite_id_shapes(base="SDXL") -> dict:
    result = resampler("clip_mapper.", CLIP) | mlp("face_mapper.")
    for place, width in zip(BLOCKS[base], WIDTHS[base]):
        for part in "kv":
            result[f"image_attention.{'.'.join(map(str, place))}.to_{part}.weight"] = (width, DIM)
    return result


def adapter(kind="faceid", base="SD1.5", seed=1, name=None, **options) -> IpAdapter:
    """A drawn adapter; its name tells FaceID-PlusV2 from Plus and portrait-unnorm from InstantID."""
    weights = state_dict(shapes(kind, base, **options), seed)
    return IpAdapter(weights, name or f"tiny_{kind.replace('-', '_')}.bin")


def infinite_id(base="SDXL", seed=1) -> IpAdapter:
    return IpAdapter(state_dict(infinite_id_shapes(base), seed), "tiny_infinite_id", metadata=INFINITE_ID_METADATA)


def pulid_face(photos=1, seed=2) -> FaceId:
    """A PuLID identity whose EVA tower is as narrow as the tiny adapters."""
    sample = torch.Generator().manual_seed(seed)
    vector = torch.randn(photos, FACE + 768, generator=sample)
    features = pack(vector, torch.randn(photos, 5, 7, CLIP, generator=sample))
    crops = torch.zeros(photos, 8, 8, 3)
    return FaceId(KIND, "glintr100.onnx + eva.pt", "0" * 64, features, vector[:, :FACE], crops, True)


def face(photos=1, seed=2) -> FaceId:
    """An ArcFace identity as the ONNX recognisers give it: the raw embedding is 20 long."""
    features = torch.randn(photos, 1, FACE, generator=torch.Generator().manual_seed(seed))
    embedding = torch.nn.functional.normalize(features[:, 0], dim=1)
    features = 20 * embedding.unsqueeze(1)
    return FaceId("arcface", "w600k_r50.onnx", "0" * 64, features, embedding, torch.zeros(photos, 8, 8, 3), False)


def clip(kind="penultimate", photos=1, seed=3, width=CLIP) -> ClipFeatures:
    shape = (photos + 1, width) if kind == "embeds" else (photos + 1, 9, width)
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return ClipFeatures(kind, features[1:], features[:1])


def sdxl(dtype=torch.float32):
    """An SDXL-shaped host model a tenth as wide as SDXL."""
    case = Case("ip_unet_sdxl_plain")
    unet = case.json("unet_config") | {"adm_in_channels": POOLED + 6 * 256}
    config = comfy.supported_models.SDXL(unet | {"use_temporal_attention": False, "use_temporal_resblock": False})
    config.set_inference_dtype(dtype, None)
    base = config.get_model({}, device=comfy.model_management.unet_offload_device())
    case.fill(base.diffusion_model)
    return comfy.model_patcher.CoreModelPatcher(
        base,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


@torch.inference_mode()
def sample_sdxl(model, size=64, steps=1):
    pooled = {"pooled_output": torch.ones(1, POOLED)}
    positive, negative = ([[tokens, pooled]] for ((tokens, _),) in (tiny.conditioning(3), tiny.conditioning(4)))
    latent = {"samples": torch.zeros(1, 4, size // 8, size // 8)}
    return nodes.common_ksampler(model, 5, steps, 3.0, "euler", "sgm_uniform", positive, negative, latent)[0]["samples"]
