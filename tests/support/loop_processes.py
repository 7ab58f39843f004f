"""A script for `accelerate launch`: trains in several processes, and leaves what each has in <folder>/<rank>.pt.

Behind the folder may come "killed", see `killed_twice`, and a folder with people, see `divide_photos`.
"""

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


def killed_twice(rank: int, folder: Path) -> dict:
    """The same training, in which the last process is killed after step 4 and, gone on from a checkpoint, after 6."""
    from likeness.tests.training.test_loop import CPU, TOGETHER, Line
    from likeness.training.loop import train

    def after_step(progress):
        if rank == 1 and progress.step == (6 if progress.resumed_at else 4) and progress.resumed_at < 5:
            os.kill(os.getpid(), signal.SIGKILL)

    line = Line()
    settings = replace(TOGETHER, checkpoint_seconds=0.0)
    progress = train(line.groups, line.loss, settings, CPU, folder / "killed.ckpt", after_step)
    return {"state": line.state(), "losses": progress.losses, "resumed_at": progress.resumed_at}


def divide_photos(people: Path, folder: Path) -> None:
    """Prepare photos into a folder of this machine's own, and train MSID on the shards that are there."""
    from likeness.miniature import registration
    from likeness.tests.support import rendered_people
    from likeness.training import msid_command, prepare_command

    registration.register()
    prepare_command.SHARD = 4
    prepare_command.prepare(people, folder / "prepared", None, [prepare_command.MSID], rendered_people.DATA)
    sizes = "steps=2", "batch=2", "dim=32", "depth=2", "taps=[0, 1]", "patch=14", "data.split=true"
    settings = [part for each in sizes for part in ("--set", each)]
    msid_command.main([str(folder / "prepared"), str(folder / "out" / "msid.safetensors"), *settings])


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

    found = {"killed": killed_twice(rank, folder)} if "killed" in sys.argv else {}
    found |= {
        "batch": describe_batch(3, TOGETHER.accumulate),
        "whole": trained(rank),
        "first": trained(rank, folder / "line.ckpt", stop=4),
        "second": trained(rank, folder / "line.ckpt"),
        "shared": shared(rank),
    }
    for people in sys.argv[3:]:
        divide_photos(Path(people), folder)
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
