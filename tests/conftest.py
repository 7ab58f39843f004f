"""Test bench: the checkout as the package `likeness`, and a real ComfyUI host on the CPU."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMFY = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".host" / "ComfyUI")
BASE = ROOT / ".host" / "test"


def _load_package() -> None:
    spec = importlib.util.spec_from_file_location(
        "likeness", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["likeness"] = package
    spec.loader.exec_module(package)


def _start_comfy() -> None:
    """Import the host's options with our arguments; every later `import comfy...` then sees the CPU and our folders."""
    if not (COMFY / "main.py").is_file():
        pytest.exit(f"no ComfyUI at {COMFY}: run 'python3 likeness.py test', which fetches one", returncode=1)
    for folder in ("custom_nodes", "models", "input", "output", "user", "temp"):
        (BASE / folder).mkdir(parents=True, exist_ok=True)
    from likeness.host_process import open_host

    open_host(COMFY, cpu=os.environ.get("LIKENESS_TEST_DEVICE") != "cuda", base=BASE, options=["--disable-api-nodes"])


_load_package()
_start_comfy()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def base() -> Path:
    """The host's base directory, with the pack linked, the built-in checkpoints and the reference photo in it."""
    from likeness.launcher import environment
    from likeness.tests.support import checkpoints

    environment.make_base(BASE)
    checkpoints.ensure(BASE / "models", COMFY)
    for file in (ROOT / "workflows" / "assets").glob("*.png"):
        shutil.copy(file, BASE / "input")
    return BASE


@pytest.fixture(scope="session")
def executor(base):
    """The host's graph executor in this process, with the pack loaded as the host loads it."""
    from likeness.tests.support.executor import Executor

    return Executor(base / "custom_nodes" / "ComfyUI-Likeness")


@pytest.fixture(scope="session")
def server(base):
    """The URL of a real server in a process of its own."""
    from likeness.launcher import hosting

    with hosting.start(base, COMFY) as host:
        yield host.url
