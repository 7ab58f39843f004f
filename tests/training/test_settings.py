"""Settings as the train commands read them: one reader for all, with ranges, and one sentence for what is wrong."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from likeness.inpaint.refine import CropStyle
from likeness.launcher import train
from likeness.training import adapter_command, command
from likeness.training.face2diffusion import Face2DiffusionSettings
from likeness.training.facea_run import PersonSettings
from likeness.training.facea_run import Settings as FaceaSettings
from likeness.training.fact import FactSettings
from likeness.training.infinite_id import InfiniteIdSettings
from likeness.training.inpainting import Photos
from likeness.training.msid import MsidSettings
from likeness.training.settings import check_data, check_settings, read_config

KINDS = (FactSettings, Face2DiffusionSettings, InfiniteIdSettings, FaceaSettings)


def test_config_and_options(tmp_path):
    config = tmp_path / "a.toml"
    config.write_text("lr = 1\nshuffle = [0, 0.5]\n[data]\nsize = 512\n", encoding="utf-8-sig")  # as by Notepad
    options = ["steps=7", "denominator=increment", "data.size=256", "data.detector=drawn: miniature", "cosine=true"]
    values, data = read_config(config, options)
    assert data == {"size": 256, "detector": "drawn: miniature"}
    assert check_data((), data).size == 256
    settings = check_settings(FactSettings, values)
    assert settings == FactSettings(steps=7, lr=1.0, shuffle=(0.0, 0.5), denominator="increment", cosine=True)
    assert type(settings.lr) is float and type(settings.shuffle) is tuple
    assert check_settings(Face2DiffusionSettings, {"hidden": [8, 8, 8]}).hidden == (8, 8, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_in_range(kind):
    defaults = {field.name: field.default for field in fields(kind)}
    assert check_settings(kind, defaults) == kind() == check_settings(kind, {})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"steps": "many"}, "steps must be a whole number, not 'many'."),
        ({"steps": 2.5}, "steps must be a whole number, not 2.5."),
        ({"steps": 0}, "steps must be at least 1, not 0."),
        ({"batch": -4}, "batch must be at least 1, not -4."),
        ({"seed": -1}, "seed must be at least 0, not -1."),
        ({"ema": 1.5}, "ema must be at most 1, not 1.5."),
        ({"warmup": -1}, "warmup must be at least 0, not -1."),
        ({"clip": float("nan")}, "clip must be a finite number, not nan."),
        ({"weight_decay": True}, "weight_decay must be a number, not True."),
        ({"cosine": "ja"}, "cosine must be true or false, not 'ja'."),
        ({"cosine": 1}, "cosine must be true or false, not 1."),
        ({"precision": "double"}, "'double' is no precision; choose one of auto, float32, bfloat16, float16."),
        ({"lerning_rate": 1}, "There is no training setting 'lerning_rate'; there are steps, seed, "),
    ],
)
def test_what_all_trainings_refuse(kind, values, sentence):
    with pytest.raises(ValueError) as caught:
        check_settings(kind, values)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("kind", "option", "sentence"),
    [
        (FactSettings, "lr=-1", "lr must be more than 0, not -1."),
        (FactSettings, "drop=2", "drop must be at most 1, not 2."),
        (FactSettings, "fair=-5", "fair must be at least 0, not -5."),
        (FactSettings, "shuffle=0.5", "shuffle must be a list of 2 numbers, not 0.5."),
        (FactSettings, "shuffle=[0.5]", "shuffle must be a list of 2 numbers, not [0.5]."),
        (FactSettings, "shuffle=[0, 0.5, 1]", "shuffle must be a list of 2 numbers, not [0, 0.5, 1]."),
        (FactSettings, "shuffle=[0, 3]", "each number of shuffle must be at most 1, not 3."),
        (FactSettings, "shuffle=[0, true]", "each number of shuffle must be a number, not True."),
        (FactSettings, "denominator=all", "'all' is no denominator; choose one of outside, increment."),
        (Face2DiffusionSettings, "lr=0", "lr must be more than 0, not 0."),
        (Face2DiffusionSettings, "hidden=64", "hidden must be a list of any number of numbers, not 64."),
        (Face2DiffusionSettings, "hidden=[0]", "each number of hidden must be at least 1, not 0."),
        (Face2DiffusionSettings, "keep_expression=-0.1", "keep_expression must be at least 0, not -0.1."),
        (Face2DiffusionSettings, "mode=dsc", "'dsc' is no mode; choose one of cgdr, reconstruction, masked."),
        (Face2DiffusionSettings, "prompt=3", "prompt must be a text, not 3."),
        (InfiniteIdSettings, "text_off=no", "text_off must be true or false, not 'no'."),
        (InfiniteIdSettings, "face_tokens=0", "face_tokens must be at least 1, not 0."),
        (FaceaSettings, "checkpointing=ja", "checkpointing must be true or false, not 'ja'."),
        (FaceaSettings, "lr_lora=-1", "lr_lora must be more than 0, not -1."),
        (FaceaSettings, "lr_features=inf", "lr_features must be a finite number, not inf."),
        (FaceaSettings, "rank=0", "rank must be at least 1, not 0."),
        (FaceaSettings, "features=-1", "features must be at least 0, not -1."),
        (FaceaSettings, "level=middle", "'middle' is no level; choose one of output, input."),
    ],
)
def test_what_a_training_refuses(kind, option, sentence):
    with pytest.raises(ValueError) as caught:
        check_settings(kind, read_config(None, [option])[0])
    assert str(caught.value) == sentence


def test_a_person_s_training_reads_config_and_options(tmp_path, monkeypatch):
    """`train facea` as the others: what it would train with, without training."""
    from likeness.training import facea_run

    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "a.ckpt").write_bytes(b"")
    config = tmp_path / "a.toml"
    config.write_text("rank = 3\nsteps = 5\n[data]\nsize = 256\ndetector = 'opencv: haar cascade'\n")
    arguments = [photos, tmp_path / "a.ckpt", tmp_path / "a.safetensors", "--config", config]

    def run(*more) -> str:
        with pytest.raises(command.SetupError) as caught:
            command.main([str(argument) for argument in (*arguments, *more)])
        return str(caught.value)

    assert "a.ckpt cannot be read as a checkpoint (EOFError): fetch it again" in run()
    monkeypatch.setattr("comfy.sd.load_checkpoint_guess_config", lambda file: (None,) * 4)
    assert "has no photo with a face to learn from: put photos (.png, .jpg, " in run("--set", "checkpointing=true")
    assert "checkpointing must be true or false, not 'ja'." in run("--set", "checkpointing=ja")
    assert "lr_lora must be more than 0, not -1." in run("--set", "lr_lora=-1")
    assert "--set needs NAME=VALUE" in run("--set", "steps")
    assert "There is no file ada.safetensors: name that of the identity" in run("--set", "start=ada.safetensors")
    assert "size must be at least 16, not 0." in run("--size", "0")
    assert "There is no entry 'msid' in [data]; there are size, detector, face_share, mask_expand." in run(
        "--set", "data.msid=a.pt"
    )

    cut, trained = [], []
    monkeypatch.setattr(command, "_find_faces", lambda folder, finder: [])
    crops = Photos(torch.zeros(0, 8, 8, 3), {})
    monkeypatch.setattr(command, "cut_photos", lambda faces, regions, style: cut.append(style) or crops)

    def learn(base, photos, task, settings, after_step):
        trained.append(settings)
        raise ValueError("not today")

    monkeypatch.setattr(facea_run, "learn", learn)
    assert "not today" in run("--set", "rank=7", "--size", "320", "--set", "data.mask_expand=4")
    assert cut == [CropStyle(0.5, 320, expand=4)] and trained == [FaceaSettings(steps=5, rank=7)]


RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.toml"))
METHODS = {"facea": (PersonSettings, ()), "msid": (MsidSettings, ())} | {
    name.replace("-", "_"): (how.settings, how.networks) for name, how in adapter_command.METHODS.items()
}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_read_and_every_line_has_its_source(recipe):
    method = recipe.stem.removesuffix("_sdxl").removesuffix("_transfer")
    kind, networks = METHODS[method]
    values, data = read_config(recipe, [])
    check_settings(kind, values)
    check_data(networks, data, prepared="facea" not in recipe.stem)
    for other in {each for each, _ in METHODS.values()} - {kind}:
        with pytest.raises(ValueError, match=f"are of 'train {method.replace('_', '-')}': is this its recipe?"):
            check_settings(other, values)
    for line in recipe.read_text("utf-8").splitlines():
        assert "=" not in line.partition("#")[0] or re.search(r"# (paper|code|ours)\b", line), line


def test_recipes_are_of_all_methods():
    assert {recipe.stem.removesuffix("_sdxl").removesuffix("_transfer") for recipe in RECIPES} == METHODS.keys()


@pytest.mark.slow
def test_nodes_import_settings_without_pydantic(root):
    """The host lists pydantic among what it can do without."""
    names = "dataclasses, json, contextlib, argparse, pathlib, typing"
    script = (
        f"import {names}, sys; sys.modules['pydantic'] = None\nexec(open({f'{root}/training/settings.py'!r}).read())"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_can_be_trained_is_asked_first(capsys):
    for arguments in ([], ["-h"], ["bogus"]):
        with pytest.raises(SystemExit):
            train.main(arguments, None)
    out, err = capsys.readouterr()
    assert "miniature" in out and "--word" not in out, "help of all, not of facea"
    assert "required: what" in err and "'bogus'" in err
