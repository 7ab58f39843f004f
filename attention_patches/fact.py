"""FACT inside the host's UNet: one object on `middle_patch`, called after self-attention and before norm2."""

from dataclasses import dataclass, field
from functools import partial

import torch
from comfy.patcher_extension import WrappersMP

from .adapter_patch import AdapterPatch, Run, check_base
from .calls import attend, find_sigma_range
from .sfags import gated_self_attention, project_face

WRAPPER_KEY = "likeness_fact"


@dataclass
class FactRun(Run):
    """gates: by block s tanh(alpha_attn) and s tanh(alpha_dense)."""

    gates: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


class FactPatch(AdapterPatch):
    """SFAGS at every face block of an SD1.5 UNet.

    weights:   model patcher of the face blocks' weights, in the order of `blocks`
    tokens:    [2, m, 768]: face tokens of the conditional and of the unconditional branch
    strength:  s of both gates
    """

    def __init__(self, weights, blocks, tokens, strength, sigma_range, mask=None):
        super().__init__(blocks, sigma_range, mask)
        self.weights = weights
        self.tokens = tokens
        self.strength = strength

    def apply(self, model):
        """Return a clone of `model` that runs this patch."""
        model = model.clone()
        model.set_model_patch(self, "middle_patch")
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER_KEY, self.around_unet)
        return model

    def models(self):
        """Return the weights that the host loads beside the UNet."""
        return [self.weights]

    def to(self, device_or_dtype):
        """Do nothing: the weights move with their patcher, and the rest is made where the UNet runs."""
        return self

    @torch.compiler.disable
    def __call__(self, x: torch.Tensor, extra_options: dict) -> torch.Tensor:
        """Run the face block of the block at hand on its tokens [chunks * batch, n, d]."""
        run = self.run_on(x.device, x.dtype)
        block = extra_options["block"]
        run.reached.add(block)
        if not run.active or block not in run.faces:
            return x
        keys, values = self.keys_values(run, block, x, extra_options)
        gates, mask = run.gates[block], self.find_region(run, x, extra_options)
        if mask is not None:
            gates = tuple(gate * mask for gate in gates)
        weights = self.weights.model[self.blocks.index(block)]
        return gated_self_attention(x, keys, values, weights, *gates, partial(attend, extra_options=extra_options))

    def start(self, device: torch.device, dtype: torch.dtype) -> FactRun:
        """Project the face for every block, and open its gates."""
        tokens = self.tokens.to(device, dtype)
        weights = dict(zip(self.blocks, self.weights.model))
        return FactRun(
            faces={block: project_face(face_block, tokens) for block, face_block in weights.items()},
            gates={block: self._open_gates(face_block, device, dtype) for block, face_block in weights.items()},
        )

    def explain_missed(self, missed: list[tuple]) -> str:
        """Return the sentence for face blocks that did not run."""
        return (
            f"Apply FACT: the model ran without {len(missed)} of its {len(self.blocks)} face blocks (the first is "
            f"{missed[0]}). Another node skips or replaces these blocks; remove it or put it on another model."
        )

    def _open_gates(self, face_block, device, dtype) -> tuple[torch.Tensor, ...]:
        alphas = torch.stack((face_block.alpha_attn, face_block.alpha_dense)).to(device, torch.float32)
        return (self.strength * torch.tanh(alphas)).to(dtype).unbind()


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
    name, remedy = f"Apply FACT: {adapter.name}", "Load an SD1.5 checkpoint."
    check_base(model, adapter.widths, adapter.token_dim, name, "an SD1.5 UNet", "blocks", remedy)
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-2:])
    if strength == 0 or start_percent >= end_percent or (mask is not None and not mask.any()):
        return model.clone()
    face = adapter.face_tokens(face_id.features)
    no_face = adapter.face_tokens(torch.zeros_like(face_id.features)) if cfg_face else face
    return FactPatch(
        adapter.face_blocks(model.model.get_dtype_inference()),
        adapter.widths,
        torch.cat((face, no_face)),
        strength,
        find_sigma_range(model, start_percent, end_percent),
        mask,
    ).apply(model)


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
