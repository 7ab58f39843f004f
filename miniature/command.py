"""`python3 likeness.py miniature sheet|data`: a sheet of drawn people, or a set of portraits to train on."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from .world.dataset import SetRecipe, write
from .world.people import SPLITS
from .world.photo_folder import STYLES, write_photos
from .world.sheet import save, sheet


def main(argv: list[str], say: Callable[[str], None] = print) -> int:
    """Do what follows `miniature` on the command line; returns the exit status, 1 for a set that cannot be."""
    options = _parse(argv)
    if options.action == "sheet":
        first = SPLITS[options.split].start + options.first
        save(sheet(range(first, first + options.people), options.pictures, options.size, options.seed), options.target)
        say(f"Wrote {options.target}.")
        return 0
    names = ("split", "first", "people", "size", "seed")
    given = {name: getattr(options, name) for name in names}

    def report(done: int, count: int) -> None:
        say(f"{done} of {count} pictures")

    try:
        recipe = SetRecipe(images=options.pictures, **given, **({"styles": STYLES} if options.photos else {}))
        if options.photos:
            write_photos(options.target, recipe, report)
        else:
            write(options.target, recipe, options.processes, report)
    except (ValueError, OSError) as error:
        say(str(error))
        return 1
    say(f"Wrote {len(recipe)} pictures to {options.target}.")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="likeness.py miniature", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    cores = "how many draw at the same time (default: one a core)"
    sizes = {"sheet": (8, 10, 128), "data": (2000, 12, 64)}
    texts = {"sheet": "draw a PNG with a row of pictures for each person", "data": "draw a folder of portraits"}
    for action, (people, pictures, size) in sizes.items():
        command = actions.add_parser(action, help=texts[action], description=texts[action])
        command.add_argument("target", type=Path, help="the file or folder to write")
        command.add_argument("--split", choices=SPLITS, default="train", help="whose people (default: train)")
        for name, value in (("first", 0), ("people", people), ("pictures", pictures), ("size", size), ("seed", 0)):
            command.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
        if action == "data":
            text = "a folder of PNG files for each person, as trainings read photos; 96 pixels or more serve best"
            command.add_argument("--photos", action="store_true", help=text)
            command.add_argument("--processes", type=int, default=os.cpu_count() or 1, help=cores)
    return parser.parse_args(argv)
