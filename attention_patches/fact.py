"""FACT inside the host's UNet: one object on `middle_patch`, called after self-attention and before norm2."""

from dataclasses import dataclass, field
from functools import partial

import torch

from ..adapters.unet_blocks import transformer_blocks
from .adapter_patch import AdapterPatch, Run, check_base, watch
from .calls import ALWAYS, Rows, Schedule, attend, read_call, read_rows
from .sfags import gated_self_attention, project_face, project_visual


@dataclass
class FactRun(Run):
    """What no step of a run changes.

    gates:   by block s tanh(alpha_attn) and s tanh(alpha_dense)
    inside:  by resolution and batch layout which tokens the region touches in any row [t]; None: all of them
    """

    gates: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    inside: dict[tuple, torch.Tensor | None] = field(default_factory=dict)


class FactPatch(AdapterPatch):
    """SFAGS of one identity at every face block of an SD1.5 UNet.

    weights:   model patcher of the face blocks' weights, in the order of `blocks`
    tokens:    [2, m, 768]: face tokens of the positive and of the other rows
    strength:  s of both gates
    """

    name = node = "Apply FACT"

    def __init__(self, weights, blocks, tokens, strength, schedule=ALWAYS, mask=None):
        super().__init__(blocks, schedule, mask)
        self.weights = weights
        self.tokens = tokens
        self.strength = strength

    def apply(self, model):
        """Return a clone of `model` that runs this patch, on the same input as the FACT that is there already."""
        model = model.clone()
        blocks = transformer_blocks(model.get_model_object("diffusion_model"))
        heads = {block[:2]: module.n_heads for block, module in blocks.items()}
        patches = model.model_options["transformer_options"].get("patches", {}).get("middle_patch", [])
        before = [n for n, patch in enumerate(patches) if isinstance(patch, FactPatches)]
        if before:
            patches[before[0]] = FactPatches((*patches[before[0]].faces, self), heads)
        else:
            model.set_model_patch(FactPatches((self,), heads), "middle_patch")
        self.attach(model)
        return model

    def add_face(self, x: torch.Tensor, rows: Rows, extra_options: dict, visual: dict) -> torch.Tensor:
        """Return the tokens [rows, n, d] after the face block of the block at hand.

        Outside of the region its gates are closed, so that only the tokens inside are worked out.
        visual: what faces by the same adapter share of x, by the adapter's weights; the first fills it in
        """
        block = extra_options.get("block")
        if block not in self.blocks:
            return x
        read_call(extra_options).reached.add((self, block))
        if not self.schedule.is_on(extra_options):
            return x
        run = self.run_on(x.device, x.dtype)
        (face,) = self.keys_values(run, block, x, rows)
        gates, mask, tokens = run.gates[block], self.find_region(run, x, rows, extra_options), None
        if mask is not None:
            layout = (rows, mask.shape)
            if layout not in run.inside:
                inside = mask.any(dim=0).flatten().nonzero().flatten()
                run.inside[layout] = inside if len(inside) < mask.shape[1] else None
            tokens = run.inside[layout]
            if tokens is not None and not len(tokens):
                return x
            gates = tuple(gate * (mask if tokens is None else mask[:, tokens]) for gate in gates)
        weights = self.weights.model[self.blocks.index(block)]
        if weights not in visual:
            visual[weights] = project_visual(weights, x)
        attention = partial(attend, extra_options=extra_options)
        return gated_self_attention(x, face, weights, *gates, attention, tokens, visual[weights])

    def guard(self, transformer_options: dict) -> None:
        """See that the host will call this patch; where another node holds it instead, watch that it is called."""
        patches = transformer_options.get("patches", {}).get("middle_patch", [])
        if any(isinstance(patch, FactPatches) and self in patch.faces for patch in patches):
            return
        if not patches:
            raise RuntimeError(
                "Apply FACT: another node has removed its patch from the model, so that the face is not in the image. "
                "Connect that node before Apply FACT, or remove it."
            )
        patches[-1] = watch(patches[-1], self)

    def start(self, device: torch.device, dtype: torch.dtype) -> FactRun:
        """Project the face for every block, and open its gates."""
        tokens = self.tokens.to(device, dtype)
        weights = dict(zip(self.blocks, self.weights.model))
        return FactRun(
            faces={block: (project_face(face_block, tokens),) for block, face_block in weights.items()},
            gates={block: self._open_gates(face_block, device, dtype) for block, face_block in weights.items()},
        )

    def _open_gates(self, face_block, device, dtype) -> tuple[torch.Tensor, ...]:
        alphas = torch.stack((face_block.alpha_attn, face_block.alpha_dense)).to(device, torch.float32)
        return (self.strength * torch.tanh(alphas)).to(dtype).unbind()


class FactPatches:
    """What the host calls in every block: the faces of a model, which all read the same input and add up.

    heads: of the attention in each block, for a pack that runs the host's blocks and does not tell
    """

    def __init__(self, faces: tuple[FactPatch, ...], heads: dict[tuple, int]):
        self.faces = faces
        self.heads = heads

    @torch.compiler.disable
    def __call__(self, x: torch.Tensor, extra_options: dict) -> torch.Tensor:
        """Run the face blocks of the block at hand on its tokens."""
        extra_options.setdefault("n_heads", self.heads.get(extra_options.get("block")))
        rows = read_rows(extra_options, len(x))
        visual = {}
        first, *others = (face.add_face(x, rows, extra_options, visual) for face in self.faces)
        return sum((other - x for other in others), start=first)

    def models(self):
        """Return the weights that the host loads beside the UNet."""
        return [face.weights for face in self.faces]

    def to(self, device_or_dtype):
        """Do nothing: the weights move with their patcher, and the rest is made where the UNet runs."""
        return self

    def cleanup(self):
        """Forget the run; the host calls this when sampling ends."""
        for face in self.faces:
            face.cleanup()


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
    schedule = Schedule(start_percent, end_percent)
    if strength == 0 or schedule.is_empty or (mask is not None and not mask.any()):
        return model.clone()
    face = adapter.face_tokens(face_id.features)
    no_face = adapter.face_tokens(torch.zeros_like(face_id.features)) if cfg_face else face
    return FactPatch(
        adapter.face_blocks(model.model.get_dtype_inference()),
        adapter.widths,
        torch.cat((face, no_face)),
        strength,
        schedule,
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
