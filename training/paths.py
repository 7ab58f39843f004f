"""What a training reads and where it writes, looked at before any photo is read."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from .distributed import is_main


def check_paths(folder: Path, checkpoint: str, output: Path, kind: str, words: Iterable[str]) -> None:
    """Raise ValueError or OSError where photos or checkpoint are not there, or the output cannot be written.

    kind: of checkpoint that is wanted, for the sentence. words: what stands for a base that comes with the pack.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} with photos.")
    if checkpoint not in words and not Path(checkpoint).is_file():
        names = ", or ".join([f"name {kind} checkpoint file", *words])
        raise ValueError(f"There is no checkpoint {checkpoint}: {names}.")
    check_output(output)


def check_output(output: Path) -> None:
    """Raise ValueError or OSError where a training cannot write its file; of several processes the main one does."""
    if output.suffix != ".safetensors":
        raise ValueError(f"The file to write must be called something.safetensors, not {output.name}.")
    if not is_main():
        return
    if output.is_dir():
        raise ValueError(f"{output} is a folder: name the file to write.")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"Nothing can be written into {output.parent} ({why}): make it, or name another.") from error
