"""Packages that a user need not have: without them a test is skipped, but fails where `CI` is set."""

import importlib
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest


def need(name: str) -> ModuleType:
    """Import an optional package."""
    return importlib.import_module(name) if "CI" in os.environ else pytest.importorskip(name)


def need_program(name: str) -> str:
    """Return the path of a program that comes with a package: beside this Python, or where others are."""
    path = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    if not path and "CI" not in os.environ:
        pytest.skip(f"there is no {name}")
    assert path, f"there is no {name}"
    return path
