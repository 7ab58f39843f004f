"""Weight files come in as tensors, whatever they are called; everything else is refused and nothing runs."""

import io
import json
import os
import pickle
import random
import time
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from likeness.weights import files
from likeness.weights.reading import read_state_dict

MAPS = Path("/proc/self/maps")
TENSORS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.tensor([1, 2], dtype=torch.float16)}


class Harmful:
    """Unpickled by a careless reader, this creates a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def same(tensors, expected=TENSORS):
    assert list(tensors) == list(expected)
    for name, tensor in tensors.items():
        assert tensor.device.type == "cpu"
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


def refusal(path) -> str:
    with pytest.raises(ValueError) as error:
        read_state_dict(path)
    message = str(error.value)
    assert message.startswith(f"'{path}' ")
    assert "weights_only" not in message
    return message


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.ckpt"])
def test_safetensors_under_any_name(tmp_path, name):
    safetensors.torch.save_file(TENSORS, tmp_path / name)
    tensors = read_state_dict(str(tmp_path / name))
    same({key: tensors[key] for key in TENSORS})


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.safetensors", "a"])
def test_pytorch_files_old_and_new_under_any_name(tmp_path, name, zipped):
    torch.save(TENSORS, tmp_path / name, _use_new_zipfile_serialization=zipped)
    same(read_state_dict(tmp_path / name))


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not tell what is memory-mapped")
def test_a_file_is_memory_mapped_not_read(tmp_path):
    tensors = {"weight": torch.zeros(1_000_000)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        read = read_state_dict(tmp_path / name)
        assert str(tmp_path / name) in MAPS.read_text()
        read["weight"][0] = 1.0  # what a caller writes stays in memory
        assert read_state_dict(tmp_path / name)["weight"][0] == 0.0


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"net_recon": tensors, "opt_00": {"state": {}, "groups": [{"lr": 1e-4}]}, "sched_00": {"n": 1}},
        lambda tensors: {"model": tensors, "step": 1},
        lambda tensors: {"state_dict": {f"module.{key}": value for key, value in tensors.items()}},
        lambda tensors: {f"module.{key}": torch.nn.Parameter(value) for key, value in tensors.items()},
        lambda tensors: {"layer": {key.removeprefix("layer."): value for key, value in tensors.items()}},
        lambda tensors: {"state_dict": {"module.layer": {k.removeprefix("layer."): v for k, v in tensors.items()}}},
        lambda tensors: {"layer": {"weight": tensors["layer.weight"]}, "layer.bias": tensors["layer.bias"]},
    ],
)
def test_wrapping_is_taken_off(tmp_path, wrap):
    torch.save(wrap(TENSORS), tmp_path / "a.pt")
    same(read_state_dict(tmp_path / "a.pt"))


def test_a_prefix_that_not_all_share_stays(tmp_path):
    tensors = {"module.weight": torch.ones(2), "bias": torch.ones(2)}
    torch.save(tensors, tmp_path / "a.pt")
    same(read_state_dict(tmp_path / "a.pt"), tensors)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "a.safetensors"])
@pytest.mark.parametrize(
    "write",
    [
        lambda content, path: torch.save(content, path),
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
        lambda content, path: path.write_bytes(pickle.dumps(content)),
    ],
)
def test_a_malicious_pickle_does_not_run(tmp_path, name, write):
    marker = tmp_path / "marker"
    write({**TENSORS, "extra": Harmful(marker)}, tmp_path / name)
    assert refusal(tmp_path / name)
    assert not marker.exists()


def test_the_marker_of_the_test_above_is_real(tmp_path):
    pickle.loads(pickle.dumps(Harmful(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def test_a_malicious_pickle_is_called_by_its_name(tmp_path):
    torch.save(Harmful(tmp_path / "marker"), tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt")
    assert f"asks for the Python object {os.mkdir.__module__}.mkdir" in message
    assert "look for the same weights as .safetensors" in message


def saved(kind: str, length: int = 10_000) -> bytes:
    tensors = {"weight": torch.arange(float(length))}
    if kind == "safetensors":
        return safetensors.torch.save(tensors)
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_files_cut_short_are_refused_at_any_length(tmp_path, kind):
    content = saved(kind)
    for length in (1, 5, *range(1000, len(content), 1000), len(content) - 1):
        (tmp_path / "a.pt").write_bytes(content[:length])
        message = refusal(tmp_path / "a.pt")
        assert "cut short" in message
        assert f"It has {length} bytes: compare with the publisher's page and download it again." in message


@pytest.mark.parametrize(
    "content",
    [
        b"\x00" * 100,
        b"\xff" * 100,
        b"just some text that is no weight file",
        saved("safetensors")[:8] + b"{" + b"\xff" * 200,
        (200).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(200),
    ],
)
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert "damaged" in refusal(tmp_path / "a.safetensors")


def mutate(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, lost or added, anywhere."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(content))
        content[at : at + rng.choice([0, 1, 20])] = rng.randbytes(rng.choice([0, 1, 1, 20]))
    return bytes(content)


def with_another_header(rng: random.Random) -> bytes:
    """A safetensors file of three tensors whose header says of them what is not so."""
    content = safetensors.torch.save({"a": torch.ones(2, 3), "b": torch.ones(3).half(), "c": torch.arange(4)})
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    for fact, lies in {
        "dtype": ["F32", "F64", "BOOL", "F8_E4M3", "F4", "C64", "XX", 3, None],
        "shape": [[], [0], [6], [2**62, 4], [-1], [2, 3, 0], "x", [1.5], [2**64]],
        "data_offsets": [[0, 0], [5, 1], [0, 2**63], [0, 24], [-4, 4], [0], None],
    }.items():
        if rng.random() < 0.5:
            header[rng.choice("abc")][fact] = rng.choice(lies)
    if rng.random() < 0.3:
        header[rng.choice(["", "x" * 9999, "\0", "__metadata__", "../a"])] = header.pop("a")
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[length:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["header", "safetensors", "zip", "legacy"])
def test_mutated_files_are_tensors_or_a_named_error(tmp_path, kind):
    rng, read = random.Random(kind), 0
    for _ in range(500):
        content = with_another_header(rng) if kind == "header" else mutate(saved(kind, 100), rng)
        (tmp_path / "a.pt").write_bytes(content)
        begin = time.monotonic()
        try:
            tensors = read_state_dict(tmp_path / "a.pt")
            read += 1
            assert all(torch.is_tensor(tensor) for tensor in tensors.values())
        except ValueError as error:
            assert str(error).startswith(f"'{tmp_path / 'a.pt'}' ")
        assert time.monotonic() - begin < 3
    assert read < 400


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("det_10g.onnx", "no tensors")
    assert "another kind of file" in refusal(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    assert "another kind of file" in refusal(tmp_path / "a.pt")


def test_the_remedy_for_a_known_file_names_its_size_and_source(tmp_path):
    file = tmp_path / "vae" / "sdxl_vae.safetensors"
    file.parent.mkdir()
    file.write_bytes(saved("safetensors")[:50])
    assert refusal(file).endswith(
        "cut short or damaged. It has 50 bytes (published: 334641164 bytes): download it again from "
        "https://huggingface.co/stabilityai/sdxl-vae/resolve/main/sdxl_vae.safetensors."
    )


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html><body>Sign in</body></html>",
        b"\xef\xbb\xbf\r\n  <html lang='en'>Quota exceeded</html>",
    ],
)
def test_a_web_page_is_called_one(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert "is a web page, not weights" in refusal(tmp_path / "a.safetensors")


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert "is a Git LFS pointer, not weights" in refusal(tmp_path / "a.ckpt")


def test_empty_file_and_folder(tmp_path):
    (tmp_path / "a.pt").touch()
    assert "is empty (0 bytes)" in refusal(tmp_path / "a.pt")
    (tmp_path / "b.pt").mkdir()
    assert "is a folder" in refusal(tmp_path / "b.pt")


@pytest.mark.parametrize(
    "content, summary",
    [
        ([torch.ones(2)], "a list"),
        (torch.ones(2), "a Tensor"),
        ({}, "nothing"),
        ({"state_dict": {}}, "nothing"),
        ({"weight": torch.ones(2), "epoch": 3}, "entries such as 'epoch'"),
        ({"image_proj": {"weight": torch.ones(2), "step": 3}}, "entries such as 'image_proj.step'"),
        ({"image_proj": {"norm": {"weight": torch.ones(2)}}}, "entries such as 'image_proj.norm'"),
        ({"image_proj": {7: torch.ones(2)}}, "entries such as 'image_proj'"),
        ({"image_proj": {}}, "entries such as 'image_proj'"),
        ({"a": {"b.c": torch.ones(2)}, "a.b": {"c": torch.ones(2)}}, "two entries named 'a.b.c'"),
        ({7: torch.ones(2)}, "entries such as '7'"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, summary):
    torch.save(content, tmp_path / "a.pt")
    assert f"holds {summary}, but tensors by name (a state dict) are needed" in refusal(tmp_path / "a.pt")


def test_a_file_that_stays_as_it_is_is_hashed_once(tmp_path, monkeypatch):
    path, reads, read = tmp_path / "a.bin", [], files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: reads.append(path) or read(path))
    path.write_bytes(b"one")
    first = [files.hash_once(path), files.hash_once(str(path))]
    path.write_bytes(b"three")
    assert files.hash_once(path) == read(path) != first[0] == first[1] and len(reads) == 2
