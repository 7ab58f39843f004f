"""The progress of a graph as a line in the terminal."""

import sys
from typing import TextIO

from .client import Progress, Prompt

LINE_WIDTH = 70  # characters; the line is padded, so that a shorter text overwrites a longer one


def progress_line(label: str, prompt: Prompt, stream: TextIO = sys.stdout) -> Progress:
    """Return a progress callback: one line that is updated on a terminal, a line for each node elsewhere."""
    shown = ""

    def show(node: str, value: float, maximum: float) -> None:
        nonlocal shown
        text = f"{label}: {title_of(prompt[node])}"
        if stream.isatty():
            steps = f" {value:.0f}/{maximum:.0f}" if maximum > 1 else ""
            print_line(text + steps, stream, end="\r")
        elif text != shown:
            print_line(text, stream)
        shown = text

    return show


def print_line(text: str, stream: TextIO = sys.stdout, end: str = "\n") -> None:
    """Print a line over what a progress line left on the terminal."""
    print(text.ljust(LINE_WIDTH) if stream.isatty() else text, end=end, flush=True, file=stream)


def title_of(node: dict) -> str:
    """Return what the editor shows as a node's name."""
    return node.get("_meta", {}).get("title") or node["class_type"]
