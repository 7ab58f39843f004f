"""Command lines of `likeness.py train`, and what a trained adapter is compared with."""

from pathlib import Path

from likeness.training import adapter_command


def options(*settings: str) -> list[str]:
    """Return settings as options of the command line."""
    return [part for setting in settings for part in ("--set", setting)]


def keep_untrained(method: str, path: Path, monkeypatch) -> None:
    """Let the trainer of `method` write every adapter that it makes into `path` before it learns anything."""
    how = adapter_command.METHODS[method]
    make = how.trainer.make

    def make_and_write(*given):
        fresh = make(*given)
        adapter_command._write(how, fresh, path)
        return fresh

    monkeypatch.setattr(how.trainer, "make", make_and_write)
