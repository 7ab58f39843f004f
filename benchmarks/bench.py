"""What the benchmarks share: the host and the checkout as importable packages, the clock, and tables."""

import importlib.util
import os
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMFY = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".host" / "ComfyUI").resolve()
THREADS = 2  # of torch on the CPU, so that results of different machines are alike


def open_host() -> None:
    """Make the host (`comfy...`) and the checkout (`likeness...`) importable; on CUDA where there is some.

    A folder `site` beside the host, as in a bundle for machines without a package index, holds what the host imports.
    Further calls change nothing.
    """
    if "likeness" in sys.modules:
        return
    if not (COMFY / "main.py").is_file():
        sys.exit(f"no ComfyUI at {COMFY}: run 'python3 likeness.py bench NAME', which fetches one, or set COMFYUI_PATH")
    packages = str(COMFY.parent / "site")
    sys.path[:0] = [str(COMFY), packages]
    paths = packages, os.environ.get("PYTHONPATH")  # of child processes
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    load_package()
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(THREADS)
    cpu = [] if torch.cuda.is_available() else ["--cpu"]
    arguments, sys.argv = sys.argv, ["main.py", "--use-pytorch-cross-attention", *cpu]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401

    sys.argv = arguments


def load_package() -> None:
    """Import the checkout as the package `likeness`."""
    spec = importlib.util.spec_from_file_location(
        "likeness", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["likeness"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["likeness"])


def machine() -> str:
    """Return the machine a result comes from, without its name."""
    import torch

    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cpu = f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    gpu = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, " if torch.cuda.is_available() else ""
    return f"{gpu}{cpu}, torch {torch.__version__}, Python {platform.python_version()}"


def time_work(work: Callable[[], object], device, queued: bool = False) -> float:
    """Return the milliseconds that `work` takes on `device`.

    queued: on CUDA, keep the GPU busy first while the work is handed to it, so that only the GPU's own time counts.
    """
    import time

    import torch

    if device.type != "cuda":
        begin = time.perf_counter()
        work()
        return (time.perf_counter() - begin) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if queued:
        torch.cuda._sleep(4_000_000)  # clock cycles, about 2 ms
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


class StopWatch:
    """Adds up the milliseconds between every other two marks, the device's own time on CUDA."""

    def __init__(self, device):
        self.device, self.marks = device, []

    def mark(self) -> None:
        """Note the time."""
        import time

        import torch

        if self.device.type == "cuda":
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        else:
            self.marks.append(time.perf_counter())

    def total(self) -> float:
        """Return the milliseconds between the first and second, third and fourth ... mark, once the device is done."""
        pairs = zip(self.marks[::2], self.marks[1::2])
        if self.device.type == "cuda":
            return sum(begin.elapsed_time(end) for begin, end in pairs)
        return sum(end - begin for begin, end in pairs) * 1e3


def megabytes_at_most(work: Callable[[], object], device) -> float:
    """Return the peak memory of `work` on a CUDA device in MB, beyond what was taken before; nan elsewhere."""
    import torch

    if device.type != "cuda":
        return float("nan")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def spread(samples: list[float]) -> str:
    """Return median and extremes, as `12.3 (11.9-14.0)`."""
    return f"{statistics.median(samples):.4g} ({min(samples):.4g}-{max(samples):.4g})"


def table(columns: list[str], rows: list[list]) -> str:
    """Return a markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
