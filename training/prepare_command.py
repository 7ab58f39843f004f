"""Find, cut out and encode photos of many people once, into shards that trainings read: training/README.md says how."""

import argparse
import contextlib
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from .. import graphics
from ..host_process import SetupError
from ..weights import saving
from . import adapter_command, photos, shards
from .adapter_command import METHODS, Data, LoadedBase, Networks
from .bases import BUILT_IN
from .distributed import count_processes, from_main, gather, get_rank, is_first_here, is_main, wait_for_all
from .locks import hold
from .photo_lists import LeftOutError, Photo, PhotoList, caption_files, list_photos
from .settings import BASES, AdapterSettings, check_settings, read_config
from .shards import MANIFEST, NOTHING, VERSION, read_manifest

MSID = "msid"  # which trains without a base model, on aligned crops
LEFT_OUT = "left_out.csv"
SHARD, BATCH = 256, 8  # photos of a shard, and of those how many are in memory at a time
_SHOWN = 6  # photos of a reason in the picture of what was left out


class Task(NamedTuple):
    """What photos are prepared for: base: None where crops alone are wanted; crops: whether MSID's are."""

    data: Data
    base: LoadedBase | None
    crops: bool
    filters: photos.Filters


def main(arguments: list[str]) -> int:
    """Prepare photos; stopped whenever you like, the same command goes on after the last whole shard.

    Raises SetupError with a sentence where photos, checkpoint, settings or the folder do not serve.
    """
    options = _parse(arguments)
    filters = photos.Filters(options.min_side, options.min_score, options.min_sharpness, options.one_face)
    try:
        values, about_data = read_config(options.config, options.set)
        wanted = check_settings(AdapterSettings, {name: values[name] for name in values.keys() & {"base"}}).base
        prepare(options.photos, options.output, options.checkpoint, options.methods, about_data, filters, wanted)
    except (ValueError, RuntimeError, OSError) as error:
        raise SetupError(str(error), f"{options.output} is not finished.") from error
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="likeness.py prepare", description=__doc__)
    text = "folder with a sub-folder of photos for each person, table (csv, jsonl, parquet), or folder of tar shards"
    parser.add_argument("photos", type=Path, help=text)
    parser.add_argument("output", type=Path, help="folder for the shards")
    words = "".join(f", or the word {name} for {base.what}" for name, base in BUILT_IN.items())
    text = f"the base model of the training to come{words}; msid needs none"
    parser.add_argument("checkpoint", nargs="?", help=text)
    text = "what is to be trained; give it several times for several"
    parser.add_argument("--for", action="append", required=True, choices=(*METHODS, MSID), dest="methods", help=text)
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="a recipe, of which base and [data] are read")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="over the config")
    defaults = photos.Filters()
    parser.add_argument(
        "--min-side", type=int, default=defaults.min_side, help="pixels of the face's crop in the photo"
    )
    parser.add_argument("--min-score", type=float, default=defaults.min_score, help="of the detector, 0 to 1")
    text = "variance of the crop's Laplacian; blurred faces have less than about 50"
    parser.add_argument("--min-sharpness", type=float, default=defaults.min_sharpness, help=text)
    parser.add_argument("--one-face", action="store_true", help="leave out photos with several faces")
    return parser.parse_args(arguments)


def prepare(
    source: Path,
    output: Path,
    checkpoint: str | None,
    methods: Sequence[str],
    about_data: dict,
    filters: photos.Filters | None = None,
    wanted: str = BASES[0],
) -> None:
    """Find, cut out and encode the photos of `source` into shards in `output`, as far as they are not there.

    wanted: the kind of base model that the recipe is for, if one is needed.

    Raises ValueError or OSError with a sentence where photos, checkpoint, entries of [data] or the folder do not serve.
    """
    if not source.exists():
        raise ValueError(f"There is no folder {source} with photos.")
    if (source / MANIFEST).is_file():
        raise ValueError(f"{source} holds photos that are prepared already: train on it, or name other photos.")
    if output.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{output} lies in {source}, and would count as photos: name an output outside it.")
    with_base = [method for method in methods if method != MSID]
    if with_base and checkpoint is None:
        raise ValueError(f"{with_base[0]} needs a base model: name its checkpoint behind the folder for the shards.")
    built_in = BUILT_IN.get(checkpoint)
    networks = tuple(dict.fromkeys(name for method in with_base for name in METHODS[method].networks))
    base = _load_base(checkpoint, with_base, wanted) if with_base else None
    data = adapter_command.complete_data(networks, about_data, built_in)
    if data.flip and set(methods) != {"face2diffusion"}:
        raise ValueError(
            "flip = true is for face2diffusion alone: to others a mirrored photo would be another one of the person."
        )
    if data.buckets and set(with_base) != {"infinite-id"}:
        raise ValueError("buckets = true is for infinite-id alone: prepare the photos for others into another folder.")
    data = replace(data, size=data.size or (base.size if base else photos.ALIGNED_FROM))
    if base:
        photos.check_size(data.size, base.vae)
    files, task = list_photos(source), Task(data, base, MSID in methods, filters or photos.Filters())
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{output} cannot be made ({error.strerror}): name another folder for the shards.") from error
    with _hold(output):
        _begin(output, files, task)
        numbers = range(get_rank(), -(-len(files) // SHARD), count_processes())
        _write_shards(output, files, numbers, task)
        left_out = gather([(number, _read_left_out(output, number)) for number in numbers])
        if is_main():
            _report(output, files, [entry for _, entries in sorted(left_out) for entry in entries])


def _load_base(checkpoint: str, methods: list[str], wanted: str) -> LoadedBase:
    kinds = set.intersection(*(set(METHODS[method].bases) for method in methods))
    return adapter_command.load_base(checkpoint, tuple(sorted(kinds)), wanted)


def _hold(output: Path) -> contextlib.AbstractContextManager:
    """Keep a folder to the processes of one command; what it returns raises ValueError where another one has it."""
    if not is_main():
        return contextlib.nullcontext()
    return hold(
        output / "prepare.lock",
        ValueError(
            f"Another 'likeness.py prepare' writes into {output}: wait for it or stop it; to share the work start the "
            "processes together, by accelerate launch."
        ),
    )


def _begin(output: Path, files: PhotoList, task: Task) -> None:
    """Write the manifest, on every machine, and return when it is there for all processes.

    Raises ValueError where the folder has another, or see `_compare_machines`.
    """
    if count_processes() > 1:
        _compare_machines(files, task)
    manifest = from_main(_describe(files, task) if is_main() else {})
    path = output / MANIFEST
    if is_first_here():
        people = {"people": manifest["people"]}  # which an earlier version did not write
        if path.is_file() and (there := people | read_manifest(output)) != manifest:
            changed = ", ".join(name for name in manifest | there if there.get(name) != manifest.get(name))
            raise ValueError(
                f"{output} holds photos that were prepared otherwise ({changed}): choose another folder, or delete it."
            )
        shards.sweep_parts(output)
        saving.write(path, f"{json.dumps(manifest, indent=1)}\n".encode(), "Preparing photos")
    wait_for_all()


def _describe(files: PhotoList, task: Task) -> dict:
    """Return the manifest: of what the shards are made, and how."""
    manifest = {
        "format": "likeness-prepared",
        "version": VERSION,
        "base": task.base.kind if task.base else "",
        "data": asdict(task.data),
        "filters": task.filters._asdict(),
        "shards": -(-len(files) // SHARD),
        "photos": _digest(files, task.base),
        "people": files.count_people(),
    }
    return json.loads(json.dumps(manifest | ({"crops": photos.ALIGNED} if task.crops else {})))


def _compare_machines(files: PhotoList, task: Task) -> None:
    """Raise ValueError where this machine has other photos or networks than that of process 0, wherever they lie."""
    digest = hashlib.sha256()
    for photo in files:
        digest.update(json.dumps([photo.person, photo.file.parent.name, photo.file.name, photo.place]).encode())
    data = task.data
    named = {"parser": Path(data.parser).name, "files": [Path(file).name for file in data.files.values()]}
    here = {"photos": digest.hexdigest(), "base": task.base and task.base.kind} | asdict(data) | named
    main = from_main(here)
    if changed := ", ".join(name for name in here if here[name] != main[name]):
        raise ValueError(
            f"This machine and the one of process 0 would not prepare alike: they differ in {changed}. Give all the "
            "same photos, in folders of the same names, and the same files of networks."
        )


def _digest(files: PhotoList, base: LoadedBase | None) -> str:
    """Return hex digits that stand for names, sizes and times of photos and captions, and for the base model."""
    digest = hashlib.sha256()

    def take(*paths: Path) -> None:
        for path in paths:
            stat = path.stat()
            digest.update(json.dumps([path.parent.name, path.name, stat.st_size, stat.st_mtime_ns]).encode())

    for photo in files:
        beside = caption_files(photo.file) if photo.caption is None else ()
        take(*filter(Path.is_file, (photo.file, *beside)))
        if photo.caption is not None:
            digest.update(json.dumps([photo.name, photo.person, photo.caption, photo.place]).encode())
    if base:
        take(Path(base.file))
    return digest.hexdigest()[:16]


def _write_shards(output: Path, files: PhotoList, numbers: Sequence[int], task: Task) -> None:
    """Write those of this process's shards that are missing."""
    missing = [number for number in numbers if not all(path.is_file() for path in _name_files(output, number))]
    if not missing:
        return
    networks = adapter_command.load_networks(task.data, task.base)
    if is_first_here() and networks.clip_vision:
        content = io.BytesIO()
        np.save(content, photos.clip_of_nothing(networks.clip_vision).float().cpu().numpy())
        saving.write(output / NOTHING, content.getvalue(), "Preparing photos")
    total = sum(min(SHARD, len(files) - number * SHARD) for number in missing)
    with tqdm(total=total, desc="prepared", unit=" photos", disable=not is_main()) as bar:
        for number in missing:
            (path, why_not), left_out = _name_files(output, number), []

            def encode(some: list[Photo], left_out=left_out) -> list[tuple[dict[str, np.ndarray], dict]]:
                """Return what serves of some photos, encoded, and note the rest."""
                encoded = _encode(some, networks, task, lambda *why: left_out.append(why))
                bar.update(len(some))
                return encoded

            part = files[number * SHARD : (number + 1) * SHARD]
            shards.write_shard(path, _with_left_out(_samples(part, number * SHARD, encode), why_not, left_out))


def _encode(
    some: list[Photo], networks: Networks, task: Task, leave_out: Callable[[str, str], None]
) -> list[tuple[dict[str, np.ndarray], dict]]:
    """Return arrays and details of those photos that serve."""
    data = task.data
    shapes = data.choose_shapes(task.base.vae) if task.base else ()
    album = photos.read_files(some, networks.detector, data.size, networks.parser, leave_out, task.filters, shapes)
    if album is None:
        return []
    samples = [({}, shards.tell(*told)) for told in zip(album.people, album.captions, album.sizes)]
    if task.base:
        encoded = adapter_command.encode_album(album, data, networks, task.base, None)
        samples = [shards.describe(encoded, row) for row in range(len(encoded))]
    if task.crops:
        for (arrays, _), crop in zip(samples, photos.align_crops(album).numpy()):
            arrays[shards.CROP] = crop
    return samples


def _samples(files: list[Photo], first: int, encode: Callable[[list[Photo]], list[tuple]]) -> Iterator[tuple]:
    """Yield name, arrays and details of every photo that serves, a batch in memory at a time."""
    for start in range(0, len(files), BATCH):
        for row, sample in enumerate(encode(files[start : start + BATCH])):
            yield f"{first + start:08d}-{row:02d}", *sample


def _name_files(output: Path, number: int) -> tuple[Path, Path]:
    """Return where a shard lies, and which photos are not in it."""
    path = shards.name_shard(output, number)
    return path, path.with_suffix(".left_out.jsonl")


def _with_left_out(samples: Iterator, path: Path, left_out: list[tuple[str, str]]) -> Iterator:
    """Yield samples, and when they are all there write which photos were left out, before the shard gets its name."""
    yield from samples
    content = "".join(f"{json.dumps(entry)}\n" for entry in left_out)
    saving.write(path, content.encode(), "Preparing photos")


def _read_left_out(output: Path, number: int) -> list[tuple[str, str]]:
    """Return which photos are not in a shard, and why."""
    lines = _name_files(output, number)[1].read_text("utf-8").splitlines()
    return [tuple(json.loads(line)) for line in lines]


def _report(output: Path, files: PhotoList, left_out: list[tuple[str, str]]) -> None:
    """Write which photos were left out and why, as a table and as a picture, and print how many for each reason."""
    reasons, shown = Counter(), {}
    with (output / LEFT_OUT).open("w", newline="", encoding="utf-8", errors="backslashreplace") as table:
        rows = csv.writer(table)
        rows.writerow(("photo", "reason"))
        for photo, why in left_out:
            rows.writerow((photo, why))
            reason = why.partition(" (")[0]
            if reasons[reason] < _SHOWN:
                shown[photo] = reason
            reasons[reason] += 1
    total = reasons.total()
    print(f"{len(files) - total} of {len(files)} photos in {-(-len(files) // SHARD)} shards, {output}", flush=True)
    for reason, times in reasons.most_common():
        print(f"  {times} left out: {reason}", flush=True)
    if total:
        _draw_left_out(files, reasons, shown).save((output / LEFT_OUT).with_suffix(".png"))
        print(f"  {output / LEFT_OUT} says which, the picture beside it shows some", flush=True)
    if total == len(files):
        raise ValueError(
            f"No photo serves to train with, {output / LEFT_OUT} says why: take other photos, another face detector "
            "or, where they left photos out, lower limits."
        )


def _draw_left_out(files: PhotoList, reasons: Counter, shown: dict[str, str]):
    """Return a picture with some of the photos that were left out, a row for each reason; shown: reasons by photo."""
    cells: dict[str, list] = {reason: [] for reason, _ in reasons.most_common()}
    for photo in files:
        if reason := shown.get(photo.name):
            try:
                image = graphics.to_pillow(graphics.read_image(photo.open()))
            except (LeftOutError, ValueError):
                image = Image.new("RGB", (graphics.CELL, graphics.CELL), graphics.FRAME)
            cells[reason].append((Path(photo.name).name, image))
    rows = [(f"{reasons[reason]}: {reason}", row) for reason, row in cells.items()]
    return graphics.draw_rows("Left out", rows, f"At most {_SHOWN} of each; all are in {LEFT_OUT}.")
