"""The losses of a training as a picture and in words."""

import numpy as np
from PIL import Image, ImageDraw

from ..graphics import GRID, PALE_BLUE, PAPER, write

_SIZE, _LEFT, _TOP, _RIGHT, _BOTTOM = (640, 360), 70, 36, 20, 40  # pixels of the picture and its margins
_SMOOTH = (40, 92, 150)
_TICKS, _TEXT = 4, 14
_WIDTH, _HEIGHT = _SIZE[0] - _LEFT - _RIGHT, _SIZE[1] - _TOP - _BOTTOM  # of the field between the margins


def smooth(losses: list[float]) -> np.ndarray:
    """Return the mean of every loss and those before it, over a tenth of all: single losses depend on their noise."""
    width = max(1, len(losses) // 10)
    sums = np.cumsum([0.0, *losses])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def summarise(losses: list[float]) -> str:
    """Return in words where the loss began and where it is."""
    width = max(1, len(losses) // 10)
    first, last = (float(np.mean(part)) for part in (losses[:width], losses[-width:]))
    return f"loss {first:.4f} at first, {last:.4f} at the end (means of {width} step{'s' * (width > 1)})"


def outline(values: np.ndarray, stretches: int) -> np.ndarray:
    """Return indices that stand for many values [n]: the first, the last, and every stretch's lowest and highest.

    All of them, where they are few: up to twice the number of stretches.
    """
    every = np.arange(len(values))
    if len(every) <= 2 * stretches:
        return every
    parts = np.array_split(every, stretches)
    lowest, highest = ([part[best(values[part])] for part in parts] for best in (np.argmin, np.argmax))
    return np.unique([0, *lowest, *highest, len(every) - 1])


def draw(losses: list[float], steps: int) -> Image.Image:
    """Return an image of the losses of the steps so far of `steps`: single ones pale, their running mean dark."""
    losses = np.asarray(losses)
    canvas = Image.new("RGB", _SIZE, PAPER)
    pen = ImageDraw.Draw(canvas)
    running = smooth(losses)
    top = float(np.quantile(losses, 0.98)) * 1.05 or 1.0  # a few steps at small noise are far above the others

    def locate(step: float, loss: float) -> tuple[float, float]:
        return _LEFT + _WIDTH * step / max(steps, 1), _TOP + _HEIGHT * (1 - min(loss / top, 1))

    for tick in range(_TICKS + 1):
        loss, step = top * tick / _TICKS, steps * tick // _TICKS
        (x, y), (across, _) = locate(0, loss), locate(step, 0)
        pen.line((x, y, x + _WIDTH, y), fill=GRID)
        write(pen, (x - 8, y), f"{loss:.3g}", _TEXT, anchor="rm")
        write(pen, (across, _TOP + _HEIGHT + 5), str(step), _TEXT, anchor="ma")
    for values, colour, thick in ((losses, PALE_BLUE, 1), (running, _SMOOTH, 3)):
        pen.line([locate(step + 1, values[step]) for step in outline(values, _WIDTH)], fill=colour, width=thick)
    x, y = locate(len(losses), running[-1])
    pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=_SMOOTH)
    words = f"step {len(losses)} of {steps}, loss {running[-1]:.4f} (mean of {max(1, len(losses) // 10)})"
    write(pen, (_LEFT, 10), words, _TEXT)
    return canvas
