"""FaceA identities as files: what was saved comes back, and the host's LoRA loader opens the same file."""

import json
import os
from dataclasses import replace

import comfy.lora
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import safetensors.torch
import torch
from likeness.adapters import facea, facea_list
from likeness.adapters.facea import REGIONS, FaceaIdentity, apply_lora, fingerprint, warn_of_base
from likeness.adapters.facea_file import description, find_facea, load_facea, new_path, save_facea
from likeness.host_process import SetupError
from likeness.launcher import train
from likeness.tests.support import tiny, tiny_clip
from likeness.training.lora import make_lora


def identity(model=None, word="man", level="output", width=48, seed=1) -> FaceaIdentity:
    model = model or tiny.model(in_channels=9)
    numbers = torch.Generator().manual_seed(seed)
    lora = make_lora(model, 4, seed)
    lora = {k: torch.randn(v.shape, generator=numbers) * 0.05 if "up" in k else v for k, v in lora.items()}
    features = {region: torch.randn(3, width, generator=numbers) for region in REGIONS}
    settings = {"steps": "1000", "seed": "5"}
    return FaceaIdentity(lora, features, level, word, fingerprint(model), "sd-v1-5-inpainting.ckpt", settings)


def same(first: FaceaIdentity, second: FaceaIdentity) -> bool:
    fields = ("level", "word", "base", "base_name", "settings")
    tensors = [each.lora | each.features for each in (first, second)]
    return (
        all(getattr(first, name) == getattr(second, name) for name in fields)
        and tensors[0].keys() == tensors[1].keys()
        and all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    )


def test_what_was_saved_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    for written in (identity(), identity(word="woman", level="input", seed=2)):
        save_facea(path, written)
        assert same(load_facea(path), written)
    with safetensors.safe_open(path, framework="pt") as file:
        assert {"feat.face", "feat.left_eye", "feat.right_eye", "feat.nose", "feat.mouth"} <= set(file.keys())
        assert file.metadata()["format"] == "likeness-facea" and file.metadata()["version"] == "1"
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_the_same_identity_gives_the_same_file(tmp_path):
    files = []
    for number in range(4):
        save_facea(tmp_path / f"{number}.safetensors", identity())
        files.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(set(files)) == 1


def test_the_hosts_lora_loader_uses_all_of_the_lora(tmp_path):
    model = tiny.model(in_channels=9)
    written = identity(model)
    path = tmp_path / "a.safetensors"
    save_facea(path, written)
    lora, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    patches = comfy.lora.load_lora(lora, comfy.lora.model_lora_keys_unet(model.model, {}), log_missing=False)
    used = set().union(*(patch.loaded_keys for patch in patches.values()))
    assert used | {name for name in lora if name.endswith(".alpha")} == set(written.lora)
    assert len(patches) == 128 and {name for name in lora if name not in written.lora} == {
        f"feat.{region.replace(' ', '_')}" for region in REGIONS
    }
    by_host, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.8, 0, lora_metadata=metadata)
    plain, ours, theirs = (tiny.sample(each) for each in (model, apply_lora(model, written, 0.8), by_host))
    assert torch.equal(ours, theirs) and not torch.equal(ours, plain)
    assert torch.equal(tiny.sample(apply_lora(model, written, 0.0)), plain)


def test_another_base_is_noticed():
    model = tiny.model(in_channels=9)
    written = identity(model)
    assert warn_of_base(written, model) is None
    assert warn_of_base(written, tiny.model(torch.float16, in_channels=9)) is None, "the same weights, stored otherwise"
    assert warn_of_base(written, apply_lora(model, written, 1.0)) is None, "the same base with a LoRA on it"
    patched = apply_lora(model, written, 1.0)
    tiny.sample(patched)  # which puts the LoRA into the weights
    assert warn_of_base(written, patched) is None
    other = tiny.model(in_channels=9)
    for weight in other.model.diffusion_model.parameters():
        weight.data.neg_()
    said = warn_of_base(written, other)
    assert said.startswith("This FaceA identity was trained on sd-v1-5-inpainting.ckpt, but the connected model (SD15)")
    narrow = {key: value[:, :-1] if key.endswith("down.weight") else value for key, value in written.lora.items()}
    wrong = FaceaIdentity(narrow, written.features, "output", "man", "", "small.ckpt", {})
    with pytest.raises(ValueError, match=r"trained on small.ckpt; it has a layer .* of \[32, 31\], but .* \[32, 32\]"):
        apply_lora(model, wrong, 1.0)


def test_rows_of_the_text_encoder():
    clip = tiny_clip.tiny()
    rows, first = facea.encode_text(clip, "a woman left eye")
    assert rows.shape == (1, 77, 64) and first == 6  # start, four words, end
    features = torch.arange(3 * 64).reshape(3, 64).float()
    filled = facea.insert_features(rows, first, features)
    assert torch.equal(filled[0, 6:9], features)
    assert torch.equal(filled[:, :6], rows[:, :6]) and torch.equal(filled[:, 9:], rows[:, 9:])
    with pytest.raises(ValueError, match="features 48 wide, but the connected CLIP works with 64"):
        facea.insert_features(rows, first, torch.zeros(3, 48))
    with pytest.raises(ValueError, match="72 learned features do not fit behind 6 rows of 77"):
        facea.insert_features(rows, first, torch.zeros(72, 64))
    with pytest.raises(ValueError, match="longer than the text encoder reads at once"):
        facea.encode_text(clip, "eye " * 90)


def test_words_of_the_text_encoder():
    """On the input level, the embeddings of words are those words."""
    clip = tiny_clip.tiny()
    embeddings = facea.get_word_embeddings(clip).detach().float()
    ((chunk,),) = clip.tokenize("blue green", return_word_ids=True).values()
    words = [token for token, _, word in chunk if word]
    learned = facea.encode_with_embeddings(clip, "a man nose", embeddings[words])
    spoken, _ = facea.encode_text(clip, "a man nose blue green")
    assert torch.allclose(learned, spoken, atol=1e-5) and learned.shape == (1, 77, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, meta: (data, meta | {"format": "pt"}), "it holds other tensors; choose a file that Save FaceA"),
        (lambda data, meta: (data, meta | {"version": "2"}), "format version 2, but this .* reads up to version 1"),
        (lambda data, meta: (data, meta | {"version": "one"}), "'version' of its metadata"),
        (lambda data, meta: (data, meta | {"level": "middle"}), "'word' or 'level'"),
        (lambda data, meta: (data, meta | {"word": "man\n"}), "'word' or 'level'"),
        (lambda data, meta: (data, meta | {"settings": "[1]"}), "'settings' of its metadata is damaged"),
        (lambda data, meta: (data, meta | {"settings": "{"}), "cannot be loaded as a FaceA identity"),
        (lambda data, meta: ({k: v for k, v in data.items() if k != "feat.nose"}, meta), "'feat.nose' is missing"),
        (lambda data, meta: ({k: v for k, v in data.items() if "down" not in k}, meta), "down.weight' of its LoRA"),
        (lambda data, meta: (data | {"feat.nose": torch.zeros(3, 47)}, meta), "its features differ in width"),
        (lambda data, meta: (data | {"feat.nose": torch.zeros(3, 48) * torch.nan}, meta), "'feat.nose' holds NaN"),
    ],
)
def test_files_that_are_none(tmp_path, change, message):
    path = tmp_path / "a.safetensors"
    save_facea(path, identity())
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    data, metadata = change(safetensors.torch.load_file(path), metadata)
    safetensors.torch.save_file(data, path, metadata)
    with pytest.raises(ValueError, match=message) as error:
        load_facea(path)
    assert str(path) in str(error.value)


def test_other_files_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    for content in (b"", b"<html>not here</html>", b"x" * 200, json.dumps({}).encode()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a.safetensors' cannot be loaded as a FaceA identity: "):
            load_facea(path)
    save_facea(path, identity())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be loaded as a FaceA identity: "):
        load_facea(path)


def test_what_is_no_number_is_not_saved(tmp_path):
    broken = identity()
    broken.features["nose"][0, 0] = torch.nan
    with pytest.raises(ValueError, match="^Save FaceA Identity: 'feat.nose' of this identity holds NaN"):
        save_facea(tmp_path / "a.safetensors", broken)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.safetensors"
    save_facea(path, identity())
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            OSError, match="^Save FaceA Identity: .*a.safetensors cannot be written: .*Nothing was saved"
        ):
            save_facea(path, identity(seed=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["a.safetensors"] and path.read_bytes() == before


def test_names_and_places(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "facea", ([str(tmp_path / "facea")], {".safetensors"}))
    path = new_path("team/ada")
    assert path == str(tmp_path / "facea" / "team" / "ada_00001_.safetensors")
    save_facea(path, identity())
    assert find_facea(os.path.join("team", "ada_00001_.safetensors")) == path
    assert new_path("team/ada").endswith("ada_00002_.safetensors")
    with pytest.raises(FileNotFoundError, match="no FaceA identity 'bob' in .*facea. Save FaceA Identity writes one"):
        find_facea("bob")
    with pytest.raises(ValueError, match="^Save FaceA Identity: '../x' is no name"):
        new_path("../x")
    text = description("ada", load_facea(path))
    assert "a man face" in text and "3 for each of 5 prompts, output level" in text and "seed: 5" in text


def test_the_command_line_lists_it_without_a_host(tmp_path):
    written = identity()
    save_facea(tmp_path / "a.safetensors", replace(written, settings=written.settings | {"photos": "3"}))
    told = facea_list.entry(tmp_path / "a.safetensors")
    assert told == " 1000 steps on 3 photos  a man  trained on sd-v1-5-inpainting.ckpt"
    save_facea(tmp_path / "a.safetensors", replace(written, settings={"transferred": "nose"}))
    assert facea_list.entry(tmp_path / "a.safetensors").endswith("  nose of another person")
    for content in (b"", b"x" * 50, (99).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"):
        (tmp_path / "b.safetensors").write_bytes(content)
        assert facea_list.entry(tmp_path / "b.safetensors") is None


def test_the_script_names_what_is_not_there(tmp_path):
    with pytest.raises(SetupError, match="There is no folder .*photos with photos"):
        train.main(["facea", str(tmp_path / "photos"), "base.ckpt", "out.safetensors"], tmp_path)
    with pytest.raises(SetupError, match="There is no checkpoint .*base.ckpt"):
        train.main(["facea", str(tmp_path), str(tmp_path / "base.ckpt"), "out.safetensors"], tmp_path)
