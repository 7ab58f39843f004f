"""Several processes that train together: which of them this one is, and what they tell each other."""

import atexit
import contextlib
import functools
import importlib.util
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import comfy.model_management
import torch

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

Content = TypeVar("Content")
_PATIENCE = timedelta(days=7)
_MESSAGE = 16_000_000  # numbers

_SHARDING = {
    "FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED", "Megatron": "ACCELERATE_USE_MEGATRON_LM",
}  # fmt: skip


def get_rank() -> int:
    """Return which of the processes that were started to train together this one is, from 0."""
    return int(os.environ.get("RANK", 0))


def is_first_here() -> bool:
    """Return whether this process is the first on its machine: the one that writes what each machine needs."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def is_main() -> bool:
    """Return whether this process is the first of those that were started to train together, or alone: the one that
    writes.
    """
    return get_rank() == 0


def count_processes() -> int:
    """Return how many processes were started to train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def describe_batch(batch: int, accumulate: int) -> str:
    """Return in words how many processes train together, and how many samples a step of all of them sees."""
    count = count_processes()
    parts = [f"{count} process{'es' * (count > 1)}", f"batch {batch}"]
    parts += [f"{accumulate} batches a step"] if accumulate > 1 else []
    text = f"{', '.join(parts)}: {count * batch * accumulate} samples a step"
    if count == 1 and "ACCELERATE_MIXED_PRECISION" in os.environ:  # which accelerate launch sets
        text += ". accelerate launch started one process only: on a CPU too it takes --multi_gpu to start several"
    return text


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Let the main process go first, however long it takes, then the first one of every other machine, then the rest.

    So what each finds missing on its disk is made once, whether the machines have a disk in common or not.
    """
    if count_processes() == 1:
        yield
        return
    with join().main_process_first(), join().local_main_process_first():
        yield


@functools.cache
def join() -> "PartialState":
    """Return accelerate's view of the processes that train together, of which this one is then one.

    They wait for each other however long it takes: for photos to be encoded, or for a validation. Raises
    ModuleNotFoundError where accelerate is not installed, RuntimeError where it was told to divide networks.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise ModuleNotFoundError(
            f"This is one of {count_processes()} processes (WORLD_SIZE) that are to train together, for which "
            "accelerate is needed and not installed: run 'python -m pip install accelerate' with this Python, or start "
            "one process alone."
        )
    for name, variable in _SHARDING.items():
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise RuntimeError(
                f"accelerate was told to train with {name}, which divides a network among processes. Here each has "
                "all, and only gradients are shared: start with 'accelerate launch --multi_gpu', without a config "
                f"of {name}'s; for less memory set checkpointing = true."
            )
    from accelerate import PartialState

    cpu = comfy.model_management.get_torch_device().type == "cpu"
    state = PartialState(cpu=cpu, timeout=_PATIENCE, **_find_store())
    atexit.register(state.destroy_process_group)  # a process that ends with its group still there may be aborted
    return state


def _find_store() -> dict:
    """Return by what torch is to find the other processes where they may be started again (--max_restarts).

    The launcher's store keeps the addresses of processes that were killed (torch 2.13, with both rendezvous): one that
    reads them before the new ones have written theirs calls in vain. So every start writes under a name of its own.
    """
    restarts, shared = (os.environ.get(f"TORCHELASTIC_{name}") for name in ("MAX_RESTARTS", "USE_AGENT_STORE"))
    if restarts in (None, "0") or shared != "True":
        return {}
    store = torch.distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=_PATIENCE)
    rank, count = get_rank(), count_processes()
    start = torch.distributed.PrefixStore(name_start(store, rank, count), store)
    return {"store": start, "rank": rank, "world_size": count}


def name_start(store: "torch.distributed.Store", rank: int, count: int) -> str:
    """Return the same new name in all of `count` processes, of which those that were killed wrote into `store` too.

    Process 0 tells its name to whoever calls, by the caller's own new name, until all have answered to it.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"call {rank}", name)
        start = store.get(name).decode()
        store.set(f"{start} {rank}", "")
        return start
    others = range(1, count)
    while not store.check([f"{name} {other}" for other in others]):
        for other in others:
            if store.check([f"call {other}"]):
                store.set(store.get(f"call {other}").decode(), name)
        time.sleep(0.1)
    return name


@torch.no_grad()
def share(accelerator: "Accelerator", parameters: list[torch.nn.Parameter], loss: float) -> float:
    """Give the parameters the mean of all processes' gradients, and return the mean of their losses.

    Where a process has no gradient it counts as 0; where none has one, there stays none.
    """
    numbers = torch.tensor([loss, *(tensor.grad is not None for tensor in parameters)], device=accelerator.device)
    loss, *shares = accelerator.reduce(numbers, "mean").tolist()
    for some in _divide([parameter for parameter, share in zip(parameters, shares) if share]):
        # Fused optimisers take it for granted that a gradient lies in memory as its parameter: so it is filled anew.
        gradients = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in some]
        message = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
        means = message.split([gradient.numel() for gradient in gradients])
        for parameter, gradient, mean in zip(some, gradients, means):
            parameter.grad = gradient.copy_(mean.view_as(gradient))
    return loss


def _divide(parameters: list[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Yield the parameters in parts whose gradients are shared in one message: few, and small beside the gradients."""
    part, size = [], 0
    for parameter in parameters:
        if part and size + parameter.numel() > _MESSAGE:
            yield part
            part, size = [], 0
        part.append(parameter)
        size += parameter.numel()
    if part:
        yield part


def find_accelerator(device: torch.device) -> "Accelerator | None":
    """Return accelerate's view of the processes that train together; None where this one is alone."""
    count = count_processes()
    if count == 1:
        return None
    join()
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device.type == "cpu")
    if accelerator.num_processes != count:
        raise RuntimeError(
            f"{count} processes were started (WORLD_SIZE), but accelerate knows of {accelerator.num_processes}: start "
            "them with 'accelerate launch', which tells each its place, or unset WORLD_SIZE to train alone."
        )
    return accelerator


def check_device(accelerator: "Accelerator", parameters: dict[str, torch.nn.Parameter]) -> None:
    """Raise RuntimeError where parameters are on another device than the one that this process has among all."""
    here = accelerator.device
    for name, parameter in parameters.items():
        if (parameter.device.type, parameter.device.index or 0) != (here.type, here.index or 0):
            raise RuntimeError(
                f"This process trains on {here}, but its parameter '{name}' is on {parameter.device}: call "
                "torch.cuda.set_device(int(os.environ['LOCAL_RANK'])) before the networks are loaded."
            )


def from_main(content: Content) -> Content:
    """Return in every process what the main process has of `content`, its tensors, sent one by one, on the CPU."""
    if count_processes() == 1:
        return content
    device = join().device
    from accelerate.utils import broadcast_object_list, recursively_apply

    outline = recursively_apply(lambda tensor: tensor.to("meta"), content) if is_main() else None
    (outline,) = broadcast_object_list([outline])

    def send(tensor: torch.Tensor) -> torch.Tensor:
        """Return the main process's tensor: what is given there, and of which only the shape is known elsewhere."""
        sent = tensor.to(device).contiguous() if is_main() else torch.empty_like(tensor, device=device).contiguous()
        torch.distributed.broadcast(sent, 0)
        return tensor if is_main() else sent.cpu()

    return recursively_apply(send, content if is_main() else outline)


def gather(items: list[Content]) -> list[Content]:
    """Return the items of all processes, in the order of these, when the last one has come as far as this."""
    if count_processes() == 1:
        return items
    join()
    from accelerate.utils import gather_object

    return gather_object(items)


def wait_for_all() -> None:
    """Wait until all processes have come as far as this, however long it takes."""
    if count_processes() > 1:
        join().wait_for_everyone()
