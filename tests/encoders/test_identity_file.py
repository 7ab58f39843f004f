"""Identity files: what is saved comes back, what is no identity is refused by name, and nothing is half-written."""

import json
import os
import pickle
import random
import subprocess
import sys
import time
from dataclasses import replace

import folder_paths
import pytest
import safetensors
import safetensors.torch
import torch
from likeness.encoders import identity_file, identity_format
from likeness.encoders.identity_file import load_identity, new_path, save_identity
from likeness.tests.support import tiny


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Output and models folder of this test alone."""
    saved, models = tmp_path / "output" / "face_id", tmp_path / "models" / "face_id"
    monkeypatch.setattr(folder_paths, "output_directory", str(saved.parent))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "face_id", ([str(models), str(saved)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("face_id", None)
    return models, saved


def bits(tensor):
    return tensor.view(torch.int32)


def fields(photos=2, **changes):
    """The metadata of version 1, written down here once more: the file format is a promise."""
    return {
        "format": "likeness.face_id",
        "version": "1",
        "encoder": "transface",
        "encoder_file": "ms1mv2_model_TransFace_S.pt",
        "encoder_sha256": "ab" * 32,
        "photos": str(photos),
        "crop_size": "4",
        "masked": "true",
        "agreement": " ".join(["0.5000"] * photos) if photos > 1 else "",
        "note": "Ada, agreed on paper",
    } | changes


def tensors(photos=2):
    generator = torch.Generator().manual_seed(1)
    embedding = torch.nn.functional.normalize(torch.randn(photos, 5, generator=generator), dim=1)
    return {
        "features": torch.randn(photos, 3, 6, generator=generator),
        "embedding": embedding,
        "crops": torch.randint(0, 256, (photos, 4, 4, 3), dtype=torch.uint8, generator=generator),
    }


def write(path, values, metadata):
    path.write_bytes(safetensors.torch.save(values, metadata))
    return path


def raw(path, header, data=b""):
    """A file whose JSON header is `header`, text or object, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("photos", [1, 3])
def test_features_and_embedding_come_back_bit_for_bit(tmp_path, photos):
    saved = tiny.face_id(photos)
    saved.features[0, 0, :4] = torch.tensor([-0.0, 1e-42, 3.4e38, -1e-30])
    saved = replace(saved, crops=torch.rand(photos, 8, 8, 3))
    path = tmp_path / "a.safetensors"
    save_identity(str(path), saved, note="  Ada\r\nagreed\x00 ☺ ")
    loaded, header = load_identity(str(path))
    assert torch.equal(bits(loaded.features), bits(saved.features))
    assert torch.equal(bits(loaded.embedding), bits(saved.embedding))
    assert (loaded.crops - saved.crops).abs().max() <= 0.5 / 255 + 1e-6
    assert (loaded.encoder, loaded.file, loaded.sha256) == (saved.encoder, saved.file, saved.sha256)
    assert loaded.masked and header.note == "Ada\nagreed  ☺" and len(header.agreement) == (photos if photos > 1 else 0)
    again = tmp_path / "b.safetensors"
    save_identity(str(again), loaded, note=header.note)
    thrice, same = load_identity(str(again))
    assert same == header and torch.equal(thrice.crops, loaded.crops) and torch.equal(thrice.features, saved.features)


def test_consent_is_kept_as_text_of_its_own(root, tmp_path):
    path = tmp_path / "a.safetensors"
    save_identity(str(path), tiny.face_id(), note="Ada", consent=" portraits for her shop,\nuntil 2027 ")
    face_id, header = load_identity(str(path))
    assert header.consent == "portraits for her shop,\nuntil 2027"
    assert "consent: portraits" in identity_file.description("a", header)
    assert "consent: portraits for her shop, until 2027" in list_lines(root, tmp_path).stdout
    save_identity(str(path), face_id)
    assert "consent: nothing is noted" in identity_file.description("a", load_identity(str(path))[1])
    with safetensors.safe_open(path, "pt") as file:
        assert "consent" not in file.metadata(), "files without one are as before"
    with pytest.raises(ValueError, match="the consent has 4001 characters"):
        save_identity(str(path), face_id, consent="x" * 4001)


def test_without_thumbnails_grey_figures_of_the_same_size_stand_in(tmp_path):
    path = tmp_path / "a.safetensors"
    save_identity(str(path), tiny.face_id(2), thumbnails=False)
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == {"features", "embedding"}
    loaded, header = load_identity(str(path))
    assert loaded.crops.shape == (2, 8, 8, 3) and "crops" not in header.tensors
    assert torch.equal(loaded.crops[0], loaded.crops[1]) and loaded.crops.min() > 0.2 and loaded.crops.std() > 0.05


def test_the_file_is_the_promised_one(tmp_path):
    path = tmp_path / "a.safetensors"
    identity = replace(tiny.face_id(2), crops=torch.ones(2, 8, 8, 3))
    save_identity(str(path), identity, note="n")
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == fields(
            encoder_file="tiny_transface.pt",
            encoder_sha256="0" * 64,
            crop_size="8",
            agreement=" ".join([f"{float(identity.embedding[0] @ identity.embedding[1]):.4f}"] * 2),
            note="n",
        )
        kinds = {key: (file.get_slice(key).get_dtype(), file.get_slice(key).get_shape()) for key in file.keys()}
    assert kinds == {"features": ("F32", [2, 9, 24]), "embedding": ("F32", [2, 24]), "crops": ("U8", [2, 8, 8, 3])}


@pytest.mark.parametrize("photos", [1, 2])
def test_a_file_written_by_the_book_loads(tmp_path, photos):
    values = tensors(photos)
    path = write(tmp_path / "a.safetensors", values, fields(photos, another="key of somebody else"))
    loaded, header = load_identity(str(path))
    assert torch.equal(loaded.features, values["features"]) and torch.equal(loaded.embedding, values["embedding"])
    assert torch.equal((loaded.crops * 255).round().to(torch.uint8), values["crops"])
    assert header == identity_format.read_header(path)


def nan(key):
    values = tensors()
    values[key].flatten()[3] = float("nan")
    return values


WRONG = {
    "newer": (tensors(), fields(version="2"), "has format version 2, .* reads up to version 1; update it"),
    "much newer": (tensors(), fields(version="123456789"), "version 123456789"),
    "no version": (tensors(), fields(version="one"), "'version' .* damaged"),
    "another kind": ({"lora_up.weight": torch.ones(2)}, {"format": "pt"}, "holds other tensors; choose a file that"),
    "no metadata": (tensors(), None, "holds other tensors"),
    "no features": ({"embedding": tensors()["embedding"]}, fields(), "must hold features and embedding, not embedding"),
    "one more": (tensors() | {"extra": torch.ones(1)}, fields(), "not crops, embedding, extra, features"),
    "half precision": (tensors() | {"features": torch.ones(2, 3, 6).half()}, fields(), "'features' is not stored as"),
    "flat features": (tensors() | {"features": torch.ones(2, 18)}, fields(), "'features' has a shape"),
    "no tokens": (tensors() | {"features": torch.ones(2, 0, 6)}, fields(), "'features' has a shape"),
    "other photos": (tensors() | {"embedding": tensors(3)["embedding"]}, fields(), "'embedding' holds 3 photos, .* 2"),
    "other number": (tensors(), fields(photos=3), "holds 2 photos, but its metadata says 3"),
    "other crops": (tensors(), fields(crop_size="5"), "thumbnails are not 5 pixels a side"),
    "grey crops": (tensors() | {"crops": torch.ones(2, 4, 4, 1, dtype=torch.uint8)}, fields(), "thumbnails are not 4"),
    "no photos": (tensors(), fields(photos=0), "'photos' of its metadata"),
    "many photos": (tensors(), fields(photos=1001), "'photos' of its metadata is 1001, above the limit of 1000"),
    "other digits": (tensors(), fields() | {"photos": "٢"}, "'photos' of its metadata"),
    "no fingerprint": (tensors(), fields(encoder_sha256="ab"), "'encoder_sha256' of its metadata"),
    "agreement of one": (tensors(), fields(agreement="0.5000"), "'agreement' .* another number of photos"),
    "agreement in words": (tensors(), fields(agreement="good nan"), "'agreement' of its metadata"),
    "long note": (tensors(), fields(note="x" * 4001), "'note' of its metadata"),
    "terminal codes": (tensors(), fields(note="\x1b[2J"), "'note' of its metadata"),
    "nan features": (nan("features"), fields(), "NaN or infinite"),
    "nan embedding": (nan("embedding"), fields(), "NaN or infinite"),
    "long embedding": (tensors() | {"embedding": torch.ones(2, 5)}, fields(), "not of length 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_no_identity_is_refused_by_name(tmp_path, name):
    values, metadata, message = WRONG[name]
    path = write(tmp_path / "a.safetensors", values, metadata)
    with pytest.raises(ValueError, match=rf"a.safetensors' cannot be loaded as an identity: .*{message}"):
        load_identity(str(path))


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


LYING = {
    "empty": (b"", "empty"),
    "short": (b"abc", "not a safetensors file"),
    "text": (b"hello" * 100, "not a safetensors file"),
    "web page": (b"<!DOCTYPE html><html>", "web page"),
    "no end of header": ((10**18).to_bytes(8, "little") + b"{}", "cut short"),
    "long header": ((200_000).to_bytes(8, "little") + b"{" * 200_000, "header is longer"),
    "no json": ((4).to_bytes(8, "little") + b"{ab}", "header is damaged"),
    "no text": ((4).to_bytes(8, "little") + b"{\xff\xfe}", "header is damaged"),
    "deep": ((50_005).to_bytes(8, "little") + b'{"a":' + b"[" * 50_000, "header is damaged"),
    "huge number": ((9_006).to_bytes(8, "little") + b'{"a":' + b"9" * 9_000 + b"}", "header is damaged"),
    "twice": ((14).to_bytes(8, "little") + b'{"a":1,"a":1} ', "header is damaged"),
}


@pytest.mark.parametrize("name", LYING)
def test_other_files_are_refused(tmp_path, name):
    content, message = LYING[name]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a.safetensors' cannot be loaded as an identity: .*{message}"):
        load_identity(str(path))


SHAPE, OVERLAP, SIZE = "'features' has a shape or place", "overlap or leave gaps", "another size than its shape says"


@pytest.mark.parametrize(
    ("features", "embedding", "data", "message"),
    [
        (entry([2, 3, 6], 0, 144), entry([2, 5], 104, 144), 144, OVERLAP),  # one inside the other
        (entry([2, 3, 6], 0, 144), entry([2, 5], 148, 188), 188, OVERLAP),
        (entry([2, 3, 6], 4, 148), entry([2, 5], 148, 188), 188, OVERLAP),
        (entry([2, 3, 6], 0, 144), entry([2, 5], 144, 184), 188, "184 bytes of tensors are announced, 188 are there"),
        (entry([2, 3, 6], 0, 144), entry([2, 5], 144, 184), 180, "184 bytes of tensors are announced, 180 are there"),
        (entry([2, 3, 6], 0, 144), entry([2, 5], 184, 144), 144, "'embedding' has another size"),
        (entry([2, 3, 6], -4, 140), entry([2, 5], 140, 180), 180, SHAPE),
        (entry([2, 10**6, 10**6], 0, 144), entry([2, 5], 144, 184), 184, SIZE),
        (entry([2, 3, 1 << 62], 0, 144), entry([2, 5], 144, 184), 184, SHAPE),
        (entry([2, 1000, 1_250_000], 0, 10**10), entry([2, 5], 10**10, 10**10 + 40), 184, SHAPE),  # 10 GB
        (entry([2, 3, 6.0], 0, 144), entry([2, 5], 144, 184), 184, SHAPE),
        (entry([2, 3, True], 0, 24), entry([2, 5], 24, 64), 64, SHAPE),
        (entry([2, 3, -6], 0, -144), entry([2, 5], 0, 40), 40, SHAPE),
        (entry("236", 0, 144), entry([2, 5], 144, 184), 184, SHAPE),
        (entry([2, 3, 6], 0, 144) | {"data_offsets": None}, entry([2, 5], 144, 184), 184, SHAPE),
        ([1, 2], entry([2, 5], 144, 184), 184, "'features' is not stored as F32"),
        (None, entry([2, 5], 144, 184), 184, "'features' is not stored as F32"),
    ],
)
def test_a_lying_header_is_refused_before_anything_is_read(tmp_path, features, embedding, data, message):
    header = {"__metadata__": fields(), "features": features, "embedding": embedding}
    path = raw(tmp_path / "a.safetensors", header, bytes(data))
    with pytest.raises(ValueError, match=f"a.safetensors' cannot be loaded as an identity: .*{message}"):
        identity_format.read_header(path)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trap",)


def test_a_pickle_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (pickle.dumps(Trap()), b"{" * 9 + pickle.dumps(Trap())):
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be loaded as an identity"):
            load_identity("a.safetensors")
    torch.save({"features": Trap()}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_identity("b.safetensors")
    assert not (tmp_path / "trap").exists()


VALUES = ["", "0", "-1", "99999999999", "NaN", [], {}, None, True, 1e308, [2**63, -1], "é" * 300, "F64", "\x00"]


def mutate(dice: random.Random, whole: bytes) -> bytes:
    """One of: bytes changed, cut, doubled; a value of the header replaced, renamed, removed."""
    kind = dice.randrange(6)
    if kind == 0:
        position = dice.randrange(len(whole))
        return whole[:position] + dice.randbytes(dice.randrange(1, 9)) + whole[position + 1 :]
    if kind == 1:
        return whole[: dice.randrange(len(whole))]
    if kind == 2:
        return dice.randbytes(8) + whole[8:]
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    target = dice.choice([header, *header.values()])
    key = dice.choice(list(target))
    value = target.pop(key)
    if kind == 3:
        target[dice.choice(["features", "__metadata__", "x", "shape", key + key])] = value
    elif kind == 4:
        target[key] = dice.choice(VALUES)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


def test_hundreds_of_mutated_files_each_a_named_error_or_an_identity(tmp_path):
    whole, dice, refused = safetensors.torch.save(tensors(), fields()), random.Random(3), 0
    path = tmp_path / "a.safetensors"
    for _ in range(1200):
        path.write_bytes(mutate(dice, whole))
        start = time.perf_counter()
        try:
            identity, _ = load_identity(str(path))
            assert torch.isfinite(identity.features).all() and len(identity.embedding) == len(identity.crops)
        except ValueError as error:
            assert "a.safetensors' cannot be loaded as an identity: " in str(error)
            refused += 1
        assert time.perf_counter() - start < 1
    assert 900 < refused < 1200, "some mutations only change a number or a note"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.full((2, 9, 24), torch.inf)}, "NaN or infinite"),
        ({"embedding": torch.zeros(2, 24)}, "not of length 1"),
        ({"embedding": tiny.face_id(3).embedding}, "'agreement' .* another number of photos"),
        ({"sha256": ""}, "'encoder_sha256'"),
        ({"crops": torch.zeros(2, 8, 9, 3)}, "thumbnails are not 8"),
    ],
)
def test_what_could_not_be_loaded_again_is_not_saved(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"^Save Identity: .*{message}"):
        save_identity(str(tmp_path / "a.safetensors"), replace(tiny.face_id(2), **change))
    assert not list(tmp_path.glob("a*"))
    with pytest.raises(ValueError, match="the note has 4001 characters"):
        save_identity(str(tmp_path / "a.safetensors"), tiny.face_id(), note="x" * 4001)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    resource = pytest.importorskip("resource")
    folder = tmp_path / "full"
    folder.mkdir()
    path = folder / "a.safetensors"
    save_identity(str(path), tiny.face_id(1))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"^Save Identity: .*a.safetensors cannot be written: .*Nothing was saved"):
            save_identity(str(path), tiny.face_id(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(folder) == ["a.safetensors"] and path.read_bytes() == before


def test_a_folder_that_cannot_be_written(folders):
    models, saved = folders
    saved.parent.mkdir(parents=True)
    saved.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="^Save Identity: .*face_id cannot be written: Not a directory"):
        new_path("ada")
    with pytest.raises(OSError, match="^Save Identity: .*cannot be written: Not a directory"):
        save_identity(str(saved / "a.safetensors"), tiny.face_id())
    saved.unlink()
    with pytest.raises(OSError, match="^Save Identity: .*cannot be written: File name too long"):
        save_identity(new_path("x" * 300), tiny.face_id())


def test_names_are_numbered_and_no_file_is_hidden_by_another(folders):
    models, saved = folders
    assert new_path("ada") == str(saved / "ada_00001_.safetensors")
    save_identity(new_path("ada"), tiny.face_id())
    assert new_path("ada") == str(saved / "ada_00002_.safetensors")
    models.mkdir(parents=True)
    (models / "ada_00002_.safetensors").touch()
    assert new_path(" ada ") == str(saved / "ada_00003_.safetensors"), "the loader would find the other 00002 first"
    assert new_path("sub/folder\\ada") == str(saved / "sub" / "folder" / "ada_00001_.safetensors")
    assert new_path("%year%/x").split(os.sep)[-2] == time.strftime("%Y")
    save_identity(new_path("sub/ada"), tiny.face_id())
    assert folder_paths.get_filename_list("face_id") == [
        "ada_00001_.safetensors", "ada_00002_.safetensors", os.path.join("sub", "ada_00001_.safetensors"),
    ]  # fmt: skip
    assert identity_file.find_identity("sub/ada_00001_.safetensors") == str(saved / "sub" / "ada_00001_.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        "..",
        "../ada",
        "a/../../b",
        "/etc/ada",
        "C:\\ada",
        "..\\ada",
        "ada/",
        "a//b",
        ".git/ada",
        "a\x00b",
        "a:b",
    ],
)
def test_names_that_leave_the_folder_are_refused(folders, name):
    with pytest.raises(ValueError, match="^Save Identity: .* is no name for a file"):
        new_path(name)
    assert not folders[1].exists()


def test_a_link_out_of_the_folder_is_not_followed(folders, tmp_path):
    folders[1].mkdir(parents=True)
    (folders[1] / "out").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of"):
        new_path("out/ada")


@pytest.mark.parametrize("name", ["gone.safetensors", "../output/secret.safetensors", "/etc/passwd", "a\x00b", ""])
def test_a_missing_identity_says_where_it_was_looked_for(folders, name):
    (folders[1].parent).mkdir(parents=True)
    (folders[1].parent / "secret.safetensors").touch()
    with pytest.raises(FileNotFoundError, match="There is no identity '.*models/face_id or .*output/face_id.*press R"):
        identity_file.find_identity(name)


def list_lines(root, *arguments, encoding="utf-8"):
    # -S: without site-packages, as where nothing is installed.
    command = [sys.executable, "-P", "-S", str(root / "likeness.py"), "identities", *map(str, arguments)]
    env = {"PYTHONIOENCODING": encoding}
    return subprocess.run(command, capture_output=True, text=True, encoding=encoding, env=env, timeout=60)


def test_the_command_lists_identities_with_the_standard_library(root, tmp_path):
    (tmp_path / "list" / "sub").mkdir(parents=True)
    write(tmp_path / "list" / "ada.safetensors", tensors(3), fields(3, agreement="0.5100 0.1200 -0.0700"))
    write(tmp_path / "list" / "sub" / "bob.safetensors", tensors(1), fields(1, note="a\nlong \u202enote " + "x" * 90))
    write(tmp_path / "list" / "new\u00fc.safetensors", tensors(), fields(version="2"))
    (tmp_path / "list" / "empty.SAFETENSORS").touch()
    os.mkfifo(tmp_path / "list" / "pipe.safetensors")
    answer = list_lines(root, tmp_path / "list", encoding="ascii")  # of a terminal that has not all letters
    assert answer.returncode == 0, answer.stderr
    head, ada, empty, new, bob = answer.stdout.splitlines()
    assert head == f"{tmp_path / 'list'}: 4 files"
    assert ada.split() == [
        "ada.safetensors", "3", "photos", "worst", "agreement", "-0.07",
        "transface", "(ms1mv2_model_TransFace_S.pt)", "Ada,", "agreed", "on", "paper",
    ]  # fmt: skip
    assert "1 photo   worst agreement     -" in bob and bob.endswith("a long ?note " + "x" * 44 + "...")
    assert new.startswith("  new?.safetensors")
    assert "it has format version 2, but this ComfyUI-Likeness reads up to version 1" in new
    assert "it is empty" in empty
    nowhere = list_lines(root, tmp_path / "nowhere")
    assert nowhere.returncode == 1 and "There is no folder" in nowhere.stderr


def test_a_small_file_cannot_ask_for_gigabytes_of_figures(tmp_path):
    """Without thumbnails a grey figure stands in for each crop, of the size that the metadata say."""
    photos = 1000
    embedding = torch.nn.functional.normalize(torch.ones(photos, 1), dim=1)
    small = {"features": torch.ones(photos, 1, 1), "embedding": embedding}
    safetensors.torch.save_file(small, tmp_path / "a.safetensors", fields(photos, crop_size="1024"))
    with pytest.raises(ValueError, match="'photos' and 'crop_size' of its metadata ask for more than 67108864 pixels"):
        load_identity(str(tmp_path / "a.safetensors"))
    safetensors.torch.save_file(small, tmp_path / "a.safetensors", fields(photos, crop_size="256"))
    crops = load_identity(str(tmp_path / "a.safetensors"))[0].crops
    assert crops.shape == (photos, 256, 256, 3) and crops.untyped_storage().nbytes() < 1_000_000


def test_half_a_character_in_note_or_name(tmp_path):
    save_identity(str(tmp_path / "a.safetensors"), tiny.face_id(), note="who \udfff agreed")
    assert load_identity(str(tmp_path / "a.safetensors"))[1].note == "who   agreed"
    with pytest.raises(ValueError, match="is no name for a file"):
        new_path("ada\ud800")


def test_half_written_files_are_swept_when_they_are_old(folders):
    saved = folders[1]
    saved.mkdir(parents=True)
    for name, age in (("a_00001_.safetensors.part", 7200), ("b_00001_.safetensors.part", 60), ("other.part", 7200)):
        (saved / name).touch()
        os.utime(saved / name, (time.time() - age,) * 2)
    new_path("ada")
    assert sorted(path.name for path in saved.iterdir()) == ["b_00001_.safetensors.part", "other.part"]


SAVER = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("conftest", Path(sys.argv[1]) / "tests" / "conftest.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))
import folder_paths
from likeness.encoders.identity_file import new_path, save_identity
from likeness.tests.support import tiny
folder_paths.set_output_directory(sys.argv[2])
folder_paths.add_model_folder_path("face_id", sys.argv[2] + "/face_id")
for number in range(int(sys.argv[3])):
    print(save_identity(new_path("ada"), tiny.face_id(1), note=f"{sys.argv[4]} {number}", new=True), flush=True)
"""


@pytest.mark.parametrize("links", [True, False])
def test_a_number_that_is_taken_meanwhile(folders, monkeypatch, links):
    if not links:  # as on a disk without hard links
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    first, second = new_path("ada"), new_path("ada")
    assert first == second
    names = [save_identity(first, tiny.face_id(1), note=note, new=True) for note in "ab"]
    assert [load_identity(name)[1].note for name in names] == ["a", "b"]
    assert sorted(path.name for path in folders[1].iterdir()) == ["ada_00001_.safetensors", "ada_00002_.safetensors"]


@pytest.mark.slow
def test_two_servers_save_into_one_folder(root, tmp_path):
    """500 saves under one prefix: none lost, none that holds the other's."""
    command = [sys.executable, "-P", "-c", SAVER, root, tmp_path / "output", "250"]
    savers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in ("left", "right")]
    saved = {name: saver.communicate(timeout=240)[0].split() for name, saver in zip(("left", "right"), savers)}
    wrong = [
        path for name, paths in saved.items() for number, path in enumerate(paths)
        if identity_format.read_header(path).note != f"{name} {number}"
    ]  # fmt: skip
    files = {str(path) for path in (tmp_path / "output" / "face_id").iterdir()}
    assert not wrong and len(files) == 500 and files == {*saved["left"], *saved["right"]}
