"""The FACT adapter: the projector of face tokens and the gated self-attentions of SD1.5's 16 face blocks.

A file holds `local_fac_prj.*` (a resampler) and, for each face block, either `<path in diffusers>.attn2.processor.*` or
`<path in the original code>.fuser.*`. `processor.ln.*`, a copy of the base model's norm2, is not part of the adapter.
"""

from functools import partial

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import nn

from ..patcher import LightCast, check_finite, manage
from .resampler import Resampler, ResamplerSizes
from .unet_blocks import FACE_BLOCKS

PROJECTOR_PREFIX = "local_fac_prj."
_PROJECTIONS = ("attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight")


class GEGLU(nn.Module):
    """x * GELU(gate), both halves of one linear layer: [..., dim] -> [..., inner]."""

    def __init__(self, dim: int, inner: int, operations, **factory):
        super().__init__()
        self.proj = operations.Linear(dim, 2 * inner, **factory)

    def forward(self, x):
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * nn.functional.gelu(gate)


class FeedForward(nn.Module):
    """The gated MLP of a transformer block, four times as wide inside: [..., dim] -> [..., dim]."""

    def __init__(self, dim: int, operations, **factory):
        super().__init__()
        inner = 4 * dim
        self.net = nn.Sequential(
            GEGLU(dim, inner, operations, **factory), nn.Identity(), operations.Linear(inner, dim, **factory)
        )

    def forward(self, x):
        return self.net(x)


class SelfAttention(nn.Module):
    """The projections as published; which attention runs between them is the caller's choice."""

    def __init__(self, dim: int, operations, **factory):
        super().__init__()
        self.to_q = operations.Linear(dim, dim, bias=False, **factory)
        self.to_k = operations.Linear(dim, dim, bias=False, **factory)
        self.to_v = operations.Linear(dim, dim, bias=False, **factory)
        self.to_out = nn.Sequential(operations.Linear(dim, dim, **factory))

    def project(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the queries of rows [b, n, dim], and keys and values side by side [b, n, 2 dim]."""
        return self.to_q(rows), torch.cat((self.to_k(rows), self.to_v(rows)), dim=-1)


class JoinedSelfAttention(nn.Module):
    """`SelfAttention` with one product for three, so that a GPU has fewer kernels to launch."""

    def __init__(self, dim: int, operations, **factory):
        super().__init__()
        self.to_qkv = operations.Linear(dim, 3 * dim, bias=False, **factory)
        self.to_out = nn.Sequential(operations.Linear(dim, dim, **factory))

    def project(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the queries of rows [b, n, dim], and keys and values side by side [b, n, 2 dim]."""
        return self.to_qkv(rows).split((rows.shape[-1], 2 * rows.shape[-1]), dim=-1)


def join_projections(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of face blocks for `JoinedSelfAttention`, of those for `SelfAttention`."""
    joined = {name: weight for name, weight in weights.items() if not name.endswith(_PROJECTIONS)}
    for name in weights:
        if name.endswith(_PROJECTIONS[0]):
            place = name.removesuffix(_PROJECTIONS[0])
            joined[f"{place}attn.to_qkv.weight"] = torch.cat([weights[f"{place}{part}"] for part in _PROJECTIONS])
    return joined


class GatedSelfAttention(nn.Module):
    """The weights of one face block, `dim` wide; the algebra is `attention_patches.sfags`."""

    def __init__(
        self, dim: int, token_dim: int, operations=nn, dtype=torch.float32, device=None, attention=SelfAttention
    ):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.linear = operations.Linear(token_dim, dim, **factory)
        self.attn = attention(dim, operations, **factory)
        self.ff = FeedForward(dim, operations, **factory)
        self.norm1 = operations.LayerNorm(dim, **factory)
        self.norm2 = operations.LayerNorm(dim, **factory)
        self.alpha_attn = nn.Parameter(torch.empty((), **factory))
        self.alpha_dense = nn.Parameter(torch.empty((), **factory))


def split_state_dict(state_dict: dict) -> tuple[dict, dict]:
    """Return (projector, face blocks) of a FACT file in either spelling; the latter as `<index>.<parameter>`.

    Raises ValueError for the files that look like FACT and are not: the v0 adapters with 196 tokens, and
    re-implementations with other layers.
    """
    projector = {
        key.removeprefix(PROJECTOR_PREFIX): value
        for key, value in state_dict.items()
        if key.startswith(PROJECTOR_PREFIX)
    }
    blocks = {}
    for index, block in enumerate(FACE_BLOCKS):
        for prefix in (block.diffusers, block.original):
            for key, value in state_dict.items():
                name = key.removeprefix(prefix)
                if name != key and not name.startswith("ln."):
                    blocks[f"{index}.{name}"] = value
    _refuse_relatives(projector, blocks)
    return projector, blocks


def _refuse_relatives(projector: dict, blocks: dict) -> None:
    if "latents" not in projector:
        raise ValueError(
            "it has no resampler under 'local_fac_prj.', as the v0 adapters (196 tokens, 'mirror_adapter_*' and "
            "'adapter_maj_25') do not; use a v1 file, adapter_maj_mask_large_... or adapter_film_mask_large_..."
        )
    missing = [FACE_BLOCKS[i].diffusers for i in range(len(FACE_BLOCKS)) if f"{i}.linear.weight" not in blocks]
    if missing:
        raise ValueError(
            f"{len(missing)} of its {len(FACE_BLOCKS)} sites lack 'linear.weight' (the first is {missing[0]}), as in "
            "re-implementations of FACT with other layers; use one of the published files"
        )


def _choose_dtype(state_dict: dict, device: torch.device) -> torch.dtype:
    """Return the precision the host would give a UNet of this size, so that no weight is cast while sampling."""
    parameters = sum(value.numel() for value in state_dict.values())
    return comfy.model_management.unet_dtype(
        device=device,
        model_params=parameters,
        supported_dtypes=[torch.float16, torch.bfloat16, torch.float32],
        weight_dtype=comfy.utils.weight_dtype(state_dict),
    )


def _make_patcher(build, state_dict: dict, dtype: torch.dtype) -> comfy.model_patcher.ModelPatcher:
    """Fill the network that `build` makes and hand it to the host's memory management."""
    offload_device = comfy.model_management.unet_offload_device()
    network = build(operations=LightCast, dtype=dtype, device=offload_device)
    weights = {name: value.to(dtype) for name, value in state_dict.items()}
    return manage(network, weights, offload_device, comfy.model_management.get_torch_device())


class FactAdapter:
    """One loaded FACT file: `projector` and `face_blocks` are model patchers, so the host decides where weights are."""

    kind = "fact"
    encoder = "transface"

    def __init__(self, state_dict: dict, name: str):
        projector, blocks = split_state_dict(state_dict)
        self.name = name
        self.sizes = ResamplerSizes.of(projector)
        self.token_dim = blocks["0.linear.weight"].shape[1]
        self.widths = {face.block: len(blocks[f"{i}.linear.weight"]) for i, face in enumerate(FACE_BLOCKS)}
        dtype = _choose_dtype(blocks, comfy.model_management.get_torch_device())
        self.projector = _make_patcher(partial(Resampler, self.sizes), projector, dtype)
        published = self._make_blocks(device="meta")
        published.load_state_dict(blocks, assign=True)  # which says what does not fit, part by part
        self._face_blocks = {dtype: _make_patcher(self._make_joined, join_projections(blocks), dtype)}

    def face_blocks(self, dtype: torch.dtype | None = None) -> comfy.model_patcher.ModelPatcher:
        """Return the weights of the face blocks, in the order of FACE_BLOCKS; None: in the precision they came in.

        A UNet that computes in another half precision gets a copy in its own, made once, for to cast 200 million
        numbers in every step costs as much as a third of the blocks.
        """
        first = next(iter(self._face_blocks))
        dtype = dtype if dtype and dtype.itemsize == first.itemsize else first
        if dtype not in self._face_blocks:
            weights = self._face_blocks[first].model.state_dict()
            self._face_blocks[dtype] = _make_patcher(self._make_joined, weights, dtype)
        return self._face_blocks[dtype]

    def _make_blocks(self, **options) -> nn.ModuleList:
        return nn.ModuleList(GatedSelfAttention(width, self.token_dim, **options) for width in self.widths.values())

    def _make_joined(self, **factory) -> nn.ModuleList:
        return self._make_blocks(**factory, attention=JoinedSelfAttention)

    def face_tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Project TransFace tokens of n photos into one sequence: [n, 144, 512] -> [1, 16 n, 768], in float32.

        Several photos are concatenated, nothing is averaged. Zeros give the tokens of the unconditional branch.
        """
        comfy.model_management.load_models_gpu([self.projector])
        tokens = self.projector.model(features.to(self.projector.load_device, torch.float32))
        check_finite(tokens, f"{self.name} (Load Face Adapter)", "download the file again, or choose another adapter")
        return tokens.flatten(0, 1).unsqueeze(0)
