"""Train an adapter on photos of many people, for SD1.x or, Infinite-ID, SDXL; training/README.md has the settings."""

import argparse
import dataclasses
import glob
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import comfy.clip_vision
import comfy.model_management
import comfy.supported_models
import safetensors.torch
import torch
from comfy.model_base import ModelType
from tqdm import tqdm

from ..adapters.ip_adapter import INFINITE_ID_METADATA
from ..adapters.unet_blocks import recognise_base
from ..encoders.loading import load_encoder, load_expression_encoder
from ..faces import detector
from ..faces.parsing import FaceParser, load_parser
from ..faces.search import FaceDetector
from ..host_process import SetupError
from ..weights import folders, saving
from . import curve, face2diffusion, fact, infinite_id, loop, photos, portraits, shards, validation
from .adapter_loop import train_adapter
from .bases import BUILT_IN, BuiltInBase, load_checkpoint
from .buckets import Shape, list_shapes
from .distributed import from_main, is_main, main_first
from .frozen import freeze
from .paths import check_paths
from .photo_lists import list_tars
from .progress_line import ProgressLine
from .settings import (
    BASES,
    CLIP_FACES,
    AdapterSettings,
    WatchedSettings,
    check_data,
    check_settings,
    make_parser,
    read_config,
)
from .watch import Watch, averaged, check_board, mean_loss


class AdapterTraining(NamedTuple):
    """How the adapter of a method is trained and written.

    trainer: with `make`, `make_loss` and `make_groups`. settings: the class of its settings. networks: those whose
    features it wants. state: gives the weights of its result by name. metadata: of its file. bases: which base models
    it is for.
    """

    trainer: ModuleType
    settings: type[AdapterSettings]
    networks: tuple[str, ...]
    state: Callable[[torch.nn.Module], dict[str, torch.Tensor]]
    metadata: dict[str, str] | None = None
    bases: tuple[str, ...] = ("SD1.5",)


class NetworkFile(NamedTuple):
    """Where the file of a network is looked for: the kind of folder and the published name."""

    kind: str
    published: str


METHODS = {
    "fact": AdapterTraining(fact, fact.FactSettings, ("transface",), fact.Fact.state),
    "face2diffusion": AdapterTraining(
        face2diffusion,
        face2diffusion.Face2DiffusionSettings,
        ("msid", "expression"),
        torch.nn.Module.state_dict,
    ),
    "infinite-id": AdapterTraining(
        infinite_id,
        infinite_id.InfiniteIdSettings,
        ("arcface", "clip_vision"),
        infinite_id.InfiniteId.state,
        INFINITE_ID_METADATA,
        ("SD1.5", "SDXL"),
    ),
}
FILES = {
    "transface": NetworkFile("facechain_fact", "ms1mv2_model_TransFace_S.pt"),
    "msid": NetworkFile("face2diffusion", "msid.pt"),
    "expression": NetworkFile("face2diffusion", "epoch_20.pth"),
    "arcface": NetworkFile("insightface", "models/buffalo_l/w600k_r50.onnx"),
    "clip_vision": NetworkFile("clip_vision", "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"),
}
_FAMILIES = {"SD1.5": comfy.supported_models.SD15, "SDXL": comfy.supported_models.SDXL}
_SIZES = {"SD1.5": 512, "SDXL": 1024}
_PARSER, NO_PARSER = "79999_iter.pth", "none"
_FACE_ENCODERS = ("transface", "msid", "arcface")


@dataclass(frozen=True)
class Data:
    """How photos are read: the crops' side in pixels, a face detector's label, the files of the networks by name.

    size: 0 for that of the base model. clip_face: what CLIP sees, one of CLIP_FACES. parser: the file of a face
    parser, "" for none. flip: whether every photo is there mirrored too. buckets: whether targets have several shapes.
    """

    size: int
    detector: str
    files: dict[str, str]
    clip_face: str = CLIP_FACES[0]
    parser: str = ""
    flip: bool = False
    buckets: bool = False

    def choose_shapes(self, vae) -> tuple[Shape, ...]:
        """Return the shapes of the targets that `vae` is to encode, none without buckets."""
        return list_shapes(self.size, vae.spacial_compression_encode()) if self.buckets else ()


class LoadedBase(NamedTuple):
    """MODEL, CLIP and VAE of a base model, the file they are from, and its description where it comes with the pack.

    size: pixels of a picture's side for which it was made. kind: "SD1.5", "SDXL" or the word for a built-in one.
    """

    model: object
    clip: object
    vae: object
    file: str
    size: int
    kind: str
    built_in: BuiltInBase | None = None


def main(arguments: list[str]) -> int:
    """Train and write the adapter; stopped with Ctrl-C it keeps what was learned, run again it goes on.

    Raises SetupError with a sentence where photos, checkpoint, settings or the output's folder do not serve.
    """
    options = _parse(arguments)
    try:
        _train(options)
    except (ValueError, RuntimeError, OSError) as error:
        raise SetupError(str(error), tell_left(options.output)) from error
    return 0


def tell_left(output: Path) -> str:
    """Return in words what a training that cannot go on leaves behind."""
    left = f"{output} was not written."
    if (checkpoint := _checkpoint_path(output)).is_file():
        left += (
            f" What was learned is in {checkpoint}: run the command again to go on from there, or delete that file "
            "to begin anew, as other sizes of the networks need, and a loss that is no number again."
        )
    return left


def _parse(arguments: list[str]) -> argparse.Namespace:
    kinds = " or ".join(map(name_kind, METHODS[arguments[0]].bases))
    words = "".join(f", or the word {name} for {base.what}" for name, base in BUILT_IN.items())
    photos = "folder with a sub-folder of photos for each person, or prepared"
    parser = make_parser(arguments[0], __doc__, photos, f"{kinds} checkpoint{words}")
    return parser.parse_args(arguments[1:], argparse.Namespace(method=arguments[0]))


def name_kind(kind: str) -> str:
    """Return a kind of base model as sentences name it."""
    return "SD1.x" if kind == "SD1.5" else kind


def _train(options: argparse.Namespace) -> None:
    method, built_in = METHODS[options.method], BUILT_IN.get(options.checkpoint)
    values, about_data = read_config(options.config, options.set)
    settings = check_settings(method.settings, values)
    if options.photos.is_file() or (list_tars(options.photos) and not (options.photos / shards.MANIFEST).is_file()):
        raise ValueError(
            f"Photos of a table or of tar shards are prepared first: 'likeness.py prepare {options.photos} ...'."
        )
    check_paths(options.photos, options.checkpoint, options.output, "an SD1.x", BUILT_IN)
    validation.check(settings)
    check_board(settings, options.output)
    scorers = validation.load_scorers(settings.face_scorer, settings.text_scorer)
    line = ProgressLine(settings)
    take = _take_prepared if (options.photos / shards.MANIFEST).is_file() else _take_photos
    base, encoded, more, label, people = take(options, settings, method, about_data, built_in)
    if is_main():
        _tell_shapes(encoded, base.vae)
    watched = portraits.hold_out(encoded, settings.held_out, people) if settings.validate_steps else [encoded]
    comfy.model_management.unload_all_models()  # the base model needs the room
    fixed = freeze(base.model, base.clip, settings.precision, settings.checkpointing, settings.compile)
    progress = loop.Progress()
    module = method.trainer.make(fixed, watched[0], settings)
    validate = None
    if settings.validate_steps and is_main():
        loss, gallery = method.trainer.make_loss(fixed, module, watched[1], *more, settings), None
        if settings.validation_pictures:
            finder, data = detector.load(label, 0.5, 640), (watched[1], *more)
            gallery = validation.Gallery(
                method.trainer, fixed, base.vae, data, settings, options.output, finder, *scorers
            )

        def validate(step: int) -> dict[str, float]:
            with averaged(module, progress):
                numbers = {"validation": mean_loss(loss, settings.validation_batches)}
                return numbers | (gallery(module, step) if gallery else {})

    def write(path: Path) -> None:
        with averaged(module, progress):
            _write(method, module, path)

    watch = Watch(settings, settings.lr, options.output, write, validate, settings.best)
    train = partial(train_adapter, method.trainer, fixed, module, (watched[0], *more), settings)
    learn(train, settings, options.output, line, watch, progress)


def _tell_shapes(encoded: portraits.Portraits, vae) -> None:
    """Print how many photos are learned in each shape, where these are several."""
    cell, groups = vae.spacial_compression_encode(), encoded.split(torch.arange(len(encoded)))
    if len(groups) > 1:
        shapes = sorted(((len(rows), *encoded.measure(rows)) for rows in groups), reverse=True)
        told = (f"{count} of {cell * width} x {cell * height}" for count, height, width in shapes)
        print(f"Buckets: {', '.join(told)} pixels", flush=True)


def learn(
    train: Callable, settings: WatchedSettings, output: Path, line: ProgressLine, watch: Watch, progress: loop.Progress
) -> None:
    """Train until it is done and write the file; raises ValueError where the checkpoint is of another training.

    train: takes the checkpoint, what to call after every step, and the progress.
    """

    def after_step(progress: loop.Progress) -> None:
        line(progress)
        watch(progress)

    checkpoint = _checkpoint_path(output)
    if is_main():
        saving.sweep_parts(output.parent, f"{glob.escape(output.stem)}.*.{'[0-9a-f]' * 8}.part")
    try:
        train(checkpoint, after_step, progress)
    except KeyError as error:
        raise ValueError(f"{checkpoint} is of another training: it has no {error}.") from error
    if is_main():
        watch.write(output)
        curve.draw(progress.losses, settings.steps).save(output.with_suffix(".png"))
        print(f"{curve.summarise(progress.losses)}\nwritten to {output}", flush=True)
        checkpoint.unlink(missing_ok=True)


def _take_photos(options: argparse.Namespace, settings: AdapterSettings, method: AdapterTraining, about_data, built_in):
    """Return base model, portraits, where it is read what CLIP sees in nothing, the detector's label, and None."""
    if about_data.get("split"):
        raise ValueError(
            f"split = true is for prepared photos, which {options.photos} is not: 'likeness.py prepare' them."
        )
    base = load_base(options.checkpoint, method.bases, settings.base)  # before files are wanted that serve another one
    data = complete_data(method.networks, about_data, built_in)
    data = replace(data, size=data.size or base.size)
    photos.check_size(data.size, base.vae)
    encoded = _prepare_portraits(options, data, base)
    file = data.files.get("clip_vision")
    more = [photos.clip_of_nothing(_load_clip_vision(file, built_in))] if file else []
    return base, encoded, more, data.detector, None


def _take_prepared(options: argparse.Namespace, settings: AdapterSettings, method: AdapterTraining, about_data, _):
    """Return the same of photos that `likeness.py prepare` encoded; where they are split, the main process's people.

    Raises ValueError where they are for another training.
    """
    split = check_data(method.networks, about_data, prepared=True).split
    manifest = shards.read_manifest(options.photos)
    if missing := [name for name in method.networks if name not in manifest["data"]["files"]]:
        raise ValueError(
            f"{options.photos} was prepared without {missing[0]}, which {options.method} reads: prepare the photos "
            f"with --for {options.method}."
        )
    check_prepared(options.photos, manifest, about_data)
    base = load_base(options.checkpoint, method.bases, settings.base)
    if base.kind != manifest["base"]:
        raise ValueError(f"{options.photos} was prepared for {manifest['base']}, but {base.file} is {base.kind}.")
    encoded, more = shards.read(options.photos, manifest, split)
    if is_main():
        counts = encoded.shelves.counts
        print(f"{len(encoded)} photos of {len(counts)} people, in {options.photos}", flush=True)
        if single := int((counts == 1).sum()):
            print(f"{single} people have one photo only, which cannot be paired with another of them", flush=True)
    more, people = more if "clip_vision" in method.networks else [], encoded.people.unique()
    return base, encoded, more, manifest["data"]["detector"], from_main(people) if split else people


def check_prepared(folder: Path, manifest: dict, about_data: dict) -> None:
    """Raise ValueError where entries of [data] are others than what a folder's photos were prepared with."""
    there = manifest["data"]
    for name, value in about_data.items():
        was = there["files"].get(name, there.get(name))
        if name != "split" and not _agrees(was, value):
            raise ValueError(f"{folder} was prepared with {name} = {was!r}, not {value!r}: prepare it anew.")
    if about_data.get("split") and "people" not in manifest:
        raise ValueError(
            f"{folder} was prepared by an earlier version, which split = true cannot read: prepare it anew."
        )


def _agrees(was: object, value: object) -> bool:
    """Return whether an entry of [data] says what photos were prepared with: of a file its name is enough."""
    if isinstance(was, str) and was and value:
        return was.endswith(str(value))
    return was == value or (not was and value in ("", NO_PARSER))


def complete_data(networks: tuple[str, ...], values: dict, built_in: BuiltInBase | None) -> Data:
    """Return how photos are read by the entries of [data], which count more than the base model's and the usual ones.

    Raises ValueError with a sentence for an unknown entry or a wrong value, FileNotFoundError, which tells how to get
    it, where the file of a network is missing.
    """
    defaults = {"detector": built_in.detector} if built_in else {}
    entries = check_data(networks, defaults | values, prepared=True)
    files = {}
    for name in networks:
        if built_in and name not in values:
            files[name] = built_in.path(name)
        else:
            kind, published = FILES[name]
            files[name] = folders.path(kind, getattr(entries, name) or published)
    size = entries.size if "size" in values else 0
    label = entries.detector or detector.first_detector()
    parser = _find_parser(entries.parser, built_in)
    return Data(size, label, files, entries.clip_face, parser, entries.flip, entries.buckets)


def _find_parser(name: str, built_in: BuiltInBase | None) -> str:
    """Return the file of the face parser that [data] names; raise FileNotFoundError where it is missing.

    Where it names none, the published one if it is there; it knows no drawn people.
    """
    if name == NO_PARSER or (built_in and not name):
        return ""
    return folders.path("face_parsing", name) if name else folders.find("face_parsing", _PARSER) or ""


def load_base(checkpoint: str, kinds: tuple[str, ...], wanted: str = BASES[0]) -> LoadedBase:
    """Load the base model to train for; raises ValueError with a sentence where it is of none of `kinds`.

    wanted: one of BASES, the kind that the settings are for; for another one ValueError is raised too.
    """
    if built_in := BUILT_IN.get(checkpoint):
        _check_wanted(checkpoint, "SD1.5", wanted)  # of its layout
        return LoadedBase(*built_in.load(), built_in.path("base"), built_in.size, checkpoint, built_in)
    model, clip, vae = load_checkpoint(checkpoint)
    config = model.model.model_config
    plain = config.unet_config["in_channels"] == config.latent_format.latent_channels
    kind = recognise_base(model.model.diffusion_model)
    family = _FAMILIES.get(kind)
    predicts = model.model.model_type in (ModelType.EPS, ModelType.V_PREDICTION)
    if clip is None or kind not in kinds or not isinstance(config, family) or not plain or not predicts:
        names = " or ".join(map(name_kind, kinds))
        raise ValueError(f"{checkpoint} is no {names} text-to-image checkpoint with its text encoder: name one.")
    _check_wanted(checkpoint, kind, wanted)
    return LoadedBase(model, clip, vae, checkpoint, _SIZES[kind], kind)


def _check_wanted(checkpoint: str, kind: str, wanted: str) -> None:
    if wanted not in (BASES[0], kind):
        raise ValueError(
            f"These settings are for {name_kind(wanted)} (base = '{wanted}'), but {checkpoint} is {name_kind(kind)}: "
            "take the recipe for that base, or another checkpoint."
        )


def _prepare_portraits(options: argparse.Namespace, data: Data, base: LoadedBase) -> portraits.Portraits:
    """Return what the training samples from, encoded once and kept beside the output."""
    key = fingerprint(options.photos, data, base.file)
    file = options.output.with_suffix(f".portraits-{key}.safetensors")
    with main_first():
        if not file.is_file():
            portraits.save(file, _encode(options.photos, data, base))
            for other in file.parent.glob(f"{glob.escape(options.output.stem)}.portraits-*.safetensors"):
                if other != file:
                    other.unlink()
    loaded = portraits.load(file)
    if is_main():
        print(f"{len(loaded)} photos of {len(loaded.shelves.counts)} people, in {file}", flush=True)
    return loaded


def fingerprint(folder: Path, data: Data, checkpoint: str) -> str:
    """Return 12 hexadecimal digits that stand for photos, captions, networks, checkpoint and crops.

    Files are told apart by name, size and the time when they were written.
    """
    inside = sorted(file for file in folder.glob("*/*") if file.is_file())
    names = [str(file.relative_to(folder)) for file in inside]
    used = [file for file in (*data.files.values(), data.parser) if file]
    stats = [Path(file).stat() for file in (*inside, *used, checkpoint)]
    facts = [names, [(stat.st_size, stat.st_mtime_ns) for stat in stats], *dataclasses.astuple(data)]
    facts = facts if data.buckets else facts[:-1]  # as before there were buckets
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _encode(folder: Path, data: Data, base: LoadedBase) -> portraits.Portraits:
    """Find the faces of all photos and encode them; only the main process comes here."""
    networks = load_networks(data, base)
    print(f"Finding faces below {folder} with {data.detector} ...", flush=True)
    album = photos.read(folder, networks.detector, data.size, networks.parser, data.choose_shapes(base.vae))
    with tqdm(total=len(album) * (1 + data.flip), desc="encoded", unit=" photos") as bar:
        return encode_album(album, data, networks, base, report=lambda done, count: bar.update(done - bar.n))


class Networks(NamedTuple):
    """What photos are read with: encoders by "transface" and so on in a list, the others or None."""

    detector: FaceDetector
    parser: FaceParser | None
    encoders: list
    expression: object | None
    clip_vision: object | None


def load_networks(data: Data, base: LoadedBase) -> Networks:
    """Load what the photos are read with, and print what draws the masks; raises ValueError for a wrong file."""
    encoders = []
    for name in _FACE_ENCODERS:
        if file := data.files.get(name):
            encoder = load_encoder(file)
            if encoder.kind != name:
                raise ValueError(f"{file} is no {name} encoder but of the kind {encoder.kind}: name another in [data].")
            encoders.append(encoder)
    estimated = f"Masks estimated from points: no face parser is used ({_PARSER} in models/face_parsing)."
    files = data.files
    if is_main() and files:  # MSID's aligned crops need no masks
        print(f"Masks by {data.parser}." if data.parser else estimated, flush=True)
    return Networks(
        detector.load(data.detector, 0.5, 640),
        load_parser(data.parser) if data.parser else None,
        encoders,
        load_expression_encoder(files["expression"]) if "expression" in files else None,
        _load_clip_vision(files["clip_vision"], base.built_in) if "clip_vision" in files else None,
    )


def encode_album(
    album: photos.Album, data: Data, networks: Networks, base: LoadedBase, report: Callable[[int, int], None] | None
) -> portraits.Portraits:
    """Return what a training samples from; report: called with the number of pictures that are done and of all."""
    if data.flip:
        album = photos.add_mirrored(album)
    encoded = photos.encode(album, base.model, base.vae, networks.encoders, report=report)
    more = {}
    if networks.expression:
        more["expression"] = photos.expressions(album, networks.expression)
    if networks.clip_vision:
        more["clip"] = photos.clip_states(album, networks.clip_vision, data.clip_face)
    return replace(encoded, features=encoded.features | more)


def _load_clip_vision(file: str, built_in: BuiltInBase | None) -> comfy.clip_vision.ClipVisionModel:
    if built_in and file == built_in.path("clip_vision"):
        return built_in.load_clip_vision()
    loaded = comfy.clip_vision.load(file)
    if loaded is None:
        raise ValueError(f"{file} is no CLIP vision model that ComfyUI knows: name another in [data].")
    return loaded


def _write(method: AdapterTraining, module: torch.nn.Module, output: Path) -> None:
    """Write the adapter in float16."""
    state = {name: weight.detach().cpu().half().contiguous() for name, weight in method.state(module).items()}
    saving.write(output, safetensors.torch.save(state, method.metadata), "Training")


def _checkpoint_path(output: Path) -> Path:
    return output.with_suffix(".training.pt")
