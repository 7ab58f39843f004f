"""What patches of adapters share: runs, rows, regions, the schedule, and that no block of the UNet is missed."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch

from ..adapters.unet_blocks import transformer_blocks
from .calls import expand_rows, is_scheduled, make_token_mask


@dataclass
class Run:
    """What one sampling run on one device needs and no step changes.

    faces:    by block the identity's keys and values for (conditional, other) rows, [2, m, d] each
    rows:     by batch layout and block the same for every row of the batch, [rows, m, d] each
    masks:    the region at token resolution, by resolution and batch layout
    reached:  blocks visited by the UNet call in progress
    active:   whether the call's noise level lies in the schedule
    """

    faces: dict[tuple, tuple[torch.Tensor, torch.Tensor]]
    rows: dict[tuple, dict] = field(default_factory=dict)
    masks: dict[tuple, torch.Tensor] = field(default_factory=dict)
    reached: set[tuple] = field(default_factory=set)
    active: bool = True


class AdapterPatch(ABC):
    """One identity through one adapter, at `blocks` of a UNet.

    blocks:       the host's names of them
    sigma_range:  (from, to), from >= to: the noise levels at which the adapter is on
    mask:         [1 or batch, H, W] in 0..1, where in the image it acts; None: everywhere
    """

    def __init__(self, blocks, sigma_range: tuple[float, float], mask: torch.Tensor | None = None):
        self.blocks = tuple(blocks)
        self.sigma_range = sigma_range
        self.mask = mask
        self._runs: dict[torch.device, Run] = {}

    @abstractmethod
    def start(self, device: torch.device, dtype: torch.dtype) -> Run:
        """Work out what the steps of a sampling run share, on its device and in its precision."""

    @abstractmethod
    def explain_missed(self, missed: list[tuple]) -> str:
        """Return the sentence for a UNet call in which the blocks `missed` did not run."""

    def cleanup(self):
        """Forget what the run made; the host calls this when sampling ends."""
        self._runs.clear()

    def around_unet(self, executor, x, t, *args, **kwargs):
        """Decide once per UNet call whether the adapter is on, and see that every block was reached."""
        run = self.run_on(x.device, executor.class_obj.get_dtype_inference())
        run.active = is_scheduled(self.sigma_range, t)
        run.reached.clear()
        output = executor(x, t, *args, **kwargs)
        if missed := [block for block in self.blocks if block not in run.reached]:
            raise RuntimeError(self.explain_missed(missed))
        return output

    def run_on(self, device: torch.device, dtype: torch.dtype) -> Run:
        """Return the run on a device; the first call of a sampling starts it."""
        if device not in self._runs:
            self._runs[device] = self.start(device, dtype)
        return self._runs[device]

    @staticmethod
    def keys_values(run: Run, block: tuple, like: torch.Tensor, extra_options: dict) -> tuple[torch.Tensor, ...]:
        """Return the identity's keys and values [rows, m, d] for every row of `like`, made once per batch layout."""
        chunks = extra_options["cond_or_uncond"]
        rows = run.rows.setdefault((*chunks, len(like), like.dtype), {})
        if block not in rows:
            rows[block] = tuple(expand_rows(part.to(like.dtype), chunks, len(like)) for part in run.faces[block])
        return rows[block]

    def find_region(self, run: Run, like: torch.Tensor, extra_options: dict) -> torch.Tensor | None:
        """Return the mask at the tokens of `like` [rows, n, d] as [1 or rows, n, 1]; None where there is none."""
        if self.mask is None:
            return None
        chunks, size = len(extra_options["cond_or_uncond"]), tuple(extra_options["activations_shape"][-2:])
        layout = (*size, chunks, len(like))
        if layout not in run.masks:
            run.masks[layout] = make_token_mask(self.mask, size, chunks, len(like), like)
        return run.masks[layout]


def check_base(
    model, widths: dict[tuple, int], token_dim: int, adapter: str, base: str, noun: str, remedy: str
) -> None:
    """Raise ValueError unless the blocks of an adapter are those of the model's UNet.

    widths: of the adapter's blocks by the host's names, with or without index; token_dim: its text width
    adapter, base, noun, remedy: its name, what it fits, what its blocks are called, and what to do otherwise
    """
    blocks = transformer_blocks(model.get_model_object("diffusion_model"))
    if all(len(name) == 2 for name in widths):  # FACT extends the first block of each module
        blocks = {name[:2]: block for name, block in blocks.items() if name[2] == 0}
    model_widths = {name: block.attn2.to_q.in_features for name, block in blocks.items()}
    contexts = {block.attn2.to_k.in_features for block in blocks.values()}
    if model_widths != widths or contexts != {token_dim}:
        raise ValueError(
            f"{adapter} fits {base} with {_describe_blocks(widths, {token_dim}, noun)}, but the connected model is "
            f"{type(model.model.model_config).__name__} with {_describe_blocks(model_widths, contexts, noun)}. {remedy}"
        )


def _describe_blocks(widths: dict, contexts: set[int], noun: str) -> str:
    if not widths:
        return f"no text cross-attention{' blocks' if noun == 'blocks' else 's'} at all"
    sizes, texts = ("/".join(map(str, sorted(numbers))) for numbers in (set(widths.values()), contexts))
    return f"{len(widths)} {noun} {sizes} wide and a text width of {texts}"
