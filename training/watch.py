"""What a training leaves on its way: a log, the picture of its losses, numbered snapshots, and the best of them."""

import contextlib
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from . import curve
from .distributed import is_main
from .loop import Progress, lr_factor, make_stream
from .settings import BEST, WatchedSettings

Loss = Callable[[torch.Generator, int], torch.Tensor]  # of a sampled batch in a step
_DRAW_SECONDS = 30.0  # at least, from one picture of the losses to the next


class Watch:
    """What `loop.train` is to call after every step; of several processes the main one writes.

    lr: the learning rate, for the log. output: the file to be; beside it lie NAME.log.jsonl, a line every `log_steps`
    steps and at the end, NAME.png, numbered snapshots NAME.step-00001000.safetensors and, where there is a validation,
    NAME.best.safetensors. write: writes what is learned as it is to a path. validate: called with the step, returns
    numbers by name, for the log; None for no validation. best: of these the one that chooses the best file: the lowest
    loss, "validation", or the highest score.
    """

    def __init__(
        self,
        settings: WatchedSettings,
        lr: float,
        output: Path,
        write: Callable[[Path], None],
        validate: Callable[[int], dict[str, float]] | None = None,
        best: str = BEST[0],
    ):
        self.settings, self.lr, self.output, self.write, self.validate = settings, lr, output, write, validate
        self.key, self.sign = best, -1 if best == BEST[0] else 1
        self.log = output.with_suffix(".log.jsonl")
        self.board = _open_board(output) if settings.tensorboard and is_main() else None
        self.best, self.opened, self.drawn = -math.inf, False, time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if not is_main():
            return
        if not self.opened:
            self._open(progress.resumed_at)
        settings, step = self.settings, progress.step
        entry = {}
        if settings.log_steps and (step % settings.log_steps == 0 or step == settings.steps):
            losses = progress.losses[-(step % settings.log_steps or settings.log_steps) :]
            entry |= {"loss": sum(losses) / len(losses), "lr": self.lr * lr_factor(settings, step - 1)}
        if self.validate and (_is_due(step, settings.validate_steps) or step == settings.steps):
            entry |= self.validate(step)
            if self.key in entry and self.sign * entry[self.key] > self.best:
                self.best = self.sign * entry[self.key]
                self.write(self.output.with_suffix(".best.safetensors"))
        if _is_due(step, settings.snapshot_steps):
            self.write(self.output.with_suffix(f".step-{step:08d}.safetensors"))
        if entry:
            self._note({"step": step, "seconds": round(progress.seconds, 3)} | entry)
        if time.monotonic() - self.drawn > _DRAW_SECONDS:
            curve.draw(progress.losses, settings.steps).save(self.output.with_suffix(".png"))
            self.drawn = time.monotonic()

    def _open(self, resumed_at: int) -> None:
        """Keep the lines of the log up to the step after which this run goes on: the rest is made anew."""
        entries = [entry for entry in read_log(self.log) if entry["step"] <= resumed_at]
        values = (self.sign * entry[self.key] for entry in entries if self.key in entry)
        self.best = max(values, default=-math.inf)
        self.log.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), "utf-8")
        self.opened = True

    def _note(self, entry: dict) -> None:
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"{json.dumps(entry)}\n")
        for name in entry.keys() - {"step", "seconds"} if self.board else ():
            self.board.add_scalar(name, entry[name], entry["step"])


def read_log(path: Path) -> list[dict]:
    """Return the entries of a log, nothing where there is none; a line that was cut off is left out."""
    entries = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def check_board(settings: WatchedSettings, output: Path) -> None:
    """Raise ValueError where TensorBoard is wanted and not installed, before anything long has begun."""
    if settings.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "tensorboard = true needs TensorBoard, which is not installed: run 'python -m pip install tensorboard' "
            f"with this Python, or leave the setting out; {output.with_suffix('.log.jsonl')} has the same numbers."
        )


def _open_board(output: Path):
    """Return what writes for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(output.with_suffix(".tensorboard")))


@contextlib.contextmanager
def averaged(module: torch.nn.Module, progress: Progress) -> Iterator[None]:
    """Let a module have the running average of its parameters for a while, where there is one, and rest."""
    with progress.averaged(dict(module.named_parameters())):
        module.eval()
        try:
            yield
        finally:
            module.train()


@torch.no_grad()
def mean_loss(loss: Loss, batches: int) -> float:
    """Return the mean of a loss over batches that are the same at every call."""
    generator = make_stream(0)
    return sum(loss(generator, 0).item() for _ in range(batches)) / batches
