"""A real host model, a tenth as wide as SD1.5 but with all its blocks, and a FACT adapter that fits it."""

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from likeness.adapters.fact import FactAdapter
from likeness.encoders.identity import FaceId
from likeness.tests.support.checkpoints import drawn, fact_shapes
from likeness.tests.support.golden_cases import Case

import nodes

TOKEN_DIM = 48
FACE_DIM = 24
WIDTHS = [32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 64, 64, 64, 32, 32, 32]


def model(dtype=torch.float32, compute_dtype=None, in_channels=4):
    """An SD1.5-shaped host model whose weights are stored as `dtype` and computed in `compute_dtype`."""
    case = Case("fact_unet")
    unet = case.json("unet_config") | {"in_channels": in_channels}
    unet |= {"use_temporal_attention": False, "use_temporal_resblock": False}
    config = comfy.supported_models.SD15(unet)
    config.set_inference_dtype(dtype, compute_dtype)
    base = config.get_model({}, device=comfy.model_management.unet_offload_device())
    case.fill(base.diffusion_model)
    return comfy.model_patcher.CoreModelPatcher(
        base,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def adapter(widths=WIDTHS, seed=1) -> FactAdapter:
    shapes = fact_shapes(widths, token_dim=TOKEN_DIM, face_dim=FACE_DIM, dim=64, inner=64, tokens=4, depth=2)
    return FactAdapter(drawn(shapes, seed), "tiny_fact.ckpt")


def face_id(photos=1, seed=2) -> FaceId:
    features = torch.randn(photos, 9, FACE_DIM, generator=torch.Generator().manual_seed(seed))
    embedding = torch.nn.functional.normalize(features.mean(dim=1), dim=1)
    return FaceId("transface", "tiny_transface.pt", "0" * 64, features, embedding, torch.zeros(photos, 8, 8, 3), True)


def conditioning(seed) -> list:
    return [[torch.randn(1, 77, TOKEN_DIM, generator=torch.Generator().manual_seed(seed)), {}]]


@torch.inference_mode()
def sample(patched, height=128, width=128, batch=1, steps=2, sampler="euler", cfg=3.0, latent=None, **options):
    """Sample with the host's KSampler; the picture is given in pixels, the result is the latent."""
    samples = torch.zeros(batch, 4, height // 8, width // 8) if latent is None else latent
    (result,) = nodes.common_ksampler(
        patched,
        5,
        steps,
        cfg,
        sampler,
        "sgm_uniform",
        conditioning(3),
        conditioning(4),
        {"samples": samples},
        **options,
    )
    return result["samples"]


def record(patched):
    """A clone of the model, and the list of what its guider predicts for the whole batch at every step of sampling."""
    predictions, patched = [], patched.clone()

    def keep(args):
        predictions.append(args["denoised"])
        return args["denoised"]

    patched.set_model_sampler_post_cfg_function(keep)
    return patched, predictions
