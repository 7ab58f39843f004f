"""Small files that ask for much memory or time are refused before they get it."""

import io
import time
import zipfile

import pytest
import torch
from likeness.weights.reading import count_modules, read_state_dict


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(20_000, 20_000),
        torch.zeros(800).as_strided((200, 200, 200, 200), (1, 1, 1, 1)),
    ],
)
def test_views_of_little_are_refused(tmp_path, tensor, zipped):
    torch.save({"weight": tensor}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"a\.pt' was not loaded: with \d+ bytes it holds views that would take .* GB"):
        read_state_dict(tmp_path / "a.pt")


def test_many_views_of_one_memory_are_refused(tmp_path):
    memory = torch.zeros(100_000)
    torch.save({str(number): memory[number:] for number in range(3000)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="was not loaded"):
        read_state_dict(tmp_path / "a.pt")


def test_tied_weights_are_read(tmp_path):
    tensor = torch.zeros(100_000)
    torch.save({"first": tensor, "second": tensor}, tmp_path / "a.pt")
    assert len(read_state_dict(tmp_path / "a.pt")) == 2


def test_a_compressed_archive_is_refused_unread(tmp_path):
    saved = io.BytesIO()
    torch.save({"weight": torch.zeros(1_000_000)}, saved)
    with (
        zipfile.ZipFile(saved) as source,
        zipfile.ZipFile(tmp_path / "a.safetensors", "w", zipfile.ZIP_DEFLATED) as file,
    ):
        for name in source.namelist():
            file.writestr(name, source.read(name))
    with pytest.raises(ValueError, match="cut short, damaged or another kind of file"):
        read_state_dict(tmp_path / "a.safetensors")


class Swelling:
    """Unpickled, this is a gigabyte of zeros."""

    def __reduce__(self):
        return bytearray, (1_000_000_000,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_number_cannot_ask_for_a_gigabyte_of_zeros(tmp_path, name, zipped):
    resource = pytest.importorskip("resource")
    torch.save({"weight": torch.ones(2), "more": Swelling()}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="another kind of file"):
        read_state_dict(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kilobytes"


@pytest.mark.parametrize(
    "tensor", [torch.zeros(2, dtype=torch.complex64), torch.zeros(2).to_sparse(), torch.zeros(2, device="meta")]
)
def test_tensors_that_are_no_plain_arrays_are_refused(tmp_path, tensor):
    torch.save({"weight": tensor}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt' "):
        read_state_dict(tmp_path / "a.pt")


def test_more_modules_than_any_network_has_are_not_built():
    begin = time.monotonic()
    with pytest.raises(ValueError, match="it has 20000 'blocks.*', more than"):
        count_modules([f"blocks.{number}.weight" for number in range(20_000)], "blocks.")
    assert time.monotonic() - begin < 1
