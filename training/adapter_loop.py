"""The training of an adapter for a frozen base, the same for every method."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from . import loop
from .frozen import Frozen
from .settings import AdapterSettings


def train_adapter(
    trainer: ModuleType,
    base: Frozen,
    adapter: torch.nn.Module,
    data: tuple,
    settings: AdapterSettings,
    checkpoint: Path | None = None,
    after_step: Callable[[loop.Progress], None] = lambda progress: None,
    progress: loop.Progress | None = None,
) -> loop.Progress:
    """Train in place what `make` of `trainer`, the module of a method, made for `base`, and return the progress.

    data: portraits and what else the method's `make_loss` samples from. The others, and errors, are `loop.train`'s.
    """
    loss = trainer.make_loss(base, adapter, *data, settings)
    groups = trainer.make_groups(adapter, settings)
    return loop.train(groups, loss, settings, base.device, checkpoint, after_step, progress)
