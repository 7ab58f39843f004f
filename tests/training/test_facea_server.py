"""FaceA training through a real server that is interrupted, and in a process that is killed."""

import asyncio
import shutil
import signal
import subprocess
import sys

import pytest
from likeness.launcher.client import Client
from likeness.launcher.environment import find_host
from likeness.tests.support.facea_graph import graph
from likeness.tests.support.graphs import ASSETS
from likeness.tests.support.train_commands import options

pytestmark = pytest.mark.slow


def queue(url, wanted, stop_at=None):
    async def talk():
        async with Client(url) as client:
            waiting = []

            def look(node, value, most):
                if node == "train" and stop_at and value >= stop_at and not waiting:
                    waiting.append(asyncio.ensure_future(client.interrupt()))

            return await client.run(wanted, look)

    return asyncio.run(talk())


def test_interrupted_in_the_editor_it_keeps_what_was_learned(server, base):
    places = [base / "output" / "facea_training", base / "output" / "facea" / "stopped"]
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
    assert queue(server, graph(500), stop_at=2).status == "interrupted"
    (checkpoint,), (kept,) = (list(place.iterdir()) for place in places)
    assert kept.name.startswith(f"{checkpoint.stem}_step_")
    done = int(kept.stem.split("_")[-1])
    again = queue(server, graph(done + 1))
    assert again.status == "success" and f"went on after step {done}" in str(again.history["outputs"]["shown"])
    assert len(again.images["train"]) == 1, "the loss curve"
    shutil.rmtree(places[1])


# In a process of its own, without the command line's set-up: a test never makes or changes an environment.
TRAIN = """
import importlib.util, sys
from pathlib import Path
root, comfy, *arguments = sys.argv[1:]
spec = importlib.util.spec_from_file_location("likeness", f"{root}/__init__.py", submodule_search_locations=[root])
sys.modules["likeness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["likeness"])
from likeness.launcher import train
train.open_host(Path(comfy), cpu=True)
from likeness.training import progress_line
progress_line.LOG_SECONDS = 0
sys.exit(train.main(arguments, Path(comfy)))
"""
OPTIONS = ["--detector", "opencv: haar cascade", "--size", "128", "--cpu"]
SETTINGS = ["steps=3", "batch=1", "rank=2", "checkpoint_seconds=0", "seed=3", "data.mask_expand=8"]


def test_killed_it_goes_on_to_the_same_file(tmp_path, root, base):
    """Killed after a step and run again: byte for byte what is written where nobody kills it."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("portrait.png", "astronaut.png"):
        shutil.copy(ASSETS / name, photos)
    checkpoint = base / "models" / "checkpoints" / "likeness_builtin_sd15_inpaint.ckpt"
    settings = options(*SETTINGS)

    def list_arguments(output) -> list[str]:
        return [str(part) for part in ("facea", photos, checkpoint, output, *OPTIONS, *settings)]

    def run(output, kill=False) -> str:
        command = [sys.executable, "-P", "-c", TRAIN, str(root), str(find_host()), *list_arguments(output)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
        ) as process:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if kill and " 2/3 [" in line:
                    process.kill()
        assert process.returncode == (-signal.SIGKILL if kill else 0), lines
        return "".join(lines)

    run(tmp_path / "a.safetensors", kill=True)
    assert not (tmp_path / "a.safetensors").exists()
    assert "went on after step " in run(tmp_path / "a.safetensors")
    assert "went on after step " not in run(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
