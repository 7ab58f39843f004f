"""Open the host in this very process, and know where this checkout keeps what it runs the host with.

Standard library only at the top: the command line imports it before anything is installed.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BASE = ROOT / ".host" / "base"


class SetupError(Exception):
    """A step of the set-up failed; the text says what failed and what to do next."""

    def __init__(self, failed: str, remedy: str):
        super().__init__(f"{failed}\n{remedy}")


def open_host(comfy: Path, cpu: bool, base: Path = BASE, options: Sequence[str] = ()) -> None:
    """Make the ComfyUI at `comfy` importable; of several processes that train together each takes a GPU of its own.

    cpu: leave a GPU alone; base: the host's base directory; options: further arguments for its main.py.
    """
    sys.path.insert(0, str(comfy))
    import torch

    cpu = cpu or not torch.cuda.is_available()
    if not cpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    arguments = sys.argv
    # The host reads them once, when its options are first imported.
    sys.argv = ["main.py", "--use-pytorch-cross-attention", "--base-directory", str(base), *options]
    sys.argv += ["--cpu"] if cpu else []
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401

    sys.argv = arguments


def extra_models_file(base: Path) -> Path:
    """Return where the set-up leaves the host's list of further model folders."""
    return base / "extra_models.yaml"


def load_extra_models() -> None:
    """Let the opened host find the models of a ComfyUI that is the user's own, if there is one."""
    if extra_models_file(BASE).is_file():
        from utils.extra_config import load_extra_path_config  # the host's

        load_extra_path_config(str(extra_models_file(BASE)))
