"""`python3 likeness.py train`: a person, an adapter, an encoder, or the miniature's own weights."""

import argparse
from pathlib import Path

from ..host_process import load_extra_models, open_host

PERSON, ENCODER, ADAPTERS, MINIATURE = "facea", "msid", ("fact", "face2diffusion", "infinite-id"), "miniature"


def main(arguments: list[str], comfy: Path) -> int:
    """Train what the first argument names; stopped with Ctrl-C it keeps what was learned, run again it goes on.

    Raises SetupError with a sentence where photos, checkpoint or settings do not serve.
    """
    parser = argparse.ArgumentParser(
        prog="likeness.py train", description=__doc__, epilog="'train facea -h' says what a person takes, and so on."
    )
    parser.add_argument("what", choices=(PERSON, *ADAPTERS, ENCODER, MINIATURE), help="what to train")
    what = parser.parse_args(arguments[:1]).what
    if what == MINIATURE:
        open_host(comfy, cpu="--cpu" in arguments)
        from ..miniature.recipes import command as recipes

        return recipes.main(arguments[1:])
    open_registered(comfy, cpu="--cpu" in arguments)
    from ..training import adapter_command, command, msid_command

    if what == ENCODER:
        return msid_command.main(arguments[1:])
    return adapter_command.main(arguments) if what in ADAPTERS else command.main(arguments[1:])


def prepare(arguments: list[str], comfy: Path) -> int:
    """Encode photos for trainings of adapters; raises SetupError where something does not serve."""
    open_registered(comfy, cpu=False)
    from ..training import prepare_command

    return prepare_command.main(arguments)


def open_registered(comfy: Path, cpu: bool) -> None:
    """Open the host with its further model folders, our own, and what the miniature brings."""
    open_host(comfy, cpu)
    load_extra_models()
    from ..miniature import registration
    from ..weights import folders

    folders.register()
    registration.register()
    registration.register_base()
