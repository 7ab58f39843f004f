"""What a step of Infinite-ID's training costs on SDXL at its true size, counted without a GPU and without weights.

    operations   floating point operations of a forward and a backward pass of one photo, by torch's FlopCounterMode
    activations  bytes that are alive at the end of the forward pass, beside weights, counted storage by storage
    most         bytes that are alive at once at most in a step, beside weights and moments: activations and gradients

All tensors are on the device "meta": shapes without numbers. The attention is PyTorch's flash attention, which keeps no
scores. The printed markdown can be pasted into RESULTS.md.
"""

from bench import open_host, table

open_host()

import argparse  # noqa: E402
import weakref  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402
from likeness.training import infinite_id  # noqa: E402
from likeness.training.recompute import recompute  # noqa: E402
from networks import LAYOUTS  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

META = torch.device("meta")
CLIP, FACE, POOLED = (257, 1280), 512, 2816  # CLIP-H's hidden states, ArcFace's vector, SDXL's y


def flash(original, q, k, v, heads, *arguments, **options) -> torch.Tensor:
    """Return PyTorch's flash attention of q, k, v [b, n, d], in the place that the host has for another attention."""
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return out.transpose(1, 2).flatten(2)


def make_base(precision: torch.dtype):
    """Return SDXL's UNet as the trainer takes a base, frozen, without numbers."""
    unet = UNetModel(**LAYOUTS["SDXL"], device=META, dtype=precision, operations=comfy.ops.disable_weight_init)
    unet.requires_grad_(False)
    return SimpleNamespace(model=SimpleNamespace(diffusion_model=unet), kind="SDXL", width=2048, device=META)


def make_adapter(base, precision: torch.dtype) -> torch.nn.Module:
    """Return the adapter of the default settings in the precision in which it computes, as autocast has it."""
    with META:
        adapter = infinite_id.InfiniteId(base, CLIP[1], FACE, infinite_id.InfiniteIdSettings())
    return adapter.to(precision)


def compute_loss(base, adapter: torch.nn.Module, side: int, batch: int) -> torch.Tensor:
    """Return the loss of a step; side: of the latents."""
    unet = base.model.diffusion_model

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(batch, *shape, device=META, dtype=unet.dtype)

    options = infinite_id.attention_patches(base, adapter, adapter.mapper(empty(FACE), empty(*CLIP)), text_off=True)
    options["optimized_attention_override"] = flash
    context, y = empty(1, base.width), empty(POOLED)
    predicted = unet(empty(4, side, side), empty(), context=context, y=y, transformer_options=options)
    return predicted.float().square().mean()


class Alive(TorchDispatchMode):
    """Counts the bytes that are made while it is there and still alive: now, and at most."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {
            part.untyped_storage()._cdata for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for part in tree_leaves(result):
            if (
                isinstance(part, torch.Tensor)
                and (key := part.untyped_storage()._cdata) not in before | self.sizes.keys()
            ):
                self.sizes[key] = part.untyped_storage().nbytes()
                self.now += self.sizes[key]
                weakref.finalize(part.untyped_storage(), self._forget, key)
        self.most = max(self.most, self.now)
        return result

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def measure(side: int, batch: int, checkpointing: bool) -> tuple[int, int, int]:
    """Return operations of a step, and bytes that are alive after its forward pass and at most."""
    base = make_base(torch.bfloat16)
    adapter = make_adapter(base, torch.bfloat16)
    if checkpointing:
        recompute(base.model.diffusion_model)
    with FlopCounterMode(display=False) as counter:
        compute_loss(base, adapter, side, batch).backward()
    adapter.zero_grad()
    with Alive() as alive:  # apart: the other one keeps tensors
        loss = compute_loss(base, adapter, side, batch)
        activations = alive.now
        loss.backward()
    return counter.get_total_flops(), activations, alive.most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    base = make_base(torch.bfloat16)
    frozen = sum(each.numel() for each in base.model.diffusion_model.parameters())
    learned = sum(each.numel() for each in make_adapter(base, torch.bfloat16).parameters())
    parts = [
        ("UNet, frozen, bfloat16", frozen, 2),
        ("adapter, float32", learned, 4),
        ("its gradients, float32", learned, 4),
        ("AdamW's two moments, float32", learned, 8),
        ("the adapter in bfloat16, as autocast keeps it in a step", learned, 2),
    ]
    rows = [(name, f"{count / 1e6:.1f}", f"{count * size / 1e9:.2f}") for name, count, size in parts]
    print(table(("what", "million numbers", "GB"), rows))
    rows = []
    for batch in options.batches:
        for checkpointing in (False, True):
            flops, activations, peak = measure(options.pixels // 8, batch, checkpointing)
            rows.append(
                (
                    batch,
                    "yes" if checkpointing else "no",
                    f"{flops / 1e12:.1f}",
                    f"{activations / 1e9:.2f}",
                    f"{peak / 1e9:.2f}",
                )
            )
    print(table(("batch", "checkpointing", "TFLOP", "activations, GB", "most beside weights, GB"), rows))


if __name__ == "__main__":
    main()
