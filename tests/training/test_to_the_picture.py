"""Every trainer from photos to a picture, in the drawn world: prepared, trained, validated, loaded in a graph."""

import json
import os
import shutil

import folder_paths
import pytest
import torch
from likeness.adapters.facea_file import load_facea
from likeness.host_process import SetupError
from likeness.launcher import train
from likeness.miniature import registration
from likeness.tests.support import rendered_people, tiny_text_image
from likeness.tests.support.train_commands import keep_untrained, options
from likeness.training import watch
from likeness.training.portraits import Portraits
from likeness.training.validation import choose_rows
from likeness.weights import folders
from PIL import Image

SCORER = "miniature_arcface.onnx"
WATCHED = ("steps=2", "batch=2", "log_steps=1", "snapshot_steps=1", f"face_scorer={SCORER}", "checkpoint_seconds=600")
HELD_OUT = ("validate_steps=1", "held_out=0.4", "validation_batches=1", "validation_pictures=2", "sampling_steps=2")
SIZES = {
    "fact": ("facechain_fact", "dim=32", "depth=1", "queries=4", "gate=0.5"),
    "face2diffusion": ("face2diffusion", "hidden=[16]"),
    "infinite-id": ("ipadapter", "dim=32", "depth=1", "queries=4"),
}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Three drawn people, two photos of each."""
    return rendered_people.write(tmp_path_factory.mktemp("people"), 3)


@pytest.fixture(scope="module")
def in_this_process():
    folders.register()
    registration.register()
    registration.register_base()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "open_registered", lambda comfy, cpu: None)
        yield


@pytest.fixture(scope="module")
def prepared(in_this_process, people, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared")
    wanted = [part for method in SIZES for part in ("--for", method)]
    assert train.prepare([str(people), str(output), "miniature", *wanted], None) == 0
    return output


@pytest.fixture
def graph(executor, root, tmp_path, monkeypatch):
    """What runs a template with a file of `tmp_path` in the place of its own, for one picture in few steps.

    model: the node whose model is sampled with, None for the template's.
    """

    def run(name: str, file: str, kind: str, loader: str, field: str, model=None, **given) -> torch.Tensor:
        places, suffixes = folder_paths.folder_names_and_paths[kind]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([*places, str(tmp_path)], suffixes))
        monkeypatch.setattr(folder_paths, "filename_list_cache", {})
        nodes = json.loads((root / "workflows" / "api" / f"{name}.json").read_text("utf-8"))
        for node in nodes.values():
            inputs = node["inputs"]
            inputs |= {"batch_size": 1} if "batch_size" in inputs else {}
            inputs |= {"steps": 2} if "steps" in inputs else {}
            inputs |= {field: file} if node["class_type"] == loader else {}
            inputs |= {"model": [model, 0]} if model and node["class_type"] == "KSampler" else {}
            inputs |= {field: value for field, value in given.items() if field in inputs}
        (saved,) = (node["inputs"]["images"] for node in nodes.values() if node["class_type"] == "SaveImage")
        return executor.run(nodes)[saved[0]][saved[1]]

    return run


def check_watched(output, steps) -> list[dict]:
    """The log, after what lies beside the file has been looked for."""
    for name in ("png", "step-00000001.safetensors", "step-00000002.safetensors"):
        assert output.with_suffix(f".{name}").is_file(), name
    entries = watch.read_log(output.with_suffix(".log.jsonl"))
    assert [entry["step"] for entry in entries] == steps
    assert all(entry["loss"] > 0 and entry["lr"] > 0 for entry in entries)
    return entries


@pytest.mark.slow
@pytest.mark.parametrize("method", SIZES)
def test_an_adapter(method, prepared, graph, tmp_path, monkeypatch, capsys):
    output, (kind, *sizes) = tmp_path / f"{method}.safetensors", SIZES[method]
    keep_untrained(method, tmp_path / "untrained.safetensors", monkeypatch)
    if method == "fact":  # with a CLIP as it is published, of random weights
        tiny_text_image.make_clip(tmp_path / "clip-tiny")
        _, suffixes = folder_paths.folder_names_and_paths["image_metrics"]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "image_metrics", ([str(tmp_path)], suffixes))
        sizes.append("text_scorer=clip-tiny/model.safetensors")
    given = options(*WATCHED, *HELD_OUT, "best=identity", *sizes)
    assert train.main([method, str(prepared), "miniature", str(output), *given], None) == 0
    assert "1 process, batch 2: 2 samples a step" in capsys.readouterr().out
    entries = check_watched(output, [1, 2])
    assert all(entry["validation"] > 0 and -1 <= entry["identity"] < 0.9 for entry in entries)
    assert all(("text" in entry) == (method == "fact") and -1 <= entry.get("text", 0) <= 1 for entry in entries)
    assert output.with_suffix(".best.safetensors").is_file()
    assert Image.open(output.with_suffix(".validation-00000002.png")).size[0] > 300

    def draw(file: str, **given) -> torch.Tensor:
        name = f"miniature_{method.replace('-', '_')}"
        return graph(name, file, kind, "LikenessLoadFaceAdapter", "adapter_name", **given)

    picture = draw(output.name)
    assert picture.shape == (1, 384, 384, 3) and picture.isfinite().all() and picture.std() > 0.02
    assert not torch.equal(picture, draw("untrained.safetensors"))
    if method != "face2diffusion":  # whose words have no strength
        apply, stock = "10", draw(output.name, model="1")
        assert torch.equal(draw(output.name, model=apply, strength=0.0), stock)
        assert not torch.equal(draw(output.name, model=apply, strength=1.0), stock)


@pytest.mark.slow
def test_a_person_and_an_attribute_of_another(people, in_this_process, graph, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "host"))
    output, other = tmp_path / "out.safetensors", tmp_path / "other.safetensors"
    mine = shutil.copytree(people / "person0", tmp_path / "mine")
    (mine / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (64, 64), "gray").save(mine / "empty.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(mine / "pipe.png")
    given = options(*WATCHED, "validate_steps=1", "rank=2", "batch=1", "word=man", "ema=0.5")
    with pytest.raises(SetupError, match="has no photo with a face to learn from: put photos .* of one person into it"):
        train.main(["facea", str(people), "miniature", str(output), *given], None)
    assert train.main(["facea", str(mine), "miniature", str(output), *given], None) == 0
    told = capsys.readouterr().out
    assert f"photo 2: {mine}/1.png" in told
    left_out = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert [line.partition(" (")[0].rpartition("/")[2] for line in left_out] == [
        "broken.png is left out: it cannot be read as a picture",
        "empty.png is left out: no face was found in it.",
        *(["pipe.png is left out: it is no file, or a link to none."] if hasattr(os, "mkfifo") else []),
    ]
    assert load_facea(output).settings["photos"] == "2" and "No VAE weights" not in caplog.text
    assert "1 process, batch 1: 1 samples a step" in told and f"written to {output}" in told
    first, last = check_watched(output, [1, 2])
    assert output.with_suffix(".validation-00000002.png").is_file() and load_facea(output).word == "man"
    best = output.with_suffix(f".step-0000000{1 if first['identity'] >= last['identity'] else 2}.safetensors")
    assert output.with_suffix(".best.safetensors").read_bytes() == best.read_bytes()
    transfer = options("attribute=nose", f"start={output}", "batch=1")
    assert (
        train.main(["facea", str(people / "person1"), "miniature", str(other), *transfer, "--set", "steps=1"], None)
        == 0
    )
    assert load_facea(other).settings["transferred"] == "nose"
    assert [entry["step"] for entry in watch.read_log(other.with_suffix(".log.jsonl"))] == [1], "the last, at least"

    def draw(file: str) -> torch.Tensor:
        return graph("miniature_facea", file, "facea", "LikenessLoadFaceAIdentity", "identity_name")

    pictures = [draw(file) for file in (output.name, "out.step-00000001.safetensors", other.name)]
    assert all(picture.isfinite().all() and picture.std() > 0.02 for picture in pictures)
    assert len({picture.numpy().tobytes() for picture in pictures}) == 3, "two steps, one, another's nose"


def test_an_attribute_wants_a_person(people, in_this_process, tmp_path):
    with pytest.raises(SetupError, match="attribute = 'nose' changes a person who was learned: name that identity's"):
        train.main(
            ["facea", str(people), "miniature", str(tmp_path / "a.safetensors"), "--set", "attribute=nose"], None
        )


def test_people_held_out_come_in_turn():
    people = torch.tensor([7, 7, 7, 3, 3, 5])
    latents = torch.zeros(6, 4, 2, 2)
    portraits = Portraits(latents, people, [""] * 6, latents[:, 0], {})
    assert choose_rows(portraits, 5).tolist() == [3, 5, 0, 4, 1] and len(choose_rows(portraits, 99)) == 6
