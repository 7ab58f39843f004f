"""`python3 likeness.py evaluate PROTOCOL`: score pictures that are there, of people of whom there are photos.

The pictures and photos lie in folders as launcher/picture_sets.py says. What was scored is kept, so that a run that was
stopped goes on, and a run with more pictures scores those alone.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..host_process import SetupError
from ..weights.files import file_sha256
from . import picture_sets
from .picture_sets import Person, Picture
from .protocols import PROTOCOLS

_VERSION = 1  # of what is kept
_PROMPTS = Path(__file__).parents[1] / "metrics" / "prompts.json"
_RECOGNISERS = (
    "facenet-vggface2",
    "adaface-r100-webface12m",
    "adaface-ir101-webface12m",
    "sphereface-20a",
    "sface-int8",
)
_NETWORKS = ("clip-vit-b-32", "clip-vit-l-14", "siglip-b-16", "dino-vits16")
_INCEPTION, _EXPRESSION = "fid-inception", "deep3dfacerecon"
_DRAWN_SCORE = 0.5  # of the miniature's detector, the least


def main(arguments: Sequence[str], comfy: Path) -> int:
    """Score pictures and write the report, or print prompts; raises SetupError as `run`."""
    options = parse(arguments)
    if options.list_prompts:
        print(*list_prompts(PROTOCOLS[options.protocol], options.list_prompts), sep="\n")
        return 0
    from .train import open_registered

    open_registered(comfy, options.cpu)
    try:
        print(run(options))
    except (ValueError, OSError) as error:  # of a file that is missing, or something else than it was taken for
        raise SetupError(str(error), "Start again when that is mended: what was scored is kept.") from error
    return 0


def run(options: argparse.Namespace) -> str:
    """Score what is not scored yet, write the report, and return what to print, in the opened host.

    Raises SetupError with a sentence for what does not serve.
    """
    from . import evaluation_report

    protocol, people = PROTOCOLS[options.protocol], picture_sets.read_people(options.photos)
    methods = {name: _read_method(folder, people) for name, folder in options.pictures}
    refuse_copies(people, options.drawn_from)
    judges = load_judges(options)
    options.out.mkdir(parents=True, exist_ok=True)
    results = {name: _score_method(name, groups, people, judges, protocol, options) for name, groups in methods.items()}
    real = _read_real(options, judges)
    return evaluation_report.write(options.out, protocol, options.protocol, results, people, judges, real)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(prog="likeness.py evaluate", description=__doc__)
    parser.add_argument(
        "protocol", choices=PROTOCOLS, help="whose figures stand beside yours; stress: groups of people"
    )
    parser.add_argument("--photos", type=Path, help="photos that pictures are compared with, a folder or file a person")
    parser.add_argument(
        "--pictures",
        action="append",
        default=[],
        type=_split_name,
        metavar="[NAME=]DIR",
        help="a method's pictures; several times to compare methods on the same people and prompts",
    )
    parser.add_argument("--out", type=Path, help="where report, tables and kept scores go (default: DIR/evaluation)")
    parser.add_argument("--drawn-from", type=Path, metavar="DIR", help="photos the pictures were made from: none "
                        "of them may be among --photos")  # fmt: skip
    parser.add_argument("--real", type=Path, metavar="DIR", help="real pictures for FID and KID (default: --photos)")
    parser.add_argument("--detector", help="as Load Face Detector names it (default: the first that is ready)")
    for name, text in (
        ("recogniser", "a file of models/metrics or models/insightface"),
        ("network", "a file of models/image_metrics: DINO, CLIP, SigLIP"),
    ):
        parser.add_argument(f"--{name}", action="append", metavar="FILE", help=f"{text} (default: all that are there)")
    parser.add_argument("--miniature", action="store_true", help="judge drawn people, by what comes with the miniature")
    parser.add_argument("--plain", default="a photo of {subject}", help="the prompt of dCLIP's references")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    parser.add_argument("--list-prompts", metavar="WORDS", help="only print the protocol's prompts, WORDS being the "
                        "person: '{face}', 'a woman'")  # fmt: skip
    options = parser.parse_args(arguments)
    if not options.list_prompts and not (options.photos and options.pictures):
        parser.error("give --photos and --pictures")
    names = [name for name, _ in options.pictures]
    if len(set(names)) < len(names):
        parser.error("two --pictures have one name: write NAME=DIR")
    options.out = options.out or (options.pictures[0][1] / "evaluation" if options.pictures else None)
    return options


def _split_name(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    path = Path(folder if equals else text)
    return (name if equals else path.resolve().name), path


def list_prompts(protocol, words: str) -> list[str]:
    """Return the prompts that stand for the protocol's own, with words for the person."""
    records = json.loads(_PROMPTS.read_text(encoding="utf-8"))[protocol.prompts]
    return [record.get("text", record.get("whole")).replace("{subject}", words) for record in records]


def _read_method(folder: Path, people: dict[str, Person]) -> dict[str, list[Picture]]:
    return picture_sets.match(picture_sets.read_pictures(folder), people, folder)


def refuse_copies(people: dict[str, Person], drawn_from: Path | None) -> None:
    """Raise SetupError where a photo to compare with is one that the pictures were made from, byte for byte."""
    if drawn_from is None:
        return
    used = {file_sha256(path) for path in drawn_from.rglob("*") if path.suffix.lower() in picture_sets.IMAGE_FILES}
    for person in people.values():
        if copies := [path for path in person.photos if file_sha256(path) in used]:
            raise SetupError(
                f"{copies[0]} is one of the photos that the pictures were made from: a copy of it would score highest.",
                "Take it out of --photos, or leave out --drawn-from.",
            )


def load_judges(options: argparse.Namespace):
    """Return everything that scores: what the options name, or all that is there; tells what is not.

    Raises SetupError where no recogniser or no detector is there, ValueError for files that are something else.
    """
    from ..faces import detector as detectors
    from ..metrics.evaluation import Judges
    from ..metrics.image_features import load_image_network
    from ..metrics.loading import load_image_scorer, load_recogniser

    if options.miniature:
        return _load_drawn_judges()
    recognisers = [load_recogniser(path) for path in _find(options.recogniser, _RECOGNISERS)]
    if not options.recogniser:
        recognisers = [*{recogniser.kind: recogniser for recogniser in reversed(recognisers)}.values()][::-1]
    if not recognisers:
        raise SetupError(
            "There is no recogniser to score with.",
            "'python3 likeness.py weights fetch sface-int8' brings one that may be used commercially; 'weights list' "
            "names the papers'.",
        )
    networks = [load_image_scorer(path) for path in _find(options.network, _NETWORKS)]
    inception = next(iter(_find(None, (_INCEPTION,))), None)
    return Judges(
        detectors.load(options.detector or detectors.first_detector()), recognisers, networks,
        load_image_network(inception) if inception else None, _load_expression(),
    )  # fmt: skip


def _find(chosen: list[str] | None, known: Sequence[str]) -> list[str]:
    """Return the paths of the files chosen or, without a choice, of those of the manifest that are there."""
    from ..weights import folders, manifest

    if chosen is not None:
        kinds = ("metrics", "insightface", "image_metrics")
        return [
            str(Path(name)) if Path(name).is_file() else
            next(filter(None, (folders.find(kind, name) for kind in kinds)), None) or folders.path(kinds[0], name)
            for name in chosen
        ]  # fmt: skip
    paths = []
    for entry in manifest.choose(known):
        if entry.name not in known:  # a part of the one before
            continue
        kind, *deeper = entry.folder.split("/")
        path = folders.find(kind, "/".join([*deeper, entry.file]))
        if path:
            paths.append(path)
        else:
            how = manifest.fetch_command(entry) or f"see 'python3 likeness.py weights list {entry.name}'"
            print(f"without {entry.name} ({entry.folder}/{entry.file}): {how}", flush=True)
    return paths


def _load_expression():
    from ..encoders.loading import load_expression_encoder

    path = next(iter(_find(None, (_EXPRESSION,))), None)
    return load_expression_encoder(path) if path else None


def _load_drawn_judges():
    from ..encoders.loading import load_expression_encoder
    from ..metrics.evaluation import Judges
    from ..metrics.loading import load_recogniser
    from ..metrics.text_image import HostClip
    from ..miniature.detector import MiniatureFinder
    from ..miniature.models import base_model
    from ..miniature.registration import NETWORKS

    def locate(name: str) -> str:
        return str(base_model.weight_file(base_model.WEIGHTS, NETWORKS[name]))

    clip = HostClip(
        *base_model.load_pair(base_model.WEIGHTS), "the miniature's CLIP", file_sha256(locate("clip_vision"))
    )
    expression = load_expression_encoder(locate("expression"))
    return Judges(MiniatureFinder(_DRAWN_SCORE), [load_recogniser(locate("arcface"))], [clip], None, expression)


def _score_method(name: str, groups: dict[str, list[Picture]], people: dict[str, Person], judges, protocol, options):
    """Return the pictures and scores of each person: those kept of an earlier run, or new ones."""
    results = {}
    for number, (person, pictures) in enumerate(groups.items(), 1):
        path = options.out / "scores" / f"{_slug(name)}__{_slug(person)}.safetensors"
        key = _make_key(people[person], pictures, judges, protocol, options.plain)
        scores = _read_kept(path, key)
        if scores is None:
            scores = _score(people[person], pictures, judges, protocol, options.plain)
            _keep(path, key, scores)
            print(f"{name}: {person}, {len(pictures)} pictures ({number} of {len(groups)} people)", flush=True)
        results[person] = (pictures, scores)
    return results


def _slug(name: str) -> str:
    """Return a name as that of a file, told apart from others that would look the same."""
    letters = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name)[:60]
    return f"{letters}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _make_key(person: Person, pictures: list[Picture], judges, protocol, plain: str) -> str:
    """Return what changes with everything that the scores depend on."""
    content = [
        _VERSION, judges.describe(), person.class_words, protocol.ending, plain,
        [_state(path) for path in person.photos],
        [(_state(picture.file), picture.prompt, picture.seed, _state(picture.template)) for picture in pictures],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _state(path: Path | None) -> tuple | None:
    """Return what changes with a file that is replaced under the same name."""
    return path and (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)


def _score(person: Person, pictures: list[Picture], judges, protocol, plain: str):
    import torch

    from ..metrics.evaluation import Job, score_person

    jobs = [
        Job(
            partial(picture_sets.read_image, picture.file), make_text(picture.prompt, person, protocol.ending),
            picture.seed, partial(picture_sets.read_image, picture.template) if picture.template else None,
        )
        for picture in pictures
    ]  # fmt: skip
    photos = [picture_sets.read_image(path) for path in person.photos]
    try:
        with torch.inference_mode():
            return score_person(judges, photos, jobs, make_text(plain, person, ""))
    except ValueError as error:
        raise SetupError(f"{person.name}, {person.photos[0].parent}: {error}", "What was scored is kept.") from error


def make_text(prompt: str, person: Person, ending: str) -> str:
    """Return a prompt as it is scored: with class words for the person, and the protocol's ending once."""
    from ..adapters.face_prompt import put_class_words

    text = put_class_words(prompt.replace("{subject}", person.class_words), person.class_words)
    return text if not ending or ending in text else f"{text}, {ending}"


def _read_kept(path: Path, key: str):
    """Return the scores kept under a key; None where there are none, or others."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:  # of a disk that was full; what is scored again replaces it
        return None


def _keep(path: Path, key: str, scores) -> None:
    from safetensors.torch import save

    from ..weights import saving

    path.parent.mkdir(parents=True, exist_ok=True)
    saving.write(path, save({name: values.contiguous() for name, values in scores.items()}, {"key": key}), "evaluate")


def _read_real(options: argparse.Namespace, judges):
    """Return Inception's features [n, 2048] of the real pictures, kept as scores are; None without an Inception."""
    import torch

    if not judges.inception:
        return None
    folder = options.real or options.photos
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in picture_sets.IMAGE_FILES)
    key = hashlib.sha256(json.dumps([judges.inception.sha256, [_state(path) for path in files]]).encode()).hexdigest()
    path = options.out / "scores" / "real.safetensors"
    kept = _read_kept(path, key)
    if kept is None:
        with torch.inference_mode():
            parts = [judges.inception.embed_images(picture_sets.read_image(file)[None]) for file in files]
        kept = {"features": torch.cat(parts)}
        _keep(path, key, kept)
    return kept["features"]
