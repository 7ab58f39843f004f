"""Aligned crops from InsightFace's record files, from tar shards of others, and from prepared photos."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from likeness.tests.support import records
from likeness.tests.support.golden_cases import GOLDEN
from likeness.training import face_crops, shards

PEOPLE, PHOTOS = 3, 4


@pytest.mark.parametrize("told", [True, False])
def test_record_files_give_every_crop_and_its_person(told, tmp_path):
    crops = face_crops.find_crops(records.write(tmp_path / "ms1m", PEOPLE, PHOTOS, told))
    assert (len(crops), crops.count) == (PEOPLE * PHOTOS, PEOPLE)
    assert crops.people.tolist() == [person for person in range(PEOPLE) for _ in range(PHOTOS)]
    rows = torch.tensor([11, 0, 5])
    expected = [records.pixels(records.picture(100 * (row // PHOTOS) + row % PHOTOS)) for row in rows.tolist()]
    assert np.array_equal(crops.fetch(rows).numpy(), np.stack(expected))
    some = crops.select(torch.tensor([2, 11]))
    assert torch.equal(some.fetch(torch.tensor([1])), crops.fetch(rows[:1])) and some.people.tolist() == [0, 2]


def test_record_files_that_mxnet_wrote_give_every_crop_and_its_person():
    """golden/mxnet_records was written by mxnet 1.9.1, `from mxnet.recordio import *`, with `pixels` as below in BGR:

    writer = MXIndexedRecordIO("train.idx", "train.rec", "w")
    writer.write_idx(0, pack(IRHeader(0, [6.0, 9.0], 0, 0), b""))
    1: pack_img(IRHeader(0, 0.0, 1, 0), pixels, 95, ".jpg")
    2: pack_img(IRHeader(0, 0.0, 2, 0), pixels, 9, ".png")
    3: pack_img(IRHeader(0, [1.0, 0.5], 3, 0), pixels, 95, ".jpg")
    4: pack(IRHeader(0, [1.0, 0.5], 4, 0), a JPEG whose comment has the mark of records twice, at a multiple of 4)
    5: pack_img(IRHeader(0, 2.0, 5, 0), pixels, 95, ".jpg")
    6, 7, 8: pack(IRHeader(0, [1.0, 3.0] and [3.0, 5.0] and [5.0, 6.0], key, 0), b"")
    """
    folder = GOLDEN / "mxnet_records"
    crops = face_crops.find_crops(folder)
    assert crops.people.tolist() == [0, 0, 1, 1, 2] and crops.count == 3
    for key, crop in enumerate(crops.fetch(torch.arange(5)).numpy(), start=1):
        pixels = np.full((112, 112, 3), (200 - 30 * key, 90, 40 * key), np.uint8)
        assert np.abs(crop.astype(int) - pixels).max() <= (0 if key == 2 else 2)
    assert (folder / "train.rec").read_bytes().count(records.MAGIC) == 9 + 2, "record 4 is cut twice"


def test_pictures_own_labels_tell_their_people_where_there_are_more_records_than_a_label_counts(tmp_path):
    writer, end = records.Writer(tmp_path / "many"), 2**24 + 3  # of which a label makes 2**24 + 4
    writer.add(0, records.pack([end, end + 2], b""))
    for key, label in ((1, [5.0]), (2, [5.0, 0.0]), (9, [7.0] + [0.5] * 236), (end, [1, 9]), (end + 1, [9, end])):
        writer.add(key, records.pack(label, records.picture(key) if key < end else b""))
    crops = face_crops.find_crops(writer.close())
    assert crops.people.tolist() == [0, 0, 1] and crops.count == 2
    assert np.array_equal(crops.fetch(torch.tensor([2]))[0].numpy(), records.pixels(records.picture(9)))


def test_a_first_record_with_a_picture_is_one_of_the_pictures(tmp_path):
    """As InsightFace's RecBuilder writes them: no record tells of the people."""
    writer = records.Writer(tmp_path)
    for key in range(3):
        writer.add(key, records.pack([float(key // 2), 0.5], records.picture(key)))
    crops = face_crops.find_crops(writer.close())
    assert crops.people.tolist() == [0, 0, 1]
    assert np.array_equal(crops.fetch(torch.tensor([0]))[0].numpy(), records.pixels(records.picture(0)))


@pytest.mark.parametrize("before", [0, 4, 28])
def test_content_that_has_the_mark_of_records_is_joined_again(before, tmp_path):
    writer = records.Writer(tmp_path)
    content = bytes(before) + records.MAGIC + b"abcdefg" + bytes(1) + records.MAGIC * 2 + b"xyz"
    writer.add(0, b"1")
    writer.add(1, content)
    folder = writer.close()
    assert face_crops._read_record(folder / "train.rec", writer.index[1][1]) == content


def test_damaged_record_files_are_refused_in_a_sentence(tmp_path):
    folder = records.write(tmp_path / "ms1m", PEOPLE, PHOTOS)
    file, index = folder / "train.rec", folder / "train.idx"
    whole, lines = file.read_bytes(), index.read_text()

    def refused(rows=(0,)) -> str:
        with pytest.raises(ValueError) as caught:
            face_crops.find_crops(folder).fetch(torch.tensor(rows))
        return str(caught.value)

    file.write_bytes(whole[:-40])
    assert f"{file} is cut off" in refused()
    index.write_text(lines.replace("\n5\t", "\n5\t1"))
    assert "is cut off, or train.idx is another's" in refused()
    index.write_text(lines)
    place = int(lines.splitlines()[3].split("\t")[1])
    file.write_bytes(whole[:place] + b"\0" + whole[place + 1 :])
    assert f"{file} has no record at byte {place}: it is damaged, or train.idx is another's" in refused([2])
    file.write_bytes(whole[: place + 40] + bytes(60) + whole[place + 100 :])
    assert f"record 3 of {file} cannot be read as a picture" in refused([2])
    index.write_text("a b\n")
    assert f"{index} is no index of records" in refused()
    index.write_text("0\t0\n1\n")
    assert f"{index} is no index of records" in refused()
    index.unlink()
    assert "needs train.idx beside it" in refused()


def write_tar(path, samples: dict[str, bytes]):
    with tarfile.open(path, "w") as tar:
        for name, content in samples.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_tar_shards_of_aligned_crops_are_read_as_they_are(tmp_path):
    for number in range(2):
        samples = {}
        for photo in range(2):
            key = f"{number}{photo:03d}"
            samples[f"{key}.png"] = records.picture(100 * number + photo)
            samples[f"{key}.json"] = json.dumps({"person": f"p{number}"}).encode()
        write_tar(tmp_path / f"{number}.tar", samples)
    crops = face_crops.find_crops(tmp_path)
    assert crops.people.tolist() == [0, 0, 1, 1] and crops.count == 2
    assert np.array_equal(crops.fetch(torch.tensor([3]))[0].numpy(), records.pixels(records.picture(101)))
    write_tar(tmp_path / "2.tar", {"a/1.png": records.picture(0, 100)})
    with pytest.raises(ValueError, match="2.tar: a/1 is 100 x 100 pixels, but aligned crops have 112 x 112"):
        face_crops.find_crops(tmp_path).fetch(torch.tensor([4]))
    (tmp_path / "0.tar").write_bytes(write_tar(tmp_path / "x.tar", {"a/1.png": records.picture(0, 64)}).read_bytes())
    assert face_crops.find_crops(tmp_path) is None, "these are photos, to be prepared"


def test_prepared_photos_without_crops_are_refused(tmp_path):
    (tmp_path / "prepared.json").write_text(json.dumps({"version": shards.VERSION, "shards": 0, "data": {}}))
    with pytest.raises(ValueError, match="prepare the photos with --for msid"):
        face_crops.find_crops(tmp_path)
    with pytest.raises(ValueError, match="split = true is for prepared photos"):
        face_crops.find_crops(tmp_path / "elsewhere", split=True)
