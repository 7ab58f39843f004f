"""A script for `accelerate launch`: trains in several processes, and leaves what each has in <folder>/<rank>.pt."""

import importlib.util
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch


def load_bench() -> None:
    """Import the pack and the host as the tests do."""
    spec = importlib.util.spec_from_file_location("conftest", Path(__file__).parents[1] / "conftest.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def trained(rank: int, checkpoint: Path | None = None, stop: int = 0) -> dict:
    """A line that each process begins elsewhere, and that every process stops after `stop` steps."""
    from likeness.tests.training.test_loop import CPU, TOGETHER, Killed, Line, stop_at
    from likeness.training.loop import Progress, train

    line, progress = Line(), Progress()
    line.slope.data.fill_(rank)
    try:
        train(line.groups, line.loss, TOGETHER, CPU, checkpoint, stop_at(stop), progress)
    except Killed:
        pass
    average = torch.cat(list(progress.average.values()))
    return {
        "state": line.state(),
        "average": average,
        "losses": progress.losses,
        "drawn": line.drawn,
        "resumed_at": progress.resumed_at,
    }


def killed_once(rank: int, folder: Path) -> dict:
    """The same training, in which the last process is killed after step 4 unless it goes on from a checkpoint."""
    from likeness.tests.training.test_loop import CPU, TOGETHER, Line
    from likeness.training.loop import train

    def after_step(progress):
        if progress.step == 4 and rank == 1 and not progress.resumed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    line = Line()
    settings = replace(TOGETHER, checkpoint_seconds=0.0)
    progress = train(line.groups, line.loss, settings, CPU, folder / "killed.ckpt", after_step)
    return {"state": line.state(), "losses": progress.losses, "resumed_at": progress.resumed_at}


def shared(rank: int) -> dict:
    """Gradients and losses that are shared: of parameters that both use, that one uses, that nobody uses."""
    from accelerate import Accelerator
    from likeness.training.distributed import share

    both, one, nobody = (torch.nn.Parameter(torch.ones(2, 3, 2, 2)) for _ in range(3))
    both.data = both.data.to(memory_format=torch.channels_last)
    loss = (both * torch.arange(24.0).view(2, 3, 2, 2) * (rank + 1)).sum() + (one.sum() if rank else 0)
    loss.backward()
    total = share(Accelerator(), [both, one, nobody], loss.item())
    return {"total": total, "both": both.grad, "one": one.grad, "nobody": nobody.grad, "stride": both.grad.stride()}


def main(folder: Path) -> None:
    load_bench()
    rank = int(os.environ.get("RANK", 0))
    from likeness.tests.training.test_loop import TOGETHER
    from likeness.training.distributed import describe_batch

    found = {"killed": killed_once(rank, folder)} if "killed" in sys.argv else {}
    found |= {
        "batch": describe_batch(3, TOGETHER.accumulate),
        "whole": trained(rank),
        "first": trained(rank, folder / "line.ckpt", stop=4),
        "second": trained(rank, folder / "line.ckpt"),
        "shared": shared(rank),
    }
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
