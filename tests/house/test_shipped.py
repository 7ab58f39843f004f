"""What the registry installs: the tracked files without those in .comfyignore, and whether the pack works from them."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import folder_paths
import pytest
from likeness.benchmarks.code_figures import list_files, list_imports, name_module

ROOT = Path(__file__).resolve().parents[2]
# The command line says that these need a clone.
CLONE_ONLY = {"launcher.train": {"miniature.recipes.command"}, "likeness": {"miniature.evaluation.command"}}
# In a process of its own, in the folder that the registry's name gives: loads the pack as the host does, and runs what
# a first graph needs.
LOAD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
packs = sys.argv[2:]
sys.argv = ["main.py", "--cpu", "--disable-api-nodes", "--base-directory", str(Path(packs[0]).parents[1])]
import comfy.options
comfy.options.enable_args_parsing()
import server, nodes
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
server.PromptServer(loop)
loop.run_until_complete(nodes.init_builtin_extra_nodes())
for pack in packs:
    assert loop.run_until_complete(nodes.load_custom_node(pack))
ours = sorted(name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("Likeness"))
load = nodes.NODE_CLASS_MAPPINGS["LikenessLoadMiniature"]
for task in ("text to image", "inpainting"):
    assert load.validate_inputs(task) is True
    load.execute(task)
for name in ("Adapter", "Encoder"):
    options = nodes.NODE_CLASS_MAPPINGS[f"LikenessLoadFace{name}"].INPUT_TYPES()["required"][f"{name.lower()}_name"]
    print(name, *options[1]["options"])
print("nodes", *ours)
"""


def git(*arguments: str) -> list[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")


@pytest.fixture(scope="module")
def list_shipped() -> list[str]:
    """The tracked files that are not in .comfyignore, as git reads it."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: which files are tracked is not known")
    ignored = set(git("ls-files", "-z", "--cached", "--ignored", "--exclude-from=.comfyignore"))
    return [name for name in git("ls-files", "-z") if name and name not in ignored]


@pytest.fixture(scope="module")
def pack(list_shipped, tmp_path_factory) -> Path:
    """The shipped files alone, in the folder that the registry gives them."""
    folder = tmp_path_factory.mktemp("base") / "custom_nodes" / "comfyui-likeness"
    for name in list_shipped:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_tests_benchmarks_recipes_and_report_images_stay_out(list_shipped):
    folders = {name.rsplit("/", 1)[0] for name in list_shipped}
    assert not folders & {".ci", "benchmarks", "miniature/recipes", "miniature/evaluation", "miniature/report"}
    assert not any(name.startswith("tests/") for name in list_shipped)


def test_what_the_nodes_and_the_editor_read_is_there(list_shipped):
    tracked = git(
        "ls-files", "-z", "web", "workflows", "subgraphs", "miniature/weights", "weights_manifest.json", "LICENSE"
    )
    assert {name for name in tracked if name} <= set(list_shipped)


def test_no_shipped_module_imports_one_that_is_not(pack):
    modules = {name_module(path) for path in list_files(ROOT)}
    present = {name_module(path): path for path in list_files(pack)}
    for module, path in present.items():
        imported = list_imports(path, ast.parse((pack / path).read_text(encoding="utf-8")), modules)
        assert imported - present.keys() <= CLONE_ONLY.get(module, set()), module


@pytest.mark.slow
def test_the_host_loads_the_shipped_files(pack):
    command = [sys.executable, "-c", LOAD, str(Path(folder_paths.__file__).parent), str(pack)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=pack.parent)
    assert run.returncode == 0 and "is here twice" not in run.stderr, run.stderr
    answers = {line.split()[0]: line.split()[1:] for line in run.stdout.splitlines()}
    pages = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))
    assert answers["nodes"] == pages, "every node has its help page, and none is missing"
    assert "miniature_fact.safetensors" in answers["Adapter"]
    assert "miniature_transface.safetensors" in answers["Encoder"]


@pytest.mark.slow
def test_two_copies_in_one_host_are_warned_of_with_both_paths(pack):
    command = [sys.executable, "-c", LOAD, str(Path(folder_paths.__file__).parent), str(pack), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=pack.parent)
    assert run.returncode == 0, run.stderr
    (warning,) = [line for line in run.stderr.splitlines() if "is here twice" in line]
    assert f"in {pack} and in {ROOT}. The nodes are now those of {ROOT}" in warning


def test_commands_that_need_a_clone_say_so(pack):
    for command in (["test"], ["evaluate"], ["bench", "code"], ["train", "miniature"]):
        run = subprocess.run([sys.executable, pack / "likeness.py", *command], capture_output=True, text=True)
        assert run.returncode == 1 and "git clone --depth 1" in run.stderr, run.stderr
        assert not (pack / ".venv").exists(), "nothing was set up for it"
    listing = [sys.executable, pack / "likeness.py", "weights", "list"]
    assert "TransFace" in subprocess.run(listing, capture_output=True, text=True, check=True).stdout
