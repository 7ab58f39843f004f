"""Strange files, pictures and prompts by the thousand: each is used, or refused in one sentence, or counted here.

    python3 likeness.py bench fuzz       # 5000 files, 300 pictures, 1000 prompts: about five minutes on one core
    python3 likeness.py bench fuzz --files 500 --pictures 50 --prompts 200 --seed 2

Files are made of small good ones of every kind the pack reads, pictures of a photograph, prompts of what has ever
confused a reader of prompts.
Each kind is read in a process of its own, so that one that ends its process is counted too. The printed markdown can be
pasted into RESULTS.md.
"""

import argparse
import json
import logging
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench import machine, open_host, table

LONG = ("arcface.onnx", "yunet.onnx", "insightface pack", "mediapipe")  # tried in one more process, or finding much
SECONDS, MEGABYTES = 20, 1000  # of computing and memory, above which a file is given up as slow, or counted as large
SHOWN = 5  # of what went wrong, a kind
COLUMNS = ["number", "used", "refused in a sentence", "raised otherwise", "ended its process", "slow", "large"]

Make = Callable[[random.Random], bytes]
Read = Callable[[Path], object]


def list_weights() -> dict[str, tuple[str, Make, Read]]:
    """Return by kind the name, the maker and the reader of the families of weights, in both formats."""
    from likeness.tests.support.strange_files import SMALL, mutate, mutate_torch

    def entry(family, make):
        tensors = family.tensors()
        return lambda rng: make(rng, tensors), lambda path: family.load(str(path))

    kinds = {}
    for name, family in SMALL.items():
        kinds[f"{name}, safetensors"] = ("strange.safetensors", *entry(family, mutate))
        kinds[f"{name}, torch"] = ("strange.pt", *entry(family, mutate_torch))
    return kinds


def list_own_formats(folder: Path) -> dict[str, tuple[str, Make, Read]]:
    """Return the same for the files that the pack writes."""
    import torch
    from likeness.adapters.facea_file import load_facea, save_facea
    from likeness.encoders.identity_file import load_identity, save_identity
    from likeness.tests.support import tiny
    from likeness.tests.support.facea_identity import drawn_identity
    from likeness.tests.support.strange_files import change_bytes, change_header
    from likeness.training import loop, portraits
    from likeness.training.settings import TrainingSettings
    from likeness.weights import checking

    save_identity(str(folder / "identity"), tiny.face_id(3), note="a note")
    save_facea(folder / "facea", drawn_identity(width=16))
    portrait = portraits.Portraits(
        torch.zeros(2, 4, 8, 8).half(), torch.arange(2), ["a", "b"], torch.zeros(2, 8, 8).half(), {}
    )
    portraits.save(folder / "portraits", portrait)
    train(loop, TrainingSettings(steps=2), folder / "checkpoint.pt")
    (folder / "lock").write_text('{"format": 1\n,"a/b.pt": {"sha256": "00", "bytes": 3, "url": "x"}\n}\n')

    def read_lock(path: Path):
        return checking.read(path.parent)

    readers = {
        "identity": ("a.safetensors", load_identity),
        "facea": ("a.safetensors", load_facea),
        "portraits": ("a.safetensors", portraits.load),
        "checkpoint.pt": ("a.pt", lambda path: train(loop, TrainingSettings(steps=3), path)),
        "lock": (checking.NAME, read_lock),
    }

    def maker(name: str) -> Make:
        content = (folder / name).read_bytes()
        headed = name in ("identity", "facea", "portraits")
        return lambda rng: (change_header if headed and rng.random() < 0.5 else change_bytes)(rng, content)

    return {name: (file, maker(name), read) for name, (file, read) in readers.items()}


def train(loop, settings, path: Path):
    """Fit one number, from the checkpoint at `path` if there is one."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(3))

    def loss(generator, step):
        return (parameter - torch.randn(3, generator=generator)).square().mean()

    def stop(progress):
        if progress.step == settings.steps - 1:
            raise InterruptedError

    try:
        return loop.train([loop.Group({"a": parameter}, 0.1)], loss, settings, torch.device("cpu"), path, stop)
    except InterruptedError:
        return None


def list_detectors(folder: Path) -> dict[str, tuple[str, Make, Read]]:
    """Return the same for recognisers and detectors; their files are read from where the host looks for them."""
    import folder_paths
    import torch
    from likeness.encoders.arcface_onnx import load_recogniser
    from likeness.faces import detector
    from likeness.tests.support import mediapipe_file, onnx_packs
    from likeness.tests.support.strange_files import flip_bytes, mutate
    from safetensors.torch import load

    pack = folder / "insightface" / "models" / "strange"
    onnx_packs.write_insightface_pack(pack)
    onnx_packs.write_yunet(folder / "yunet.onnx")
    photo = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    mediapipe_file.write(folder / "mediapipe", mediapipe_file.drawn_states(photo))
    folder_paths.folder_names_and_paths["detection"] = ([str(folder / "files")], {".safetensors"})
    folder_paths.folder_names_and_paths["insightface"] = ([str(folder / "insightface")], {".onnx"})
    picture = torch.from_numpy(onnx_packs.red_cell_picture(7, 4))[None] / 255

    def detect(label: str):
        folder_paths.filename_list_cache.clear()
        return detector.detect_faces(detector.load(label, 0.5, 640), picture, "quick")

    def read_pack(path: Path):
        shutil.copy(path, pack / "det_10g.onnx")
        return detect("insightface: strange")

    def encode(path: Path):
        return load_recogniser(str(path)).encode(torch.rand(1, 112, 112, 3), False)

    def maker(path: Path) -> Make:
        content = path.read_bytes()
        return lambda rng: flip_bytes(rng, content)

    tensors = dict(sorted(load((folder / "mediapipe").read_bytes()).items()))  # which come in any order
    return {
        "arcface.onnx": ("strange.onnx", maker(pack / "w600k_r50.onnx"), encode),
        "yunet.onnx": ("strange_yunet.onnx", maker(folder / "yunet.onnx"),
                       lambda path: detect(f"opencv: {path.name}")),
        "insightface pack": ("strange.onnx", maker(pack / "det_10g.onnx"), read_pack),
        "mediapipe": ("strange.safetensors", lambda rng: mutate(rng, tensors),
                      lambda path: detect(f"mediapipe: {path.name}")),
    }  # fmt: skip


def list_pictures() -> dict[str, tuple[Make | None, Callable]]:
    """Return by kind the maker of a picture's file and its reader; without a maker the reader draws it by a name."""
    from likeness.faces import detector, draw
    from likeness.faces.align import align_faces
    from likeness.faces.choose import IF_NO_FACE, RULES, apply_policy
    from likeness.faces.masks import REGIONS, SHAPES, UNITS, MaskStyle, face_masks
    from likeness.faces.search import SEARCHES
    from likeness.graphics import read_image
    from likeness.inpaint.fact_crop import prepare
    from likeness.inpaint.paste import BLENDS, paste
    from likeness.tests.support.strange_images import make_images, write_image

    finder = detector.load("opencv: haar cascade", 0.5, 192)
    regions = [region for region in REGIONS if region != "hair"]  # which needs a parser

    def use(images, rng: random.Random) -> None:
        """Do with images what nodes do with them, with any of their settings."""
        faces = detector.detect_faces(finder, images, rng.choice(SEARCHES), rng.choice([0, 40]))
        faces = apply_policy(
            faces, rng.choice(RULES), rng.choice([0, 0, 1]), rng.choice(IF_NO_FACE), rng.random() < 0.3
        )
        style = MaskStyle(rng.choice(SHAPES), rng.uniform(-30, 30), rng.uniform(0, 30), rng.choice(UNITS))
        made = [draw.overlay(faces), align_faces(faces, 112), face_masks(faces, rng.choice(regions), style)[0]]
        crop, composite = prepare(faces, 0, rng.uniform(0.2, 1), 64, None, None)
        pasted = paste(
            crop, 1 - crop.images, None, None, None, rng.choice(BLENDS), rng.choice([0, 9]), rng.random() < 0.5
        )
        if not all(tensor.isfinite().all() for tensor in (*made, composite, pasted)):
            raise RuntimeError("something is not finite")

    def use_file(path: Path) -> None:
        image = read_image(path)[None]
        try:
            use(image, random.Random(path.read_bytes()))
        except ValueError as error:  # of a node, which the host names beside it
            raise ValueError(f"{path.name}: {error}") from error

    def use_tensor(name: str) -> None:
        rng = random.Random(name)
        use(make_images(rng), rng)

    return {"photograph's file": (write_image, use_file), "images between nodes": (None, use_tensor)}


def list_prompts(folder: Path) -> dict[str, Callable[[str], object]]:
    """Return by kind what reads a prompt, or another text that a person writes into a node."""
    import folder_paths
    import torch
    from likeness.adapters.face_prompt import encode_delayed, make_face_prompt
    from likeness.adapters.facea_prompt import encode_prompt
    from likeness.attention_patches.ip_adapter import parse_layer_weights, spread_strengths
    from likeness.encoders import identity_file
    from likeness.tests.support import tiny, tiny_clip, tiny_ip
    from likeness.tests.support.facea_identity import drawn_identity

    clip, learned = tiny_clip.tiny(), drawn_identity(width=64)
    words = [torch.randn(2, 64, generator=torch.Generator().manual_seed(1)) * 0.3]
    widths = tiny_ip.adapter("faceid").widths
    folder_paths.set_output_directory(str(folder / "output"))
    folder_paths.folder_names_and_paths["face_id"] = ([str(folder / "output" / "face_id")], {".safetensors"})

    def face(text: str):
        return encode_delayed(clip, text, "a woman", make_face_prompt(clip, text, words), 0.3)

    def name(text: str):
        path = Path(identity_file.new_path(text)).resolve()
        if folder / "output" / "face_id" not in path.parents:
            raise RuntimeError(f"outside of the folder: {path}")

    def note(text: str):
        identity_file.save_identity(str(folder / "noted.safetensors"), tiny.face_id(1), note=text)
        identity_file.load_identity(str(folder / "noted.safetensors"))

    return {
        "face prompt": face,
        "face prompt with its face": lambda text: face("{face} " + text),
        "class words": lambda text: encode_delayed(clip, "{face}", text, make_face_prompt(clip, "{face}", words), 0.3),
        "FaceA prompt": lambda text: encode_prompt(clip, learned, text, "", False),
        "FaceA prompt, compact": lambda text: encode_prompt(clip, learned, "a face", text, True),
        "layer weights": lambda text: spread_strengths(widths, parse_layer_weights(text)),
        "name of a file": name,
        "note": note,
    }


class Slow(BaseException):
    """Ends what computes for too long; nothing that reads a file may catch it."""


def give_up(number, frame):
    raise Slow


def work(subjects: Iterator[str | Path], read: Callable, answers) -> None:
    """Write one line of JSON to `answers` for every prompt, or file, that `subjects` gives."""
    warnings.simplefilter("ignore")
    logging.disable()
    signal.signal(signal.SIGPROF, give_up)
    for subject in subjects:
        print(json.dumps(judge(read, subject)), file=answers, flush=True)


def judge(read: Callable, subject: str | Path) -> dict:
    """Return what became of one file or prompt."""
    from likeness.weights.errors import FetchError

    peak, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read(subject)
        result, message = "used", ""
    except Slow:
        result, message = "slow", f"still computing after {SECONDS} s"
    except (ValueError, FetchError, OSError) as error:
        message = str(error)
        named = isinstance(subject, str) or subject.name in message or subject.parent.parent.name in message
        one = bool(message) and "\n" not in message.strip() and type(error) is not UnicodeEncodeError
        sentence = one and (named or "insightface" in message)
        result = "refused in a sentence" if sentence else "raised otherwise"
    except Exception as error:
        result, message = "raised otherwise", f"{type(error).__name__}: {error}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    return {"result": result, "message": message[:300], "seconds": time.process_time() - begin, "MB": grown}


def run(subjects_from: Callable[[int], Iterator], read: Callable, count: int) -> Iterator[dict]:
    """Yield what became of `count` files or prompts, in a process of its own; where one ends it, go on in another.

    subjects_from: gives them from a number on.
    """
    done = 0
    while done < count:
        here, there = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(here)
            try:
                with os.fdopen(there, "w") as answers:
                    work(subjects_from(done), read, answers)
            except BaseException:  # the script's own fault
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(there)
        with os.fdopen(here) as answers:
            results = [json.loads(line) for line in answers]
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        yield from results
        done += len(results)
        if status > 0:
            sys.exit(status)
        if done < count:
            yield {"result": "ended its process", "message": f"signal {-status}", "seconds": 0, "MB": 0}
            done += 1


def write_files(kind: str, name: str, make: Make, folder: Path, seed: int, first: int, last: int) -> Iterator[Path]:
    """Yield the path of one strange file after the other, each in the place of the one before."""
    for number in range(first, last):
        (folder / name).write_bytes(make(random.Random(f"{seed} {kind} {number}")))
        yield folder / name


def name_pictures(kind: str, seed: int, first: int, last: int) -> Iterator[str]:
    return (f"{seed} {kind} {number}" for number in range(first, last))


def write_prompts(kind: str, seed: int, first: int, last: int) -> Iterator[str]:
    from likeness.tests.support.hostile_prompts import write_prompt

    return (write_prompt(random.Random(f"{seed} {kind} {number}")) for number in range(first, last))


def count_up(title: str, results: dict[str, Iterator[dict]]) -> None:
    """Print the table of some kinds, and on the error stream the first of what went wrong."""
    rows, total = [], Counter()
    for kind, answers in results.items():
        tally, wrong = Counter(), []
        for number, answer in enumerate(answers):
            large = answer["MB"] > MEGABYTES
            tally.update([answer["result"], "number", *["large"] * large])
            if answer["result"] not in COLUMNS[1:3] or large:
                wrong.append(f"{kind}, number {number}: {answer}")
        rows.append([kind, *(tally[column] for column in COLUMNS)])
        total += tally
        print(rows[-1], *wrong[:SHOWN], sep="\n", file=sys.stderr, flush=True)
    rows.append(["all", *(total[column] for column in COLUMNS)])
    print(table([title, *COLUMNS], rows), flush=True)


def share_out(kinds: list[str], number: int) -> dict[str, int]:
    """Return how many of `number` and a few more each kind gets, those that take long a third of the others."""
    parts = {kind: 1 / 3 if kind in LONG else 1.0 for kind in kinds}
    return {kind: math.ceil(number * part / sum(parts.values())) for kind, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="likeness.py bench fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    open_host()
    import torch

    torch.set_num_threads(1)  # others would not survive a fork
    print(f"Machine: {machine()}\n")
    with tempfile.TemporaryDirectory() as name:
        folder, files = Path(name), Path(name, "files")
        files.mkdir()
        kinds = list_weights() | list_own_formats(folder) | list_detectors(folder)
        results = {}
        for kind, count in share_out(list(kinds), options.files).items():
            file, make, read = kinds[kind]
            subjects = partial(write_files, kind, file, make, files, options.seed, last=count)
            results[kind] = run(subjects, read, count)
        count_up("files", results)
        print()
        pictures, results = list_pictures(), {}
        for kind, count in share_out(list(pictures), options.pictures).items():
            make, read = pictures[kind]
            files_of = partial(write_files, kind, "strange.png", make, files, options.seed, last=count)
            names_of = partial(name_pictures, kind, options.seed, last=count)
            results[kind] = run(files_of if make else names_of, read, count)
        count_up("pictures", results)
        print()
        readers = list_prompts(folder)
        results = {}
        for kind, count in share_out(list(readers), options.prompts).items():
            subjects = partial(write_prompts, kind, options.seed, last=count)
            results[kind] = run(subjects, readers[kind], count)
        count_up("prompts", results)


if __name__ == "__main__":
    main()
