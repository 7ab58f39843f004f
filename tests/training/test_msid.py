"""`likeness.py train msid`: Eq. 3 on crops of many people, to a file that *Load Face Encoder* opens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from likeness.encoders.loading import load_encoder
from likeness.host_process import SetupError
from likeness.launcher import train
from likeness.miniature import registration
from likeness.miniature.demo import load_workflow
from likeness.tests.support import records, rendered_people
from likeness.tests.support.graphs import only
from likeness.tests.support.train_commands import options
from likeness.training import adapter_command, msid, msid_command, photos, shards, watch
from likeness.training.face_crops import find_crops
from likeness.training.progress_line import ProgressLine
from likeness.weights import folders
from safetensors.torch import load_file

SIZES = ("dim=32", "depth=4", "patch=14", "taps=[0, 1, 2, 3]", "batch=4", "checkpoint_seconds=600")
WATCHED = (
    "steps=5",
    "validate_steps=2",
    "held_out=0.5",
    "snapshot_steps=4",
    "log_steps=1",
    "ema=0.9",
    "accumulate=2",
    "data.split=false",
)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    folders.register()
    registration.register()
    monkeypatch.setattr(train, "open_registered", lambda comfy, cpu: None)
    monkeypatch.setattr(msid, "_SETTLING", 3)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Ten people, three crops of each."""
    return records.write(tmp_path_factory.mktemp("records") / "ms1m", 10, 3)


def run(source, output, *given) -> int:
    return train.main(["msid", str(source), str(output), *options(*SIZES, *given)], None)


class Stop(ProgressLine):
    def __call__(self, progress):
        if progress.step == 3:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_stopped_it_goes_on_to_the_same_bits(people, tmp_path, monkeypatch, capsys):
    whole, parts = tmp_path / "whole" / "out.safetensors", tmp_path / "parts" / "out.safetensors"
    for output in (whole, parts):
        output.parent.mkdir()
    trained, learn = [], adapter_command.learn
    settled, settle = [], msid.settle
    with monkeypatch.context() as looking:
        looking.setattr(msid, "settle", lambda *given: settled.append(trained[0].step) or settle(*given))
        looking.setattr(adapter_command, "learn", lambda *given: trained.append(given[-1]) or learn(*given))
        assert run(people, whole, *WATCHED) == 0
    assert settled == [2, 4, 5], "once a step, however many files and numbers come of it"
    average, state = trained[0].average, load_file(whole)
    assert all(torch.equal(tensor, state[name[8:]]) for name, tensor in average.items() if name.startswith("network."))
    assert {int(tensor) for name, tensor in state.items() if "num_batches" in name} == {3}, "its own statistics"
    told = capsys.readouterr()
    assert "1 process, batch 4, 2 batches a step: 8 samples a step" in told.out + told.err
    assert "15 crops of 5 people to train on" in told.out and "of 5 held-out people told rightly" in told.out + told.err
    entries = watch.read_log(whole.with_suffix(".log.jsonl"))
    assert ["accuracy" in entry for entry in entries] == [False, True, False, True, True]
    assert all(0 <= entry.get("accuracy", 0) <= 1 for entry in entries)

    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(adapter_command, "ProgressLine", Stop)
        stopping.setattr(msid_command, "ProgressLine", Stop)
        run(people, parts, *WATCHED)
    assert parts.with_suffix(".training.pt").is_file() and not parts.is_file()
    run(people, parts, *WATCHED)
    for name in ("out.safetensors", "out.step-00000004.safetensors", "out.best.safetensors"):
        assert (whole.parent / name).read_bytes() == (parts.parent / name).read_bytes(), name
    assert not parts.with_suffix(".training.pt").exists()


@pytest.mark.slow
def test_photos_become_an_encoder_whose_words_draw_a_picture(base, executor, tmp_path, monkeypatch):
    rendered_people.write(tmp_path / "photos", 6)
    output = base / "models" / "face2diffusion" / "trained_msid.safetensors"
    output.parent.mkdir(parents=True, exist_ok=True)
    given = ("dim=96", "steps=2", "data.detector=drawn: miniature", "data.size=96", "validate_steps=2", "held_out=0.7")
    assert run(tmp_path / "photos", output, *given) == 0
    assert shards.read_manifest(output.with_suffix(".crops"))["people"] == 6
    assert 0 <= watch.read_log(output.with_suffix(".log.jsonl"))[-1]["accuracy"] <= 1
    tensors = load_file(output)
    assert tensors["norms.layer_3.0.running_var"].dtype == torch.float32
    assert tensors["norms.layer_0.0.num_batches_tracked"] == 3
    monkeypatch.setattr(photos, "read_files", lambda *_: pytest.fail("photos were read again"))
    run(tmp_path / "photos", output, *given)
    graph = load_workflow("miniature_face2diffusion")
    for node in graph.values():
        node["inputs"] |= {name: 2 for name in ("steps",) if name in node["inputs"]}
        node["inputs"] |= {name: 1 for name in ("batch_size",) if name in node["inputs"]}
    before = executor.run(graph)[only(graph, "ImageScaleBy")][0]
    graph[only(graph, "LikenessLoadFaceEncoder")]["inputs"]["encoder_name"] = output.name
    after = executor.run(graph)[only(graph, "ImageScaleBy")][0]
    assert after.isfinite().all() and after.std() > 0.01 and not torch.equal(before, after)


@pytest.mark.slow
def test_it_learns_and_the_file_is_the_published_layout(people, tmp_path):
    output = tmp_path / "out.safetensors"
    run(people, output, "steps=25", "batch=16", "scale=16", "margin=0.1", "log_steps=5", "head=cosface", "flip=false")
    first, *_, last = watch.read_log(output.with_suffix(".log.jsonl"))
    assert last["loss"] < 0.5 * first["loss"]
    encoder = load_encoder(str(output))
    assert (encoder.kind, encoder.crop_size) == ("msid", 112)
    network, crops = encoder.patcher.model, torch.from_numpy(records.pixels(records.picture(301)))[None]
    features, _ = network.identify(msid.as_pixels(crops, torch.device("cpu")))
    assert features.shape == (1, 1, 4 * 32) and load_file(output).keys() == network.state_dict().keys()


def test_the_head_gives_the_cosines_with_all_directions():
    head, embedding = msid.MarginHead(8, 5), torch.randn(3, 8)
    expected = torch.nn.functional.cosine_similarity(embedding[:, None], head.directions[None], dim=2)
    assert torch.allclose(head.cosines(embedding), expected, atol=1e-6)


def test_cosface_by_hand():
    cosines, labels = torch.tensor([[0.5, 0.2], [0.1, -0.3]]), torch.tensor([0, 1])
    own = torch.tensor([[0.5 - 0.35, 0.2], [0.1, -0.3 - 0.35]])
    expected = -(4 * own).log_softmax(1)[[0, 1], labels].mean()
    assert msid.cosface_loss(cosines, labels, 4.0, 0.35) == pytest.approx(float(expected), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**64 - 1), st.integers(0, 3))
def test_in_an_epoch_each_crop_comes_once_to_one_process(more, world, size, seed, epoch):
    count, parts = world + more, []
    for rank in range(world):
        own, epochs = len(range(rank, count, world)), msid.Epochs(count, seed, rank, world)
        parts.append(epochs.rows(epoch * own, own))
    assert torch.cat(parts).sort().values.tolist() == list(range(count))
    steps = [epochs.rows(epoch * own + start, size) for start in range(0, own, size)]
    assert torch.equal(torch.cat(steps)[:own], parts[-1]), "in batches as at once, and back to an earlier epoch"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30))
def test_split_shards_are_each_somebody_s(count, world):
    files = list(range(count))
    if count < world:
        with pytest.raises(ValueError, match="start fewer processes"):
            shards.take_own(files, 0, world)
        return
    parts = [shards.take_own(files, rank, world) for rank in range(world)]
    assert sorted(sum(parts, [])) == files and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_processes_of_split_shards_need_no_others(tmp_path, monkeypatch):
    """And count all people alike, and hold out the same ones."""
    for number in range(4):
        sample = ("0", {"crop": np.full((112, 112, 3), number, np.uint8)}, {"person": number, "caption": "", "side": 1})
        shards.write_shard(shards.name_shard(tmp_path, number), [sample])
    (tmp_path / "prepared.json").write_text('{"version": 1, "shards": 4, "crops": 112, "people": 4, "data": {}}')
    monkeypatch.setenv("WORLD_SIZE", "2")
    shards.name_shard(tmp_path, 0).unlink()
    monkeypatch.setenv("RANK", "1")
    crops = find_crops(tmp_path, split=True)
    assert crops.people.tolist() == [1, 3] and crops.count == 4
    people = torch.tensor([0, 2])  # of process 0, which validates
    trained, held = msid.hold_out(crops, 0.25, people)
    chosen = int(msid.choose_held_out(people, 0.25))
    assert trained.count == 3 and len(trained) + len(held) == 2
    assert trained.people.tolist() == [person - (person > chosen) for person in (1, 3) if person != chosen]
    with pytest.raises(ValueError, match=r"1 of 4 shards are missing"):
        find_crops(tmp_path)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"1 of 2 shards of this process .* again, with 2 processes as here"):
        find_crops(tmp_path, split=True)


def test_checkpointing_gives_the_same_gradients(people):
    crops, gradients = find_crops(people), []
    for checkpointing in (False, True):
        small = msid.MsidSettings(
            dim=32, depth=2, patch=14, taps=(0, 1), batch=4, precision="bfloat16", checkpointing=checkpointing
        )
        module = msid.make(crops.count, small, torch.device("cpu")).train()
        loss = msid.make_loss(module, crops, small, torch.device("cpu"))
        loss(torch.Generator().manual_seed(1), 0).backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients))


def test_pairs_are_of_folds_that_share_nobody():
    people = torch.arange(40).repeat_interleave(5)
    pairs = msid.choose_pairs(people, 200)
    assert 150 < pairs.same.sum() <= 200 and 150 < (~pairs.same).sum() <= 200
    assert all(torch.equal(*each) for each in zip(pairs, msid.choose_pairs(people, 200))), "always the same ones"
    assert torch.equal(people[pairs.first] == people[pairs.second], pairs.same) and (pairs.first != pairs.second).all()
    folds = {}
    for rows in (pairs.first, pairs.second):
        for person, fold in zip(people[rows].tolist(), pairs.folds.tolist()):
            assert folds.setdefault(person, fold) == fold


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("dim=40",), "dim must be a multiple of 32, not 40"),
        (("batch=1",), "batch must be at least 2, not 1"),
        (("margin=2.0",), "margin must be at most 1.5, not 2.0"),
        (("scale=0.0",), "scale must be more than 0, not 0.0"),
        (("head=softmax",), "'softmax' is no head; choose one of arcface, cosface"),
        (
            ("taps=[3, 4]",),
            r"taps must be different blocks in their order, counted from 0, below depth = 4, not \[3, 4",
        ),
        (("patch=9",), "Crops of 112 pixels do not divide into patches of 9: take 7, 8 or 14"),
        (("validate_steps=1", "held_out=0.1"), "Only 1 of 1 people who are held out have two photos"),
        (("data.size=96",), "holds crops that are aligned already: leave .* size out"),
        (("data.split=true",), "split = true is for prepared photos"),
        (("data.parser=x",), "There is no entry 'parser' in"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(given, told, people, tmp_path):
    with pytest.raises(SetupError, match=told):
        run(people, tmp_path / "out.safetensors", *given)


def test_one_person_is_refused(tmp_path):
    with pytest.raises(SetupError, match="learns to tell people apart: give it photos of two at least"):
        run(records.write(tmp_path / "one", 1, 3), tmp_path / "out.safetensors")
