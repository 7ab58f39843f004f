"""ONNX files are tried out in a process of their own before a native reader of this one gets them.

A damaged file can end the process that reads it, a hostile one fill its memory or never come to an end. Files whose
hash is published are not tried.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management

from . import manifest
from .files import HEAD, file_sha256, not_weights
from .onnx_operators import list_operators

_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}  # no face network needs them, and a loop need not end
_SECONDS, _BYTES_A_SECOND = 60, 5_000_000
_MEMORY, _MEMORY_FACTOR = 1 << 30, 8  # bytes beside the program's own, and for each of the file's
_LONGEST_REASON = 200  # characters

# Each opens a file and runs the network once, on noise.
_LIMIT = """
import sys
path, memory = sys.argv[1], int(sys.argv[2])
try:
    import resource
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, OSError):  # systems without such limits, or such a count
    pass
"""
_OPENCV = f"""
import cv2, numpy
cv2.setNumThreads(1)
{_LIMIT}
for width, height in ((320, 320), (640, 480)):
    network = cv2.FaceDetectorYN.create(path, "", (width, height), 0.0)
    network.detect(numpy.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=numpy.uint8))
"""
_ONNXRUNTIME = f"""
import numpy, onnxruntime
onnxruntime.set_default_logger_severity(4)
{_LIMIT}
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
feed = {{}}
for value in session.get_inputs():
    shape = [side if isinstance(side, int) and side > 0 else 64 if axis else 1 for axis, side in enumerate(value.shape)]
    feed[value.name] = numpy.random.default_rng(0).random(shape, dtype=numpy.float32)
session.run(None, feed)
"""
_READERS = {"opencv": _OPENCV, "onnxruntime": _ONNXRUNTIME}
_passed: set[tuple[str, str]] = set()  # reader and sha256


@contextmanager
def name_faults(subject: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what a native reader raises inside, its errors have no common class, into ValueError about `subject`.

    but: what comes out as it is, beside the host's interruption and running out of memory.
    """
    try:
        yield
    except (comfy.model_management.InterruptProcessingException, *but):
        raise
    except Exception as error:
        if comfy.model_management.is_oom(error):
            raise
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise ValueError(f"{subject}: {reason}. Download the file again, or choose another.") from error


def try_out(path: str | Path, reader: str) -> None:
    """Raise ValueError, with what is wrong but without the file's name, where `reader` had better not get the file.

    reader: "opencv" or "onnxruntime". A file is tried once, as long as this process runs.
    """
    with open(path, "rb") as file:
        if reason := not_weights(file.read(HEAD)):
            raise ValueError(f"it is {reason}")
    sha256 = file_sha256(path)
    if (reader, sha256) in _passed or sha256 in {entry.sha256 for entry in manifest.entries()}:
        return
    if control := sorted(list_operators(path) & _CONTROL_FLOW):
        raise ValueError(f"it branches or loops ({', '.join(control)}), which no published network of a face does")
    _run(str(path), reader)
    _passed.add((reader, sha256))


def _run(path: str, reader: str) -> None:
    size = os.path.getsize(path)
    # The packages are those that this process finds, wherever it found them; -P: and none beside the script.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-c", _READERS[reader], path, str(_MEMORY + _MEMORY_FACTOR * size)]
    try:
        run = subprocess.run(
            command, env=environment, capture_output=True, timeout=_SECONDS + size / _BYTES_A_SECOND, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{reader} did not come to an end with it in {error.timeout:.0f} seconds") from error
    if run.returncode < 0 or run.returncode > 128:
        raise ValueError(f"it ends the process in which {reader} reads it")
    if run.returncode:
        lines = run.stderr.decode("utf-8", "replace").strip().splitlines()
        says = next((line for line in reversed(lines) if re.match(r"[\w.]+: ", line)), "nothing")
        raise ValueError(f"{reader} says: {says[:_LONGEST_REASON]}")
