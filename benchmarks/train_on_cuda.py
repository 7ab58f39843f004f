"""Train a part of the miniature further on a GPU that is there for minutes, from the weights that come with the pack.

    benchmarks/pack_cuda.sh --train PART                      first, gathers what the machine gets
    COMFYUI_PATH=... python3 benchmarks/train_on_cuda.py PART --minutes 8 --out OUT
    python3 benchmarks/train_on_cuda.py PART --join OUT      afterwards, where the evaluation runs

The second draws the training set, encodes it, measures how long a step takes, and trains as many steps as fit into the
time, with the recipe's own settings and its falling rate. It leaves the weights in OUT in pieces that can be carried
back, with the losses and how many steps they took. The third puts them together in `output/miniature`, from where
`likeness.py train miniature export` takes them; `likeness.py evaluate` then says what they are worth.

`--tiny` tries all of it on a few images and two steps.
"""

from bench import open_host

open_host()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from likeness.miniature.recipes import command, common, files  # noqa: E402
from likeness.miniature.registration import register  # noqa: E402
from likeness.miniature.world import dataset  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

# What a part needs besides the images and their latents.
NEEDS = {
    "base": (), "inpainting": (), "fact": ("features-transface",),
    "face2diffusion": ("features-msid", "features-expression"),
}  # fmt: skip
PIECE = 15 * 2**20  # bytes of a file that can be carried back
KEPT_BACK = 30.0  # seconds for writing the weights


def train(part: str, seconds: float, out: Path, tiny: bool) -> dict:
    """Train `part` for about `seconds` in all, write pieces and a note to `out`, and return the note."""
    end = time.monotonic() + seconds
    if tiny:
        common.SETS["train"] = (60, 6)  # enough for all words of the captions
        common.OUTPUT.mkdir(parents=True, exist_ok=True)
    files.restore()
    _render_set()
    for need in ("latents", *NEEDS[part]):
        command.PARTS[need]()
    before = common.OUTPUT / f"{part}.safetensors"
    restored = before.with_suffix(".restored")
    shutil.copy(before, restored)
    few, more = (1, 2) if tiny else (5, 25)
    times = [_time_steps(part, steps, restored) for steps in (few, more)]
    step, setup = max((times[1] - times[0]) / (more - few), 1e-3), times[0]
    steps = 2 if tiny else int((end - time.monotonic() - setup - KEPT_BACK) / step)
    if steps < 1:
        raise SystemExit(f"{seconds:.0f} s leave no time for a step of {step:.2f} s after {setup:.0f} s of preparation")
    took = _time_steps(part, steps, restored)
    note = {"part": part, "steps": steps, "seconds": took, "seconds a step": step}
    note["losses"] = json.loads((common.OUTPUT / f"{part}.losses.json").read_text())
    split(common.OUTPUT / f"{part}.safetensors", out)
    (out / "note.json").write_text(json.dumps(note))
    return note


def _render_set() -> None:
    """Draw the training set with as many processes as there are cores."""
    people, images = common.SETS["train"]
    recipe = dataset.SetRecipe(split="train", people=people, images=images, size=common.SIZE)
    dataset.write(common.DATA / "train", recipe, processes=os.cpu_count() or 1)


def _time_steps(part: str, steps: int, restored: Path) -> float:
    """Train so many steps from the restored weights and return the seconds it took, preparation included."""
    shutil.copy(restored, common.OUTPUT / f"{part}.safetensors")
    (common.OUTPUT / f"{part}.pt").unlink(missing_ok=True)
    begin = time.monotonic()
    command.PARTS[part](steps)
    return time.monotonic() - begin


def split(file: Path, out: Path) -> list[Path]:
    """Write the tensors of a file to `out` as 0.safetensors, 1.safetensors and so on, none larger than PIECE."""
    out.mkdir(parents=True, exist_ok=True)
    pieces, size = [{}], 0
    for name, tensor in load_file(file).items():
        if size + tensor.nbytes > PIECE and pieces[-1]:
            pieces.append({})
            size = 0
        pieces[-1][name] = tensor
        size += tensor.nbytes
    paths = [out / f"{number}.safetensors" for number in range(len(pieces))]
    for path, piece in zip(paths, pieces):
        save_file(piece, path)
    return paths


def join(part: str, out: Path) -> Path:
    """Put the pieces of `out` together where `part`'s recipe would have left them; return that file."""
    tensors = {}
    for path in sorted(out.glob("*.safetensors")):
        tensors |= load_file(path)
    common.save_tensors(part, tensors)
    return common.OUTPUT / f"{part}.safetensors"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="train_on_cuda.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=NEEDS)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("output") / "trained")
    parser.add_argument("--join", type=Path)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(arguments)
    if options.join:
        print(join(options.part, options.join))
        return
    if not options.tiny and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA GPU here; --tiny tries everything on the CPU.")
    register()
    note = train(options.part, 60 * options.minutes, options.out, options.tiny)
    print(f"{note['steps']} steps in {note['seconds']:.0f} s; the last losses: {note['losses'][-5:]}")


if __name__ == "__main__":
    main(sys.argv[1:])
