"""The one training loop: AdamW over groups of parameters, with checkpoints from which it goes on bit for bit.

A trainer brings its parameters and a function that samples from a random generator and returns the loss of a step.

Several processes, started by `accelerate launch`, train together: each samples from a random stream of its own, and
all step by the mean of their gradients.
"""

import contextlib
import hashlib
import logging
import math
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..weights import saving
from .distributed import check_device, find_accelerator, from_main, is_main, share
from .locks import hold
from .precision import compute_dtype
from .settings import TrainingSettings

_IN_CHECKPOINT = {"parameters", "optimiser", "scaler", "generator", "losses"}


@dataclass(frozen=True)
class Group:
    """Parameters by name that learn at the rate `lr`."""

    parameters: dict[str, torch.nn.Parameter]
    lr: float


@dataclass
class Progress:
    """How far a training has come.

    losses: of every step. average: the running average of the parameters by name; empty where there is none.
    resumed_at: step after which this run went on from a checkpoint. seconds: of this run. peak: of the device's memory
    in bytes, 0 on a CPU.
    """

    losses: list[float] = field(default_factory=list)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    resumed_at: int = 0
    seconds: float = 0.0
    peak: int = 0

    @property
    def step(self) -> int:
        return len(self.losses)

    @contextlib.contextmanager
    def averaged(self, parameters: dict[str, torch.nn.Parameter]) -> Iterator[None]:
        """Let parameters, by name, be their running average for a while, where there is one."""
        before = {name: parameters[name].detach().clone() for name in self.average}
        _copy(self.average, parameters)
        try:
            yield
        finally:
            _copy(before, parameters)


@torch.no_grad()
def _copy(values: dict[str, torch.Tensor], parameters: dict[str, torch.nn.Parameter]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)


class StoppedError(RuntimeError):
    """Training cannot go on; the parameters hold what the last good step left."""


def lr_factor(settings: TrainingSettings, step: int) -> float:
    """Return the factor 0..1 of the learning rates in a step, counted from 0."""
    warmup = min(1.0, (step + 1) / (settings.warmup + 1))
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps)) if settings.cosine else 1.0
    return warmup * cosine


def make_stream(seed: int, rank: int = 0, step: int = 0) -> torch.Generator:
    """Return the random generator of process `rank` that begins after `step` steps; the first has the seed itself."""
    if rank or step:
        seed = int.from_bytes(hashlib.sha256(repr((seed, rank, step)).encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(seed)


def train(
    groups: list[Group],
    loss_of: Callable[[torch.Generator, int], torch.Tensor],
    settings: TrainingSettings,
    device: torch.device,
    checkpoint: Path | None = None,
    after_step: Callable[[Progress], None] = lambda progress: None,
    progress: Progress | None = None,
) -> Progress:
    """Train parameters in place until `settings.steps` steps are done, and return the progress.

    loss_of: samples from the generator, which is the CPU's, so that a seed means the same on every device; also told
    the step, counted from 0.
    checkpoint: a file to go on from where there is one; a damaged one is moved aside. Written every
    `checkpoint_seconds`, when something stops the training, and at the end. after_step: called with the progress after
    every step; what it raises stops the training. progress: updated after every step, also where something stops the
    training.

    Of several processes each calls this with the same parameters, and calls its own `after_step`; the losses are their
    means. Only the main one reads and writes the checkpoint, and all begin with its parameters.

    Raises StoppedError where loss or gradient is not finite, the checkpoint is of networks of other sizes, or another
    process holds it, and
    ModuleNotFoundError or RuntimeError where several processes were started that cannot train together. A checkpoint
    that cannot be written is only a warning.
    """
    with _hold(checkpoint):
        return _go_on(_State(groups, settings, device, checkpoint, progress or Progress()), loss_of, after_step)


def _hold(checkpoint: Path | None) -> contextlib.AbstractContextManager:
    """Keep the checkpoint to this training; what it returns raises StoppedError where another process has it."""
    if checkpoint is None or not is_main():
        return contextlib.nullcontext()
    refusal = StoppedError(
        f"the same training runs already, in another process that holds {checkpoint}. Wait for it or stop it; to run "
        "both, give one another seed and another file to write"
    )
    return hold(checkpoint.with_suffix(".lock"), refusal)


def _go_on(state: "_State", loss_of: Callable, after_step: Callable[[Progress], None]) -> Progress:
    progress, settings, device = state.progress, state.settings, state.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    written = begin = time.perf_counter()
    try:
        while progress.step < settings.steps:
            state.step(loss_of)
            progress.seconds = time.perf_counter() - begin
            progress.peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
            after_step(progress)
            if time.perf_counter() - written > settings.checkpoint_seconds:
                state.save()
                written = time.perf_counter()
    finally:
        if state.is_whole and progress.step > progress.resumed_at:
            state.save()
    return progress


def _read_checkpoint(path: Path) -> dict:
    """Return what a checkpoint holds; a damaged one is moved aside, with a warning, and nothing is returned: {}."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums that it writes
            if part := archive.testzip():
                raise ValueError(f"its part {part} is not what was written")
        saved = torch.load(path, weights_only=True, map_location="cpu")
        if missing := _IN_CHECKPOINT - saved.keys():
            raise ValueError(f"it has no {min(missing)}")
        return saved
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        logging.warning(
            "The checkpoint %s is damaged (%s). It was moved to %s, and the training begins anew.", path, reason, aside
        )
        return {}


def _save(content: dict, file: BinaryIO) -> None:
    """Write a checkpoint into an open file; raises OSError where there is no room."""
    try:
        torch.save(content, file)
    except RuntimeError as error:  # that torch makes of the file's
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


class _State:
    """Everything a training is after a step. is_whole: whether no step is half done."""

    def __init__(self, groups, settings: TrainingSettings, device: torch.device, checkpoint, progress: Progress):
        self.settings, self.device, self.checkpoint, self.progress = settings, device, checkpoint, progress
        self.parameters = {name: parameter for group in groups for name, parameter in group.parameters.items()}
        self.optimiser = torch.optim.AdamW(
            [{"params": list(group.parameters.values()), "lr": group.lr} for group in groups],
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.lrs = [group.lr for group in groups]
        # float16 has so little range that small gradients would be lost.
        half = compute_dtype(settings.precision, device) == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=half)
        self.accelerator = find_accelerator(device)
        self.rank, self.world = 0, 1
        if self.accelerator:
            check_device(self.accelerator, self.parameters)
            self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.generator = make_stream(settings.seed, self.rank)
        self._load()
        self.streams = self._read_streams()
        self.is_whole = True

    def step(self, loss_of: Callable[[torch.Generator, int], torch.Tensor]) -> None:
        """Make one step; raises StoppedError before anything changes where loss or gradient is not finite."""
        settings, step, total = self.settings, self.progress.step, 0.0
        for _ in range(settings.accumulate):
            loss = loss_of(self.generator, step) / settings.accumulate
            self.scaler.scale(loss).backward()
            total += loss.item()
        if self.accelerator:
            total = share(self.accelerator, list(self.parameters.values()), total)
        streams = self._read_streams()
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), settings.clip or math.inf).item()
        if not math.isfinite(total) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            file = f"; what was learned before is in {self.checkpoint}" if self.checkpoint and step else ""
            raise StoppedError(
                f"the loss is no number any more in step {step + 1}. Lower the learning rates, or set precision to "
                f"float32{file}"
            )
        self.is_whole = False
        for group, lr in zip(self.optimiser.param_groups, self.lrs):
            group["lr"] = lr * lr_factor(settings, step)
        self.scaler.step(self.optimiser)  # with a scale that was too high it does nothing, and lowers the scale
        self.scaler.update()
        self.optimiser.zero_grad()
        if average := list(self.progress.average.values()):
            decay = min(settings.ema, (1 + step) / (10 + step))  # quicker at first, when there is little to average
            get_ema_multi_avg_fn(decay)(average, list(self.parameters.values()), None)
        self.progress.losses.append(total)
        self.streams = streams
        self.is_whole = True

    def save(self) -> None:
        """Write the checkpoint; a disk that has no room for it is no reason to lose what is being learned."""
        if self.checkpoint is None or self.rank:
            return
        content = {
            "parameters": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generator": self.streams,
            "losses": self.progress.losses,
            "average": self.progress.average,
        }
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            saving.write(self.checkpoint, partial(_save, content), "Training goes on without a checkpoint")
        except OSError as error:
            logging.warning("%s", error)

    @torch.no_grad()
    def _load(self) -> None:
        """Go on from the checkpoint where there is one; several processes begin with what the main one has."""
        exists = self.rank == 0 and self.checkpoint is not None and self.checkpoint.is_file()
        saved = _read_checkpoint(self.checkpoint) if exists else {}
        if self.accelerator:
            saved = from_main(saved or {"parameters": {name: tensor.cpu() for name, tensor in self.parameters.items()}})
        if saved:
            values = {name: saved["parameters"][name] for name in self.parameters}
            if others := [name for name in values if values[name].shape != self.parameters[name].shape]:
                raise StoppedError(f"in {self.checkpoint} networks have other sizes, {others[0]} for one")
            _copy(values, self.parameters)
        if "losses" in saved:
            self._load_steps(saved)
        if self.settings.ema:
            average = saved.get("average") or self.parameters
            self.progress.average = {
                name: torch.empty_like(parameter).copy_(average[name]) for name, parameter in self.parameters.items()
            }

    def _load_steps(self, saved: dict) -> None:
        """Take over everything of a checkpoint but the parameters and their average."""
        self.optimiser.load_state_dict(saved["optimiser"])
        for parameter, state in self.optimiser.state.items():
            # The fused step reads parameter and moments side by side, as they lie in memory.
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.empty_like(parameter).copy_(state[name])
        self.scaler.load_state_dict(saved["scaler"])
        self.progress.losses = saved["losses"]
        step = self.progress.resumed_at = self.progress.step
        streams = saved["generator"].reshape(-1, saved["generator"].shape[-1])
        if len(streams) == self.world:
            self.generator.set_state(streams[self.rank].clone())  # it cannot read a part of a larger tensor
        else:
            self.generator = make_stream(self.settings.seed, self.rank, step)
        if self.rank == 0:
            logging.info("Training goes on after step %d, from %s", step, self.checkpoint)
            if len(streams) != self.world:
                logging.warning(
                    "Processes: this training has %d, the one that wrote %s had %d. Each draws from a new random "
                    "stream, and the losses are not those to which that training would have gone on",
                    self.world,
                    self.checkpoint,
                    len(streams),
                )

    def _read_streams(self) -> torch.Tensor:
        """Return the state of the random stream, uint8 [n], or those of all processes, [processes, n]."""
        state = self.generator.get_state()
        return self.accelerator.gather(state[None].to(self.accelerator.device)).cpu() if self.accelerator else state
