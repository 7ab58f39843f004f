"""The FACT adapter: the projector of face tokens and the 16 gated self-attention sites of an SD1.5 UNet.

A file holds `local_fac_prj.*` (a resampler) and, per site, either `<diffusers site>.attn2.processor.*` or
`<original site>.fuser.*`.  `processor.ln.*`, a copy of the base model's norm2, is not part of the adapter.
"""

from typing import NamedTuple

import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from torch import nn

from ..patcher import managed
from .resampler import Resampler, ResamplerSizes

PROJECTOR_PREFIX = "local_fac_prj."


class Site(NamedTuple):
    """Where a site sits: the host's name of its block, and the two published spellings of its key prefix."""

    block: tuple[str, int]
    diffusers: str
    original: str


def _site(block: str, index: int, diffusers: str, original: str) -> Site:
    suffix = "transformer_blocks.0"
    return Site((block, index), f"{diffusers}.{suffix}.attn2.processor.", f"{original}.1.{suffix}.fuser.")


SITES = (
    *(
        _site("input", 3 * i + j + 1, f"down_blocks.{i}.attentions.{j}", f"input_blocks.{3 * i + j + 1}")
        for i in range(3)
        for j in range(2)
    ),
    _site("middle", 0, "mid_block.attentions.0", "middle_block"),
    *(
        _site("output", 3 * i + j, f"up_blocks.{i}.attentions.{j}", f"output_blocks.{3 * i + j}")
        for i in range(1, 4)
        for j in range(3)
    ),
)  # in the order in which the UNet runs them


class GEGLU(nn.Module):
    def __init__(self, dim: int, inner: int, operations, **factory):
        super().__init__()
        self.proj = operations.Linear(dim, 2 * inner, **factory)

    def forward(self, x):
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * nn.functional.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim: int, operations, **factory):
        super().__init__()
        inner = 4 * dim
        self.net = nn.Sequential(
            GEGLU(dim, inner, operations, **factory), nn.Identity(), operations.Linear(inner, dim, **factory)
        )

    def forward(self, x):
        return self.net(x)


class SelfAttention(nn.Module):
    """The projections only: which attention runs between them is the caller's choice."""

    def __init__(self, dim: int, operations, **factory):
        super().__init__()
        self.to_q = operations.Linear(dim, dim, bias=False, **factory)
        self.to_k = operations.Linear(dim, dim, bias=False, **factory)
        self.to_v = operations.Linear(dim, dim, bias=False, **factory)
        self.to_out = nn.Sequential(operations.Linear(dim, dim, **factory))


class GatedSelfAttention(nn.Module):
    """The weights of one site, `dim` wide; the algebra is `attention_patches.sfags`."""

    def __init__(self, dim: int, token_dim: int, operations=nn, dtype=torch.float32, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.linear = operations.Linear(token_dim, dim, **factory)
        self.attn = SelfAttention(dim, operations, **factory)
        self.ff = FeedForward(dim, operations, **factory)
        self.norm1 = operations.LayerNorm(dim, **factory)
        self.norm2 = operations.LayerNorm(dim, **factory)
        self.alpha_attn = nn.Parameter(torch.empty((), **factory))
        self.alpha_dense = nn.Parameter(torch.empty((), **factory))


def split_state_dict(state_dict: dict) -> tuple[dict, dict]:
    """Return (projector, sites) of a FACT file in either spelling; site keys become `<place in SITES>.<parameter>`.

    Raises ValueError for the files that look like FACT and are not: the v0 adapters with 196 tokens, and
    re-implementations with other layers.
    """
    projector = {
        key.removeprefix(PROJECTOR_PREFIX): value
        for key, value in state_dict.items()
        if key.startswith(PROJECTOR_PREFIX)
    }
    sites = {}
    for index, site in enumerate(SITES):
        for prefix in (site.diffusers, site.original):
            for key, value in state_dict.items():
                name = key.removeprefix(prefix)
                if name != key and not name.startswith("ln."):
                    sites[f"{index}.{name}"] = value
    _refuse_relatives(projector, sites)
    return projector, sites


def _refuse_relatives(projector: dict, sites: dict) -> None:
    if "latents" not in projector:
        raise ValueError(
            "it has no resampler under 'local_fac_prj.', as the v0 adapters (196 tokens, 'mirror_adapter_*' and "
            "'adapter_maj_25') do not; use a v1 file, adapter_maj_mask_large_... or adapter_film_mask_large_..."
        )
    missing = [SITES[i].diffusers for i in range(len(SITES)) if f"{i}.linear.weight" not in sites]
    if missing:
        raise ValueError(
            f"{len(missing)} of its {len(SITES)} sites lack 'linear.weight' (the first is {missing[0]}), as in "
            "re-implementations of FACT with other layers; use one of the published files"
        )


def _load_dtype(state_dict: dict, device: torch.device) -> torch.dtype:
    """The precision the host would give a UNet of this size, so that no weight is cast while sampling."""
    parameters = sum(value.numel() for value in state_dict.values())
    return comfy.model_management.unet_dtype(
        device=device,
        model_params=parameters,
        supported_dtypes=[torch.float16, torch.bfloat16, torch.float32],
        weight_dtype=comfy.utils.weight_dtype(state_dict),
    )


def _managed(module: nn.Module, state_dict: dict, dtype: torch.dtype):
    """Fill `module` and hand it to the host's memory management."""
    weights = {key: value.to(dtype) for key, value in state_dict.items()}
    devices = comfy.model_management.unet_offload_device(), comfy.model_management.get_torch_device()
    return managed(module, weights, *devices)


class FactAdapter:
    """One loaded FACT file: `projector` and `sites` are model patchers, so the host decides where their weights are."""

    kind = "fact"
    encoder = "transface"

    def __init__(self, state_dict: dict, name: str):
        projector, sites = split_state_dict(state_dict)
        self.name = name
        self.sizes = ResamplerSizes.of(projector)
        self.token_dim = sites["0.linear.weight"].shape[1]
        self.widths = {site.block: sites[f"{i}.linear.weight"].shape[0] for i, site in enumerate(SITES)}
        device = comfy.model_management.get_torch_device()
        dtype = _load_dtype(sites, device)
        factory = {"operations": comfy.ops.manual_cast, "device": comfy.model_management.unet_offload_device()}
        self.projector = _managed(Resampler(self.sizes, dtype=dtype, **factory), projector, dtype)
        modules = nn.ModuleList(
            GatedSelfAttention(width, self.token_dim, dtype=dtype, **factory) for width in self.widths.values()
        )
        self.sites = _managed(modules, sites, dtype)

    def face_tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Project TransFace tokens of n photos into one sequence: [n, 144, 512] -> [1, 16 n, 768], in float32.

        Several photos are concatenated, nothing is averaged.  Zeros give the tokens of the unconditional branch.
        """
        comfy.model_management.load_models_gpu([self.projector])
        tokens = self.projector.model(features.to(self.projector.load_device, torch.float32))
        return tokens.flatten(0, 1).unsqueeze(0)
