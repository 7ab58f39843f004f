"""The miniature's base model as the host's own objects: MODEL, CLIP and VAE from one small checkpoint.

The UNet has SD1.5's blocks (num_res_blocks 2, a transformer in the same 16 places), so that whatever hooks into SD1.5
hooks into it. It predicts v on SD's noise schedule. The text encoder is CLIP's, with the words of the captions only.
"""

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

from ..weights.managed import managed
from ..weights.reading import read_state_dict
from .autoencoder import Autoencoder, AutoencoderSizes

CHANNELS = 8  # of a latent, 8 x 8 pixels to a side
HEAD = 32  # channels of an attention head
_UNET, _TEXT, _PICTURE = "model.diffusion_model.", "cond_stage_model.clip_l.transformer.", "first_stage_model."
_EMBEDDING = "text_model.embeddings.token_embedding.weight"
_TOKENS = "tokens"  # int64 [n]: which rows of the token embedding the file has; the others are nowhere used
TEXT = {
    "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 2,
    "projection_dim": 128,
}  # fmt: skip


class MiniatureLatents(comfy.latent_formats.LatentFormat):
    """Of unit variance already; the colours are for previews."""

    latent_channels = CHANNELS


class Miniature(comfy.supported_models.SD15):
    """The host's SD1.5 at another size; recognised here and not by the host."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": HEAD}
    latent_format = MiniatureLatents

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        return self.unet_config["in_channels"] > CHANNELS


def unet_layout(width: int, in_channels: int = CHANNELS) -> dict:
    """Arguments of the host's UNet: SD1.5's blocks, `width` channels at the finest level and twice that at the others.

    in_channels: 17 for inpainting, with the mask and the masked picture's latents.
    """
    return {
        "image_size": 32, "in_channels": in_channels, "out_channels": CHANNELS, "model_channels": width,
        "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 2, 2], "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1,
        "context_dim": TEXT["hidden_size"], "num_heads": -1, "num_head_channels": HEAD,
        "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False,
        "use_temporal_attention": False, "use_temporal_resblock": False,
    }  # fmt: skip


def load_base(path: str):
    """(MODEL, CLIP, VAE) of the miniature checkpoint at `path`.

    Raises ValueError naming the file where it cannot be read, KeyError where it is no miniature.
    """
    weights = read_state_dict(path)
    text = clip(_part(weights, _TEXT), weights[_TOKENS])
    return model(_part(weights, _UNET)), text, MiniatureVAE(_part(weights, _PICTURE))


def model(weights: dict[str, torch.Tensor]) -> comfy.model_patcher.ModelPatcher:
    """A model patcher of the UNet `weights`, whose sizes are read from them."""
    config = Miniature(comfy.model_detection.detect_unet_config(weights, ""))
    config.set_inference_dtype(comfy.model_management.unet_dtype(), None)
    offload_device = comfy.model_management.unet_offload_device()
    base = config.get_model(weights, device=offload_device)
    base.load_model_weights(dict(weights), "")
    return comfy.model_patcher.CoreModelPatcher(
        base, load_device=comfy.model_management.get_torch_device(), offload_device=offload_device
    )


def clip(weights: dict[str, torch.Tensor], tokens: torch.Tensor) -> comfy.sd.CLIP:
    """The host's CLIP with the text encoder `weights`, which have the embeddings of `tokens` only."""
    made = comfy.sd.CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel), model_options={"clip_l_model_config": TEXT})
    full = torch.zeros_like(made.cond_stage_model.clip_l.transformer.get_input_embeddings().weight)
    full[tokens] = weights[_EMBEDDING].to(full)
    made.cond_stage_model.clip_l.transformer.load_state_dict(weights | {_EMBEDDING: full})
    return made


class MiniatureVAE(comfy.sd.VAE):
    """The host's VAE around an `Autoencoder`, which the host does not know; it computes in float32."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__(sd={})  # sets up everything but the network
        self.latent_channels = CHANNELS
        self.device = comfy.model_management.vae_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype = torch.float32
        offload_device = comfy.model_management.vae_offload_device()
        network = Autoencoder(AutoencoderSizes.of(weights), comfy.ops.manual_cast, device=offload_device)
        floats = {name: weight.float() for name, weight in weights.items()}
        self.patcher = managed(network, floats, offload_device, self.device)
        self.first_stage_model = self.patcher.model
        self.model_size()


def _part(weights: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
