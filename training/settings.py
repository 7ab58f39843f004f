"""Settings of trainings: those that all have, the values they may have, and how the commands read them."""

import argparse
import contextlib
import json
import tomllib
from collections.abc import Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args, get_origin

Checked = TypeVar("Checked")


class Range(dict):
    """Limits of a number by pydantic's names: gt, ge, le, multiple_of, allow_inf_nan.

    `pydantic.Field` would say the same, but nodes import these settings too, and do without pydantic.
    """

    def __get_pydantic_core_schema__(self, source, handler) -> dict:
        return handler(source) | self


Count = Annotated[int, Range(ge=1)]
CountOrNone = Annotated[int, Range(ge=0)]
Number = Annotated[float, Range(allow_inf_nan=False)]
Positive = Annotated[float, Range(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Range(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Range(ge=0, le=1)]

BASES = ("any", "SD1.5", "SDXL")
BEST = ("validation", "identity", "text")
CLIP_FACES = ("aligned", "crop")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_ALLOWED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
}  # by the types of pydantic's errors


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of every training.

    steps: optimiser steps, those done before a checkpoint included. accumulate: losses that make one step, in every
    process. precision: one of PRECISIONS, in which the network computes; parameters and losses are float32 always.
    clip: largest norm of a step's gradient, 0 for no limit. checkpoint_seconds: how much work may be lost at most.
    warmup: steps in which the learning rates rise to theirs. cosine: whether they fall to 0 until the last step.
    ema: share of the running average of the parameters that a step keeps, 0 for no average.
    """

    steps: Count = 1000
    seed: Annotated[int, Range(ge=0, le=2**64 - 1)] = 0
    accumulate: Count = 1
    precision: Literal[PRECISIONS] = "auto"
    weight_decay: Weight = 1e-2
    clip: Weight = 1.0
    checkpoint_seconds: Weight = 60.0
    warmup: CountOrNone = 0
    cosine: bool = False
    ema: Share = 0.0


@dataclass(frozen=True)
class WatchedSettings(TrainingSettings):
    """Settings of what a training leaves on its way, see `watch`.

    log_steps, snapshot_steps, validate_steps: steps from one line of the log, numbered file or validation to the next,
    0 for none. tensorboard: whether to write the log for TensorBoard too. face_scorer: file of the recogniser that says
    how like the person validation pictures are, "" for no such score.
    """

    log_steps: CountOrNone = 50
    snapshot_steps: CountOrNone = 0
    validate_steps: CountOrNone = 0
    tensorboard: bool = False
    face_scorer: str = ""


@dataclass(frozen=True)
class AdapterSettings(WatchedSettings):
    """Settings of every adapter's training.

    base: the kind of base model that the settings are for, one of BASES. batch: photos of a loss. lr: the learning
    rate. checkpointing: less memory, more time. compile: minutes first, less time then. held_out: share of the people
    who are not trained on, but whom validations are of: the loss of always the same validation_batches batches, and
    validation_pictures of as many photos, drawn in sampling_steps steps at the guidance cfg. text_scorer: file of the
    CLIP that compares them with their captions, "" for no such score. best: one of BEST, by which the best file is
    chosen.
    """

    base: Literal[BASES] = BASES[0]
    batch: Count = 32
    lr: Positive = 1e-4
    checkpointing: bool = False
    compile: bool = False
    held_out: Share = 0.05
    validation_batches: Count = 8
    validation_pictures: CountOrNone = 0
    sampling_steps: Count = 20
    cfg: Weight = 5.0
    text_scorer: str = ""
    best: Literal[BEST] = BEST[0]


def make_parser(method: str, text: str, photos: str, checkpoint: str | None) -> argparse.ArgumentParser:
    """Return the options that every `likeness.py train` takes; photos, checkpoint: what these are, for the help.

    checkpoint: None where there is no base model. `read_config` takes the values of --config and --set.
    """
    parser = argparse.ArgumentParser(prog=f"likeness.py train {method}", description=text)
    parser.add_argument("photos", type=Path, help=photos)
    if checkpoint:
        parser.add_argument("checkpoint", help=checkpoint)
    parser.add_argument("output", type=Path, help="the safetensors file to write")
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="settings by name, and a table [data]")
    text = "over the config, e.g. --set steps=600 --set data.size=256"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)
    parser.add_argument("--cpu", action="store_true", help="do not use the GPU")
    return parser


def read_config(file: Path | None, options: list[str]) -> tuple[dict, dict]:
    """Return settings and entries of [data], by name, of a TOML file and of NAME=VALUE options, which count more.

    Raises ValueError with a sentence where one of them cannot be read.
    """
    values = _read_toml(file) if file else {}
    data = values.pop("data", {})
    if not isinstance(data, dict):
        raise ValueError(f"[data] in {file} must be a table, not {data!r}.")
    for option in options:
        name, separator, text = option.partition("=")
        if not separator:
            raise ValueError(f"--set needs NAME=VALUE, for instance steps=600, not '{option}'.")
        value: object = text  # a text needs no quotes
        with contextlib.suppress(tomllib.TOMLDecodeError):
            value = tomllib.loads(f"value = {text}")["value"]
        if name.startswith("data."):
            data[name.removeprefix("data.")] = value
        else:
            values[name] = value
    return values, data


def _read_toml(file: Path) -> dict:
    if not file.is_file():
        raise ValueError(f"There is no config {file}.")
    try:
        return tomllib.loads(file.read_text("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file} is not TOML: {error}.") from error


def check_settings(kind: type[Checked], values: dict[str, object]) -> Checked:
    """Return settings of the dataclass `kind` from values by name, as TOML has them.

    Raises ValueError with a sentence for an unknown name, or a value of another type or out of its range.
    """
    names = [field.name for field in fields(kind)]
    for name in values:
        if name not in names:
            others = _find_methods(values.keys())
            whose = f" All these settings are of 'train {others[0]}': is this its recipe?" if others else ""
            raise ValueError(f"There is no training setting '{name}'; there are {', '.join(names)}.{whose}")
    from pydantic import TypeAdapter, ValidationError  # which the host does not need to run

    try:  # as JSON, in which a strict reader takes a list for a tuple and a whole number for a float, and no more
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        name, types = error.errors()[0]["loc"][0], {field.name: field.type for field in fields(kind)}
        raise ValueError(_explain(error.errors()[0], types[name], values[name])) from error


def _find_methods(names: Set[str]) -> list[str]:
    """Return the methods whose settings have all these names, of those that are imported, as `likeness.py train` takes
    them.
    """
    kinds = [TrainingSettings]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    ends = [kind for kind in kinds if not kind.__subclasses__() and names <= {field.name for field in fields(kind)}]
    return [kind.__module__.rpartition(".")[2].removesuffix("_run").replace("_", "-") for kind in ends]


def _explain(error: dict, kind: object, value: object) -> str:
    """Return a sentence that names the setting, what came and what is allowed."""
    (name, *index), context = error["loc"], error.get("ctx", {})
    if error["type"] == "literal_error":
        return f"'{value}' is no {name}; choose one of {', '.join(get_args(kind))}."
    if get_origin(kind) is tuple and error["type"] in ("tuple_type", "missing", "too_long"):
        count = "any number of" if ... in get_args(kind) else len(get_args(kind))
        return f"{name} must be a list of {count} numbers, not {value!r}."
    if index:
        name, value = f"each number of {name}", error["input"]
    return f"{name} must be {_ALLOWED[error['type']].format(**context)}, not {value!r}."


@dataclass(frozen=True)
class DataSettings:
    """Entries of [data]: side of the crops in pixels, a face detector's label, files of networks; "" for the usual.

    clip_face: what CLIP sees, one of CLIP_FACES. parser: the file of a face parser, which draws the masks; "none" for
    none, "" for the usual one if it is there. flip: whether every photo is there mirrored too. buckets: whether the
    base learns as much of a photo as the nearest of several shapes takes, and not the crop alone. split: whether every
    process trains on shards of its own alone, as machines without a common disk must.

    Of one person: face_share, the longer side of the face's box as a part of the crop's side, and mask_expand, how far
    the masks of its parts are grown in pixels of the crop.
    """

    size: Annotated[int, Range(ge=16, le=4096)] = 512
    detector: str = ""
    face_share: Annotated[float, Range(ge=0.1, le=1)] = 0.5
    mask_expand: Annotated[int, Range(ge=-64, le=128)] = 0
    transface: str = ""
    msid: str = ""
    expression: str = ""
    arcface: str = ""
    clip_vision: str = ""
    clip_face: Literal[CLIP_FACES] = CLIP_FACES[0]
    parser: str = ""
    flip: bool = False
    buckets: bool = False
    split: bool = False


def check_data(networks: tuple[str, ...], values: dict[str, object], prepared: bool = False) -> DataSettings:
    """Return what [data] says for a training that needs `networks`; raises ValueError as `check_settings` does.

    prepared: whether it reads prepared photos too.
    """
    names = ["size", "detector", *networks]
    names += ["split"] if prepared else []
    names += [] if networks or prepared else ["face_share", "mask_expand"]
    names += ["parser"] if networks else []
    names += ["clip_face", "buckets"] if "clip_vision" in networks else []
    names += ["flip"] if "msid" in networks else []  # a mirrored photo would count as another one of the person
    for name in values:
        if name not in names:
            raise ValueError(f"There is no entry '{name}' in [data]; there are {', '.join(names)}.")
    return check_settings(DataSettings, values)
