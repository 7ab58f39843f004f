"""`likeness.py train infinite-id` with an SDXL checkpoint: from photos to a file that *Apply Image Adapter* uses."""

from functools import cache

import folder_paths
import pytest
import torch
from likeness.adapters.loading import load_adapter
from likeness.host_process import SetupError
from likeness.launcher import train
from likeness.miniature import registration
from likeness.tests.support import rendered_people
from likeness.training import adapter_command, bases, portraits


@pytest.mark.slow
def test_photos_become_a_file_for_sdxl(tmp_path, base, monkeypatch, capsys):
    registration.register()
    registration.register_base()
    for opened in ("open_host", "open_registered"):
        monkeypatch.setattr(train, opened, lambda comfy, cpu: None)
    folder = ([str(base / "models" / "clip_vision")], {".pt"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_vision", folder)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    photos = rendered_people.write(tmp_path / "photos", 2)
    rendered_people.widen(photos / "person0" / "1.png")
    checkpoint = str(base / "models" / "checkpoints" / "likeness_builtin_sdxl.ckpt")
    output = tmp_path / "sdxl.safetensors"
    given = ("steps=2", "batch=1", "depth=1", "dim=64", "checkpointing=true", "data.size=64", "data.buckets=true",
             "checkpoint_seconds=600", "data.detector=drawn: miniature",
             "data.arcface=miniature_arcface.onnx", "data.clip_vision=likeness_builtin_clip_vision_l.pt")  # fmt: skip
    monkeypatch.setattr(adapter_command, "load_checkpoint", cache(bases.load_checkpoint))
    settings = [part for each in given for part in ("--set", each)]
    arguments = ["infinite-id", str(tmp_path / "photos"), checkpoint, str(output), *settings]
    for_another = pytest.raises(SetupError, match=r"are for SD1.x \(base = 'SD1.5'\), but .* is SDXL: take the recipe")
    with for_another:
        train.main([*arguments, "--set", "base=SD1.5"], None)
    prepared = tmp_path / "prepared"
    with for_another:
        of_data = [
            part for each in (*given, "base=SD1.5") if each.startswith(("data.", "base=")) for part in ("--set", each)
        ]
        train.prepare([arguments[1], str(prepared), checkpoint, "--for", "infinite-id", *of_data], None)
    assert not prepared.exists(), "nothing is read"
    assert train.main([*arguments, "--set", "base=SDXL"], None) == 0
    assert "1 process, batch 1: 1 samples a step" in capsys.readouterr().out
    (encoded,) = tmp_path.glob("*.portraits-*")
    encoded = portraits.load(encoded)
    assert [part.shape for part in encoded.latents.parts] == [(3, 4, 8, 8), (1, 4, 6, 10)]
    assert encoded.features["clip"].shape == (4, 257, 1024)
    assert encoded.sizes[:2].tolist() == [[96, 96, 0, 0], [96, 144, 6, 0]]
    adapter = load_adapter(str(output))
    assert (adapter.base, adapter.token_dim, len(adapter.widths)) == ("SDXL", 2048, 70)
    assert all(torch.isfinite(each).all() for each in adapter.attentions.model.parameters())
