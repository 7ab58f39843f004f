"""Lists of photos: folders a person, tables, tar shards of others; what is wrong with one is told of it alone."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from likeness.tests.training.test_face_crops import write_tar
from likeness.training import photo_lists
from likeness.training.photo_lists import LeftOutError, list_photos

CSV = "person,path,caption\nada,a/1.png,Ada\nbob,gone.png,\n,a/1.png,x\nada,a/2.png,Ada again\n"
ROWS = [
    {"path": "a/1.png", "person": "ada", "caption": "Ada"},
    {"path": "gone.png", "person": "bob", "caption": None},
    {"path": "a/1.png", "person": None, "caption": "x"},
    {"path": "a/2.png", "person": "ada", "caption": "Ada again"},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "a" / name).write_bytes(b"")
    return tmp_path


def fault(photo) -> str | None:
    try:
        photo.open()
    except LeftOutError as error:
        return str(error)


def write_parquet(path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist([{**row, "more": 1} for row in ROWS]), path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_tells_path_person_and_caption_and_faults_by_the_line(kind, folder):
    table, first = folder / f"people.{kind}", 2 if kind == "csv" else 1
    if kind == "parquet":
        write_parquet(table)
    else:
        table.write_text(CSV if kind == "csv" else "".join(f"{json.dumps(row)}\n" for row in ROWS))
    photos = list_photos(table)
    assert [photo.person for photo in photos] == [0, 1, -1, 0] and photos.count_people() == 2
    assert [photo.read_caption() for photo in photos] == ["Ada", "a photo of a person", "x", "Ada again"]
    assert [fault(photo) for photo in photos] == [None, "there is no such file", "it has no person", None]
    assert photos[1].name == f"{table} line {first + 1}: gone.png" and photos[0].open() == folder / "a" / "1.png"


def test_captions_beside_the_photos_serve_where_a_table_has_none(folder):
    (folder / "a" / "1.txt").write_text("from the file\n")
    (folder / "t.jsonl").write_text('{"path": "a/1.png", "person": 3}\nno json\n')
    photos = list_photos(folder / "t.jsonl")
    assert photos[0].read_caption() == "from the file" and fault(photos[1]) == "the line is no JSON object"


def test_rows_without_path_and_halves_of_characters_are_told_of_their_photos(folder, monkeypatch):
    monkeypatch.chdir(folder)
    rows = [{"person": "ada"}, {"path": "\ud83d.png", "person": "bob"}, {"path": ".", "person": "bob"}]
    lines = [json.dumps(row) for row in (*rows, {"path": "a/1.png", "person": "eve", "caption": "half \ud83d"})]
    Path("t.jsonl").write_text("\n".join(lines))
    photos = list_photos(Path("t.jsonl"))
    missing = ["it has no path", "there is no such file", "it is no file, or a link to none"]
    assert [fault(photo) for photo in photos] == [*missing, None]
    assert [photo.read_caption() for photo in photos] == ["a photo of a person"] * 3 + ["half ?"]


def test_of_a_very_long_caption_the_beginning_is_read(folder):
    (folder / "a" / "1.txt").write_text("a photo " * 10_000)
    assert list_photos(folder)[0].read_caption() == ("a photo " * 1250)


def test_photos_that_lie_in_no_person_s_folder_are_listed_to_be_named(folder):
    (folder / "a" / "trip" / "day").mkdir(parents=True)
    (folder / "a" / ".hidden").mkdir()
    for name in ("flat.png", "a/trip/day/1.png", "a/trip/day/1.txt", "a/.hidden/1.png"):
        (folder / name).write_bytes(b"")
    photos = list_photos(folder)
    assert [(photo.person, fault(photo)) for photo in photos] == [
        (0, None),
        (0, None),
        (-1, "it lies beside the folders of people, and not in one"),
        (-1, "it lies in a folder within that of a person"),
    ]
    assert photos[3].name == str(folder / "a" / "trip" / "day" / "1.png")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", b"file,person\n", "has no column 'path', but 'file', 'person': it needs path and person"),
        ("t.csv", b"", "has no column 'path', but none"),
        (
            "t.csv",
            b"path;person\na.png;ada\n",
            "has no column 'path', but 'path;person'.*there are commas between them",
        ),
        ("t.csv", b"path,person\nJos\xe9,a\n", "is not UTF-8"),
        ("t.csv", b"path,person\n", "has no rows"),
        ("t.jsonl", b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_tables_that_are_none_are_refused(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=told):
        list_photos(tmp_path / name)


def test_parquet_without_its_library_is_refused_in_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"")
    monkeypatch.setattr(photo_lists.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="run 'python -m pip install pyarrow' with this Python, or save the table as"):
        list_photos(tmp_path / "t.parquet")


def test_tar_shards_of_others_tell_the_person_in_three_ways(tmp_path):
    write_tar(
        tmp_path / "0.tar",
        {
            "x/000.jpg": b"jpg", "x/000.json": b'{"person": "ada", "caption": "Ada"}',
            "001.cls": b"7", "001.txt": b"a man", "001.png": b"png",
            "./bob/002.jpeg": b"jpeg",
            "003.json": b'{"person": "nobody"}',
        },
    )  # fmt: skip
    write_tar(tmp_path / "1.tar", {"bob/004.webp": b"webp"})
    photos = list_photos(tmp_path)
    assert [photo.person for photo in photos] == [0, 1, 2, 2]
    assert [photo.read_caption() for photo in photos] == ["Ada", "a man", *["a photo of a person"] * 2]
    assert [photo.open().read() for photo in photos] == [b"jpg", b"png", b"jpeg", b"webp"]
    assert photos[3].name == f"{tmp_path / '1.tar'}: bob/004"
    assert len(list_photos(tmp_path / "1.tar")) == 1


def test_tar_shards_that_cannot_be_read_are_refused_in_a_sentence(tmp_path):
    def refused() -> str:
        with pytest.raises(ValueError) as caught:
            list(list_photos(tmp_path))
        return str(caught.value)

    file = write_tar(tmp_path / "0.tar", {"a/1.jpg": b"jpg" * 1000, "a/2.jpg": b"jpg" * 1000})
    whole = file.read_bytes()
    for length in (5000, 2000, 600, 300):
        file.write_bytes(whole[:length])
        assert f"The tar file {file} cannot be read (" in refused()
    second = whole.index(b"a/2.jpg")
    for hole in (whole[:second] + bytes(600) + whole[second + 600 :], whole * 2):
        file.write_bytes(hole)
        assert "it goes on behind its end, so that it has a hole or is several in one" in refused()
    file.write_bytes(gzip.compress(whole))
    assert "unpack it where it is compressed" in refused()
    write_tar(file, {"1.jpg": b""})
    assert 'does not say whose photo 1 is: add 1.json with a "person"' in refused()
    write_tar(file, {"1.txt": b""})
    assert "hold no pictures" in refused()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_a_table_is_no_photo(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "t.csv").write_text("path,person\n1.png,ada\n")
    assert fault(list_photos(tmp_path / "t.csv")[0]) == "it is no file, or a link to none"


def test_what_is_no_file_is_listed_to_be_named(tmp_path):
    (tmp_path / "ada" / "folder.png").mkdir(parents=True)
    try:
        for name, to in (("loop.png", "loop.png"), ("nowhere.png", "gone.png")):
            (tmp_path / "ada" / name).symlink_to(to)
    except OSError:
        pytest.skip("no links here")
    photos = list_photos(tmp_path)
    assert [photo.file.name for photo in photos] == ["loop.png", "nowhere.png"]
    assert {fault(photo) for photo in photos} == {"it is no file, or a link to none"}


def test_a_million_photos_of_one_person_take_their_names_alone(tmp_path, monkeypatch):
    """Listed are 5,000, of which each may take 60 bytes: so 60 MB for a million."""
    (tmp_path / "ada").mkdir()

    real, names = os.listdir, [f"{number:08d}.jpg" for number in range(5_000)]
    monkeypatch.setattr(photo_lists.os, "listdir", lambda path: names if "ada" in str(path) else real(path))
    tracemalloc.start()
    photos = list_photos(tmp_path)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(photos) == 5_000 and taken < 60 * len(photos)
    assert photos[4999].file == tmp_path / "ada" / "00004999.jpg" and photos[4999].person == 0
