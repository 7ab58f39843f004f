"""Image cross-attention adapters: IP-Adapter, FaceID, InstantID, PuLID and Likeness's own Infinite-ID layout.

All but the last share one layout: `image_proj.*`, a projector, and `ip_adapter.<number>.to_k_ip.weight` and
`.to_v_ip.weight` for every cross-attention of an SD1.5 or SDXL UNet; FaceID files also hold
`ip_adapter.<number>.to_q_lora.down.weight` and so on. `adapters.unet_blocks` has the numbers. PuLID's own files have
the same as `id_adapter.*` and `id_adapter_attn_layers.<number>.id_to_k.weight`.

Infinite-ID's layout (safetensors, metadata `INFINITE_ID_METADATA`): `clip_mapper.*` a resampler, `face_mapper.*` a
FaceID projector, and `image_attention.<block>.<number>.<index>.to_k.weight` and `.to_v.weight` [width, D] for every
block by the host's name of it, e.g. `image_attention.middle.0.9.to_k.weight`.
"""

import re
from dataclasses import dataclass
from functools import partial

import comfy.lora
import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..encoders import pulid
from ..encoders.clip_vision import ClipFeatures, clip_features
from ..encoders.identity import FaceId
from ..patcher import LightCast, check_finite, is_finite, manage
from . import ip_projectors
from .unet_blocks import BLOCKS, Block, list_lora_layers, list_lora_targets, number_attentions

INFINITE_ID_METADATA = {"format": "likeness-infinite-id", "version": "1"}
FACE_WIDTH = 512  # of every ArcFace embedding; tells InstantID's resampler from IP-Adapter plus's
BY_NAME = "by file name"
_PERCEIVER = "perceiver_resampler.proj_in.weight"
_REMEDY = "download the file again, or choose another adapter"
_SHORTCUT = partial(ip_projectors.FacePlusTokens, shortcut=True)


@dataclass(frozen=True)
class AdapterFormat:
    """One published format.

    face:       "unit" or "raw": the length of the ArcFace embedding it reads; "pulid": what `PulidEncoder` makes;
                None: reads no face
    clip:       "embeds", "penultimate" or "last": what it reads of a CLIP vision model; None: nothing
    projector:  builds its network from the projector's weights
    reads_clip: the projector's weight that CLIP's features go into, so that their widths agree
    further:    tokens that each photo but the first gives; None: all
    """

    name: str
    face: str | None
    clip: str | None
    projector: type | partial
    reads_clip: str | None = None
    further: int | None = None


FORMATS = {
    entry.name: entry
    for entry in (
        AdapterFormat("ip-adapter", None, "embeds", ip_projectors.ImageTokens, "proj.weight"),
        AdapterFormat("full-face", None, "penultimate", ip_projectors.FullTokens, "proj.0.weight"),
        AdapterFormat("plus", None, "penultimate", ip_projectors.make_resampler, "proj_in.weight"),
        AdapterFormat("faceid", "unit", None, ip_projectors.FaceTokens),
        AdapterFormat("faceid-plus", "unit", "penultimate", ip_projectors.FacePlusTokens, _PERCEIVER),
        AdapterFormat("faceid-plusv2", "unit", "penultimate", _SHORTCUT, _PERCEIVER),
        AdapterFormat("faceid-portrait", "unit", None, ip_projectors.FaceTokens),
        AdapterFormat("faceid-portrait-unnorm", "raw", None, ip_projectors.make_resampler),
        AdapterFormat("instantid", "raw", None, ip_projectors.make_resampler),
        AdapterFormat("pulid", pulid.KIND, None, ip_projectors.PulidTokens, further=5),
        AdapterFormat("pulid-v1.1", pulid.KIND, None, ip_projectors.IdFormerTokens),
        AdapterFormat("infinite-id", "unit", "last", ip_projectors.InfiniteIdTokens, "clip_mapper.proj_in.weight"),
    )
}
# Formats with the same tensors, and the word in a file's name that tells the second. FaceID-Plus and PlusV2 compute
# differently; InstantID and portrait-unnorm alike, but were trained with the faces of different recognisers.
TWINS = {"faceid-plus": ("faceid-plusv2", "plusv2"), "instantid": ("faceid-portrait-unnorm", "unnorm")}
VARIANTS = (BY_NAME, *(name for first, (second, _) in TWINS.items() for name in (first, second)))


def is_ip_adapter(state_dict: dict[str, torch.Tensor]) -> bool:
    """Return whether a file holds image cross-attentions, in whatever format."""
    ends = (".to_k_ip.weight", ".id_to_k.weight")
    return any(key.startswith("image_attention.") or key.endswith(ends) for key in state_dict)


def recognise(state_dict: dict[str, torch.Tensor], name: str = "", variant: str = BY_NAME) -> AdapterFormat | None:
    """Return the format of a file by its tensors; None for files without image cross-attention.

    name:     the file's name, looked at only where two formats have the same tensors
    variant:  one of VARIANTS: which of the two it is

    Raises ValueError for an unknown projector, and for a variant that the tensors contradict.
    """
    if not is_ip_adapter(state_dict):
        return None
    named = any(key.startswith("image_attention.") for key in state_dict)
    first = "infinite-id" if named else _name_by_projector(_part(state_dict, "image_proj."))
    twin, word = TWINS.get(first, (first, ""))
    if variant == BY_NAME:
        return FORMATS[twin if word in name.lower() else first]
    if variant not in (first, twin):
        raise ValueError(f"its tensors are those of '{first}', not of '{variant}'; set the variant to '{BY_NAME}'")
    return FORMATS[variant]


def _name_by_projector(weights: dict) -> str:
    """Return the first of the formats whose projector has these tensors; raise ValueError for none."""
    if "perceiver_resampler.proj_in.weight" in weights:
        return "faceid-plus"
    if "latents" in weights and "id_embedding_mapping.0.weight" in weights:
        return "pulid-v1.1"
    if "latents" in weights and "proj_in.weight" in weights:
        return "instantid" if weights["proj_in.weight"].shape[1] == FACE_WIDTH else "plus"
    if "body.0.weight" in weights and "mapping_0.0.weight" in weights:
        return "pulid"
    if "proj.3.weight" in weights:
        return "full-face"
    if "proj.2.weight" in weights and "norm.weight" in weights:
        tokens = len(weights["proj.2.weight"]) // len(weights["norm.weight"])
        return "faceid" if tokens == 4 else "faceid-portrait"
    if "proj.weight" in weights and "norm.weight" in weights:
        return "ip-adapter"
    reason = f"the first is 'image_proj.{next(iter(weights))}'" if weights else "there are none"
    raise ValueError(f"its tensors under 'image_proj.' are of no known format ({reason})")


_PULID_NAMES = (
    (re.compile(r"^id_adapter_attn_layers\.(\d+)\.id_to_([kv])\."), r"ip_adapter.\1.to_\2_ip."),
    (re.compile(r"^id_adapter\."), "image_proj."),
)


def rename_pulid(state_dict: dict) -> dict:
    """Return the tensors of PuLID's own files by the names of converted ones; others as they are."""
    for own, converted in _PULID_NAMES:
        state_dict = {own.sub(converted, key): value for key, value in state_dict.items()}
    return state_dict


def _part(state_dict: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}


class ImageAttention(nn.Module):
    """The weights of one image cross-attention: keys and values of D-wide tokens at a block `width` wide."""

    def __init__(self, dim: int, width: int, operations=nn, **factory):
        super().__init__()
        self.to_k = operations.Linear(dim, width, bias=False, **factory)
        self.to_v = operations.Linear(dim, width, bias=False, **factory)


class LoraLayer(nn.Module):
    """What a LoRA adds to the output of one projection, of the projection's input."""

    def __init__(self, inputs: int, rank: int, outputs: int, **factory):
        super().__init__()
        self.down = LightCast.Linear(inputs, rank, bias=False, **factory)
        self.up = LightCast.Linear(rank, outputs, bias=False, **factory)

    def forward(self, x):
        return self.up(self.down(x))


class IpAdapter:
    """One loaded adapter file; `projector` and `attentions` are model patchers, so the host decides where they are.

    format:     what it is and reads
    base:       "SD1.5" or "SDXL", by the number of its cross-attentions
    token_dim:  D, the text width of the base model
    widths:     of the blocks
    lora:       the weight patches of a FaceID file by the host's weight names; empty for files without
    """

    kind = "ip-adapter"

    def __init__(self, state_dict: dict, name: str, variant: str = BY_NAME, metadata: dict | None = None):
        """Raise ValueError (the reason, as "it has ...") or KeyError (the tensor) where the file is incomplete."""
        _check_version(metadata or {})
        state_dict = rename_pulid(state_dict)
        self.name = name
        self.format = recognise(state_dict, name, variant)
        if self.format.name == "infinite-id":
            projector = {k: v for k, v in state_dict.items() if k.startswith(("clip_mapper.", "face_mapper."))}
            self.base, attentions = _read_named_attentions(_part(state_dict, "image_attention."))
            self.lora = {}
        else:
            projector = _part(state_dict, "image_proj.")
            layers = _part(state_dict, "ip_adapter.")
            self.base, attentions = _read_numbered_attentions(layers)
            self.lora = _read_lora(layers, self.base)
        self.widths = {block: attentions[f"{i}.to_k.weight"].shape[0] for i, block in enumerate(BLOCKS[self.base])}
        self.token_dim = attentions["0.to_k.weight"].shape[1]
        self.projector = _make_patcher(partial(self.format.projector, projector), projector)
        self.attentions = _make_patcher(self._make_attentions, attentions)
        self._lora_layers = {}

    def _make_attentions(self, **factory) -> nn.ModuleList:
        return nn.ModuleList(ImageAttention(self.token_dim, width, **factory) for width in self.widths.values())

    def lora_layers(self, dtype: torch.dtype) -> tuple[dict[tuple[Block, str, str], int], ModelPatcher]:
        """Return the LoRA of a FaceID file as layers beside the UNet's projections, in the precision it computes in.

        The patcher's network lists them; the dict has the index of each by block, attention and projection.
        """
        if dtype not in self._lora_layers:
            names, targets = list_lora_layers(self.base), list_lora_targets(self.base)
            present = [name for name, target in targets.items() if target in self.lora]
            pairs = [self.lora[targets[name]].weights[:2] for name in present]
            weights = {
                f"{index}.{part}.weight": weight.to(dtype)
                for index, pair in enumerate(pairs)
                for part, weight in zip(("up", "down"), pair)
            }
            sizes = [(down.shape[1], len(down), len(up)) for up, down in pairs]

            def build(operations, **factory):
                return nn.ModuleList(LoraLayer(*layer, **factory) for layer in sizes)

            index = {names[name]: number for number, name in enumerate(present)}
            self._lora_layers[dtype] = index, _make_patcher(build, weights)
        return self._lora_layers[dtype]

    def clip_input(self, clip_vision, images: torch.Tensor | None) -> ClipFeatures | None:
        """Return what this format reads of images [n, H, W, 3]; None where it reads none or an input is not connected.

        FaceID-Plus and PlusV2 want the aligned face crop, about 224 px, the others the whole image.
        """
        if self.format.clip is None or clip_vision is None or images is None:
            return None
        return clip_features(clip_vision, images, self.format.clip)

    def tokens(self, face: FaceId | None = None, clip: ClipFeatures | None = None, shortcut_scale: float = 1.0):
        """Return the image tokens of the conditional and the unconditional branch, [2, m, D] in float32.

        face, clip:      of n photos each, whichever the format reads; tokens of several photos are concatenated
        shortcut_scale:  of FaceID-PlusV2: how much of the image is added to the face

        The unconditional branch sees zeros for an embedding and CLIP's view of an empty image for hidden states.
        Raises ValueError where an input is missing or of the wrong kind.
        """
        inputs = [*self._pair_face(face), *self._pair_clip(clip)]
        photos = {len(positive) for positive, _ in inputs}
        if len(photos) > 1:
            raise ValueError(
                f"{self.name} ({self.format.name}) reads a face and a picture of every photo, but the identity has "
                f"{len(face.features)} photos and the CLIP vision input {len(clip.features)}. Give both the same ones."
            )
        scale = {"scale": shortcut_scale} if self.format.name == "faceid-plusv2" else {}
        comfy.model_management.load_models_gpu([self.projector])
        device = self.projector.load_device
        cond, uncond = (
            self.projector.model(*(part.to(device, torch.float32) for part in branch), **scale)
            for branch in zip(*inputs)
        )
        pair = torch.stack((cond, uncond.expand_as(cond)))
        tokens = torch.cat((pair[:, 0], pair[:, 1:, : self.format.further].flatten(1, 2)), dim=1)
        return check_finite(tokens, f"{self.name} (Load Face Adapter)", _REMEDY)

    def keys_values(self, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return keys and values of the tokens at every block, as `split` reads them.

        [2, m, D] -> [2, m, 2 * sum of widths].

        They depend on the identity alone: once projected, the adapter's weights are not needed any more.
        """
        comfy.model_management.load_models_gpu([self.attentions])
        tokens = tokens.to(self.attentions.load_device)
        parts = [projection(tokens).to(dtype) for at in self.attentions.model for projection in (at.to_k, at.to_v)]
        keys_values = check_finite(torch.cat(parts, dim=-1), f"{self.name} (Load Face Adapter) in {dtype}", _REMEDY)
        return keys_values.to(comfy.model_management.intermediate_device())

    def split(self, keys_values: torch.Tensor) -> dict[Block, tuple[torch.Tensor, torch.Tensor]]:
        """Return the keys and values [2, m, width] of every block, views of what `keys_values` returned."""
        parts = keys_values.split([width for width in self.widths.values() for _ in range(2)], dim=-1)
        return dict(zip(self.widths, zip(parts[::2], parts[1::2])))

    def _pair_face(self, face: FaceId | None):
        """Yield the face's features and their negative where the format reads one; raise ValueError for a wrong one."""
        if self.format.face is None:
            return
        if self.format.face == pulid.KIND:
            yield from ((part, torch.zeros_like(part[:1])) for part in pulid.unpack(self._check_pulid(face)))
            return
        if face is None:
            raise ValueError(
                f"{self.name} ({self.format.name}) needs a face embedding: connect an identity from Encode Identity, "
                "made with an ArcFace encoder (w600k_r50.onnx, glintr100.onnx)."
            )
        if face.encoder != "arcface" or face.features.shape[-1] != FACE_WIDTH:
            raise ValueError(
                f"{self.name} ({self.format.name}) reads ArcFace embeddings {FACE_WIDTH} wide, but the identity was "
                f"encoded by {face.file} ({face.encoder}, {face.features.shape[-1]} wide). Choose an ArcFace encoder "
                "in Load Face Encoder."
            )
        features = face.embedding if self.format.face == "unit" else face.features
        yield features, torch.zeros_like(features[:1])

    def _check_pulid(self, face: FaceId | None) -> torch.Tensor:
        """Return the features of an identity that `PulidEncoder` made; raise ValueError for any other."""
        width = self.projector.model.get_parameter("mapping_0.0.weight").shape[1]
        if face is None or face.encoder != pulid.KIND:
            given = f"the identity was encoded by {face.file} ({face.encoder})" if face else "no identity is connected"
            raise ValueError(
                f"{self.name} ({self.format.name}) reads a face as Load PuLID Encoder sees it, but {given}. Connect "
                "that encoder to Encode Identity."
            )
        if face.features.shape[-1] != width:
            raise ValueError(
                f"{self.name} ({self.format.name}) reads hidden states {width} wide, but {face.file} gives them "
                f"{face.features.shape[-1]} wide. Choose EVA02_CLIP_L_336_psz14_s6B.pt in Load PuLID Encoder."
            )
        return face.features

    def _pair_clip(self, clip: ClipFeatures | None):
        """Yield CLIP's features and their negative where the format reads them; raise ValueError for wrong ones."""
        if self.format.clip is None:
            return
        if clip is None:
            raise ValueError(f"{self.name} ({self.format.name}) needs a picture and a CLIP vision model: connect both.")
        if clip.kind != self.format.clip or clip.features.shape[-1] != self.clip_width:
            raise ValueError(
                f"{self.name} ({self.format.name}) reads CLIP vision features '{self.format.clip}' {self.clip_width} "
                f"wide, but the connected model gives '{clip.kind}' {clip.features.shape[-1]} wide. Load "
                f"{self._name_clip_model()} in Load CLIP Vision."
            )
        model = "the model of Load CLIP Vision"
        yield check_finite(clip.features, model, "look at the connected image, or load the model again"), clip.negative

    @property
    def clip_width(self) -> int:
        """The width of the CLIP vision features that the projector reads."""
        projector = self.projector.model
        each = isinstance(getattr(projector, "clip_mapper", None), ip_projectors.FullTokens)
        return projector.get_parameter("clip_mapper.proj.0.weight" if each else self.format.reads_clip).shape[1]

    def _name_clip_model(self) -> str:
        published = {("embeds", 1280): "bigG-14", ("embeds", 1024): "H-14", ("penultimate", 1280): "H-14"}
        size = (published | {("last", 1280): "H-14"}).get((self.format.clip, self.clip_width))
        return f"CLIP-ViT-{size}" if size else "the model it was trained with"


def _read_numbered_attentions(layers: dict) -> tuple[str, dict]:
    """Return base model and weights, by `<index in BLOCKS[base]>.to_k.weight`, of a published file."""
    numbers = {key.removesuffix(".to_k_ip.weight") for key in layers if key.endswith(".to_k_ip.weight")}
    base = next((base for base in BLOCKS if numbers == set(map(str, number_attentions(base)))), None)
    if base is None:
        raise ValueError(f"it has {len(numbers)} cross-attentions; an SD1.5 file has 16 (1, 3 .. 31), an SDXL one 70")
    return base, {
        f"{i}.to_{part}.weight": layers[f"{number}.to_{part}_ip.weight"]
        for i, number in enumerate(number_attentions(base))
        for part in ("k", "v")
    }


def _read_named_attentions(layers: dict) -> tuple[str, dict]:
    """Return the same of an Infinite-ID file, whose layers bear the host's names of the blocks."""
    keys = {key.rpartition(".to_")[0] for key in layers}
    names = {base: [".".join(map(str, block)) for block in blocks] for base, blocks in BLOCKS.items()}
    base = next((base for base in BLOCKS if keys == set(names[base])), None)
    if base is None:
        raise ValueError(f"it has {len(keys)} image attentions, which are not the 16 of SD1.5 or the 70 of SDXL")
    return base, {
        f"{i}.to_{part}.weight": layers[f"{name}.to_{part}.weight"]
        for i, name in enumerate(names[base])
        for part in ("k", "v")
    }


def _read_lora(layers: dict, base: str) -> dict:
    """Return the host's own weight patches for the LoRA of a FaceID file (rank 128, no alpha)."""
    weights = {key: value for key, value in layers.items() if "_lora." in key}
    if not weights:
        return {}
    if faulty := next((name for name, weight in weights.items() if not is_finite(weight)), None):
        raise ValueError(f"'{faulty}' of its LoRA holds NaN or infinite numbers; download the file again")
    patches = comfy.lora.load_lora(weights, list_lora_targets(base), log_missing=False)
    if 2 * len(patches) != len(weights):
        raise ValueError(f"its LoRA has {len(weights)} tensors, of which {2 * len(patches)} belong to the UNet")
    return patches


def _check_version(metadata: dict) -> None:
    if metadata.get("format") != INFINITE_ID_METADATA["format"]:
        return
    if metadata.get("version") != INFINITE_ID_METADATA["version"]:
        raise ValueError(f"it is an Infinite-ID file of version {metadata.get('version')}; update Likeness to read it")


def check_ip_adapter(adapter) -> None:
    """Raise ValueError for the adapters of other papers, which share the socket."""
    if adapter.kind != IpAdapter.kind:
        raise ValueError(
            f"{adapter.name} is no image adapter but of the kind {adapter.kind}. Choose an IP-Adapter, FaceID, "
            "InstantID, PuLID or Infinite-ID file in Load Face Adapter."
        )


def _make_patcher(build, weights: dict):
    """Return a model patcher of the network `build` makes, with its weights in the file's own precision."""
    offload_device = comfy.model_management.unet_offload_device()
    network = build(operations=comfy.ops.manual_cast, dtype=comfy.utils.weight_dtype(weights), device=offload_device)
    return manage(network, weights, offload_device, comfy.model_management.get_torch_device())
