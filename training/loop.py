"""The one training loop: AdamW over groups of parameters, with checkpoints from which it goes on bit for bit.

A trainer brings its parameters and a function that draws from a random generator and returns a loss; what that loss is
made of is its own affair.
"""

import io
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import comfy.model_management
import torch

from ..weights import saving

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """What every training can be told.

    steps: optimiser steps, those done before a checkpoint included. accumulate: losses that make one step.
    precision: one of PRECISIONS, in which the network computes; parameters and losses are float32 always.
    clip: largest norm of a step's gradient, 0 for no limit. checkpoint_seconds: how long work may be lost at most.
    """

    steps: int = 1000
    seed: int = 0
    accumulate: int = 1
    precision: str = "auto"
    weight_decay: float = 1e-2
    clip: float = 1.0
    checkpoint_seconds: float = 60.0


@dataclass(frozen=True)
class Group:
    """Parameters by name that learn at the rate `lr`."""

    parameters: dict[str, torch.nn.Parameter]
    lr: float


@dataclass
class Progress:
    """How far a training has come: the loss of every step, and the peak of the device's memory in bytes, 0 on a CPU."""

    losses: list[float] = field(default_factory=list)
    resumed_at: int = 0
    seconds: float = 0.0
    peak: int = 0

    @property
    def step(self) -> int:
        return len(self.losses)


class StoppedError(RuntimeError):
    """Training cannot go on; the parameters hold what the last good step left."""


def settings(values: dict[str, object], kind: type = Settings):
    """Settings of the class `kind` from values by name; raises ValueError for a name that it does not have."""
    known = [entry.name for entry in fields(kind)]
    for name in values:
        if name not in known:
            raise ValueError(f"There is no training setting '{name}'; there are {', '.join(known)}.")
    return kind(**values)


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that a precision means on `device`: "auto" is bfloat16 where the device is quick at it, else float32.

    Raises ValueError for a precision that is none.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"'{precision}' is no precision; choose one of {', '.join(PRECISIONS)}.")
    if precision == "auto":
        quick = device.type != "cpu" and comfy.model_management.should_use_bf16(device)
        return torch.bfloat16 if quick else torch.float32
    return getattr(torch, precision)


def train(
    groups: list[Group],
    loss_of: Callable[[torch.Generator], torch.Tensor],
    settings: Settings,
    device: torch.device,
    checkpoint: Path | None = None,
    after_step: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
) -> Progress:
    """Run until `settings.steps` optimiser steps are done, and say how it went. The parameters are changed in place.

    loss_of: draws what it needs from the generator, which is the CPU's, so that a seed means the same on every device.
    checkpoint: a file from which to go on where there is one; written every `checkpoint_seconds`, when something stops
    the training, and at the end. after_step: called after every step; what it raises stops the training.
    progress: kept up to date, also where something stops the training.

    Raises StoppedError where the loss is no number any more. A checkpoint that cannot be written is only a warning.
    """
    state = _State(groups, settings, device, progress or Progress())
    if checkpoint is not None and checkpoint.is_file():
        state.load(checkpoint)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    written, begin = time.monotonic(), time.monotonic()
    try:
        while state.progress.step < settings.steps:
            state.step(loss_of)
            state.progress.seconds = time.monotonic() - begin
            state.progress.peak = _peak(device)
            after_step()
            if checkpoint is not None and time.monotonic() - written > settings.checkpoint_seconds:
                state.save(checkpoint)
                written = time.monotonic()
    finally:
        if checkpoint is not None and state.whole and state.progress.step > state.progress.resumed_at:
            state.save(checkpoint)
    return state.progress


class _State:
    """Everything a training is at a moment."""

    def __init__(self, groups: list[Group], settings: Settings, device: torch.device, progress: Progress):
        self.settings, self.progress = settings, progress
        self.parameters = {name: parameter for group in groups for name, parameter in group.parameters.items()}
        self.optimiser = torch.optim.AdamW(
            [{"params": list(group.parameters.values()), "lr": group.lr} for group in groups],
            weight_decay=settings.weight_decay,
        )
        # float16 has so little range that small gradients would be lost.
        half = compute_dtype(settings.precision, device) == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=half)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.drawn = self.generator.get_state()  # after the last whole step
        self.whole = True

    def step(self, loss_of: Callable[[torch.Generator], torch.Tensor]) -> None:
        total = 0.0
        for _ in range(self.settings.accumulate):
            loss = loss_of(self.generator) / self.settings.accumulate
            self.scaler.scale(loss).backward()
            total += loss.item()
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip or math.inf).item()
        if not math.isfinite(total) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            raise StoppedError(
                f"the loss is no number any more in step {self.progress.step + 1}. Lower the learning rates, or set "
                "precision to float32"
            )
        self.whole = False
        self.scaler.step(self.optimiser)  # with a scale that was too high it does nothing, and lowers the scale
        self.scaler.update()
        self.optimiser.zero_grad()
        self.progress.losses.append(total)
        self.drawn = self.generator.get_state()
        self.whole = True

    def save(self, path: Path) -> None:
        """Write the checkpoint; a disk that has no room for it is no reason to lose what is being learned."""
        content = io.BytesIO()
        torch.save(
            {
                "parameters": {name: parameter.detach() for name, parameter in self.parameters.items()},
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "generator": self.drawn,
                "losses": self.progress.losses,
            },
            content,
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            saving.write(path, content.getvalue(), "Training goes on without a checkpoint")
        except OSError as error:
            logging.warning("%s", error)

    def load(self, path: Path) -> None:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(saved["parameters"][name])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.scaler.load_state_dict(saved["scaler"])
        self.generator.set_state(saved["generator"])
        self.drawn = saved["generator"]
        self.progress.losses = saved["losses"]
        self.progress.resumed_at = self.progress.step
        logging.info("Training goes on after step %d, from %s", self.progress.step, path)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
