"""Start a ComfyUI server with the extension and stop it again.

Standard library only; torch is imported late, to ask it for a GPU.
"""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..host_process import SetupError, extra_models_file

START_LIMIT = 300  # seconds; a first start compiles all of the host's Python, which a slow disk can make long
STOP_LIMIT = 10  # seconds
LOG_LINES_SHOWN = 15
# The host's main.py, in a process that ends when its input does: the pipe closes however the one that holds it ends.
_MAIN = """
import os, runpy, threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
runpy.run_path("main.py", run_name="__main__")
"""


@dataclass(frozen=True)
class RunningHost:
    """A running server: where it answers, its process, and the file with its output."""

    url: str
    process: subprocess.Popen
    log: Path


@contextlib.contextmanager
def start(
    base: Path,
    comfy: Path,
    python: Path = Path(sys.executable),
    port: int | None = None,
    extra_args: Sequence[str] = (),
    log: Path | None = None,
) -> Iterator[RunningHost]:
    """Run the ComfyUI at `comfy` with `base` as its base directory until the `with` block ends, or this process does.

    Args:
        port: port on 127.0.0.1; None takes a free one.
        extra_args: further arguments for the host's main.py.
        log: where its output goes; None: host.log beside the base directory.

    Raises:
        SetupError: the port is taken, or the server ended or stayed silent instead of answering.
    """
    port = _choose_port(port)
    log = log or base.parent / "host.log"
    command = [python, "-c", _MAIN, *_arguments(base, port), *extra_args]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=comfy, stdin=subprocess.PIPE, stdout=output, stderr=output)
    host = RunningHost(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_until_it_answers(host)
        yield host
    finally:
        _stop(process)


def _choose_port(port: int | None) -> int:
    """Return `port`, or a free one for None; raise SetupError where it is taken."""
    with socket.socket() as probe:
        if port is None:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise SetupError(
                f"Port {port} is taken: another program answers there.",
                "Stop that program, or choose another port with --port; without --port a free one is found.",
            )
    return port


def _arguments(base: Path, port: int) -> list[str | Path]:
    arguments = [
        "--listen", "127.0.0.1", "--port", str(port), "--base-directory", base, "--disable-api-nodes",
        "--preview-method", "auto",
        # In memory, as two servers that share user/ would lock each other out of a file.
        "--database-url", "sqlite:///:memory:",
    ]  # fmt: skip
    if extra_models_file(base).exists():
        arguments += ["--extra-model-paths-config", extra_models_file(base)]
    import torch

    if not (torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()):
        # The host's own choice on the CPU, sub-quadratic attention, is several times slower.
        arguments += ["--cpu", "--use-pytorch-cross-attention"]
    return arguments


def _wait_until_it_answers(host: RunningHost) -> None:
    # The system's proxy settings must not apply to the machine itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit:
        if host.process.poll() is not None:
            lines = host.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            failed = "\n".join(["ComfyUI ended while starting. The end of its log:", *lines])
            raise SetupError(failed, _advice(host.log))
        try:
            with opener.open(f"{host.url}/system_stats", timeout=5):
                return
        except OSError:  # nothing listens yet; urllib's errors are OSErrors
            time.sleep(0.2)
    raise SetupError(f"ComfyUI did not answer within {START_LIMIT} seconds.", _advice(host.log))


def _advice(log: Path) -> str:
    return (
        f"The whole log is {log}. If a package is missing or does not fit, delete the folder .venv and run this again; "
        "if COMFYUI_PATH is set, try once without it."
    )


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C
        process.kill()
        process.wait()
    process.stdin.close()
