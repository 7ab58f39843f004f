"""The set-up: what is installed, from where, and what a person reads when it fails. None of this needs the network."""

import copy
import importlib.util
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import folder_paths
import pytest
from likeness.host_process import SetupError
from likeness.launcher import environment, hosting
from utils.extra_config import load_extra_path_config

CPU_TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"


@pytest.fixture
def comfy() -> Path:
    """The ComfyUI these tests run in."""
    return Path(folder_paths.__file__).parent


def test_requirements_are_trimmed():
    text = """
    torch
    torchsde  # samplers
    torchvision>=0.20
    comfyui-frontend-package==1.47.12
    comfyui_workflow_templates==0.11.27
    comfyui-embedded-docs==0.5.9

    # not essential
    torch-geometric
    pydantic~=2.0
    """
    file = ["comfyui-frontend-package==1.47.12", "torch-geometric", "pydantic~=2.0"]
    assert environment.trim_requirements(text) == file


def test_requirements_join_host_and_project(comfy, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    wanted = environment.requirements(comfy)
    assert wanted[:4] == ["torch==2.13.*", "torchvision==0.28.*", "torchaudio==2.11.*", "torchsde"]
    names = [line.split("=")[0].split(">")[0] for line in wanted]
    assert {"safetensors", "av", "comfy-kitchen", "pytest", "ruff", "opencv-python-headless"} <= set(names)
    assert "opencv-python" not in names


def test_what_the_tests_of_optional_packages_need(monkeypatch):
    calls = []
    monkeypatch.setattr(environment, "_pip", lambda python, arguments, log: calls.append(arguments))
    environment.add_extra("test")
    ((order, *wanted),) = calls
    assert order == "install"
    assert {re.match(r"[\w-]+", line)[0] for line in wanted} == {"webdataset", "tensorboard", "comfy-cli"}


def test_cpu_wheel_is_found_for_this_python_only(tmp_path, monkeypatch, comfy):
    other, mine = tmp_path / "other", tmp_path / "mine"
    for folder, tag in (other, "cp27"), (mine, CPU_TAG):
        folder.mkdir()
        (folder / f"torch-2.13.1+cpu-{tag}-{tag}-linux_x86_64.whl").touch()
    (mine / f"torch-2.15.0+cpu-{CPU_TAG}-{CPU_TAG}-linux_x86_64.whl").touch()
    assert environment.cpu_torch_version("") is None
    assert environment.cpu_torch_version(f"{other} {tmp_path / 'missing'} https://example.org/wheels") is None
    assert environment.cpu_torch_version(f"{other} {mine}") == "2.13.1+cpu"
    monkeypatch.setenv("PIP_FIND_LINKS", str(mine))
    assert environment.requirements(comfy)[0] == "torch==2.13.1+cpu"


def test_the_python_that_is_promised_is_the_one_that_is_asked_for(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = project["project"]["requires-python"].removeprefix(">=")
    assert project["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in (root / "likeness.py").read_text(encoding="utf-8")
    assert f"You need Python {oldest} or newer" in (root / "README.md").read_text(encoding="utf-8")


def test_stamp_changes_with_every_pin():
    wanted = ["torch==2.13.*", "numpy>=1.25.0"]
    changed = [[wanted[0], "torchvision==0.29.*", wanted[1]], [wanted[0], "numpy>=2"], wanted[:1]]
    stamps = {environment.stamp(lines) for lines in (wanted, *changed)}
    assert len(stamps) == 4
    assert environment.stamp(list(wanted)) in stamps
    assert environment.stamp(["torch==2.13.1+cpu", wanted[1]]) in stamps  # the build found does not count, the pin does
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "TORCH", ("torch==2.14.*", *environment.TORCH[1:]))
        assert environment.stamp(wanted) not in stamps


def archive_with(file: Path, *members: str) -> Path:
    with tarfile.open(file, "w:gz") as tar:
        for name in members:
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"hello"))
    return file


def test_unpack_takes_the_folder_inside(tmp_path):
    archive = archive_with(tmp_path / "a.tar.gz", "outer/vendor/ComfyUI/main.py", "outer/setup.py")
    environment.unpack(archive, "outer/vendor/ComfyUI", tmp_path / "ComfyUI")
    assert (tmp_path / "ComfyUI" / "main.py").read_text() == "hello"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ComfyUI", "a.tar.gz"]


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="Python before 3.11.4")
def test_unpack_refuses_an_archive_that_reaches_outside(tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    archive = archive_with(folder / "a.tar.gz", "ComfyUI/main.py", "../../evil.py")
    with pytest.raises(SetupError, match="a.tar.gz cannot be unpacked safely"):
        environment.unpack(archive, "ComfyUI", folder / "ComfyUI")
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "a.tar.gz"]


def test_link_leads_to_the_checkout_and_follows_it(tmp_path):
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "link"
    old.mkdir()
    new.mkdir()
    environment.link_folder(link, old)
    environment.link_folder(link, old)
    assert link.resolve() == old
    environment.link_folder(link, new)
    assert link.resolve() == new
    new.rmdir()
    environment.link_folder(link, old)  # a link that leads nowhere is replaced too
    assert link.resolve() == old


def test_link_does_not_replace_a_folder(tmp_path):
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "work.txt").touch()
    with pytest.raises(SetupError, match="is in the way"):
        environment.link_folder(tmp_path / "link", tmp_path)
    assert (tmp_path / "link" / "work.txt").exists()


def test_base_directory(tmp_path, root):
    environment.make_base(tmp_path)
    settings = tmp_path / "user" / "default" / "comfy.settings.json"
    assert {"Comfy.TutorialCompleted", "Comfy.OnboardingCoachmarks.Seen"} == json.loads(settings.read_text()).keys()
    assert (tmp_path / "custom_nodes" / "ComfyUI-Likeness" / "likeness.py").samefile(root / "likeness.py")
    settings.write_text('{"Comfy.TutorialCompleted": true, "own": 1}')
    environment.make_base(tmp_path)
    assert "own" in settings.read_text()


def test_host_finds_the_models_of_the_users_own_comfyui(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", copy.deepcopy(folder_paths.folder_names_and_paths))
    user_host = tmp_path / "My ComfyUI: the 2nd"
    environment.write_extra_models(tmp_path, user_host)
    load_extra_path_config(str(environment.extra_models_file(tmp_path)))
    for kind in ("checkpoints", "loras", "clip_vision", "facechain_fact", "insightface"):
        assert str(user_host / "models" / kind) in folder_paths.folder_names_and_paths[kind][0]
    environment.write_extra_models(tmp_path, environment.HOST / "ComfyUI")
    assert not environment.extra_models_file(tmp_path).exists()


def test_named_comfyui_is_used_or_refused(tmp_path, comfy, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(comfy))
    assert environment.find_host() == comfy.resolve()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(SetupError, match="no ComfyUI there .*\n.*unset it"):
        environment.find_host()


def test_enclosing_comfyui_comes_before_the_fetched_one(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(environment, "ROOT", tmp_path / "Own" / "custom_nodes" / "ComfyUI-Likeness")
    monkeypatch.setattr(environment, "HOST", tmp_path / ".host")
    assert environment.find_host() is None
    for folder in tmp_path / ".host" / "ComfyUI", tmp_path / "Own":
        (folder / "comfy").mkdir(parents=True)
        assert environment.find_host() != folder  # main.py is missing: not complete
        (folder / "main.py").touch()
        assert environment.find_host() == folder


def test_command_line_tells_a_failure_in_plain_sentences(root, tmp_path):
    command = [sys.executable, root / "likeness.py", "host"]
    done = subprocess.run(command, env={**os.environ, "COMFYUI_PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"COMFYUI_PATH is {tmp_path}, but there is no ComfyUI there (main.py and comfy/ are missing).",
        "Set it to the folder that holds ComfyUI's main.py, or unset it to have one fetched.",
    ]


def test_command_line_hands_arguments_on(root):
    spec = importlib.util.spec_from_file_location("likeness_command_line", root / "likeness.py")
    command_line = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command_line)
    assert command_line.parse(["test", "-k", "face", "tests/launcher/test_demo.py", "-x"]).rest == [
        "-k", "face", "tests/launcher/test_demo.py", "-x",
    ]  # fmt: skip
    options = command_line.parse(["host", "--port", "8200", "--lowvram"])
    assert (options.port, options.rest) == (8200, ["--lowvram"])
    options = command_line.parse(["bench", "cuda", "--tiny", "sfags", "--minutes", "3", "-h"])
    assert (options.name, options.rest) == ("cuda", ["--tiny", "sfags", "--minutes", "3", "-h"])
    with pytest.raises(SystemExit):
        command_line.parse(["demo", "--lowvram"])
    with pytest.raises(SystemExit):
        command_line.parse(["bench", "nothing"])
    assert all((root / "benchmarks" / script).is_file() for script in command_line.BENCHMARKS.values())
    pages = "".join((root / page).read_text(encoding="utf-8") for page in ("README.md", "benchmarks/RESULTS.md"))
    assert set(re.findall(r"likeness\.py bench (\w+)", pages)) == set(command_line.BENCHMARKS)


def test_taken_port_is_named(tmp_path, comfy):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        taken = pytest.raises(SetupError, match=rf"Port {port} is taken.*\n.*--port")
        with taken, hosting.start(tmp_path, comfy, port=port):
            pass


def test_missing_package_is_named():
    output = "ERROR: Could not find a version that satisfies the requirement torch==2.13.* (from versions: none)\n"
    assert environment.pip_complaint(output) == "pip could not get torch==2.13.*."
    full = "Collecting av\nERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    assert "No space left" in environment.pip_complaint(full)


@pytest.mark.slow
def test_failed_install_leaves_no_stamp(tmp_path, comfy, monkeypatch):
    venv = tmp_path / ".venv"
    paths = {"VENV": venv, "PYTHON": venv / environment.PYTHON.relative_to(environment.VENV), "HOST": tmp_path}
    for name, value in (paths | {"INSTALL_LOG": tmp_path / "install.log"}).items():
        monkeypatch.setattr(environment, name, value)
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    for name, value in (offline | {"COMFYUI_PATH": str(comfy)}).items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SetupError) as caught:
        environment.prepare()
    assert str(caught.value).startswith(f"pip could not get torch==2.13.*. Details: {tmp_path / 'install.log'}\n")
    assert "needs the network" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".venv", "install.log"]
    assert not (venv / "installed.sha256").exists()


@pytest.mark.slow
def test_host_that_ends_at_start_shows_its_log(tmp_path, comfy):
    environment.make_base(tmp_path / "base")
    ended = pytest.raises(SetupError, match="(?s)ended while starting.*unrecognized arguments: --nonsense\n")
    with ended, hosting.start(tmp_path / "base", comfy, extra_args=["--nonsense"]):
        pass


def test_a_linked_environment_is_never_cleared(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "package.py").write_text("")
    (tmp_path / ".venv").symlink_to(tmp_path / "theirs")
    with pytest.raises(SetupError, match="is a link to .*theirs.*\n.*Remove the link"):
        environment.make_venv(tmp_path / ".venv", tmp_path / "log")
    assert (tmp_path / "theirs" / "package.py").is_file()
