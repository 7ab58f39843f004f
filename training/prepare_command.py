"""Find, cut out and encode photos of many people once, into shards that trainings read: training/README.md says how."""

import argparse
import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..host_process import SetupError
from ..weights import saving
from . import adapter_command, photos, portraits, shards
from .adapter_command import METHODS, Data, LoadedBase
from .bases import BUILT_IN
from .distributed import count_processes, is_main, main_first, wait_for_all
from .settings import read_config
from .shards import MANIFEST, NOTHING, VERSION, read_manifest

LEFT_OUT = "left_out.csv"
SHARD, BATCH = 256, 8  # photos of a shard, and of those how many are in memory at a time


def main(arguments: list[str]) -> int:
    """Prepare photos; stopped whenever you like, the same command goes on after the last whole shard.

    Raises SetupError with a sentence where photos, checkpoint, settings or the folder do not serve.
    """
    options = _parse(arguments)
    try:
        _prepare(options)
    except (ValueError, RuntimeError, OSError) as error:
        raise SetupError(str(error), f"{options.output} is not finished.") from error
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="likeness.py prepare", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder with a sub-folder of photos for each person")
    parser.add_argument("output", type=Path, help="folder for the shards")
    words = "".join(f", or the word {name} for {base.what}" for name, base in BUILT_IN.items())
    parser.add_argument("checkpoint", help=f"the base model of the training to come{words}")
    text = "what is to be trained; give it several times for several"
    parser.add_argument("--for", action="append", required=True, choices=METHODS, dest="methods", help=text)
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="a recipe, of which [data] is read")
    parser.add_argument("--set", action="append", default=[], metavar="data.NAME=VALUE", help="over the config")
    defaults = photos.Filters()
    parser.add_argument(
        "--min-side", type=int, default=defaults.min_side, help="pixels of the face's crop in the photo"
    )
    parser.add_argument("--min-score", type=float, default=defaults.min_score, help="of the detector, 0 to 1")
    text = "variance of the crop's Laplacian; blurred faces have less than about 50"
    parser.add_argument("--min-sharpness", type=float, default=defaults.min_sharpness, help=text)
    parser.add_argument("--one-face", action="store_true", help="leave out photos with several faces")
    return parser.parse_args(arguments)


def _prepare(options: argparse.Namespace) -> None:
    _, about_data = read_config(options.config, options.set)
    if not options.photos.is_dir():
        raise ValueError(f"There is no folder {options.photos} with photos.")
    built_in = BUILT_IN.get(options.checkpoint)
    networks = tuple(dict.fromkeys(name for method in options.methods for name in METHODS[method].networks))
    data = adapter_command.complete_data(networks, about_data, built_in)
    if data.flip and set(options.methods) != {"face2diffusion"}:
        raise ValueError(
            "flip = true is for face2diffusion alone: to others a mirrored photo would be another one of the person."
        )
    kinds = set.intersection(*(set(METHODS[method].bases) for method in options.methods))
    base = adapter_command.load_base(options.checkpoint, tuple(sorted(kinds)))
    data = replace(data, size=data.size or base.size)
    photos.check_size(data.size, base.vae)
    files = list(photos.list_photos(options.photos))
    filters = photos.Filters(options.min_side, options.min_score, options.min_sharpness, options.one_face)
    with main_first():
        if is_main():
            _begin(options.output, files, data, base, filters)
    count = -(-len(files) // SHARD)
    _write_shards(options.output, files, count, data, base, filters)
    wait_for_all()
    if is_main():
        _report(options.output, len(files), count)


def _begin(output: Path, files: list, data: Data, base: LoadedBase, filters: photos.Filters) -> None:
    """Write the manifest; raise ValueError where the folder has another."""
    output.mkdir(parents=True, exist_ok=True)
    manifest = {
        "format": "likeness-prepared",
        "version": VERSION,
        "base": base.kind,
        "data": asdict(data),
        "filters": filters._asdict(),
        "shards": -(-len(files) // SHARD),
        "photos": _digest(files, base.file),
    }
    path, manifest = output / MANIFEST, json.loads(json.dumps(manifest))
    if path.is_file() and (there := read_manifest(output)) != manifest:
        changed = ", ".join(name for name in manifest if there.get(name) != manifest[name])
        raise ValueError(
            f"{output} holds photos that were prepared otherwise ({changed}): choose another folder, or delete it."
        )
    shards.sweep_parts(output)
    saving.write(path, f"{json.dumps(manifest, indent=1)}\n".encode(), "Preparing photos")


def _digest(files: list[tuple[Path, int]], checkpoint: str) -> str:
    """Return hex digits that stand for names, sizes and times of photos and captions, and for the checkpoint."""
    digest = hashlib.sha256()
    for photo in (*(file for file, _ in files), Path(checkpoint)):
        for file in (photo, *filter(Path.is_file, photos.caption_files(photo))):
            stat = file.stat()
            digest.update(json.dumps([file.parent.name, file.name, stat.st_size, stat.st_mtime_ns]).encode())
    return digest.hexdigest()[:16]


def _write_shards(output: Path, files: list, count: int, data: Data, base: LoadedBase, filters: photos.Filters) -> None:
    """Write the shards that are this process's and missing."""
    rank, world = int(os.environ.get("RANK", 0)), count_processes()
    missing = [number for number in range(rank, count, world) if not shards.name_shard(output, number).is_file()]
    if not missing:
        return
    networks = adapter_command.load_networks(data, base)
    if is_main() and networks.clip_vision:
        content = io.BytesIO()
        np.save(content, photos.clip_of_nothing(networks.clip_vision).float().cpu().numpy())
        saving.write(output / NOTHING, content.getvalue(), "Preparing photos")
    total = sum(min(SHARD, len(files) - number * SHARD) for number in missing)
    with tqdm(total=total, desc="prepared", unit=" photos", disable=not is_main()) as bar:
        for number in missing:
            path, left_out = shards.name_shard(output, number), []

            def encode(some: list, left_out=left_out) -> portraits.Portraits | None:
                """Return what serves of some photos, encoded, and note the rest."""

                def leave_out(file: Path, reason: str) -> None:
                    left_out.append((str(file), reason))

                finder, parser = networks.detector, networks.parser
                album = photos.read_files(some, finder, data.size, parser, leave_out, filters)
                bar.update(len(some))
                return album and adapter_command.encode_album(album, data, networks, base, None)

            part = files[number * SHARD : (number + 1) * SHARD]
            shards.write_shard(path, _with_left_out(_samples(part, number * SHARD, encode), path, left_out))


def _samples(files: list, first: int, encode: Callable[[list], portraits.Portraits | None]) -> Iterator[tuple]:
    """Yield name, arrays and details of every photo that serves, a batch in memory at a time."""
    for start in range(0, len(files), BATCH):
        encoded = encode(files[start : start + BATCH])
        for row in range(len(encoded) if encoded else 0):
            yield f"{first + start:08d}-{row:02d}", *shards.describe(encoded, row)


def _with_left_out(samples: Iterator, path: Path, left_out: list[tuple[str, str]]) -> Iterator:
    """Yield samples, and when they are all there write which photos were left out, before the shard gets its name."""
    yield from samples
    content = "".join(f"{json.dumps(entry)}\n" for entry in left_out)
    saving.write(path.with_suffix(".left_out.jsonl"), content.encode(), "Preparing photos")


def _report(output: Path, photo_count: int, count: int) -> None:
    """Write which photos were left out and why, and print how many for each reason."""
    reasons, total = Counter(), 0
    with (output / LEFT_OUT).open("w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table)
        rows.writerow(("photo", "reason"))
        for number in range(count):
            lines = shards.name_shard(output, number).with_suffix(".left_out.jsonl").read_text("utf-8").splitlines()
            for entry in map(json.loads, lines):
                rows.writerow(entry)
                reasons[entry[1].partition(" (")[0]] += 1
                total += 1
    print(f"{photo_count - total} of {photo_count} photos in {count} shards, {output}", flush=True)
    for reason, times in reasons.most_common():
        print(f"  {times} left out: {reason}", flush=True)
    if total:
        print(f"  which, is in {output / LEFT_OUT}", flush=True)
    if total == photo_count:
        raise ValueError("No photo serves to train with: choose another face detector, or photos with faces.")
