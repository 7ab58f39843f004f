"""Test bench: the checkout as the package `likeness`, and a real ComfyUI host on the CPU.

Every process that runs tests has a base directory of its own, so that several may run at once.
"""

import atexit
import ctypes
import gc
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
COMFY = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".host" / "ComfyUI")
BASE = Path(tempfile.mkdtemp(prefix="likeness-test-")) / "base"
atexit.register(shutil.rmtree, BASE.parent, ignore_errors=True)

gc.disable()  # until everything is imported, all of which stays

# The tests' tensors are so small that threads wait for each other longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")


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


def pytest_collection_modifyitems(items):
    """Put what needs the server first: of several workers one runs all of that, and starts the only server."""
    items.sort(key=lambda item: "server" not in item.fixturenames)


def pytest_collection_finish():
    """Let the collector of garbage look at what tests make alone."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)  # after the fixtures
def pytest_runtest_teardown(item, nextitem):
    """Give back what models took, where that is gigabytes: there are as many processes as cores."""
    if psutil.Process().memory_info().rss < 3e9:
        return
    if nextitem is None or nextitem.path != item.path:
        sys.modules["comfy.model_management"].unload_all_models()
        gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # free memory would stay with the process


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def base() -> Path:
    """The host's base directory, with the pack linked and the built-in checkpoints in it, and nothing else."""
    from likeness.launcher import environment
    from likeness.tests.support import checkpoints

    environment.make_base(BASE)
    checkpoints.ensure(BASE / "models", COMFY)
    return BASE


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """A models folder with real face networks, which the set-up of 'likeness.py test' fetches; without them: a skip.

    detection: face_landmarker.safetensors (MediaPipe; its full range in a file beside it) and
    face_detection_yunet_2023mar_int8bq.onnx. insightface: face_recognition_sface_2021dec_int8bq.onnx.
    """
    _skip_without_real_files()
    return ROOT / ".host" / "base" / "models"


@pytest.fixture(scope="session")
def real_photos() -> Path:
    """A folder with photographs of two people, see `launcher/real_files.py`; otherwise as `real_weights`."""
    _skip_without_real_files()
    return ROOT / ".host" / "photos"


@pytest.fixture(scope="module")
def real_folders(real_weights):
    """The host's folders `detection` and `insightface` are those of `real_weights`, in this process."""
    import folder_paths

    with pytest.MonkeyPatch.context() as patch:
        for kind, extensions in {"detection": {".safetensors", ".onnx"}, "insightface": {".onnx"}}.items():
            folders = ([str(real_weights / kind)], extensions)
            patch.setitem(folder_paths.folder_names_and_paths, kind, folders)
        patch.setattr(folder_paths, "filename_list_cache", {})
        yield real_weights


def _skip_without_real_files():
    from likeness.launcher import real_files

    if missing := real_files.find_missing(ROOT / ".host" / "base" / "models", ROOT / ".host" / "photos"):
        reason = f"{', '.join(missing)} are not in .host: 'python3 likeness.py test' fetches them"
        pytest.skip(os.environ.get("LIKENESS_NOT_FETCHED", reason))


@pytest.fixture
def compiler():
    """torch's compiler as in a new process: for all models it keeps code, and where it has given up."""
    import torch._dynamo

    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()


@pytest.fixture(scope="session")
def _executor(base):
    from likeness.tests.support.executor import Executor

    return Executor(base / "custom_nodes" / "ComfyUI-Likeness")


@pytest.fixture(scope="module")
def executor(_executor):
    """The host's graph executor in this process, with the pack loaded as the host loads it."""
    yield _executor
    _executor.forget()


@pytest.fixture(scope="session")
def server(base):
    """The URL of a real server in a process of its own."""
    from likeness.launcher import hosting

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")  # large tensors go back to the system
        with hosting.start(base, COMFY) as host:
            yield host.url
