"""Train an adapter for an SD1.x base on photos of many people: training/README.md says how, and with what settings."""

import argparse
import contextlib
import glob
import hashlib
import json
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, get_args, get_origin

import comfy.clip_vision
import comfy.model_management
import comfy.sd
import comfy.supported_models
import numpy as np
import safetensors.torch
import torch

from ..adapters.ip_adapter import INFINITE_ID_METADATA
from ..encoders.face_encoder import FaceEncoder
from ..encoders.loading import load_encoder, load_expression_encoder
from ..faces import detector
from ..host_process import SetupError
from ..weights import folders, saving
from . import face2diffusion, fact, infinite_id, loop, photos, portraits
from .bases import BUILT_IN, BuiltInBase
from .distributed import count_processes, is_main, main_first
from .frozen import frozen

_SILENT = 5.0  # seconds between two lines of progress
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


class Method(NamedTuple):
    """A trainer, the networks whose features it wants, the weights of its result by name, and its file's metadata."""

    trainer: ModuleType
    networks: tuple[str, ...]
    state: Callable[[torch.nn.Module], dict[str, torch.Tensor]]
    metadata: dict[str, str] | None = None


class Source(NamedTuple):
    """Where the file of a network is looked for: the kind of folder and the published name."""

    kind: str
    published: str


METHODS = {
    "fact": Method(fact, ("transface",), fact.Fact.state),
    "face2diffusion": Method(face2diffusion, ("msid", "expression"), torch.nn.Module.state_dict),
    "infinite-id": Method(infinite_id, ("arcface", "clip_vision"), infinite_id.InfiniteId.state, INFINITE_ID_METADATA),
}
SOURCES = {
    "transface": Source("facechain_fact", "ms1mv2_model_TransFace_S.pt"),
    "msid": Source("face2diffusion", "msid.pt"),
    "expression": Source("face2diffusion", "epoch_20.pth"),
    "arcface": Source("insightface", "models/buffalo_l/w600k_r50.onnx"),
    "clip_vision": Source("clip_vision", "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"),
}
_FACE_ENCODERS = ("transface", "msid", "arcface")


@dataclass(frozen=True)
class Data:
    """How photos are read: the crops' side in pixels, a face detector's label, the files of the networks by name."""

    size: int
    detector: str
    files: dict[str, str]


class Host(NamedTuple):
    """The host's MODEL, CLIP and VAE of one checkpoint, the file they are from, and what it is where it is built in."""

    model: object
    clip: object
    vae: object
    file: str
    built_in: BuiltInBase | None = None


def main(arguments: list[str]) -> int:
    """Train and write the adapter; stopped with Ctrl-C it keeps what was learned, run again it goes on.

    Raises SetupError with a sentence where photos, checkpoint, settings or the output's folder do not serve.
    """
    options = _parse(arguments)
    try:
        _train(options)
    except (ValueError, RuntimeError, OSError) as error:
        raise SetupError(str(error), _what_is_left(options.output)) from error
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="likeness.py train", description=__doc__)
    parser.add_argument("method", choices=METHODS, help="what to train")
    parser.add_argument("photos", type=Path, help="folder with a sub-folder of photos for each person")
    words = "".join(f", or the word {name} for {base.what}" for name, base in BUILT_IN.items())
    parser.add_argument("checkpoint", help=f"SD1.x checkpoint{words}")
    parser.add_argument("output", type=Path, help="the safetensors file to write")
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="settings by name, and a table [data]")
    text = "over the config, e.g. --set steps=600 --set data.size=256"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)
    return parser.parse_args(arguments)


def _what_is_left(output: Path) -> str:
    kept = _training(output)
    if not kept.is_file():
        return f"{output} was not written."
    return (
        f"{output} was not written. What was learned is in {kept}: run the command again to go on from there, or "
        "delete that file to begin anew, as other sizes of the networks need."
    )


def _train(options: argparse.Namespace) -> None:
    method, built_in = METHODS[options.method], BUILT_IN.get(options.checkpoint)
    values, about_data = read_config(options.config, options.set)
    settings = settings_of(method.trainer.Settings, values)
    _check_places(options.photos, options.checkpoint, options.output)
    data = data_of(method.networks, about_data, built_in)
    host = load_host(options.checkpoint)
    seen = _portraits(options, data, host)
    more = []
    if file := data.files.get("clip_vision"):
        more = [photos.clip_of_nothing(_clip_vision(file, built_in))]
    comfy.model_management.unload_all_models()  # the base needs the room
    fixed = frozen(host.model, host.clip, settings.precision)
    checkpoint = _training(options.output)
    try:
        module, progress = method.trainer.train(fixed, seen, *more, settings, checkpoint, _shown(settings))
    except KeyError as error:
        raise ValueError(f"{checkpoint} is of another training: it has no {error}.") from error
    if is_main():
        _write(method, module, progress, settings.steps, options.output)
        checkpoint.unlink(missing_ok=True)


def read_config(file: Path | None, given: list[str]) -> tuple[dict, dict]:
    """Settings and entries of [data], by name, of a TOML file and of NAME=VALUE texts, which count more.

    Raises ValueError with a sentence where one of them cannot be read, OSError where there is no such file.
    """
    values = _toml(file) if file else {}
    data = values.pop("data", {})
    if not isinstance(data, dict):
        raise ValueError(f"[data] in {file} must be a table, not {data!r}.")
    for name, value in map(_given, given):
        if name.startswith("data."):
            data[name.removeprefix("data.")] = value
        else:
            values[name] = value
    return values, data


def _toml(file: Path) -> dict:
    if not file.is_file():
        raise ValueError(f"There is no config {file}.")
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not TOML: {error}.") from error


def _given(text: str) -> tuple[str, object]:
    """Name and value of a NAME=VALUE text; a text needs no quotes."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--set needs NAME=VALUE, for instance steps=600, not '{text}'.")
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return name, tomllib.loads(f"value = {value}")["value"]
    return name, value


def settings_of(kind: type, values: dict) -> loop.Settings:
    """Settings of the class `kind`; raises ValueError with a sentence for an unknown name or a wrong value."""
    kinds = {entry.name: entry.type for entry in fields(kind)}
    checked = {name: fitting(name, value, kinds[name]) for name, value in values.items() if name in kinds}
    settings = loop.settings(values | checked, kind)
    for name in ("steps", "batch", "accumulate"):
        _check_positive(name, getattr(settings, name))
    loop.compute_dtype(settings.precision, comfy.model_management.get_torch_device())
    return settings


def fitting(name: str, value: object, kind: type) -> object:
    """`value`, as TOML has it, as a `kind`; raises ValueError with a sentence that begins with `name`."""
    if get_origin(kind) is tuple:
        return _fitting_list(name, value, get_args(kind))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} must be {_WORDS[kind]}, not {value!r}.")
    return value


def _fitting_list(name: str, value: object, kinds: tuple) -> tuple:
    length = None if kinds[-1] is ... else len(kinds)
    if not isinstance(value, list) or length not in (None, len(value)):
        raise ValueError(f"{name} must be a list of {length or 'any number of'} numbers, not {value!r}.")
    return tuple(fitting(f"each number of {name}", each, kinds[0]) for each in value)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}.")


def _check_places(folder: Path, checkpoint: str, output: Path) -> None:
    """Raise ValueError or OSError where photos or checkpoint are not there, or the output cannot be written."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} with photos.")
    if checkpoint not in BUILT_IN and not Path(checkpoint).is_file():
        names = ", or ".join(["name an SD1.x checkpoint file", *BUILT_IN])
        raise ValueError(f"There is no checkpoint {checkpoint}: {names}.")
    if output.suffix != ".safetensors":
        raise ValueError(f"The file to write must be called something.safetensors, not {output.name}.")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"Nothing can be written into {output.parent} ({why}): make it, or name another.") from error


def data_of(networks: tuple[str, ...], given: dict, built_in: BuiltInBase | None) -> Data:
    """What [data] says, completed: photos of 512 pixels, the first detector that is ready, the published networks.

    For a built-in base they are its own. Raises ValueError with a sentence for an unknown entry or a wrong value,
    FileNotFoundError, which tells how to get it, where the file of a network is missing.
    """
    known = {"size": int, "detector": str, **dict.fromkeys(networks, str)}
    if strange := [name for name in given if name not in known]:
        raise ValueError(f"There is no entry '{strange[0]}' in [data]; there are {', '.join(known)}.")
    given = {name: fitting(name, value, known[name]) for name, value in given.items()}
    size = given.get("size", built_in.size if built_in else 512)
    _check_positive("size", size)
    files = {name: _file(name, given.get(name), built_in) for name in networks}
    return Data(size, given.get("detector") or (built_in.detector if built_in else detector.first_detector()), files)


def _file(network: str, name: str | None, built_in: BuiltInBase | None) -> str:
    if name is None and built_in:
        return built_in.path(network)
    source = SOURCES[network]
    return folders.path(source.kind, name or source.published)


def load_host(checkpoint: str) -> Host:
    """The base to train for; raises ValueError with a sentence where it is no SD1.x."""
    if built_in := BUILT_IN.get(checkpoint):
        return Host(*built_in.load(), built_in.path("base"), built_in)
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(checkpoint)
    config = model.model.model_config
    plain = config.unet_config["in_channels"] == config.latent_format.latent_channels
    if clip is None or not isinstance(config, comfy.supported_models.SD15) or not plain:
        raise ValueError(f"{checkpoint} is no SD1.x text-to-image checkpoint with its text encoder: name one.")
    return Host(model, clip, vae, checkpoint)


def _portraits(options: argparse.Namespace, data: Data, host: Host) -> portraits.Portraits:
    """What is drawn from in training, encoded once and kept beside the output."""
    key = fingerprint(options.photos, data, host.file)
    file = options.output.with_suffix(f".portraits-{key}.safetensors")
    with main_first():
        if not file.is_file():
            portraits.save(file, _encoded(options.photos, data, host))
            _remove_others(file, f"{glob.escape(options.output.stem)}.portraits-*.safetensors")
    kept = portraits.load(file)
    _say(f"{len(kept)} photos of {len(kept.shelves.counts)} people, in {file}")
    return kept


def _remove_others(kept: Path, pattern: str) -> None:
    for file in kept.parent.glob(pattern):
        if file != kept:
            file.unlink()


def fingerprint(folder: Path, data: Data, checkpoint: str) -> str:
    """12 hexadecimal digits that tell whether photos, captions, networks, checkpoint and crops are the same.

    Files are told apart by name, size and the time when they were written.
    """
    inside = sorted(file for file in folder.glob("*/*") if file.is_file())
    told = [str(file.relative_to(folder)) for file in inside]
    stats = [Path(file).stat() for file in (*inside, *data.files.values(), checkpoint)]
    facts = [told, [(stat.st_size, stat.st_mtime_ns) for stat in stats], data.size, data.detector, data.files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _encoded(folder: Path, data: Data, host: Host) -> portraits.Portraits:
    _say(f"Finding faces below {folder} with {data.detector} ...")
    album = photos.read(folder, detector.load(data.detector, 0.5, 640), data.size)
    encoders = [_face_encoder(name, data.files[name]) for name in _FACE_ENCODERS if name in data.files]
    due = _due()

    def report(done: int, count: int) -> None:
        if done == count or due():
            _say(f"encoded {done} of {count} photos")

    encoded = photos.encode(album, host.model, host.vae, encoders, report=report)
    more = {}
    if file := data.files.get("expression"):
        more["expression"] = photos.expressions(album, load_expression_encoder(file))
    if file := data.files.get("clip_vision"):
        more["clip"] = photos.clip_states(album, _clip_vision(file, host.built_in))
    return replace(encoded, features=encoded.features | more)


def _face_encoder(kind: str, file: str) -> FaceEncoder:
    encoder = load_encoder(file)
    if encoder.kind != kind:
        raise ValueError(f"{file} is no {kind} encoder but of the kind {encoder.kind}: name another in [data].")
    return encoder


def _clip_vision(file: str, built_in: BuiltInBase | None) -> comfy.clip_vision.ClipVisionModel:
    if built_in and file == built_in.path("clip_vision"):
        return built_in.load_clip_vision()
    loaded = comfy.clip_vision.load(file)
    if loaded is None:
        raise ValueError(f"{file} is no CLIP vision model that ComfyUI knows: name another in [data].")
    return loaded


def _write(method: Method, module: torch.nn.Module, progress: loop.Progress, steps: int, output: Path) -> None:
    """The adapter, in float16, and the picture of its losses; where there is a running average, that."""
    if progress.average:
        module.load_state_dict(progress.average)
    state = {name: weight.detach().cpu().half().contiguous() for name, weight in method.state(module).items()}
    saving.write(output, safetensors.torch.save(state, method.metadata), "Training")
    progress.plot(steps).save(output.with_suffix(".png"))
    print(f"{loop.curve.summary(progress.losses)}\nwritten to {output}", flush=True)


def progress_line(progress: loop.Progress, settings: loop.Settings, processes: int) -> str:
    """Where a training is, how fast, and how much longer it takes."""
    loss = np.mean(progress.losses[-100:])
    samples = progress.speed * settings.batch * settings.accumulate * processes
    left = timedelta(seconds=round((settings.steps - progress.step) / progress.speed))
    return (
        f"step {progress.step} of {settings.steps}, loss {loss:.4f}, {progress.speed:.2f} steps/s, "
        f"{samples:.1f} samples/s, {left} left"
    )


def _shown(settings: loop.Settings) -> Callable[[loop.Progress], None]:
    """What is called after every step: a line now and then, and one after the last."""
    due = _due()

    def show(progress: loop.Progress) -> None:
        if progress.step == progress.resumed_at + 1 and progress.resumed_at:
            _say(f"went on after step {progress.resumed_at}")
        if progress.step == settings.steps or due():
            _say(progress_line(progress, settings, count_processes()))

    return show


def _due() -> Callable[[], bool]:
    """A function that is true now and then, for the first time at once."""
    last = -_SILENT

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < _SILENT:
            return False
        last = time.monotonic()
        return True

    return due


def _say(text: str) -> None:
    if is_main():
        print(text, flush=True)


def _training(output: Path) -> Path:
    """Where a training that was stopped waits."""
    return output.with_suffix(".training.pt")
