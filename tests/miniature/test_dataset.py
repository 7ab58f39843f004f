"""Sets of drawn portraits on disk: whole, resumable, and the same bytes however they were made."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from likeness.miniature import command
from likeness.miniature.world import dataset
from likeness.miniature.world.captions import agrees, parse
from likeness.miniature.world.dataset import SetRecipe, read, write
from likeness.miniature.world.draw import draw
from likeness.training import photo_lists
from PIL import Image

RECIPE = SetRecipe(split="test", first=5, people=4, images=3, size=24)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(dataset, "CHUNK", 5)


def digests(folder) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_read_is_what_was_drawn(tmp_path):
    write(tmp_path, RECIPE)
    drawn_set = read(tmp_path)
    assert drawn_set.recipe == RECIPE and len(drawn_set) == 12
    order = [11, 0, 4, 5]
    people, scenes, captions = zip(*map(RECIPE.describe, order))
    drawn = draw(people, scenes, 24)
    assert torch.equal(drawn_set.images(order), (drawn.images * 255).round().byte())
    for name in ("labels", "masks", "points"):
        assert torch.equal(getattr(drawn_set, name)(order), getattr(drawn, name)), name
    assert [drawn_set.captions[index] for index in order] == list(captions)
    assert drawn_set.people.tolist() == [150_005 + index // 3 for index in range(12)]
    assert [who.number for who in people] == drawn_set.people[order].tolist()


def test_pictures_stay_on_disk(tmp_path):
    write(tmp_path, RECIPE)
    assert isinstance(read(tmp_path).records, np.memmap)


def test_the_same_bytes_from_one_process_or_two(tmp_path):
    write(tmp_path / "one", RECIPE)
    write(tmp_path / "two", RECIPE, processes=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one").keys() == {"set.json", "captions.txt", "images.npy"}
    write(tmp_path / "other", replace(RECIPE, seed=1))
    assert digests(tmp_path / "other").keys() == digests(tmp_path / "one").keys()
    assert digests(tmp_path / "other") != digests(tmp_path / "one")


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    write(tmp_path / "whole", RECIPE)
    drawn = []

    def until_it_breaks(path, recipe, indices, work=dataset._render):
        drawn.append(indices.start)
        if len(drawn) == 2:
            records = np.load(path, mmap_mode="r+")
            records["images"][6] = 7
            raise OSError("no space left")
        work(path, recipe, indices)

    monkeypatch.setattr(dataset, "_render", until_it_breaks)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path / "cut", RECIPE)
    with pytest.raises(ValueError, match="7 of 12 pictures are missing"):
        read(tmp_path / "cut")
    reports = []
    write(tmp_path / "cut", RECIPE, report=lambda *counts: reports.append(counts))
    assert drawn == [0, 5, 5, 10] and reports == [(10, 12), (12, 12)]
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    write(tmp_path / "cut", RECIPE)
    assert len(drawn) == 4


def test_a_folder_holds_one_set(tmp_path):
    write(tmp_path, RECIPE)
    with pytest.raises(ValueError, match="holds another set"):
        write(tmp_path, replace(RECIPE, size=32))
    assert read(tmp_path).recipe == RECIPE


def test_a_set_of_another_version_is_refused(tmp_path):
    write(tmp_path, RECIPE)
    recipe = tmp_path / "set.json"
    recipe.write_text(recipe.read_text().replace('"version": 2', '"version": 1'))
    for use in (read, lambda folder: write(folder, RECIPE)):
        with pytest.raises(ValueError, match="a set of another version; choose another folder or remove it"):
            use(tmp_path)


def test_there_is_no_set_where_there_is_none(tmp_path):
    with pytest.raises(ValueError, match="no set of drawn portraits"):
        read(tmp_path)


def test_captions_agree_with_their_pictures_and_some_leave_things_open():
    recipe = SetRecipe(people=60, images=2)
    shown = [recipe.describe(index) for index in range(len(recipe))]
    told = [parse(text) for _, _, text in shown]
    assert all(agrees(said, who, seen) for said, (who, seen, _) in zip(told, shown))
    for name in ("clothes", "background"):
        assert 4 < sum(said[name] is None for said in told) < 40


@pytest.mark.parametrize(
    "setting, word",
    [
        ({"split": "work"}, "train, score, test"),
        ({"split": "test", "first": 49_999, "people": 2}, "0 to 49999"),
        ({"first": -1}, "not 2000 from -1"),
        ({"people": 0}, "not 0 from"),
        ({"images": 0}, "not 0 of 64"),
        ({"size": 8}, "12 of 8"),
        ({"styles": (0, 0, 0)}, "three shares"),
        ({"styles": (1, -1, 1)}, "three shares"),
    ],
)
def test_sets_that_cannot_be(setting, word):
    with pytest.raises(ValueError, match=word):
        SetRecipe(**setting)


def test_the_command_draws_sheets_and_sets(tmp_path):
    said = []
    sheet = tmp_path / "sheet.png"
    assert command.main(["sheet", str(sheet), "--people", "2", "--pictures", "3", "--size", "16"], said.append) == 0
    assert Image.open(sheet).size == (48, 32)
    data = ["data", str(tmp_path / "set"), "--split", "score", "--people", "2", "--pictures", "3", "--size", "16"]
    assert command.main([*data, "--processes", "1"], said.append) == 0
    assert read(tmp_path / "set").people.tolist() == [100_000] * 3 + [100_001] * 3
    assert command.main([*data, "--seed", "3"], said.append) == 1
    assert "holds another set" in said[-1]


def test_the_command_draws_a_folder_a_person(tmp_path):
    given = ["data", str(tmp_path), "--photos", "--people", "2", "--pictures", "3", "--size", "32", "--first", "5"]
    said = []
    assert command.main(given, said.append) == 0
    files = list(photo_lists.list_photos(tmp_path))
    assert [(photo.file.parent.name, photo.file.name, photo.person) for photo in files] == [
        (f"person-{number:06d}", f"{image:02d}.png", person)
        for person, number in enumerate((5, 6))
        for image in range(3)
    ]
    assert all(" a " in f" {photo.read_caption()}" for photo in files)
    first, again = files[0].file, files[3].file
    before, whole = first.stat().st_mtime_ns, again.read_bytes()
    again.unlink()
    assert command.main(given, said.append) == 0 and again.read_bytes() == whole
    assert first.stat().st_mtime_ns == before, "what is there is not drawn again"
    assert command.main([*given[:-1], "9999999999"], said.append) == 1
