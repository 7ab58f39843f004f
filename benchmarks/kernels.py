"""How many kernels some work launches, counted on whatever device it runs."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Counter(TorchDispatchMode):
    """Counts the operations that launch a kernel: those whose result lies in memory of its own."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made, taken = (
            [part.untyped_storage().data_ptr() for part in tree_leaves(parts) if isinstance(part, torch.Tensor)]
            for parts in (result, args)
        )
        self.count += bool(made) and made[0] not in taken
        return result


def count_kernels(work) -> int:
    """Return how many kernels a second call of `work` launches; the first one makes what is made once."""
    work()
    with Counter() as counter:
        work()
    return counter.count
