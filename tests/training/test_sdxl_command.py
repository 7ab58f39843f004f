"""`likeness.py train infinite-id` with an SDXL checkpoint: from photos to a picture by *Apply Image Adapter*."""

from functools import cache

import folder_paths
import pytest
import torch
from likeness.adapters.loading import load_adapter
from likeness.host_process import SetupError
from likeness.launcher import train
from likeness.miniature import registration
from likeness.tests.support import rendered_people
from likeness.tests.support.graphs import node, only, workflow
from likeness.tests.support.train_commands import keep_untrained, options
from likeness.training import adapter_command, bases, portraits, watch

CLIP_VISION, RECOGNISER, DETECTOR = "likeness_builtin_clip_vision_l.pt", "miniature_arcface.onnx", "drawn: miniature"
GIVEN = ("steps=1", "batch=1", "lr=1e-2", "depth=1", "dim=64", "checkpointing=true", "checkpoint_seconds=600",
         "validate_steps=1", "held_out=0.5", "validation_batches=1", "validation_pictures=1", "sampling_steps=1",
         "data.size=64", "data.buckets=true", f"data.detector={DETECTOR}", f"data.arcface={RECOGNISER}",
         f"data.clip_vision={CLIP_VISION}")  # fmt: skip


def make_graph(photo: str) -> dict:
    """Return a graph in which *Apply Image Adapter* alone draws the person of a photo in `input`, in one step."""
    graph = workflow("infinite_id_photo", steps=1)
    sampler = only(graph, "KSampler")
    del graph[only(graph, "LikenessInfiniteID")]
    graph[sampler]["inputs"]["negative"] = graph[sampler]["inputs"]["positive"]  # one text less to encode
    graph = {key: node for key, node in graph.items() if node["_meta"]["title"] != "Negative prompt"}
    graph[only(graph, "LikenessExamplePicture")] = node("LoadImage", image=photo)
    graph[only(graph, "LikenessLoadFaceDetector")]["inputs"]["detector"] = DETECTOR
    graph[only(graph, "LikenessLoadFaceEncoder")]["inputs"]["encoder_name"] = RECOGNISER
    graph[only(graph, "CLIPVisionLoader")]["inputs"]["clip_name"] = CLIP_VISION
    return graph


@pytest.mark.slow
def test_photos_become_a_picture_of_sdxl(tmp_path, base, executor, monkeypatch, capsys):
    registration.register()
    registration.register_base()
    for opened in ("open_host", "open_registered"):
        monkeypatch.setattr(train, opened, lambda comfy, cpu: None)
    for kind, folder in {"clip_vision": base / "models" / "clip_vision", "ipadapter": tmp_path}.items():
        places, suffixes = folder_paths.folder_names_and_paths[kind]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([*places, str(folder)], {*suffixes, ".pt"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(adapter_command, "load_checkpoint", cache(bases.load_checkpoint))
    keep_untrained("infinite-id", tmp_path / "untrained.safetensors", monkeypatch)
    photos = rendered_people.write(tmp_path / "photos", 2)
    rendered_people.widen(photos / "person0" / "1.png")
    checkpoint = str(base / "models" / "checkpoints" / "likeness_builtin_sdxl.ckpt")
    output = tmp_path / "trained.safetensors"
    arguments = ["infinite-id", str(tmp_path / "photos"), checkpoint, str(output), *options(*GIVEN)]
    for_another = pytest.raises(SetupError, match=r"are for SD1.x \(base = 'SD1.5'\), but .* is SDXL: take the recipe")
    with for_another:
        train.main([*arguments, "--set", "base=SD1.5"], None)
    prepared = tmp_path / "prepared"
    with for_another:
        of_data = options("base=SD1.5", *(each for each in GIVEN if each.startswith("data.")))
        train.prepare([arguments[1], str(prepared), checkpoint, "--for", "infinite-id", *of_data], None)
    assert not prepared.exists(), "nothing is read"
    assert train.main([*arguments, "--set", "base=SDXL"], None) == 0
    assert "1 process, batch 1: 1 samples a step" in capsys.readouterr().out
    (encoded,) = tmp_path.glob("*.portraits-*")
    encoded = portraits.load(encoded)
    assert [part.shape for part in encoded.latents.parts] == [(3, 4, 8, 8), (1, 4, 6, 10)]
    assert encoded.features["clip"].shape == (4, 257, 1024)
    assert encoded.sizes[:2].tolist() == [[96, 96, 0, 0], [96, 144, 6, 0]]
    (validated,) = watch.read_log(output.with_suffix(".log.jsonl"))
    assert validated["validation"] > 0
    assert output.with_suffix(".validation-00000001.png").is_file()
    adapter = load_adapter(str(output))
    assert (adapter.base, adapter.token_dim, len(adapter.widths)) == ("SDXL", 2048, 70)
    assert all(torch.isfinite(tensor).all() for tensor in adapter.attentions.model.parameters())
    adapter_command.load_checkpoint.cache_clear()

    (base / "input" / "likeness_rendered.png").write_bytes((tmp_path / "photos" / "person0" / "0.png").read_bytes())
    graph = make_graph("likeness_rendered.png")
    apply, sampler, decode = (only(graph, kind) for kind in ("LikenessApplyImageAdapter", "KSampler", "VAEDecode"))

    def draw(name=output.name, strength=1.0, model=apply) -> torch.Tensor:
        graph[only(graph, "LikenessLoadFaceAdapter")]["inputs"]["adapter_name"] = name
        graph[apply]["inputs"]["strength"] = strength
        graph[sampler]["inputs"]["model"] = [model, 0]
        return executor.run(graph)[decode][0]

    pictures = stock, trained, untrained = draw(model="1"), draw(), draw("untrained.safetensors")
    assert all(picture.shape == (1, 64, 64, 3) and picture.isfinite().all() for picture in pictures)
    assert not torch.equal(trained, stock) and not torch.equal(trained, untrained)
    assert torch.equal(draw(strength=0.0), stock)
