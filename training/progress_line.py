"""A line in the terminal that shows how far a training has come, how quickly, and how much longer it takes."""

import sys

from tqdm import tqdm

from .distributed import count_processes, describe_batch, is_main
from .loop import Progress

TERMINAL_SECONDS, LOG_SECONDS = 0.5, 5.0  # at least, from one line to the next
_LOSSES = 100  # of which the mean is shown


class ProgressLine:
    """What `loop.train` is to call after every step; of several processes the main one shows the line.

    settings: with steps, batch and accumulate. A sample is one image of a batch. When it is made it says how many
    processes and samples a step has.
    """

    def __init__(self, settings):
        if is_main():
            tqdm.write(describe_batch(settings.batch, settings.accumulate))
        self.steps = settings.steps
        self.samples = settings.batch * settings.accumulate * count_processes()
        self.bar: tqdm | None = None

    def __call__(self, progress: Progress) -> None:
        if self.bar is None:
            if progress.resumed_at and is_main():
                tqdm.write(f"went on after step {progress.resumed_at}")
            pause = TERMINAL_SECONDS if sys.stderr.isatty() else LOG_SECONDS
            self.bar = tqdm(
                total=self.steps, initial=progress.resumed_at, unit=" steps", mininterval=pause, disable=not is_main()
            )
        losses = progress.losses[-_LOSSES:]
        so_far = self.bar.format_dict
        rate = so_far["rate"] or (so_far["n"] - progress.resumed_at) / max(so_far["elapsed"], 1e-9)  # none at first
        text = f"loss {sum(losses) / len(losses):.4f}, {rate * self.samples:.1f} samples/s"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        if progress.step == self.steps:
            self.bar.close()
