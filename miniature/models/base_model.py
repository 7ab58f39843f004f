"""The miniature's base model and CLIP as the host's own objects: MODEL, CLIP, VAE and CLIP_VISION from small files.

The UNet has SD1.5's blocks (num_res_blocks 2, a transformer in the same 16 places), so that whatever hooks into SD1.5
hooks into it. It predicts v on SD's noise schedule. The text encoders are CLIP's, with the words of the captions only.
Files are float16; what runs is in the precision that the host chooses, float32 on the CPU.
"""

import logging
from pathlib import Path

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import torch
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
from comfy.supported_models_base import ClipTarget

from ...patcher import manage
from ...weights.reading import read_state_dict
from .autoencoder import SHRINK, Autoencoder, AutoencoderSizes

WEIGHTS = Path(__file__).parents[1] / "weights"
BASE, INPAINTING, PAIR = "base.safetensors", "inpainting.safetensors", "clip.safetensors"
CHANNELS = 16  # of a latent, which stands for 12 x 12 pixels
HEAD = 32  # channels of an attention head
UNET, TEXT_ENCODER, FIRST_STAGE = "model.diffusion_model.", "cond_stage_model.clip_l.transformer.", "first_stage_model."
_PAIR_TEXT, _PAIR_VISION = "text.", "vision."
_EMBEDDING, _PROJECTION = "text_model.embeddings.token_embedding.weight", "text_projection.weight"
TOKENS = "tokens"  # int64 [n]: which rows of the token embedding the file has; the others are nowhere used
TEXT = {
    "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 2,
    "projection_dim": 128,
}  # fmt: skip
VISION = {
    "model_type": "clip_vision_model", "image_size": 96, "patch_size": 12, "num_channels": 3, "hidden_size": 128,
    "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 4, "hidden_act": "quick_gelu",
    "projection_dim": TEXT["projection_dim"],
}  # fmt: skip


class MiniatureLatents(comfy.latent_formats.LatentFormat):
    """Of unit variance already.

    latent_rgb_factors, latent_rgb_factors_bias: what the host's previews show, colours in -1..1 of a latent's pixel,
    by least squares over rendered portraits.
    """

    latent_channels = CHANNELS
    spacial_downscale_ratio = SHRINK
    latent_rgb_factors = [
        [-0.0218, -0.0415, -0.0764], [-0.0010, 0.0023, -0.0100], [0.0042, -0.0055, 0.0004], [-0.0254, 0.0065, 0.0254],
        [-0.0009, 0.0128, -0.0214], [0.0540, 0.0232, -0.0672], [0.0280, -0.0506, -0.0378], [0.0072, 0.0085, 0.0180],
        [-0.0148, 0.0100, 0.0003], [-0.0638, -0.0566, 0.0098], [-0.0107, -0.0058, 0.0133], [0.0034, -0.0116, -0.0081],
        [-0.0959, 0.1401, 0.0886], [0.2833, 0.2740, 0.2880], [-0.0274, -0.0276, -0.1230], [-0.0336, -0.0479, 0.0529],
    ]  # fmt: skip
    latent_rgb_factors_bias = [0.1983, 0.0374, -0.0482]


class Miniature(comfy.supported_models.SD15):
    """The host's SD1.5 at another size; recognised here and not by the host."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": HEAD}
    latent_format = MiniatureLatents

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        return self.unet_config["in_channels"] > CHANNELS


def unet_layout(width: int, in_channels: int = CHANNELS) -> dict:
    """Return arguments of the host's UNet: SD1.5's blocks at smaller widths.

    width: channels at the finest level; the others have twice as many. in_channels: 33 for inpainting, with the mask
    and the masked image's latents.
    in_channels: 33 for inpainting, with the mask and the masked picture's latents.
    """
    return {
        "image_size": 32, "in_channels": in_channels, "out_channels": CHANNELS, "model_channels": width,
        "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 2, 2], "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1,
        "context_dim": TEXT["hidden_size"], "num_heads": -1, "num_head_channels": HEAD,
        "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False,
        "use_temporal_attention": False, "use_temporal_resblock": False,
    }  # fmt: skip


def load_miniature(folder: Path, inpainting: bool = False):
    """Return (MODEL, CLIP, VAE) of the files in `folder`; inpainting: with the UNet that fills masks.

    Raises FileNotFoundError, ValueError or KeyError as `weight_file` and `load_base` do.
    """
    path = weight_file(folder, BASE)
    if not inpainting:
        return load_base(path)
    return load_unet(weight_file(folder, INPAINTING), path), load_text(path), load_vae(path)


def load_base(path: str):
    """Return (MODEL, CLIP, VAE) of the miniature checkpoint at `path`.

    Raises ValueError naming the file where it cannot be read, KeyError where it is no miniature.
    """
    return load_unet(path), load_text(path), load_vae(path)


def load_pair(folder: Path):
    """Return (CLIP, CLIP_VISION) of the drawn world's own CLIP in `folder`: text and pictures in one space.

    Raises FileNotFoundError as `weight_file` does, RuntimeError where the file holds other tensors.
    """
    path = weight_file(folder, PAIR)
    vision = comfy.clip_vision.ClipVisionModel(VISION)
    vision.model.load_state_dict(_part(read_state_dict(path), _PAIR_VISION))
    return load_text(path, _PAIR_TEXT, f"{_PAIR_TEXT}{TOKENS}"), vision


def check_files(folder: Path, inpainting: bool) -> None:
    """Raise FileNotFoundError, as `weight_file` does, unless everything of a task is in `folder`."""
    for name in (BASE, PAIR, *([INPAINTING] if inpainting else [])):
        weight_file(folder, name)


def weight_file(folder: Path, name: str) -> str:
    """Return where a file of the miniature lies; raises FileNotFoundError that says what to do where it is missing."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"The miniature's weight file '{name}' is missing: looked in {folder}. It comes with ComfyUI-Likeness and "
            "is published nowhere else: install ComfyUI-Likeness anew."
        )
    return str(path)


def load_unet(path: str, base: str | None = None, disable_dynamic: bool = False):
    """Return the MODEL of the file at `path`; base: the file that has what is missing there, for a UNet saved as a
    change.
    """
    weights = (read_state_dict(base) if base else {}) | read_state_dict(path)
    loaded = model(_part(weights, UNET), disable_dynamic)
    loaded.cached_patcher_init = load_unet, (path, base)
    return loaded


def load_text(
    path: str, prefix: str = TEXT_ENCODER, tokens: str = TOKENS, disable_dynamic: bool = False
) -> comfy.sd.CLIP:
    """Return the CLIP of the file at `path`; prefix: of its tensors' names; tokens: the name of their list."""
    weights = read_state_dict(path)
    text_weights = {name: weight for name, weight in _part(weights, prefix).items() if name.startswith("text_")}
    loaded = clip(text_weights, weights[tokens], disable_dynamic)
    loaded.patcher.cached_patcher_init = _text_patcher, (path, prefix, tokens)
    return loaded


def _text_patcher(path: str, prefix: str, tokens: str, disable_dynamic: bool = False):
    return load_text(path, prefix, tokens, disable_dynamic).patcher


def load_vae(path: str) -> "MiniatureVAE":
    """Return the VAE of the file at `path`."""
    return MiniatureVAE(_part(read_state_dict(path), FIRST_STAGE))


def model(weights: dict[str, torch.Tensor], disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """Return a model patcher of the UNet `weights`, whose sizes are read from them.

    disable_dynamic: of the host's plain kind, whose weights autograd can work with.
    """
    config = Miniature(comfy.model_detection.detect_unet_config(weights, ""))
    dtype, device = comfy.model_management.unet_dtype(), comfy.model_management.get_torch_device()
    cast = comfy.model_management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast)  # --fp8_e4m3fn-unet stores what cannot compute
    offload_device = comfy.model_management.unet_offload_device()
    base = config.get_model(weights, device=offload_device)
    base.load_model_weights(dict(weights), "")
    patcher = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    return patcher(base, load_device=device, offload_device=offload_device)


def clip(weights: dict[str, torch.Tensor], tokens: torch.Tensor, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """Return the host's CLIP with the text encoder `weights`, which have the embeddings of `tokens` only.

    Without a text projection among them it is 0, by which scores know that there is none.
    """
    target = ClipTarget(SD1Tokenizer, SD1ClipModel)
    made = comfy.sd.CLIP(target, model_options={"clip_l_model_config": TEXT}, disable_dynamic=disable_dynamic)
    transformer = made.cond_stage_model.clip_l.transformer
    full = torch.zeros_like(transformer.get_input_embeddings().weight)
    full[tokens] = weights[_EMBEDDING].to(full)
    none = torch.zeros_like(transformer.text_projection.weight)
    transformer.load_state_dict({_PROJECTION: none} | weights | {_EMBEDDING: full})
    return made


def _is_no_complaint(record: logging.LogRecord) -> bool:
    """Return whether the host does not complain of a VAE without weights, which here come afterwards."""
    return "No VAE weights" not in record.getMessage()


class MiniatureVAE(comfy.sd.VAE):
    """The host's VAE around an `Autoencoder`, which the host does not know; it computes in float32."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        logger = logging.getLogger()
        logger.addFilter(_is_no_complaint)
        try:
            super().__init__(sd={})  # sets up everything but the network
        finally:
            logger.removeFilter(_is_no_complaint)
        self.latent_channels = CHANNELS
        self.upscale_ratio = self.downscale_ratio = SHRINK
        self.device = comfy.model_management.vae_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype = torch.float32
        offload_device = comfy.model_management.vae_offload_device()
        network = Autoencoder(AutoencoderSizes.of(weights), comfy.ops.manual_cast, device=offload_device)
        floats = {name: weight.float() for name, weight in weights.items()}
        self.patcher = manage(network, floats, offload_device, self.device)
        self.first_stage_model = self.patcher.model
        self.model_size()


def _part(weights: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
