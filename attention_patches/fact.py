"""FACT inside the host's UNet: one object on `middle_patch`, called after self-attention and before norm2."""

import math
from dataclasses import dataclass, field
from functools import partial

import torch
from comfy.patcher_extension import WrappersMP

from .calls import attend, branch_rows, scheduled, token_mask, transformer_blocks
from .sfags import gated_self_attention, project_face

WRAPPER_KEY = "likeness_fact"


@dataclass
class _Run:
    """What one sampling run on one device needs and no step changes.

    faces:    per site the keys and values of (cond, uncond), each [2, m, d]
    gates:    per site s tanh(alpha_attn), s tanh(alpha_dense)
    rows:     which of (cond, uncond) each batch row takes, per batch layout
    masks:    the region at token resolution, per resolution and batch layout
    reached:  blocks visited by the UNet call in progress
    """

    faces: dict[tuple, tuple[torch.Tensor, torch.Tensor]]
    gates: dict[tuple, tuple[torch.Tensor, torch.Tensor]]
    rows: dict[tuple, torch.Tensor] = field(default_factory=dict)
    masks: dict[tuple, torch.Tensor] = field(default_factory=dict)
    reached: set[tuple] = field(default_factory=set)
    active: bool = True


class FactPatch:
    """SFAGS at every site of an SD1.5 UNet.

    sites:        model patcher of the sites' weights, in the order of `blocks`
    blocks:       the host's names of the blocks the sites belong to
    tokens:       [2, m, 768]: face tokens of the conditional and of the unconditional branch
    strength:     s of both gates
    sigma_range:  (from, to), from >= to: the noise levels at which the adapter is on
    mask:         [1 or batch, H, W] in 0..1, where in the picture it acts; None: everywhere
    """

    def __init__(self, sites, blocks, tokens, strength, sigma_range, mask=None):
        self.sites = sites
        self.blocks = tuple(blocks)
        self.tokens = tokens
        self.strength = strength
        self.sigma_range = sigma_range
        self.mask = mask
        self._runs: dict[torch.device, _Run] = {}

    def apply(self, model):
        """Return a clone of `model` that runs this patch."""
        model = model.clone()
        model.set_model_patch(self, "middle_patch")
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER_KEY, self.around_unet)
        return model

    def models(self):
        """The weights the host loads beside the UNet."""
        return [self.sites]

    def to(self, device_or_dtype):
        """The weights move with their patcher and the rest is made where the UNet runs, so there is nothing to move."""
        return self

    def cleanup(self):
        """The host calls this when sampling ends."""
        self._runs.clear()

    def around_unet(self, executor, x, t, *args, **kwargs):
        """Decide once per UNet call whether the adapter is on, and see that every site was reached."""
        run = self._run(x.device, executor.class_obj.get_dtype_inference())
        run.active = scheduled(self.sigma_range, t)
        run.reached.clear()
        output = executor(x, t, *args, **kwargs)
        missed = [block for block in self.blocks if block not in run.reached]
        if missed:
            raise RuntimeError(
                f"Apply FACT: the model ran without {len(missed)} of its {len(self.blocks)} face blocks (the first is "
                f"{missed[0]}). Another node skips or replaces these blocks; remove it or put it on another model."
            )
        return output

    @torch.compiler.disable
    def __call__(self, x: torch.Tensor, extra_options: dict) -> torch.Tensor:
        """Run the site of the block at hand on its tokens [chunks * batch, n, d]."""
        run = self._run(x.device, x.dtype)
        block = extra_options["block"]
        run.reached.add(block)
        if not run.active or block not in run.faces:
            return x
        chunks = extra_options["cond_or_uncond"]
        rows = self._rows(run, x, chunks)
        keys, values = (part.to(x.dtype)[rows] for part in run.faces[block])
        gates = run.gates[block]
        if self.mask is not None:
            mask = self._mask(run, x, len(chunks), extra_options["activations_shape"][-2:])
            gates = tuple(gate * mask for gate in gates)
        site = self.sites.model[self.blocks.index(block)]
        return gated_self_attention(x, keys, values, site, *gates, partial(attend, extra_options=extra_options))

    def _run(self, device: torch.device, dtype: torch.dtype) -> _Run:
        if device not in self._runs:
            tokens = self.tokens.to(device, dtype)
            sites = dict(zip(self.blocks, self.sites.model))
            self._runs[device] = _Run(
                faces={block: project_face(site, tokens) for block, site in sites.items()},
                gates={block: self._gates(site, device, dtype) for block, site in sites.items()},
            )
        return self._runs[device]

    def _gates(self, site, device, dtype) -> tuple[torch.Tensor, ...]:
        alphas = torch.stack((site.alpha_attn, site.alpha_dense)).to(device, torch.float32)
        return (self.strength * torch.tanh(alphas)).to(dtype).unbind()

    @staticmethod
    def _rows(run: _Run, x: torch.Tensor, chunks: list[int]) -> torch.Tensor:
        layout = (*chunks, x.shape[0])
        if layout not in run.rows:
            run.rows[layout] = branch_rows(chunks, x.shape[0], x.device)
        return run.rows[layout]

    def _mask(self, run: _Run, x: torch.Tensor, chunks: int, size: list[int]) -> torch.Tensor:
        layout = (*size, chunks, x.shape[0])
        if layout not in run.masks:
            run.masks[layout] = token_mask(self.mask, tuple(size), chunks, x.shape[0], x)
        return run.masks[layout]


def apply_fact(model, adapter, face_id, strength=0.5, start_percent=0.0, end_percent=1.0, cfg_face=True, mask=None):
    """Return a clone of `model` in which `adapter` draws the face of `face_id`.

    model:     the host's ModelPatcher of an SD1.5 UNet; adapter: `FactAdapter`; face_id: `FaceId`
    strength:  s, 0 and up; start_percent, end_percent: part of the sampling, 0..1
    cfg_face:  the unconditional branch sees the projected zero identity instead of the face
    mask:      [H, W] or [1 or batch, H, W] in 0..1, or None

    Strength 0, an empty mask and an empty part of the sampling leave the model as it was, bit for bit.
    Raises ValueError where adapter, identity and model do not belong together.
    """
    check_identity(adapter, face_id)
    check_base(adapter, model)
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-2:])
    if strength == 0 or start_percent >= end_percent or (mask is not None and not mask.any()):
        return model.clone()
    face = adapter.face_tokens(face_id.features)
    no_face = adapter.face_tokens(torch.zeros_like(face_id.features)) if cfg_face else face
    return FactPatch(
        adapter.sites,
        adapter.widths,
        torch.cat((face, no_face)),
        strength,
        sigma_range(model, start_percent, end_percent),
        mask,
    ).apply(model)


def sigma_range(model, start_percent: float, end_percent: float) -> tuple[float, float]:
    """The noise levels (from, to) of a part of the sampling, given in 0..1; its two ends are open."""
    sampling = model.get_model_object("model_sampling")
    first = float(sampling.percent_to_sigma(start_percent)) if start_percent > 0 else math.inf
    last = float(sampling.percent_to_sigma(end_percent)) if end_percent < 1 else 0.0
    return first, last


def check_identity(adapter, face_id) -> None:
    """Raise ValueError unless the identity was made by the kind of encoder the adapter was trained with."""
    if adapter.kind != "fact":
        raise ValueError(
            f"Apply FACT: {adapter.name} is no FACT adapter but of the kind {adapter.kind}. Choose a FACT file in Load "
            "Face Adapter."
        )
    width, expected = face_id.features.shape[-1], adapter.sizes.embedding
    if face_id.encoder != adapter.encoder or width != expected:
        raise ValueError(
            f"Apply FACT: {adapter.name} reads {adapter.encoder} features {expected} wide, but the identity was "
            f"encoded by {face_id.file} ({face_id.encoder}, {width} wide). Choose the matching encoder in Load Face "
            "Encoder."
        )


def check_base(adapter, model) -> None:
    """Raise ValueError unless every site of the adapter finds a block of its width in the model's UNet."""
    unet = model.get_model_object("diffusion_model")
    blocks = {place[:2]: block for place, block in transformer_blocks(unet).items() if place[2] == 0}
    widths = {block: module.norm2.normalized_shape[0] for block, module in blocks.items()}
    contexts = {module.attn2.to_k.in_features for module in blocks.values()}
    if widths == adapter.widths and contexts == {adapter.token_dim}:
        return
    what = type(model.model.model_config).__name__
    raise ValueError(
        f"Apply FACT: {adapter.name} fits an SD1.5 UNet with {_summary(adapter.widths, {adapter.token_dim})}, but the "
        f"connected model is {what} with {_summary(widths, contexts)}. Load an SD1.5 checkpoint."
    )


def _summary(widths: dict, contexts: set[int]) -> str:
    if not widths:
        return "no text cross-attention blocks at all"
    sizes = "/".join(map(str, sorted(set(widths.values()))))
    return f"{len(widths)} blocks {sizes} wide and a text width of {'/'.join(map(str, sorted(contexts)))}"
