"""A LoRA in training, beside the layers of a model of the host's, by the host's own adapter machinery."""

import contextlib
import re
from collections.abc import Callable, Iterator

import comfy.model_management
import torch
from comfy.weight_adapter import BypassInjectionManager, WeightAdapterTrainBase

from .compiling import compile_parts
from .recompute import recompute

_ATTENTION = re.compile(r"diffusion_model\..*\.attn[12]\.to_(q|k|v|out\.0)")
_PARTS = ("lora_up.weight", "lora_down.weight", "alpha")
_EVERYTHING = 1e20  # bytes: all other models leave the device


class LoraBranch(WeightAdapterTrainBase):
    """What a LoRA adds to a linear layer; its parameters are float32 also where the network computes in less.

    lowered: up and down as the network computes, see `lower`.
    """

    def __init__(self, up: torch.Tensor, down: torch.Tensor, alpha: torch.Tensor):
        super().__init__()
        self.up, self.down = (torch.nn.Parameter(part.float().clone()) for part in (up, down))
        self.alpha = float(alpha)
        self.lowered = self.up, self.down

    def bypass_forward(self, forward: Callable, x: torch.Tensor, *arguments, **options) -> torch.Tensor:
        """Return `forward(x)` + alpha / rank  x down' up', in two products and nothing more."""
        up, down = self.lowered
        base, hidden = forward(x, *arguments, **options), x.flatten(0, -2) @ down.T
        return torch.addmm(base.flatten(0, -2), hidden, up.T, alpha=self.alpha / len(down)).view_as(base)


def lower(lora: dict[str, LoraBranch], dtype: torch.dtype) -> None:
    """Give every branch its parameters in `dtype` for the next call, by one cast of all of them, forward and back.

    Cast one by one they are 512 kernels more in a step of SD1.5, which is bound by launches on a quick GPU.
    """
    parameters = [part for branch in lora.values() for part in (branch.up, branch.down)]
    if lora and dtype != parameters[0].dtype:
        flat = torch.cat([part.flatten() for part in parameters]).to(dtype)
        pieces = flat.split([part.numel() for part in parameters])
        parameters = [piece.view_as(part) for piece, part in zip(pieces, parameters)]
    for branch, up, down in zip(lora.values(), parameters[::2], parameters[1::2]):
        branch.lowered = up, down


def make_lora(model, rank: int, seed: int) -> dict[str, torch.Tensor]:
    """Return a LoRA that changes nothing yet, for every attention of a model patcher.

    It acts on queries, keys, values and outputs. Named as the host's own trainer names it; alpha is the rank.
    """
    generator = torch.Generator().manual_seed(seed)
    lora = {}
    for layer, module in model.model.named_modules():
        if _ATTENTION.fullmatch(layer):
            outputs, inputs = module.weight.shape
            down = torch.empty(rank, inputs).uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
            parts = torch.zeros(outputs, rank), down, torch.tensor(float(rank))
            lora |= {f"{layer}.{part}": tensor for part, tensor in zip(_PARTS, parts)}
    return lora


def make_branches(lora: dict[str, torch.Tensor], device: torch.device) -> dict[str, LoraBranch]:
    """Return the layers of a LoRA state dict as modules that can learn, on `device`."""
    layers = [name.removesuffix(f".{_PARTS[0]}") for name in lora if name.endswith(_PARTS[0])]
    return {layer: LoraBranch(*(lora[f"{layer}.{part}"] for part in _PARTS)).to(device) for layer in layers}


def state_dict(lora: dict[str, LoraBranch]) -> dict[str, torch.Tensor]:
    """Return the branches as a LoRA state dict on the CPU."""
    parts = {layer: (branch.up, branch.down, torch.tensor(branch.alpha)) for layer, branch in lora.items()}
    return {
        f"{layer}.{part}": tensor.detach().to("cpu", copy=True)
        for layer, tensors in parts.items()
        for part, tensor in zip(_PARTS, tensors)
    }


def copy_patcher(patcher, what: str):
    """Return a patcher with weights of its own, which autograd can work with; the host's are for inference only.

    Raises ValueError where the host does not know how to load it again.
    """
    if patcher.cached_patcher_init is None:
        raise ValueError(
            f"Training needs a copy of the {what} of its own, but the host does not know where this one came from: "
            "connect Load Checkpoint or Load Diffusion Model, without a node in between that merges models."
        )
    load, arguments, *index = patcher.cached_patcher_init
    loaded = load(*arguments, disable_dynamic=True)
    loaded = loaded[index[0]] if index else loaded
    copied = patcher.clone(disable_dynamic=True, model_override=loaded.get_clone_model_override())
    copied.parent = loaded  # whose weights they are: the host warns of a leak when it is gone before they are
    copied.model.requires_grad_(False)
    return copied


@contextlib.contextmanager
def in_training(
    patchers: list, lora: dict[str, LoraBranch], checkpointing: bool, compiled: bool = False
) -> Iterator[torch.nn.Module]:
    """Yield the model of the first patcher with the LoRA beside its layers, all patchers on their device.

    patchers: copies, see `copy_patcher`
    checkpointing: the blocks keep only what goes into them, and are computed again on the way back.
    compiled: parts of the model are, see `compiling`, and stay so.
    """
    comfy.model_management.load_models_gpu(patchers, memory_required=_EVERYTHING, force_full_load=True)
    model = patchers[0].model
    manager = BypassInjectionManager()
    for layer, branch in lora.items():
        manager.add_adapter(layer, branch)
    (injection,) = manager.create_injections(model)
    injection.inject(patchers[0])
    hook = model.diffusion_model.register_forward_pre_hook(lambda _, inputs: lower(lora, inputs[0].dtype))
    if compiled:
        compile_parts(model, patchers[0].load_device)
    undo = recompute(model) if checkpointing else None
    comfy.model_management.in_training = True
    try:
        yield model
    finally:
        comfy.model_management.in_training = False
        if undo:
            undo()
        hook.remove()
        lower(lora, torch.float32)
        injection.eject(patchers[0])
