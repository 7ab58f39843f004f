"""`likeness.py prepare`: photos become shards, whatever stops it, and trainings read them as they read photos."""

import csv
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
import torch
from likeness.adapters.loading import load_adapter
from likeness.host_process import SetupError
from likeness.launcher import train
from likeness.miniature import registration
from likeness.miniature.models import base_model
from likeness.tests.support import rendered_people, tiny_miniature
from likeness.tests.support.optional import need
from likeness.tests.training.test_face_crops import write_tar
from likeness.tests.training.test_portraits import SHAPES, of_several_shapes, read_rows
from likeness.training import adapter_command, face_crops, photo_lists, photos, prepare_command, shards
from likeness.weights import folders
from PIL import Image

PEOPLE, PHOTOS = 3, 3


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Drawn people, and among their photos one that is no picture, one without a face and a pipe."""
    folder = tmp_path_factory.mktemp("people")
    rendered_people.write(folder, PEOPLE, PHOTOS)
    (folder / "person0" / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (64, 64), "gray").save(folder / "person1" / "empty.png")
    (folder / "person2" / "8.txt").write_bytes("Jos\xe9".encode("latin-1"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "person1" / "pipe.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_miniature.write(tmp_path_factory.mktemp("pack") / "weights")


@pytest.fixture(scope="module", autouse=True)
def in_this_process(weights):
    folders.register()
    registration.register()
    registration.register_base()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_model, "WEIGHTS", weights)
        patch.setattr(prepare_command, "SHARD", 4)
        patch.setattr(prepare_command, "BATCH", 2)
        for opened in ("open_host", "open_registered"):
            patch.setattr(train, opened, lambda comfy, cpu: None)
        yield


def run(people, output, *more, methods=("fact", "infinite-id"), checkpoint=("miniature",)) -> int:
    wanted = [part for method in methods for part in ("--for", method)]
    return train.prepare([str(people), str(output), *checkpoint, *wanted, "--set", "data.size=48", *more], None)


@pytest.fixture(scope="module")
def prepared(in_this_process, people, tmp_path_factory):
    """Of which nothing is changed."""
    output = tmp_path_factory.mktemp("prepared")
    run(people, output)
    return output


def contents(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_photos_are_prepared_and_what_is_left_out_is_told(people, prepared, tmp_path, capsys):
    output = shutil.copytree(prepared, tmp_path / "prepared")
    (output / "left_out.csv").unlink()
    manifest = json.loads((output / "prepared.json").read_text())
    del manifest["data"]["buckets"]  # as before there were any
    (output / "prepared.json").write_text(json.dumps(manifest))
    assert run(people, output) == 0
    told = capsys.readouterr().out
    pipes = [("pipe.png", "it is no file, or a link to none")] if hasattr(os, "mkfifo") else []
    assert f"8 of {11 + len(pipes)} photos in 3 shards" in told and "1 left out: it cannot be read as a picture" in told
    rows = list(csv.reader((output / "left_out.csv").read_text().splitlines()))
    assert [(os.path.basename(photo), why.partition(" (")[0]) for photo, why in rows] == [
        ("photo", "reason"),
        ("broken.png", "it cannot be read as a picture"),
        ("empty.png", "no face was found in it"),
        *pipes,
        ("8.png", "its caption is not UTF-8"),
    ]


@pytest.mark.slow
def test_shards_hold_what_a_training_from_photos_encodes(people, prepared, caplog):
    read, (nothing,) = shards.read(prepared, shards.read_manifest(prepared))
    (people / "person2" / "8.txt").rename(people / "person2" / "8.text")
    try:
        data = adapter_command.complete_data(("transface", "arcface", "clip_vision"), {"size": 48}, built_in())
        base = adapter_command.load_base("miniature", ("SD1.5",))
        encoded = adapter_command._encode(people, data, base)
    finally:
        (people / "person2" / "8.text").rename(people / "person2" / "8.txt")
    rows = torch.arange(8)
    assert len(encoded) == 9 and len(read) == 8 and read.people.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert list(read.captions) == encoded.captions[:8] and read.sizes.tolist() == encoded.sizes.tolist()[:8]
    assert torch.equal(read.faces[rows], encoded.faces[:8]) and nothing.ndim == 2
    assert torch.allclose(read.latents[rows].float(), encoded.latents[:8].float(), atol=2e-2)
    for name, tensor in encoded.features.items():
        assert read.features[name].shape == (8, *tensor.shape[1:])
        assert torch.allclose(read.features[name][rows].float(), tensor[:8].float(), atol=2e-2), name
    some = read.select(torch.tensor([7, 2]))
    assert torch.equal(some.latents[torch.tensor([0])], read.latents[torch.tensor([7])]) and len(some) == 2


@pytest.mark.slow
def test_buckets_are_prepared_and_trained_as_from_photos(people, tmp_path, capsys):
    mine, output = shutil.copytree(people / "person0", tmp_path / "photos" / "0").parent, tmp_path / "prepared"
    shutil.copytree(people / "person1", mine / "1", ignore=shutil.ignore_patterns("pipe.png"))
    rendered_people.widen(mine / "0" / "1.png")
    rendered_people.widen(mine / "1" / "4.png")
    buckets = ("--set", "data.buckets=true")
    assert "buckets = true is for infinite-id alone" in refused(mine, output, *buckets)
    run(mine, output, *buckets, methods=("infinite-id", "msid"))
    read, _ = shards.read(output, shards.read_manifest(output))
    values = {"size": 48, "buckets": True}
    data = adapter_command.complete_data(("arcface", "clip_vision"), values, built_in())
    encoded = adapter_command._encode(mine, data, adapter_command.load_base("miniature", ("SD1.5",)))
    assert read.people.tolist() == encoded.people.tolist() == [0, 0, 0, 1, 1, 1]
    assert read.sizes.tolist() == encoded.sizes.tolist() and read.sizes[:, 1].tolist() == [96, 144, 96, 96, 144, 96]
    assert [part.shape for part in read.latents.parts] == [(4, 16, 4, 4), (2, 16, 3, 5)]
    for row in torch.arange(6).split(1):
        assert torch.equal(read.faces[row], encoded.faces[row])
        assert torch.allclose(read.latents[row].float(), encoded.latents[row].float(), atol=2e-2)
    sizes = "steps=2", "batch=2", "dim=32", "depth=1", "queries=4", "validate_steps=2", "held_out=0.3"
    sizes += ("validation_pictures=3", "sampling_steps=1")
    settings = [part for each in sizes for part in ("--set", each)]
    result = tmp_path / "out.safetensors"
    assert train.main(["infinite-id", str(output), "miniature", str(result), *settings, *buckets], None) == 0
    assert "Buckets: 4 of 48 x 48, 2 of 60 x 36 pixels" in capsys.readouterr().out
    assert load_adapter(str(result)) and result.with_suffix(".validation-00000002.png").is_file()
    with pytest.raises(SetupError, match="was prepared with buckets = True, not False: prepare it anew"):
        train.main(["infinite-id", str(output), "miniature", str(result), "--set", "data.buckets=false"], None)


def built_in():
    return adapter_command.BUILT_IN["miniature"]


class Killed(BaseException):
    """What nobody catches."""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3, 5])
def test_stopped_at_any_photo_it_goes_on_to_the_same_shards(at, people, prepared, tmp_path, monkeypatch):
    again, calls, encode = tmp_path / "again", [], adapter_command.encode_album

    def stop(*given):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return encode(*given)

    with monkeypatch.context() as stopping, pytest.raises(Killed):
        stopping.setattr(adapter_command, "encode_album", stop)
        run(people, again)
    whole = [file for file in again.glob("*.tar")]
    times = {file: file.stat().st_mtime_ns for file in whole}
    with pytest.raises(ValueError, match="shards are missing in .* run 'likeness.py prepare' again"):
        shards.read(again, shards.read_manifest(again))
    run(people, again)
    assert contents(again) == contents(prepared) and all(file.stat().st_mtime_ns == times[file] for file in whole)


def test_machines_that_differ_are_told_before_anything_is_written(people, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_command, "count_processes", lambda: 2)
    monkeypatch.setattr(prepare_command, "from_main", lambda content: content | {"photos": "others", "size": 64})
    data = adapter_command.Data(48, "a detector", {})
    task = prepare_command.Task(data, None, True, photos.Filters())
    with pytest.raises(ValueError, match="would not prepare alike: they differ in photos, size. Give all"):
        prepare_command._begin(tmp_path, photo_lists.list_photos(people), task)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["fact", "infinite-id"])
def test_a_training_reads_them(method, prepared, tmp_path, monkeypatch):
    output = tmp_path / "out.safetensors"
    monkeypatch.setattr(photos, "read", lambda *_: pytest.fail("photos were read"))
    sizes = "steps=2", "batch=2", "dim=32", "depth=1", "queries=4", "validate_steps=2", "held_out=0.3", "data.size=48"
    settings = [part for each in sizes for part in ("--set", each)]
    assert train.main([method, str(prepared), "miniature", str(output), *settings], None) == 0
    assert load_adapter(str(output)) and not list(tmp_path.glob("*.portraits-*"))


def test_webdataset_reads_them(prepared):
    webdataset = need("webdataset")
    read, _ = shards.read(prepared, shards.read_manifest(prepared))
    files = sorted(map(str, prepared.glob("*.tar")))
    samples = list(webdataset.WebDataset(files, shardshuffle=False).decode())
    assert [sample["json"]["person"] for sample in samples] == read.people.tolist()
    for row, sample in enumerate(samples):
        assert np.array_equal(sample["latents.npy"], read.latents[torch.tensor([row])][0].numpy())


def refused(*given, **more) -> str:
    with pytest.raises(SetupError) as caught:
        run(*given, **more)
    return str(caught.value)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_in_a_sentence(people, prepared, tmp_path):
    prepared = shutil.copytree(prepared, tmp_path / "prepared")

    def train_refused(*more, method="fact") -> str:
        with pytest.raises(SetupError) as caught:
            train.main(
                [method, str(prepared), "miniature", str(tmp_path / "x.safetensors"), "--set", "steps=1", *more], None
            )
        return str(caught.value)

    assert "was prepared without msid, which face2diffusion reads" in train_refused(method="face2diffusion")
    assert "was prepared with size = 48, not 96: prepare it anew" in train_refused("--set", "data.size=96")
    assert "photos that were prepared otherwise (data)" in refused(people, prepared, methods=("fact",))
    assert "photos that were prepared otherwise (filters)" in refused(people, prepared, "--one-face")
    assert "There is no folder" in refused(tmp_path / "nobody", prepared)
    assert f"{prepared} holds photos that are prepared already: train on it" in refused(prepared, tmp_path / "x")
    assert "name an output outside it" in refused(people, people / "prepared")
    (tmp_path / "file").write_text("")
    assert f"{tmp_path / 'file'} is no folder with photos, and no table" in refused(tmp_path / "file", tmp_path / "x")
    assert f"{tmp_path / 'file'} cannot be made (File exists)" in refused(people, tmp_path / "file")
    flip = ("--set", "data.flip=true")
    assert "flip = true is for face2diffusion alone" in refused(
        people, prepared, *flip, methods=("fact", "face2diffusion")
    )
    shard = sorted(prepared.glob("*.tar"))[1]
    whole = shard.read_bytes()
    for length in (len(whole.rstrip(b"\0")), len(whole) // 2, 10_240, 3, 0):
        shard.write_bytes(whole[:length])
        told = train_refused()
        assert f"The shard {shard} cannot be read (" in told and "run 'likeness.py prepare' again" in told
    place = whole.index(b".json") // 512 * 512
    for part in (whole[:place] + bytes(512) + whole[place + 512 :], whole[:place] + whole[place + 1024 :]):
        shard.write_bytes(part)
        told = train_refused()
        assert f"The shard {shard} cannot be read (" in told and ("a hole" in told or "a part of a sample" in told)
    shard.unlink()
    assert f"1 of 3 shards are missing in {prepared}, the first is {shard.name}" in train_refused()
    run(people, prepared)
    assert shard.read_bytes() == whole
    shard.with_suffix(".left_out.jsonl").unlink()
    run(people, prepared)
    assert shard.with_suffix(".left_out.jsonl").is_file() and shard.read_bytes() == whole
    manifest = json.loads((prepared / "prepared.json").read_text())
    (prepared / "prepared.json").write_text(json.dumps(manifest | {"base": "SDXL"}))
    assert "was prepared for SDXL, but " in train_refused()
    (prepared / "prepared.json").write_text(json.dumps(manifest | {"version": 2}))
    assert "was prepared by another version of Likeness" in train_refused()


@pytest.mark.slow
def test_photos_of_which_none_serves_are_refused_and_told(people, tmp_path):
    told = refused(people, tmp_path / "none", "--min-side", "5000", methods=("fact",))
    assert "No photo serves to train with" in told
    reasons = (tmp_path / "none" / "left_out.csv").read_text()
    assert reasons.count("its face is too small: the crop has less than 5000 pixels") == 9


def test_shards_of_the_same_samples_are_the_same_bytes(tmp_path):
    samples = [("0", {"a": np.arange(3)}, {"person": 1})]
    for name in ("a.tar", "b.tar"):
        shards.write_shard(tmp_path / name, iter(samples))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["0.a.npy", "0.json"]


def test_a_name_that_is_not_utf_8_is_told(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"path": "\\udcff.png", "person": "ada"}')
    assert "No photo serves" in refused(tmp_path / "t.jsonl", tmp_path / "unnamed", methods=("fact",))
    assert r"line 1: \udcff.png,there is no such file" in (tmp_path / "unnamed" / "left_out.csv").read_text()


@pytest.mark.slow
def test_a_table_and_tar_shards_are_prepared_as_the_folder_is(people, prepared, tmp_path, capsys):
    photos = [photo for photo in photo_lists.list_photos(people) if photo.file.is_file()]
    table, tars = tmp_path / "people.jsonl", tmp_path / "tars"
    tars.mkdir()
    rows = [{"path": str(photo.file), "person": photo.person} for photo in photos if photo.file.name != "8.png"]
    rows.insert(2, {"path": "gone.png", "person": 0})
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = [photo.file for photo in photos if photo.file.name != "8.png"]
    write_tar(tars / "0.tar", {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files})
    expected, _ = shards.read(prepared, shards.read_manifest(prepared))
    for source, lost in ((table, "there is no such file"), (tars, "no face was found in it")):
        output = tmp_path / f"of_{source.name}"
        assert run(source, output, methods=("fact", "msid")) == 0
        read, _ = shards.read(output, shards.read_manifest(output))
        assert read.people.tolist() == expected.people.tolist() and [*read.captions] == [*expected.captions]
        latents = (each.latents[torch.arange(8)].float() for each in (read, expected))
        assert torch.allclose(*latents, atol=2e-2)
        crops = face_crops.find_crops(output)
        assert crops.count == 3 and crops.fetch(torch.arange(8)).float().std() > 20
        assert f"1 left out: {lost}" in capsys.readouterr().out
        assert Image.open(output / "left_out.png").height > 300
    assert f"{table} line 3: gone.png,there is no such file" in (tmp_path / "of_people.jsonl/left_out.csv").read_text()
    told = refused(table, tmp_path / "x", methods=("fact",), checkpoint=())
    assert "fact needs a base model: name its checkpoint behind the folder for the shards" in told
    with pytest.raises(SetupError, match="Photos of a table or of tar shards are prepared first"):
        train.main(["fact", str(table), "miniature", str(tmp_path / "x.safetensors")], None)


def test_shards_hold_rows_of_several_shapes(tmp_path):
    """Some of which are as long as others, lying."""
    several = of_several_shapes()
    samples = [(f"{row}", *shards.describe(several, row)) for row in range(len(several))]
    files = [tmp_path / "0.tar", tmp_path / "1.tar"]
    for file, part in zip(files, (samples[:3], samples[3:])):
        shards.write_shard(file, part)
    read = shards.read_shards(files).select(torch.tensor([4, 6, 0]))
    for row, (latent, face, size) in zip((4, 6, 0), read_rows(read)):
        assert latent.eq(row).all() and face.eq(row / 8).all() and size == [[100 + row, 200, row, 0]]
        assert latent.shape == (4, *SHAPES[row]) and face.shape == SHAPES[row]
    assert samples[3][2]["size"] == [103, 200, 3, 0]
    assert shards.tell(torch.tensor(1), "", torch.tensor([9, 9, 0, 0])) == {"person": 1, "caption": "", "side": 9}


def test_a_folder_is_one_command_s(tmp_path):
    with prepare_command._hold(tmp_path):
        with (
            pytest.raises(ValueError, match="Another 'likeness.py prepare' writes into"),
            prepare_command._hold(tmp_path),
        ):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_processes_train_on_shards_of_their_own(prepared, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(prepared, tmp_path / "prepared")
    shards.name_shard(folder, 0).unlink()
    shards.name_shard(folder, 2).unlink()
    monkeypatch.setattr(shards, "get_rank", lambda: 1)
    monkeypatch.setattr(shards, "count_processes", lambda: 2)
    sizes = "steps=1", "batch=2", "dim=32", "depth=1", "queries=4", "data.split=true"
    settings = [part for each in sizes for part in ("--set", each)]
    output = tmp_path / "out.safetensors"
    assert train.main(["fact", str(folder), "miniature", str(output), *settings], None) == 0
    expected, _ = shards.read(prepared, shards.read_manifest(prepared))
    read = shards.read_shards([shards.name_shard(folder, 1)])
    told = f"{len(read)} photos of {len(read.shelves.counts)} people"
    assert told in capsys.readouterr().out and len(read) < len(expected)
    manifest = shards.read_manifest(folder)
    del manifest["people"]
    (folder / "prepared.json").write_text(json.dumps(manifest))
    with pytest.raises(SetupError, match="prepared by an earlier version, which split = true cannot read"):
        train.main(["fact", str(folder), "miniature", str(output), *settings], None)
