"""Command line of the checkout. Any Python from 3.11 on runs it; it puts what it needs into `.venv` and `.host`."""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PARALLEL = ["-n", "logical", "--maxprocesses", "4", "--dist", "worksteal"]
# Folders that the registry leaves out (.comfyignore), by the command that needs them.
CLONE_ONLY = {
    "test": "tests", "bench": "benchmarks", "evaluate": "miniature/evaluation", "train miniature": "miniature/recipes",
}  # fmt: skip
# What the commands need that may only talk to a ComfyUI elsewhere.
TALKING = {"run": ("aiohttp",), "batch": ("aiohttp", "filelock", "tqdm", "PIL", "torch")}
# By what `evaluate` scores pictures that are there, as in launcher/protocols.py; without one it is the miniature's.
PROTOCOLS = ("fact-t2i", "fact-inpaint", "face2diffusion", "infinite-id", "facea", "stress")
CLONE_ONLY |= {f"evaluate {protocol}": "" for protocol in PROTOCOLS}
# Commands that take more arguments than are listed here.
TAKING_MORE = ("run", "batch", "test", "host", "weights", "train", "prepare", "miniature", "evaluate")
# Scripts in benchmarks/, by the name that `bench` takes.
BENCHMARKS = {
    "sfags": "sfags.py", "encoder": "encoder.py", "startup": "startup.py", "image": "image.py", "mixed": "mixed.py",
    "f2d": "f2d.py", "facea": "facea.py", "miniature": "miniature.py", "code": "code_figures.py", "cuda": "on_cuda.py",
    "intensity": "intensity.py", "recogniser": "recogniser.py", "scores": "scores.py", "fuzz": "fuzz.py",
    "faces": "faces.py", "places": "places.py", "strength": "strength.py", "step": "step.py", "batch": "batch.py",
    "train": "training_cost.py",
}  # fmt: skip


def main(arguments: list) -> int:
    """Run one command and return its exit code."""
    options = parse(arguments)
    if sys.version_info < (3, 11):  # noqa: UP036
        print(f"ComfyUI-Likeness needs Python 3.11 or newer; this is {sys.version.split()[0]}.", file=sys.stderr)
        return 1
    command = " ".join([options.command, *options.rest[:1]])
    if not (ROOT / CLONE_ONLY.get(command, CLONE_ONLY.get(options.command, ""))).is_dir():
        print(f"'{command}' needs what only a clone has: get one with 'git clone --depth 1'.", file=sys.stderr)
        return 1
    load_package()
    from likeness.launcher import environment

    try:
        if options.command == "weights" and runs_here(options.rest):
            return weights(options)
        if options.command in TALKING and talks_only(options.rest, TALKING[options.command]):
            return COMMANDS[options.command](options)
        if options.command == "identities":
            return identities(options)
        if options.command == "bench" and options.name == "code":
            return bench(options)
        comfy = environment.prepare()
        if Path(sys.prefix).resolve() != environment.VENV.resolve():
            return run_again([environment.PYTHON, ROOT / "likeness.py", *arguments])
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a host that was started is stopped too
        return COMMANDS[options.command](options, comfy) or 0
    except environment.SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parse(arguments: list) -> argparse.Namespace:
    """Return the command and its options; what the command hands on to another program is in `rest`."""
    parser = argparse.ArgumentParser(prog="likeness.py", description=__doc__)
    shown = "{demo,run,batch,test,check,host,weights,identities,train,prepare,miniature,evaluate,bench}"
    commands = parser.add_subparsers(dest="command", required=True, metavar=shown)
    demo = commands.add_parser("demo", help="make a picture with and without the adapter, and a sheet of all steps")
    commands.add_parser("run", help="run a workflow and fetch what comes of it: run -h says more", add_help=False)
    commands.add_parser("batch", help="run a workflow for each row of a table or cell of a grid: -h", add_help=False)
    commands.add_parser("test", help="run the tests; arguments go to pytest", add_help=False)
    commands.add_parser("check", help="check the style of the code with ruff")
    host = commands.add_parser("host", help="start ComfyUI with this extension; further arguments go to its main.py")
    commands.add_parser("weights", help="list, fetch and verify weight files: weights -h says more", add_help=False)
    listed = commands.add_parser("identities", help="list saved identities: photos, agreement, encoder, note")
    listed.add_argument("folder", nargs="*", type=Path, help="where to look (default: face_id and facea)")
    commands.add_parser("train", help="learn a person or an adapter from photos: train -h", add_help=False)
    commands.add_parser("prepare", help="encode many photos once, for trainings to read", add_help=False)
    commands.add_parser("miniature", help="draw people: a sheet, or portraits to train on", add_help=False)
    commands.add_parser("evaluate", help="score pictures of people against photos: evaluate PROTOCOL -h; alone: the "
                        "miniature's report", add_help=False)  # fmt: skip
    bench = commands.add_parser("bench", help="measure speed and memory; the results are printed as markdown")
    bench.add_argument("name", choices=BENCHMARKS)
    bench.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="handed on to the benchmark: cuda -h says which it takes"
    )
    workflows = commands.add_parser("_workflows")
    for pictures in ("--cards", "--help-pages"):
        workflows.add_argument(pictures, action="store_true")
    for command in (demo, host):
        command.add_argument("--port", type=int, help="port on 127.0.0.1 (default: a free one)")
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in TAKING_MORE:
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    options.rest = options.arguments if options.command == "bench" else rest
    return options


def load_package() -> None:
    """Import the checkout as the package `likeness`, and keep its folders (nodes, tests, ...) from shadowing others."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
    spec = importlib.util.spec_from_file_location(
        "likeness", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["likeness"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["likeness"])


def run_again(command: list) -> int:
    """Go on with another Python: in this very process where the system can do that, so that signals reach it."""
    if os.name == "posix":
        os.execv(command[0], command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the other one ends, and this one with it
    return subprocess.call(command)


def demo(options: argparse.Namespace, comfy: Path) -> int:
    from likeness.launcher import demo, environment, real_files

    if not_fetched := real_files.fetch(environment.BASE / "models", environment.PHOTOS):
        print(f"{not_fetched}\nThe demo leaves the photographs out.", flush=True)
    return demo.main(comfy, options.port, environment.PHOTOS)


def run(options: argparse.Namespace, comfy: Path | None = None) -> int:
    from likeness.launcher import run

    return run.main(options.rest, comfy)


def batch(options: argparse.Namespace, comfy: Path | None = None) -> int:
    from likeness.launcher import batch

    return batch.main(options.rest, comfy)


def talks_only(rest: list, packages: tuple[str, ...]) -> bool:
    """Return whether this Python is enough for a command: a server is named, and the packages are here."""
    if not all(map(importlib.util.find_spec, packages)):
        return False
    from likeness.launcher import run

    return run.names_server(rest)


def test(options: argparse.Namespace, comfy: Path) -> int:
    from likeness.launcher import environment, real_files

    variables = {**os.environ, "COMFYUI_PATH": str(comfy)}
    if "CI" in os.environ:  # elsewhere the tests of what is not installed are skipped
        environment.add_extra("test")
    if not_fetched := real_files.fetch(environment.BASE / "models", environment.PHOTOS):
        print(f"{not_fetched}\nTests that need them are skipped.", flush=True)
        variables["LIKENESS_NOT_FETCHED"] = not_fetched
    # -P: pytest started with -m would put the current folder, the repository root, on sys.path.
    pytest = [sys.executable, "-P", "-m", "pytest"]
    runs = [options.rest] if options.rest else [["-m", "not slow", *PARALLEL], ["-m", "slow", *PARALLEL]]
    for arguments in runs:
        code = subprocess.call([*pytest, *arguments], cwd=ROOT, env=variables)
        if code:
            return code
    return 0


def check(options: argparse.Namespace, comfy: Path) -> int:
    for arguments in (["check"], ["format", "--check"]):
        code = subprocess.call([sys.executable, "-m", "ruff", *arguments], cwd=ROOT)
        if code:
            return code
    return 0


def host(options: argparse.Namespace, comfy: Path) -> int:
    from likeness.launcher import environment, hosting

    with hosting.start(environment.BASE, comfy, port=options.port, extra_args=options.rest) as running:
        print(f"ComfyUI with Likeness: {running.url}  (Ctrl-C stops it, its log: {running.log})", flush=True)
        return running.process.wait()


def weights(options: argparse.Namespace, comfy: Path | None = None) -> int:
    from likeness.weights import command

    return command.main(options.rest)


def runs_here(rest: list) -> bool:
    """Return whether this Python, say that of the user's ComfyUI, is enough for the `weights` command."""
    from likeness.weights import command

    return command.runs_here(rest)


def identities(options: argparse.Namespace) -> int:
    """List the identities in folders with the standard library alone."""
    from likeness.adapters import facea_list
    from likeness.encoders import identity_list
    from likeness.launcher import environment

    if gone := [folder for folder in options.folder if not folder.is_dir()]:
        print(f"There is no folder {gone[0]}.", file=sys.stderr)
        return 1
    bases = [base for base in (environment.find_host(), environment.BASE) if base]
    folders = [base / part / kind for base in bases for kind in ("face_id", "facea") for part in ("models", "output")]

    def describe(path: Path) -> str:
        return facea_list.entry(path) or identity_list.entry(path)

    print(*identity_list.lines(options.folder or folders, describe), sep="\n")
    return 0


def train(options: argparse.Namespace, comfy: Path) -> int:
    from likeness.launcher import train

    return train.main(options.rest, comfy)


def prepare(options: argparse.Namespace, comfy: Path) -> int:
    from likeness.launcher import train

    return train.prepare(options.rest, comfy)


def miniature(options: argparse.Namespace, comfy: Path) -> int:
    from likeness.miniature import command

    return command.main(options.rest)


def evaluate(options: argparse.Namespace, comfy: Path) -> int:
    from likeness import host_process

    if options.rest[:1] and options.rest[0] in PROTOCOLS:
        from likeness.launcher import evaluate

        return evaluate.main(options.rest, comfy)
    host_process.open_host(comfy, cpu=False)
    from likeness.miniature.evaluation import command

    return command.main(options.rest)


def bench(options: argparse.Namespace, comfy: Path | None = None) -> int:
    """Run one benchmark and return its exit code; `code` alone needs no host."""
    script = ROOT / "benchmarks" / BENCHMARKS[options.name]
    return subprocess.call([sys.executable, script, *options.rest], env={**os.environ, "COMFYUI_PATH": str(comfy)})


def workflows(options: argparse.Namespace, comfy: Path) -> int:
    from likeness.launcher import workflow_forms

    return workflow_forms.main(comfy, options.cards, options.help_pages)


COMMANDS = {
    "demo": demo, "run": run, "batch": batch, "test": test, "check": check, "host": host, "weights": weights,
    "train": train, "prepare": prepare, "miniature": miniature, "evaluate": evaluate, "bench": bench,
    "_workflows": workflows,
}  # fmt: skip

if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without its byte code the host takes three times as long to start
    sys.stdout.reconfigure(errors="replace")  # notes and names of files may hold letters that this terminal has not
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
