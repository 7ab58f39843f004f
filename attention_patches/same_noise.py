"""The same noise for both halves of a batch, whatever sampler draws it."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode

BY_SIZE = {torch.randn, torch.rand}
BY_EXAMPLE = {torch.randn_like, torch.rand_like}
IN_PLACE = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.exponential_, torch.Tensor.cauchy_}


class SameNoise(TorchFunctionMode):
    """While it is on, random images of `rows` rows, [rows, c, ...], are drawn for half of them, and stand twice.

    So the first half has the noise that a batch of half the size would have, from whatever generator: that of
    `torch.randn`, of a Brownian tree, of the noise a sampler lays into a masked image.
    """

    def __init__(self, rows: int):
        self.rows = rows

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in BY_SIZE:
            size = _read_size(args, kwargs)
            if self._is_whole(size):
                kwargs = {name: value for name, value in kwargs.items() if name != "size"}
                return _repeat(func((size[0] // 2, *size[1:]), **kwargs))
        elif func in BY_EXAMPLE and self._is_whole(args[0].shape):
            return _repeat(func(args[0][: self.rows // 2], *args[1:], **kwargs))
        elif func in IN_PLACE and self._is_whole(args[0].shape):
            args[0][self.rows // 2 :] = func(args[0][: self.rows // 2], *args[1:], **kwargs)
            return args[0]
        return func(*args, **kwargs)

    @contextmanager
    def paused(self):
        """Be off for as long as the model runs: it draws nothing, and every call would pass through here."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def _is_whole(self, size) -> bool:
        return len(size) > 2 and size[0] == self.rows


def _repeat(half: torch.Tensor) -> torch.Tensor:
    return torch.cat((half, half))


def _read_size(args, kwargs):
    if "size" in kwargs:
        return kwargs["size"]
    return args[0] if args and not isinstance(args[0], int) else args
