"""The one training loop: AdamW over groups of parameters, with checkpoints from which it goes on bit for bit.

A trainer brings its parameters and a function that draws from a random generator and returns a loss; what that loss is
made of is its own affair.

Several processes on one host or more, started by `accelerate launch`, train together: each draws from a random stream
of its own, and all step by the mean of their gradients.
"""

import hashlib
import io
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import comfy.model_management
import torch
from PIL import Image

from ..weights import saving
from . import curve
from .distributed import check_place, find_accelerator, from_main, share

_STRETCH = 100  # steps over which the speed is measured
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """What every training can be told.

    steps: optimiser steps, those done before a checkpoint included. accumulate: losses that make one step, in every
    process.
    precision: one of PRECISIONS, in which the network computes; parameters and losses are float32 always.
    clip: largest norm of a step's gradient, 0 for no limit. checkpoint_seconds: how long work may be lost at most.
    warmup: steps in which the rates rise to theirs. cosine: whether they fall to nothing until the last step.
    ema: how much of the running average of the parameters a step keeps, 0 for no average.
    """

    steps: int = 1000
    seed: int = 0
    accumulate: int = 1
    precision: str = "auto"
    weight_decay: float = 1e-2
    clip: float = 1.0
    checkpoint_seconds: float = 60.0
    warmup: int = 0
    cosine: bool = False
    ema: float = 0.0


@dataclass(frozen=True)
class Group:
    """Parameters by name that learn at the rate `lr`."""

    parameters: dict[str, torch.nn.Parameter]
    lr: float


@dataclass
class Progress:
    """How far a training has come: the loss of every step, and the peak of the device's memory in bytes, 0 on a CPU.

    average: the running average of the parameters by name; empty where none is kept. ends: when the last steps ended,
    in seconds, after the moment when the first of them began.
    """

    losses: list[float] = field(default_factory=list)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    resumed_at: int = 0
    seconds: float = 0.0
    peak: int = 0
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=_STRETCH + 1))

    @property
    def step(self) -> int:
        return len(self.losses)

    @property
    def speed(self) -> float:
        """Steps a second over the last hundred, whatever is done between them included; 0 before the first."""
        return (len(self.ends) - 1) / (self.ends[-1] - self.ends[0]) if len(self.ends) > 1 else 0.0

    def plot(self, steps: int) -> Image.Image:
        """The losses so far of a training of `steps` steps, of which at least one is done."""
        return curve.draw(self.losses, steps)


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


def rate(settings: Settings, step: int) -> float:
    """What the rates of the `step`-th step, counted from 0, are multiplied by, 0..1."""
    risen = min(1.0, (step + 1) / (settings.warmup + 1))
    fallen = 0.5 * (1 + math.cos(math.pi * step / settings.steps)) if settings.cosine else 1.0
    return risen * fallen


def computing(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """The context in which networks whose weights are float32 compute in `dtype`."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def lowered(network: torch.nn.Module, dtype: torch.dtype) -> Callable:
    """`network` computing in `dtype` while its parameters, and their gradients, stay as precise as they are."""
    if dtype == torch.float32:
        return network
    low = {name: each.to(dtype) for name, each in network.named_parameters()}
    return lambda *inputs: torch.func.functional_call(network, low, inputs)


def stream(seed: int, rank: int = 0, step: int = 0) -> torch.Generator:
    """What process `rank` draws from that begins after `step` steps: the first at the start, from the seed itself."""
    if rank or step:
        seed = int.from_bytes(hashlib.sha256(repr((seed, rank, step)).encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(seed)


def train(
    groups: list[Group],
    loss_of: Callable[[torch.Generator], torch.Tensor],
    settings: Settings,
    device: torch.device,
    checkpoint: Path | None = None,
    after_step: Callable[[Progress], None] = lambda progress: None,
    progress: Progress | None = None,
) -> Progress:
    """Run until `settings.steps` optimiser steps are done, and say how it went. The parameters are changed in place.

    loss_of: draws what it needs from the generator, which is the CPU's, so that a seed means the same on every device.
    checkpoint: a file from which to go on where there is one; written every `checkpoint_seconds`, when something stops
    the training, and at the end. after_step: called with the progress after every step; what it raises stops
    the training.
    progress: kept up to date, also where something stops the training.

    Of several processes each calls this with the same parameters, and calls its own `after_step`; the losses are their
    means. Only the main one reads and writes the checkpoint, and all begin with its parameters.

    Raises StoppedError where the loss is no number any more, and ModuleNotFoundError or RuntimeError where several
    processes were started that cannot train together. A checkpoint that cannot be written is only a warning.
    """
    state = _State(groups, settings, device, checkpoint, progress or Progress())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    written = begin = time.perf_counter()
    state.progress.ends.append(begin)
    try:
        while state.progress.step < settings.steps:
            state.step(loss_of)
            state.progress.ends.append(time.perf_counter())
            state.progress.seconds = time.perf_counter() - begin
            state.progress.peak = _peak(device)
            after_step(state.progress)
            if time.perf_counter() - written > settings.checkpoint_seconds:
                state.save()
                written = time.perf_counter()
    finally:
        if state.whole and state.progress.step > state.progress.resumed_at:
            state.save()
    return state.progress


class _State:
    """Everything a training is at a moment."""

    def __init__(
        self,
        groups: list[Group],
        settings: Settings,
        device: torch.device,
        checkpoint: Path | None,
        progress: Progress,
    ):
        self.settings, self.checkpoint, self.progress = settings, checkpoint, progress
        self.parameters = {name: parameter for group in groups for name, parameter in group.parameters.items()}
        self.optimiser = torch.optim.AdamW(
            [{"params": list(group.parameters.values()), "lr": group.lr} for group in groups],
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.rates = [group.lr for group in groups]
        # float16 has so little range that small gradients would be lost.
        half = compute_dtype(settings.precision, device) == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=half)
        self.accelerator = find_accelerator(device)
        self.rank, self.world = 0, 1
        if self.accelerator:
            check_place(self.accelerator, self.parameters)
            self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.generator = stream(settings.seed, self.rank)
        self._begin()
        self.drawn = self._drawn()  # after the last whole step
        self.whole = True

    @torch.no_grad()
    def _begin(self) -> None:
        """Go on from the checkpoint where there is one; several processes begin with what the main one has."""
        found = self.rank == 0 and self.checkpoint is not None and self.checkpoint.is_file()
        saved = torch.load(self.checkpoint, weights_only=True, map_location="cpu") if found else {}
        if self.accelerator:
            saved = from_main(saved or {"parameters": {name: each.cpu() for name, each in self.parameters.items()}})
        if saved:
            for name, parameter in self.parameters.items():
                parameter.copy_(saved["parameters"][name])
        if "losses" in saved:
            self._go_on(saved)
        if self.settings.ema:
            average = saved.get("average") or self.parameters
            self.progress.average = {
                name: torch.empty_like(each).copy_(average[name]) for name, each in self.parameters.items()
            }

    def step(self, loss_of: Callable[[torch.Generator], torch.Tensor]) -> None:
        total = 0.0
        for _ in range(self.settings.accumulate):
            loss = loss_of(self.generator) / self.settings.accumulate
            self.scaler.scale(loss).backward()
            total += loss.item()
        if self.accelerator:
            total = share(self.accelerator, list(self.parameters.values()), total)
        drawn = self._drawn()
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip or math.inf).item()
        if not math.isfinite(total) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            raise StoppedError(self._no_number())
        self.whole = False
        for group, lr in zip(self.optimiser.param_groups, self.rates):
            group["lr"] = lr * rate(self.settings, self.progress.step)
        self.scaler.step(self.optimiser)  # with a scale that was too high it does nothing, and lowers the scale
        self.scaler.update()
        self.optimiser.zero_grad()
        self._average()
        self.progress.losses.append(total)
        self.drawn = drawn
        self.whole = True

    def _no_number(self) -> str:
        kept = f"; what was learned before is in {self.checkpoint}" if self.checkpoint and self.progress.step else ""
        return (
            f"the loss is no number any more in step {self.progress.step + 1}. Lower the learning rates, or set "
            f"precision to float32{kept}"
        )

    def _drawn(self) -> torch.Tensor:
        """How far the generator has drawn, uint8 [n], or those of all processes, [processes, n]."""
        state = self.generator.get_state()
        return self.accelerator.gather(state[None].to(self.accelerator.device)).cpu() if self.accelerator else state

    @torch.no_grad()
    def _average(self) -> None:
        """Let the running average follow, quicker at first, when there is little to average."""
        if average := list(self.progress.average.values()):
            keep = min(self.settings.ema, (1 + self.progress.step) / (10 + self.progress.step))
            torch._foreach_lerp_(average, list(self.parameters.values()), 1 - keep)

    def save(self) -> None:
        """Write the checkpoint; a disk that has no room for it is no reason to lose what is being learned."""
        if self.checkpoint is None or self.rank:
            return
        content = io.BytesIO()
        torch.save(
            {
                "parameters": {name: parameter.detach() for name, parameter in self.parameters.items()},
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "generator": self.drawn,
                "losses": self.progress.losses,
                "average": self.progress.average,
            },
            content,
        )
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            saving.write(self.checkpoint, content.getvalue(), "Training goes on without a checkpoint")
        except OSError as error:
            logging.warning("%s", error)

    def _go_on(self, saved: dict) -> None:
        """Take over everything of a checkpoint but the parameters and their average."""
        self.optimiser.load_state_dict(saved["optimiser"])
        for parameter, state in self.optimiser.state.items():
            # The fused step reads parameter and moments side by side, as they lie in memory.
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.empty_like(parameter).copy_(state[name])
        self.scaler.load_state_dict(saved["scaler"])
        self.progress.losses = saved["losses"]
        self.progress.resumed_at = self.progress.step
        self._draw_on(saved["generator"])
        if self.rank == 0:
            logging.info("Training goes on after step %d, from %s", self.progress.step, self.checkpoint)

    def _draw_on(self, drawn: torch.Tensor) -> None:
        """Go on in the random streams of a checkpoint, or in new ones where it was of another number of processes."""
        states = drawn.reshape(-1, drawn.shape[-1])
        if len(states) == self.world:
            self.generator.set_state(states[self.rank].clone())  # it cannot read a part of a larger tensor
            return
        self.generator = stream(self.settings.seed, self.rank, self.progress.step)
        if self.rank == 0:
            logging.warning(
                "Processes: this training has %d, the one that wrote %s had %d. Each draws from a new random stream, "
                "and the losses are not those to which that training would have gone on",
                self.world,
                self.checkpoint,
                len(states),
            )


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
