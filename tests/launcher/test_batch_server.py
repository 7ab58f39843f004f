"""Batches on real servers: two that share a folder, one that goes away, drivers that are stopped and killed."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter

import pytest
from likeness.launcher import batch, hosting, ledger, workers
from likeness.launcher.environment import find_host
from likeness.tests.support import checkout
from likeness.tests.support.graphs import ASSETS, WORKFLOWS
from PIL import Image

pytestmark = pytest.mark.slow
LIMIT = 300  # seconds that anything may take on a loaded machine


@pytest.fixture
def light(tmp_path):
    """A workflow that takes milliseconds: a picture of one colour."""
    nodes = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "same"}},
    }
    (tmp_path / "light.json").write_text(json.dumps(nodes))
    return tmp_path / "light.json"


def records(out) -> list[dict]:
    return [json.loads(line) for line in (out / ledger.NAME).read_text().splitlines()]


def check_all(out, cells: int) -> None:
    """Every cell is there once, its picture is its own, and nothing else is there."""
    lines = records(out)
    assert Counter(line["cell"]["color"] for line in lines) == Counter(map(str, range(cells)))
    for line in lines:
        (file,) = line["files"]
        with Image.open(out / file) as image:
            red, green, blue = image.getpixel((0, 0))
            assert red << 16 | green << 8 | blue == int(line["cell"]["color"]), "the picture of another cell"
    assert {path.name for path in (out / ledger.FILES).iterdir()} == {line["files"][0][9:] for line in lines}


def wait_for(out, lines: int, process: subprocess.Popen) -> None:
    """Wait until a batch has written so many lines."""
    done = threading.Event()
    for _ in range(20 * LIMIT):
        if (out / ledger.NAME).exists() and (out / ledger.NAME).read_bytes().count(b"\n") >= lines:
            return
        assert process.poll() is None, process.communicate()
        done.wait(0.05)
    raise AssertionError("the batch does not go on")


def test_two_servers_and_one_folder(server, base, light, tmp_path, monkeypatch, capsys):
    """500 saves under one prefix: none wrong, none lost; and when one of the two dies, the other makes its cells."""
    monkeypatch.setattr(batch, "PAUSE", 0.01)
    out = tmp_path / "out"
    with hosting.start(
        base, find_host(), extra_args=["--temp-directory", str(tmp_path)], log=tmp_path / "log"
    ) as other:
        options = ["--workflow", str(light), "--out", str(out), "--server", server, "--server", other.url, "--grid"]
        assert batch.main([*options, "color=0..499"], None) == 0
        check_all(out, 500)
        threading.Timer(0, other.process.kill).start()
        assert batch.main([*options, "color=0..699"], None) == 0
    check_all(out, 700)
    assert "cannot be reached" in capsys.readouterr().err


def test_a_driver_that_is_stopped_or_killed_goes_on(server, base, light, tmp_path):
    out = tmp_path / "out"
    arguments = ["--workflow", light, "--out", out, "--server", server, "--grid", "color=0..599"]
    command = checkout.command(base, "batch", *arguments)
    for number, stop in ((100, signal.SIGINT), (300, signal.SIGKILL), (600, None)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if stop:
            wait_for(out, number, process)
            process.send_signal(stop)
            process.send_signal(stop)  # twice, as people do
        said, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == {None: 0, signal.SIGINT: 130, signal.SIGKILL: -9}[stop], errors
        if stop is signal.SIGINT:
            assert "The same command goes on from there." in errors and "Traceback" not in errors
    check_all(out, 600)
    assert json.loads(said)["there"] >= 300


def get(url: str):
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def test_what_the_workflow_lacks_is_listed_and_nothing_is_queued(server, tmp_path, capsys):
    prompt = json.loads((WORKFLOWS / "fact_text_to_image.json").read_text())
    for name, words in (("known", "gone_1"), ("unknown", "no node Elsewhere, Nowhere")):
        nodes = prompt if name == "known" else prompt | {
            key: {"class_type": key, "inputs": {}} for key in ("Nowhere", "Elsewhere")
        }  # fmt: skip
        for key, node in nodes.items():
            for which in node["inputs"]:
                if which in ("ckpt_name", "encoder_name", "adapter_name"):
                    node["inputs"][which] = f"gone_{key}.safetensors"
        (tmp_path / "w.json").write_text(json.dumps(nodes))
        before = len(get(f"{server}/history"))
        out = tmp_path / name
        options = ["--workflow", str(tmp_path / "w.json"), "--out", str(out), "--server", server]
        assert batch.main([*options, "--grid", "KSampler.seed=0..9"], None) == 1
        said = capsys.readouterr().err
        assert words in said and (name == "unknown" or said.count("gone_") >= 3)
        assert len(get(f"{server}/history")) == before and not get(f"{server}/queue")["queue_pending"]
        assert not records(out)


def test_photos_with_and_without_a_face(server, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for name in ("miniature_reference.png", "portrait.png"):
        shutil.copy(ASSETS / name, tmp_path / "photos")
    options = ["--workflow", str(WORKFLOWS / "miniature.json"), "--out", str(tmp_path / "out"), "--server", server]
    grid = ["--grid", f"photos={tmp_path / 'photos'}", "seeds=1..2", "--set", "steps=2", "--scores"]
    assert batch.main([*options, *grid], None) == 1
    said = capsys.readouterr()
    assert re.search(r"photos=\S+portrait.png, seeds=1, steps=2: LikenessDetectFaces \(node 6\)", said.err)
    made = [line for line in records(tmp_path / "out") if "error" not in line]
    assert [line["seed"] for line in made] == [1, 2]
    for line in made:
        assert {weight["file"] for weight in line["weights"]} >= {"miniature_fact.safetensors"}
        assert all(re.fullmatch("[0-9a-f]{64}", weight["sha256"]) for weight in line["weights"])
        assert (
            len(line["scores"]) == len(line["files"]) and line["host"] and line["pack"].startswith("ComfyUI-Likeness")
        )
        with Image.open(tmp_path / "out" / line["files"][0]) as image:
            assert json.loads(image.text["likeness"])["methods"] == ["FaceChain-FACT"]
            assert "digitalsourcetype/trainedAlgorithmicMedia" in image.text["XML:com.adobe.xmp"]
    counts = json.loads(said.out)
    assert (counts["made"], counts["failed"]) == (2, 2) and len(counts["sheets"]) == 1
    options[options.index("--out") + 1] = str(tmp_path / "plain")
    assert batch.main([*options, "--no-provenance", "--grid", "seeds=1", "--set", "steps=2"], None) == 0
    (line,) = records(tmp_path / "plain")
    known = [weight for weight in made[0]["weights"] if "arcface" not in weight["file"]]  # of the scores
    assert line["weights"] == known, "the manifest has them all the same"
    with Image.open(tmp_path / "plain" / line["files"][0]) as image:
        assert not {"likeness", "XML:com.adobe.xmp"} & image.text.keys()


def test_a_worker_starts_its_own_server_again_and_leaves_nothing_there(base, light, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "BASE", base)
    light.write_text(light.read_text().replace('"width": 8', '"width": 9'))  # of no other test
    crews, open_crew = [], batch._open_crew
    monkeypatch.setattr(batch, "_open_crew", lambda *args: crews.append(open_crew(*args)) or crews[0])
    add, out = ledger.Ledger.add, tmp_path / "out"

    def kill_once(self, record):
        add(self, record)
        if len(self.done) == 20:
            crews[0].workers[0].host.process.kill()

    monkeypatch.setattr(ledger.Ledger, "add", kill_once)
    options = ["--workflow", str(light), "--out", str(out), "--grid", "color=0..59"]
    assert batch.main(options, find_host()) == 0
    check_all(out, 60)
    names = {line["key"] for line in records(out)}
    left = [path.name for path in (base / "output" / workers.FOLDER).rglob("*.png") if path.name[:16] in names]
    assert len(left) <= workers.IN_FLIGHT, "what was lost with the server"


def test_the_pages_command_and_the_readmes_client(server, root, tmp_path, monkeypatch, capsys):
    (tmp_path / "workflows").symlink_to(root / "workflows")
    monkeypatch.chdir(tmp_path)
    page = (WORKFLOWS / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^python3 likeness.py batch (.*)$", page, re.MULTILINE)
    assert batch.main(shlex.split(line.replace("http://127.0.0.1:8188", server)), None) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["made"] == 2 and (tmp_path / counts["means"]).is_file() and (tmp_path / counts["sheets"][0]).is_file()
    readme = (root / "README.md").read_text(encoding="utf-8")
    (client,) = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len([line for line in client.splitlines() if line]) <= 10
    command = [sys.executable, "-c", client.replace("http://127.0.0.1:8188", server)]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=LIMIT)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
