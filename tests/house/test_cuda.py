"""The command for a CUDA machine: every stage at small sizes, its limits, and the bundle such a machine gets."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
import safetensors.torch
import torch
from likeness.tests.conftest import COMFY, ROOT

pytestmark = pytest.mark.slow
COMMAND = ROOT / "benchmarks" / "on_cuda.py"
LIMIT = 64 * 2**20  # bytes that a bundle may have
# What such a machine has, by the head of pack_cuda.sh; what these need themselves it has too.
LISTED = (
    "torch", "torchvision", "torchaudio", "transformers", "tokenizers", "numpy", "scipy", "einops", "safetensors",
    "aiohttp", "yarl", "requests", "psutil", "tqdm", "pyyaml", "pillow", "filelock",
)  # fmt: skip
FOR_ALL_STAGES = (*LISTED, "opencv-python-headless", "onnx", "onnxruntime", "pytest", "hypothesis")


def run(command: list, **environment) -> subprocess.CompletedProcess:
    environment = {**os.environ, "COMFYUI_PATH": str(COMFY), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def outcomes(folder: Path) -> dict[str, dict]:
    """The stages of a run by name, as it wrote them."""
    return {stage["stage"]: stage for stage in json.loads((folder / "cuda.json").read_text())["stages"]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """What `pack_cuda.sh` gathers, small enough, for the Python at hand; None where no package index can be reached."""
    bundle = tmp_path_factory.mktemp("packed") / "bundle"
    version = ".".join(map(str, sys.version_info[:2]))
    packed = run(["bash", ROOT / "benchmarks" / "pack_cuda.sh", bundle], PYTHON_TAG=version)
    if packed.returncode and "Connection" in packed.stderr:
        return None
    assert packed.returncode == 0, packed.stdout + packed.stderr
    assert sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) < LIMIT
    return bundle


def run_bundle(bundle: Path, machine: Path, packages: tuple[str, ...], *arguments) -> subprocess.CompletedProcess:
    """Run the bundle's command in an environment, made in `machine`, with nothing but `packages` and what they need."""
    run([sys.executable, "-m", "venv", "--without-pip", machine])
    (site,) = machine.rglob("site-packages")
    for entry in {entry for name in needed(packages) for entry in entries(name)}:
        (site / entry.name).symlink_to(entry)
    for hook in Path(sysconfig.get_paths()["platlib"]).glob("torchvision_operators.*"):  # of launcher/cpu_torch.py
        (site / hook.name).symlink_to(hook)
    command = [machine / "bin" / "python", bundle / "likeness" / "benchmarks" / "on_cuda.py", "--tiny", *arguments]
    return run(command, COMFYUI_PATH=str(bundle / "ComfyUI"))


@pytest.fixture(scope="module")
def dry_run(bundle, tmp_path_factory):
    """All stages, as on a machine with a GPU; without a bundle in the checkout."""
    folder, arguments = tmp_path_factory.mktemp("cuda"), ("--minutes", "60", "--out")
    if bundle:
        done = run_bundle(bundle, folder / "machine", FOR_ALL_STAGES, *arguments, folder)
    else:
        done = run([sys.executable, COMMAND, "--tiny", *arguments, folder])
    assert (folder / "cuda.json").is_file(), done.stderr[-2000:]
    return folder, done


def test_every_stage_runs_at_small_sizes(dry_run):
    folder, done = dry_run
    stages = outcomes(folder)
    assert [name for name, stage in stages.items() if stage["state"] != "measured"] == [], [
        stage["error"] for stage in stages.values()
    ]
    assert done.returncode == 0 and all(stage["figures"] for stage in stages.values())
    report = (folder / "cuda.md").read_text()
    assert "Not measured, or in part: nothing." in report and all(f"## {name}" in report for name in stages)


def test_what_must_be_exact_is(dry_run):
    figures = outcomes(dry_run[0])["promises"]["figures"]
    exact = [name for name in figures if name.endswith(("the base model", "queued again"))]
    assert len(exact) >= 10 and {figures[name] for name in exact} == {"bit for bit"}


def test_a_stage_that_is_cut_or_not_reached_is_said_and_the_rest_counts(tmp_path):
    done = run([sys.executable, COMMAND, "--tiny", "--minutes", "0.05", "--out", tmp_path, "card", "goldens", "fact"])
    states = {name: stage["state"] for name, stage in outcomes(tmp_path).items()}
    assert done.returncode == 1 and states["card"] == "measured" and states["fact"] == "not run", states
    assert states["goldens"] in ("cut", "not run")
    assert "Not measured, or in part: goldens, fact." in (tmp_path / "cuda.md").read_text()


def test_the_bundle_begins_with_the_least(bundle, tmp_path):
    """On a machine with nothing but the packages that every stage needs."""
    if not bundle:
        pytest.skip("the package index cannot be reached, and the bundle takes wheels from it")
    done = run_bundle(bundle, tmp_path / "machine", LISTED, "--out", tmp_path, "card")
    assert done.returncode == 0, done.stderr[-2000:]
    assert outcomes(tmp_path)["card"]["state"] == "measured"


def test_a_part_of_the_miniature_trains_and_comes_back_in_pieces(tmp_path):
    """In a copy of the pack, for what it renders and trains lies in its folders."""
    others = shutil.ignore_patterns(".*", "output", "data", "__pycache__", "report", "golden")
    pack, out = tmp_path / "pack", tmp_path / "out"
    shutil.copytree(ROOT, pack, ignore=others)
    script = pack / "benchmarks" / "train_on_cuda.py"
    done = run([sys.executable, script, "base", "--tiny", "--out", out])
    assert done.returncode == 0, done.stderr[-2000:]
    pieces = sorted(out.glob("*.safetensors"))
    assert 2 <= len(pieces) <= 7 and all(piece.stat().st_size < 16 * 2**20 for piece in pieces)
    assert json.loads((out / "note.json").read_text())["steps"] == 2
    trained = pack / "output" / "miniature" / "base.safetensors"
    expected = safetensors.torch.load_file(trained)
    trained.unlink()
    assert run([sys.executable, script, "base", "--join", out]).returncode == 0
    joined = safetensors.torch.load_file(trained)
    assert joined.keys() == expected.keys()
    assert all(torch.equal(joined[name], tensor) for name, tensor in expected.items())


def needed(names) -> set[str]:
    """The distributions of `names` and all that they need here."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another system
        found.add(name)
        waiting += [requirement.split(";")[0].strip().split("[")[0] for requirement in map(bare, requirements)]
    return found


def bare(requirement: str) -> str:
    """A requirement without version."""
    return "".join(letter if letter not in "<>=!~( " else ";" for letter in requirement)


def entries(name: str) -> set[Path]:
    """What a distribution put into the folder of packages."""
    distribution = metadata.distribution(name)
    paths = {file.parts[0] for file in distribution.files or [] if ".." not in file.parts and file.parts[0] != "bin"}
    return {Path(distribution.locate_file(part)) for part in paths if part != "__pycache__"}


def test_weights_go_aside_and_come_back(tmp_path):
    """In a copy of the two folders that it touches."""
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "pack_cuda.sh", tmp_path / "benchmarks")
    weights = tmp_path / "miniature" / "weights"
    weights.mkdir(parents=True)
    (weights / "base.safetensors").write_bytes(b"weights")
    script = tmp_path / "benchmarks" / "pack_cuda.sh"
    assert run(["bash", script, "--aside"]).returncode == 0 and not weights.exists()
    run(["bash", script, "--back"])
    assert (weights / "base.safetensors").read_bytes() == b"weights"
