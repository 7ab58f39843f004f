"""Image adapters and recognisers as files: through the loaders that the nodes call, and in the nodes' menus."""

import folder_paths
import pytest
import safetensors.torch
import torch
from likeness.adapters.ip_adapter import INFINITE_ID_METADATA
from likeness.adapters.loading import load_adapter
from likeness.encoders.combine import combine
from likeness.encoders.identity import FaceId
from likeness.encoders.loading import load_encoder
from likeness.nodes.fact import ADAPTER_FILES, LoadFaceAdapter
from likeness.nodes.identity import ENCODER_FILES, LoadFaceEncoder
from likeness.tests.encoders.test_arcface import write_recogniser
from likeness.tests.support import tiny_ip
from likeness.tests.support.golden_recipe import state_dict
from likeness.tests.support.strange_files import Family
from likeness.tests.weights import test_fuzzed_files
from likeness.weights import folders, manifest
from likeness.weights.reading import read_metadata


def weights(kind="faceid", **options):
    return state_dict(tiny_ip.shapes(kind, **options), 1)


def saved(tmp_path, tensors, name="adapter.safetensors", metadata=None):
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(tensors, tmp_path / name, metadata)
    else:
        torch.save(tensors, tmp_path / name)
    return str(tmp_path / name)


@pytest.mark.parametrize("name, variant, expected", [
    ("ip-adapter-faceid-plusv2_sdxl.bin", "by file name", "faceid-plusv2"),
    ("ip-adapter-faceid-plus_sd15.safetensors", "by file name", "faceid-plus"),
    ("renamed.bin", "faceid-plusv2", "faceid-plusv2"),
])  # fmt: skip
def test_a_file_and_the_users_choice(tmp_path, name, variant, expected):
    adapter = load_adapter(saved(tmp_path, weights("faceid-plus"), name), variant)
    assert (adapter.kind, adapter.name, adapter.format.name) == ("ip-adapter", name, expected)


@pytest.mark.parametrize("metadata, refused", [
    (INFINITE_ID_METADATA, None), (None, None), (INFINITE_ID_METADATA | {"version": "2"}, "version 2; update Likeness"),
])  # fmt: skip
def test_infinite_ids_own_layout(tmp_path, metadata, refused):
    path = saved(tmp_path, state_dict(tiny_ip.infinite_id_shapes(), 1), "person.safetensors", metadata)
    if refused:
        with pytest.raises(ValueError, match=f"person.safetensors is not an image adapter .*{refused}"):
            load_adapter(path)
    else:
        assert load_adapter(path).format.name == "infinite-id"


def test_metadata_of_files(tmp_path):
    tensors = {"a": torch.zeros(1)}
    assert read_metadata(saved(tmp_path, tensors, "a.safetensors", {"format": "x"})) == {"format": "x"}
    assert read_metadata(saved(tmp_path, tensors, "b.safetensors")) == {}
    assert read_metadata(saved(tmp_path, tensors, "c.pt")) == {}
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "a.safetensors").read_bytes()[:40])
    with pytest.raises(ValueError, match="cut.safetensors' is a safetensors file, but cut short or damaged"):
        read_metadata(cut)


def without(word, **options):
    return {key: value for key, value in weights(**options).items() if word not in key}


@pytest.mark.parametrize("tensors, message", [
    (lambda: without("ip_adapter.31."), "an image adapter this pack can load: it has 15 cross-attentions"),
    (lambda: without("image_proj.proj.0.bias"), "an image adapter this pack can load: .*proj.0.bias"),
    (lambda: without("to_v_ip"), "an image adapter .* the tensor '1.to_v_ip.weight' is missing"),
    (lambda: without("ip_adapter."), "a face adapter: .* 'local_fac_prj.*FACT.*Face2Diffusion.*to_k_ip.*InstantID"),
])  # fmt: skip
def test_damaged_and_foreign_files(tmp_path, tensors, message):
    with pytest.raises(ValueError, match=f"adapter.safetensors is not {message}") as error:
        load_adapter(saved(tmp_path, tensors()))
    assert "\n" not in str(error.value)


def test_a_variant_the_tensors_contradict(tmp_path):
    with pytest.raises(ValueError, match="adapter.safetensors is not .* those of 'faceid', not of 'instantid'"):
        load_adapter(saved(tmp_path, weights()), "instantid")


FUZZED = {
    "faceid": tiny_ip.shapes("faceid", lora_rank=1),
    "faceid-plus": tiny_ip.shapes("faceid-plus"),
    "instantid": tiny_ip.shapes("instantid"),
    "infinite-id": tiny_ip.infinite_id_shapes("SD1.5"),
}


@pytest.mark.parametrize("kind", FUZZED)
def test_strange_files_are_used_or_refused_by_name(monkeypatch, tmp_path, kind):
    monkeypatch.setitem(test_fuzzed_files.SMALL, kind, Family(load_adapter, FUZZED[kind]))
    assert test_fuzzed_files.fuzz(tmp_path, kind, seed=1, count=100) >= 50


def test_a_recogniser_file(tmp_path):
    encoder = load_encoder(write_recogniser(tmp_path / "whatever.onnx"))
    assert (encoder.kind, encoder.name, encoder.crop_size) == ("arcface", "whatever.onnx", 112)


@pytest.fixture
def models(monkeypatch, tmp_path):
    """The host's folders of our kinds, empty."""
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    for kind in ADAPTER_FILES.keys() | ENCODER_FILES:
        (tmp_path / kind).mkdir()
        extensions = {".onnx"} if kind == "insightface" else {".bin", ".safetensors", ".pt", ".ckpt"}
        folder_paths.folder_names_and_paths[kind] = ([str(tmp_path / kind)], extensions)
    return tmp_path


def put(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")


def offered(node) -> list[str]:
    return node.define_schema().inputs[0].options


def test_published_names_are_known(models):
    """Whichever of them a graph names, the message says where to get it."""
    for node, files in ((LoadFaceAdapter, ADAPTER_FILES), (LoadFaceEncoder, ENCODER_FILES)):
        assert offered(node) == [folders.NO_FILE]
        for kind, names in files.items():
            for name in names:
                assert manifest.find(f"{kind}/{name}"), name
                message = node.validate_inputs(name)
                assert "Download it from https://" in message or "run 'python3 likeness.py weights fetch" in message
    assert len(ADAPTER_FILES["ipadapter"]) == 15
    assert "ip-adapter-faceid-plusv2_sdxl.bin" in ADAPTER_FILES["ipadapter"]
    message = LoadFaceEncoder.validate_inputs("models/antelopev2/glintr100.onnx")
    assert "antelopev2.zip" in message and "fetch insightface-glintr100 --accept-licence" in message


def test_every_folder_is_offered_and_found(models):
    for kind in ("ipadapter", "instantid", "pulid"):
        put(models / kind / f"{kind}_mine.bin")
        assert f"{kind}_mine.bin" in offered(LoadFaceAdapter)
        assert LoadFaceAdapter.validate_inputs(f"{kind}_mine.bin") is True
    assert "ip-adapter.bin" not in offered(LoadFaceAdapter), "the folder has a file of its own"


def test_of_a_pack_only_the_recogniser_is_offered(models):
    pack = models / "insightface" / "models" / "buffalo_l"
    for name in ("det_10g", "w600k_r50", "1k3d68", "2d106det", "genderage"):
        put(pack / f"{name}.onnx")
    for name in ("scrfd_10g_bnkps", "glintr100"):
        put(models / "insightface" / "models" / "antelopev2" / f"{name}.onnx")
    for name in ("inswapper_128", "my own"):
        put(models / "insightface" / f"{name}.onnx")
    expected = ["models/antelopev2/glintr100.onnx", "models/buffalo_l/w600k_r50.onnx", "my own.onnx"]
    assert sorted(name.replace("\\", "/") for name in folders.names("insightface")) == expected
    assert set(folders.names("insightface")) <= set(offered(LoadFaceEncoder))
    assert LoadFaceEncoder.validate_inputs("models/buffalo_l/w600k_r50.onnx") is True


def arcface(seed, photos=1, sha256="0" * 64) -> FaceId:
    face = tiny_ip.face(photos, seed)
    return FaceId("arcface", face.file, sha256, face.features, face.embedding, face.crops, False)


def test_two_people_stacked_and_interpolated():
    """What Infinite-ID calls identity mixing, for embeddings of length one and for raw ones."""
    one, two = arcface(1, photos=2), arcface(2)
    stacked, _ = combine([one, two], "concatenate", 0.5, 0.3)
    between, _ = combine([one, two], "interpolate", 0.25, 0.3)
    assert stacked.features.shape == (3, 1, 512) and between.features.shape == (1, 1, 512)
    torch.testing.assert_close(between.features, 0.75 * one.features.mean(0, keepdim=True) + 0.25 * two.features)
    torch.testing.assert_close(between.embedding.norm(dim=1), torch.ones(1))
    for kind in ("faceid", "instantid"):
        adapter = tiny_ip.adapter(kind)
        with torch.inference_mode():
            first, middle, last = (
                adapter.tokens(face=combine([one, two], "interpolate", slider, 0.3)[0])[0] for slider in (0.0, 0.5, 1.0)
            )
            all_three = adapter.tokens(face=stacked)[0]
            assert torch.equal(last, adapter.tokens(face=two)[0])
        assert all_three.shape[0] == 3 * first.shape[0]
        torch.testing.assert_close(all_three[2 * len(last) :], last)
        assert min((middle - first).abs().max(), (middle - last).abs().max()) > 1e-3


@pytest.mark.parametrize("method", ["concatenate", "interpolate"])
def test_people_of_different_recognisers_are_not_mixed(method):
    with pytest.raises(ValueError, match="cannot be joined or compared: .* Encode all photos with the same"):
        combine([arcface(1), arcface(2, sha256="1" * 64)], method, 0.5, 0.3)
