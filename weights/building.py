"""From a stranger's tensors to a network: sizes without surprises, and errors that name the file."""

from collections.abc import Callable, Collection

# What reading sizes from tensors of the wrong shape and loading them raises.
_DOES_NOT_FIT = (ValueError, IndexError, TypeError, RuntimeError)


def numbered(names: Collection[str], prefix: str) -> int:
    """How many modules `names` number after `prefix`: "blocks." with blocks.0.norm.weight, blocks.1.norm.weight is 2.

    Raises ValueError where the numbers are not 0, 1, 2 and so on, so that one name cannot ask for a billion modules.
    """
    numbers = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    if not numbers or numbers != {str(number) for number in range(len(numbers))}:
        raise ValueError(f"the tensors '{prefix}*' are not numbered 0, 1, 2 and so on")
    return len(numbers)


def built(message: str, build: Callable, *arguments):
    """What `build(*arguments)` makes; raises ValueError(`message` and why) where the tensors do not fit together."""
    try:
        return build(*arguments)
    except KeyError as error:
        reason = f"the tensor {error} is missing, so the file is incomplete; fetch it again"
        raise ValueError(f"{message}: {reason}.") from error
    except _DOES_NOT_FIT as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{message}: {reason.removesuffix('.')}.") from error
