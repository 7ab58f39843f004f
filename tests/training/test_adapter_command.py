"""`likeness.py train fact|face2diffusion|infinite-id`: from a folder of photos to a file that the nodes load."""

import dataclasses
import importlib.util
import os
import shutil
import typing

import pytest
import torch
from likeness.adapters.face2diffusion import Face2DiffusionAdapter
from likeness.adapters.fact import FactAdapter
from likeness.adapters.ip_adapter import IpAdapter
from likeness.adapters.loading import load_adapter
from likeness.host_process import SetupError
from likeness.launcher import train
from likeness.miniature import registration
from likeness.miniature.models import base_model
from likeness.tests.support import checkpoints, rendered_people, tiny_miniature
from likeness.tests.support.optional import need
from likeness.training import adapter_command, bases, facea_run, msid, photos, portraits, settings, watch
from likeness.training.progress_line import ProgressLine
from likeness.weights import folders
from likeness.weights.reading import read_metadata
from safetensors.torch import load_file, save_file

SIZES = {
    "fact": "dim = 32\ndepth = 1\nqueries = 4\nshuffle = [0.5, 1]",
    "face2diffusion": "hidden = [16]",
    "infinite-id": "dim = 32\ndepth = 1\nqueries = 4",
}
ADAPTERS = {"fact": FactAdapter, "face2diffusion": Face2DiffusionAdapter, "infinite-id": IpAdapter}
FEATURES = {
    "fact": {"transface": (4, 64, 32)},
    "face2diffusion": {"msid": (4, 1, 128), "expression": (4, 64)},
    "infinite-id": {"arcface": (4, 1, 512), "clip": (4, 65, 128)},
}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Two drawn people, two photos of each."""
    return rendered_people.write(tmp_path_factory.mktemp("people"), 2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tiny_miniature.write(tmp_path_factory.mktemp("pack") / "weights")
    regressor = checkpoints.drawn(checkpoints.deep3d_shapes(8, ((1, 8), (1, 16), (1, 32), (1, 64))), 1)
    save_file(regressor, folder / "face2diffusion" / "miniature_expression.safetensors")
    return folder


@pytest.fixture(autouse=True)
def in_this_process(weights, monkeypatch):
    """With drawn weights, and on the host that the tests have."""
    folders.register()
    registration.register()
    registration.register_base()
    monkeypatch.setattr(base_model, "WEIGHTS", weights)
    for opened in ("open_host", "open_registered"):
        monkeypatch.setattr(train, opened, lambda comfy, cpu: None)


def run(method, people, output, *more) -> int:
    config = output.with_name(f"{method}.toml")
    config.write_text(f"steps = 3\nbatch = 2\nema = 0.9\nlr = 1e-2\n{SIZES[method]}\n[data]\nsize = 48\n")
    paths = (str(people), "miniature", str(output))
    return train.main([method, *paths, "--config", str(config), *more], None)


def beside(output) -> list[str]:
    return sorted(file.name for file in output.parent.iterdir() if file.suffix != ".toml")


@pytest.mark.parametrize("method", SIZES)
@pytest.mark.slow
def test_photos_become_a_file_that_load_face_adapter_opens(method, people, tmp_path, monkeypatch, capsys):
    output, kept, how = tmp_path / "out.safetensors", [], adapter_command.METHODS[method]
    learn = adapter_command.train_adapter
    make = how.trainer.make
    monkeypatch.setattr(how.trainer, "make", lambda *given: kept.append(make(*given)) or kept[0])
    monkeypatch.setattr(adapter_command, "train_adapter", lambda *given: kept.append(learn(*given)))
    assert run(method, people, output) == 0
    told = capsys.readouterr()
    assert "4 photos of 2 people" in told.out and f"written to {output}" in told.out
    assert "4/4" in told.err and "3/3 " in told.err and "loss " in told.err and " samples/s" in told.err
    assert " 0.0 samples/s" not in told.err
    log, png, seen, written = beside(output)
    assert (log, png, written) == ("out.log.jsonl", "out.png", "out.safetensors")

    seen = portraits.load(tmp_path / seen)
    assert {name: tuple(each.shape) for name, each in seen.features.items()} == FEATURES[method]
    assert seen.latents.shape == (4, base_model.CHANNELS, 4, 4) and seen.people.tolist() == [0, 0, 1, 1]

    module, progress = kept
    module.load_state_dict(progress.average)
    expected, state = how.state(module), load_file(output)
    assert state.keys() == expected.keys() and {each.dtype for each in state.values()} == {torch.float16}
    assert all(torch.equal(state[name], each.half()) for name, each in expected.items()), "the running average"
    assert isinstance(load_adapter(str(output)), ADAPTERS[method])
    assert read_metadata(output) == (how.metadata or {})


@pytest.mark.slow
def test_stopped_it_goes_on_to_the_same_file(people, tmp_path, monkeypatch, capsys):
    whole, parts = tmp_path / "whole" / "out.safetensors", tmp_path / "parts" / "out.safetensors"
    for output in (whole, parts):
        output.parent.mkdir()
    run("fact", people, whole)

    class Stop(ProgressLine):
        def __call__(self, progress):
            if progress.step == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(adapter_command, "ProgressLine", Stop)
        run("fact", people, parts)
    assert "out.training.pt" in beside(parts) and "out.safetensors" not in beside(parts)
    monkeypatch.setattr(photos, "read", lambda *_: pytest.fail("the photos were encoded already"))
    capsys.readouterr()
    run("fact", people, parts)
    assert "went on after step 2" in capsys.readouterr().out
    assert whole.read_bytes() == parts.read_bytes()
    assert "out.training.pt" not in beside(parts)


@pytest.mark.slow
def test_portraits_are_made_anew_when_photos_or_crops_change(people, tmp_path):
    mine, output = tmp_path / "people", tmp_path / "out.safetensors"
    shutil.copytree(people, mine)
    data = adapter_command.complete_data(("msid", "expression"), {"size": 48}, bases.BUILT_IN["miniature"])
    keys = [adapter_command.fingerprint(mine, data, __file__)]
    assert adapter_command.fingerprint(mine, data, __file__) == keys[0]
    (mine / "person0" / "caption.txt").write_text("a man")
    keys.append(adapter_command.fingerprint(mine, data, __file__))
    data = adapter_command.complete_data(("msid", "expression"), {"size": 96}, bases.BUILT_IN["miniature"])
    keys.append(adapter_command.fingerprint(mine, data, __file__))
    assert len(set(keys)) == 3
    run("face2diffusion", mine, output, "--set", "steps=1")
    before = set(tmp_path.glob("*.portraits-*"))
    (mine / "person1" / "2.png").unlink()
    run("face2diffusion", mine, output, "--set", "steps=1")
    (after,) = tmp_path.glob("*.portraits-*")
    assert after not in before and len(portraits.load(after)) == 3, "the old file is gone"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("step=3", "There is no training setting 'step'; there are steps, "),
        (
            "data.arcface=x.onnx",
            r"There is no entry 'arcface' in \[data\]; there are size, detector, transface, split, parser\.",
        ),
        ("steps=many", "steps must be a whole number, not 'many'"),
        ("steps=2.5", "steps must be a whole number, not 2.5"),
        ("lr=true", "lr must be a number, not True"),
        ("shuffle=0.5", "shuffle must be a list of 2 numbers, not 0.5"),
        ("shuffle=[0.5]", r"shuffle must be a list of 2 numbers, not \[0.5\]"),
        ("batch=0", "batch must be at least 1, not 0"),
        ("data.size=0", "size must be at least 16, not 0"),
        ("data.size=100000", "size must be at most 4096, not 100000"),
        ("precision=double", "'double' is no precision; choose one of"),
        ("denominator=all", "'all' is no denominator"),
        ("steps", "--set needs NAME=VALUE"),
        ("data.detector=eyes", "'eyes' is no face detector; choose one of"),
        ("data.transface=mine.pt", "The weight file 'mine.pt' is missing: looked in"),
        ("data.parser=mine.pth", "The weight file 'mine.pth' is missing: looked in"),
        ("data.flip=true", r"There is no entry 'flip' in \[data\]"),
        ("data.buckets=true", r"There is no entry 'buckets' in \[data\]"),
        ("base=SD2", "'SD2' is no base; choose one of any, SD1.5, SDXL"),
        ("base=SDXL", r"are for SDXL \(base = 'SDXL'\), but miniature is SD1.x: take the recipe"),
        ("best=identity", "best = 'identity' needs validation_pictures and face_scorer"),
        ("face_scorer=mine.onnx", "The weight file 'mine.onnx' is missing: looked in"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(given, told, people, tmp_path):
    with pytest.raises(SetupError, match=told):
        run("fact", people, tmp_path / "out.safetensors", "--set", given)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_size_that_latents_do_not_have_is_refused_before_a_photo_is_read(people, tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "read", lambda *_: pytest.fail("photos were read"))
    with pytest.raises(SetupError, match=r"read the photos at 48 pixels \(data.size\)"):
        run("fact", people, tmp_path / "out.safetensors", "--set", "data.size=50")


def watched(people, output, *more) -> int:
    settings = ("validate_steps=2", "held_out=0.5", "validation_batches=2", "snapshot_steps=2", "log_steps=1")
    settings = (*settings, "steps=5")
    return run("infinite-id", people, output, *(part for each in settings for part in ("--set", each)), *more)


@pytest.mark.slow
def test_a_stopped_training_has_the_log_of_a_whole_one(people, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole" / "out.safetensors", tmp_path / "parts" / "out.safetensors"
    for output in (whole, parts):
        output.parent.mkdir()
    watched(people, whole)

    class Stop(ProgressLine):
        def __call__(self, progress):
            if progress.step == 4:
                raise KeyboardInterrupt

    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(adapter_command, "ProgressLine", Stop)
        watched(people, parts)
    log = parts.with_suffix(".log.jsonl")
    log.write_text(log.read_text() + '{"step": 9, "val')
    watched(people, parts)

    def read(output):
        return [
            {name: value for name, value in entry.items() if name != "seconds"}
            for entry in watch.read_log(output.with_suffix(".log.jsonl"))
        ]

    assert [entry["step"] for entry in read(whole)] == [1, 2, 3, 4, 5] and read(parts)[:3] == read(whole)[:3]
    assert read(parts)[-1] == read(whole)[-1]
    for name in ("out.safetensors", "out.best.safetensors"):
        expected, state = load_file(whole.parent / name), load_file(parts.parent / name)
        assert all(torch.equal(state[key], expected[key]) for key in expected | state)


def test_a_parser_draws_the_masks_where_its_file_is(people, tmp_path, monkeypatch, capsys):
    loaded = []
    monkeypatch.setattr(adapter_command, "load_parser", lambda file: loaded.append(file))
    run("fact", people, tmp_path / "out.safetensors")
    assert not loaded and "Masks estimated from points" in capsys.readouterr().out, "it knows no drawn people"
    parser = tmp_path / "79999_iter.pth"
    parser.write_bytes(b"")
    monkeypatch.setattr(adapter_command.folders, "find", lambda kind, name: str(parser))
    monkeypatch.setattr(adapter_command.folders, "path", lambda kind, name: str(parser))
    assert adapter_command._find_parser("", None) == str(parser) and adapter_command._find_parser("none", None) == ""


@pytest.mark.slow
def test_photos_are_there_mirrored_too(people, tmp_path):
    run("face2diffusion", people, tmp_path / "out.safetensors", "--set", "data.flip=true")
    (file,) = tmp_path.glob("*.portraits-*")
    read = portraits.load(file)
    assert read.people.tolist() == [0, 0, 1, 1] * 2 and len(read.captions) == 8
    assert torch.equal(read.faces[4:], read.faces[:4].flip(2))
    assert not torch.equal(read.features["msid"][4:], read.features["msid"][:4])


def test_nobody_left_to_train_on_is_refused(people, tmp_path):
    with pytest.raises(SetupError, match="To hold out 2 of 2 people for the validation leaves nobody to train on"):
        watched(people, tmp_path / "out.safetensors", "--set", "held_out=1")


def test_tensorboard_is_asked_for_only_where_it_is_installed(people, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    monkeypatch.setattr(photos, "read", lambda *_: pytest.fail("photos were read"))
    with pytest.raises(SetupError, match="tensorboard = true needs TensorBoard, which is not installed"):
        run("fact", people, tmp_path / "out.safetensors", "--set", "tensorboard=true")


def test_tensorboard_gets_the_log(people, tmp_path):
    need("tensorboard")
    run("fact", people, tmp_path / "out.safetensors", "--set", "tensorboard=true", "--set", "log_steps=1")
    assert list((tmp_path / "out.tensorboard").glob("events.out.tfevents.*"))


def test_every_number_of_the_settings_has_a_range():
    kinds = [how.settings for how in adapter_command.METHODS.values()] + [
        facea_run.Settings,
        msid.MsidSettings,
        settings.DataSettings,
    ]
    for field in (field for kind in kinds for field in dataclasses.fields(kind)):
        numbers = [part for part in (field.type, *typing.get_args(field.type)) if part in (int, float)]
        assert not numbers or typing.get_origin(field.type) is typing.Annotated, field.name


def test_other_bad_input_is_refused_in_a_sentence(people, tmp_path):
    output = str(tmp_path / "out.safetensors")

    def refused(*arguments) -> str:
        with pytest.raises(SetupError) as caught:
            train.main([str(each) for each in arguments], None)
        return str(caught.value)

    (tmp_path / "bad.toml").write_text("steps : 3")
    (tmp_path / "empty").mkdir()
    miniature = ("miniature", output)
    assert "bad.toml is not TOML: " in refused("fact", people, *miniature, "--config", tmp_path / "bad.toml")
    assert "There is no config " in refused("fact", people, *miniature, "--config", tmp_path / "no.toml")
    assert "There is no folder " in refused("fact", tmp_path / "nobody", *miniature)
    assert "has no sub-folders: make one for each person" in refused("fact", tmp_path / "empty", *miniature)
    assert "There is no checkpoint no.ckpt: name an SD1.x" in refused("fact", people, "no.ckpt", output)
    assert "Nothing can be written into " in refused("fact", people, "miniature", tmp_path / "no" / "x.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    folder = (people, "miniature", tmp_path / "folder.safetensors")
    assert "folder.safetensors is a folder: name" in refused("face2diffusion", *folder, "--set", "steps=1")
    assert "must be called something.safetensors, not x.pt" in refused("fact", people, "miniature", tmp_path / "x.pt")


def test_a_damaged_checkpoint_goes_aside(people, tmp_path, caplog):
    output = tmp_path / "out.safetensors"
    torch.save({"parameters": {}}, tmp_path / "out.training.pt")
    killed, *others = (
        tmp_path / f"{name}.part" for name in ("out.training.pt.0123abcd", "out.training.pt", "x.training.pt.0123abcd")
    )
    for part in (killed, *others):
        part.touch()
        os.utime(part, (0, 0))
    assert run("face2diffusion", people, output) == 0
    assert not killed.exists() and all(part.exists() for part in others)
    assert output.is_file() and (tmp_path / "out.training.damaged").is_file()
    assert "is damaged (it has no " in caplog.text and "begins anew" in caplog.text


def test_the_miniature_s_recipes_get_the_rest(monkeypatch):
    from likeness.miniature.recipes import command

    monkeypatch.setattr(command, "main", lambda arguments: arguments)
    assert train.main(["miniature", "base", "--steps", "3"], None) == ["base", "--steps", "3"]
