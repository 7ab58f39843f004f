"""The fetcher against a server of its own: whatever the server does, a final name holds a verified file or nothing."""

import hashlib
import io
import json
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import safetensors.torch
import torch
from likeness.tests.support import file_server
from likeness.tests.support.file_server import file, in_turn, status, trickle
from likeness.weights import checking, command, download, errors, fetch, manifest
from likeness.weights.errors import FetchError
from likeness.weights.fetch import Net
from likeness.weights.reading import read_state_dict
from requests.adapters import HTTPAdapter

BODY = bytes(range(256)) * 2000  # 512,000 bytes
PATIENCE = download.Patience(connect=2, silence=2, window=0.1, least=1000, tries=2, back_off=0.01, longest_wait=0.05)


@pytest.fixture
def server():
    with file_server.running() as server:
        yield server


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Here:
    """A models folder, a manifest of the test's own, and the command line."""

    def __init__(self, folder, server, patch):
        self.models = folder / "models"
        self.models.mkdir()
        self.manifest = folder / "manifest.json"
        self.server, self.said = server, []
        patch.setattr(manifest, "_MANIFEST", self.manifest)
        self.net = Net(download.open_session(PATIENCE), PATIENCE)
        self.net.session.trust_env = False
        self.files = []

    def knows(self, name="thing", file="thing.onnx", folder="detection", body=None, **facts):
        """Add an entry; `body`: what is published (its size and hash), else neither is known."""
        record = {
            "name": name, "file": file, "folder": folder, "bytes": len(body) if body else None,
            "source": {"kind": "url", "url": f"{self.server.url}/{file}"}, "sha256": sha(body) if body else None,
            "sha256_evidence": "published" if body else None, "licence": "MIT", "commercial_use": True,
            "used_by": ["faces"], **facts,
        }  # fmt: skip
        self.files.append(record)
        self.manifest.write_text(json.dumps({"format": 1, "files": self.files}))
        manifest.entries.cache_clear()

    def run(self, *arguments):
        """The exit status; what was said is in `self.text`."""
        self.said.clear()
        code = command.main([*arguments, "--models", str(self.models)], self.said.append, self.net)
        self.text = "\n".join(self.said)
        return code

    def fetch(self, *names):
        return self.run("fetch", *(names or ["thing"]))

    def left(self):
        """Every file below the models folder, without what locks and records."""
        paths = (path for path in self.models.rglob("*") if path.is_file() and ".lock" not in path.name)
        return sorted(path.relative_to(self.models).as_posix() for path in paths)

    def content(self, location):
        return (self.models / location).read_bytes()


@pytest.fixture
def here(tmp_path, server, monkeypatch):
    yield Here(tmp_path, server, monkeypatch)
    manifest.entries.cache_clear()


THING = "detection/thing.onnx"
PART = [f"{THING}.part", f"{THING}.part.json"]


def test_a_file_comes_verified_and_the_second_time_nothing_is_asked(here, server):
    here.knows(body=BODY)
    server.answers["/thing.onnx"] = file(BODY)
    assert here.fetch() == 0 and "size and sha256 as published" in here.text
    assert here.left() == [THING] and here.content(THING) == BODY
    assert here.fetch() == 0 and "is there already" in here.text
    assert len(server.seen) == 1
    assert server.seen[0][1]["Accept-Encoding"] == "identity"


def test_cut_off_in_the_middle_goes_on_from_there(here, server):
    here.knows(body=BODY)
    server.answers["/thing.onnx"] = file(BODY, send=200_000)
    assert here.fetch() == 0
    assert server.ranges() == [None, "bytes=200000-", "bytes=400000-"]
    assert server.seen[1][1]["If-Range"] == f'"{sha(BODY)[:16]}"'
    assert here.left() == [THING] and here.content(THING) == BODY


def test_a_server_that_only_ever_hangs_up_ends_the_run_and_the_next_goes_on(here, server):
    here.knows(body=BODY)
    server.answers["/thing.onnx"] = in_turn(file(BODY, send=100_000), file(BODY, send=0))
    assert here.fetch() == 1
    assert "broke off 2 times in a row" in here.text and "(100000 bytes are here)" in here.text
    assert here.left() == PART
    server.answers["/thing.onnx"] = file(BODY)
    assert here.fetch() == 0
    assert server.ranges()[-1] == "bytes=100000-"
    assert here.content(THING) == BODY


@pytest.mark.parametrize("second", [file(BODY, ranges=False), file(BODY, etag='"new"')], ids=["no range", "new etag"])
def test_where_it_cannot_be_resumed_it_starts_again(here, server, second):
    here.knows(body=BODY)
    first = file(b"\0" * len(BODY), etag='"old"', send=300_000)
    server.answers["/thing.onnx"] = in_turn(first, second)
    assert here.fetch() == 0
    assert server.ranges() == [None, "bytes=300000-"]
    assert here.content(THING) == BODY


def test_without_a_validator_nothing_is_resumed(here, server):
    here.knows(body=BODY)
    server.answers["/thing.onnx"] = in_turn(file(BODY, etag='W/"weak"', send=300_000), file(BODY))
    assert here.fetch() == 0
    assert server.ranges() == [None, None]


def test_a_part_from_another_address_is_not_gone_on_with(here, server):
    here.knows(body=BODY)
    (here.models / "detection").mkdir()
    (here.models / PART[0]).write_bytes(b"old")
    for memory in ('{"url": "http://elsewhere/", "validator": "x"}', "{", "[]"):
        (here.models / PART[1]).write_text(memory)
        server.answers["/thing.onnx"] = file(BODY, send=0)
        here.fetch()
        assert not any(server.ranges())
    server.answers["/thing.onnx"] = file(BODY)
    assert here.fetch() == 0 and here.content(THING) == BODY


def test_a_server_that_resumes_elsewhere_is_refused(here, server):
    here.knows(body=BODY)
    wrong = {"Content-Range": f"bytes 5-{len(BODY) - 1}/{len(BODY)}"}
    server.answers["/thing.onnx"] = in_turn(file(BODY, send=100), lambda h: h.reply(206, wrong, BODY[5:]))
    assert here.fetch() == 1
    assert "asked to go on at byte 100 and sends bytes 5-" in here.text
    assert THING not in here.left()


def test_a_part_that_was_whole_already_is_verified_and_named(here, server):
    here.knows(body=BODY)
    server.answers["/thing.onnx"] = in_turn(file(BODY, send=len(BODY) - 1), status(500))
    assert here.fetch() == 1 and here.left() == PART
    with (here.models / PART[0]).open("ab") as part:
        part.write(BODY[-1:])
    server.answers["/thing.onnx"] = file(BODY)
    assert here.fetch() == 0
    assert server.ranges()[-1] == f"bytes={len(BODY)}-" and here.content(THING) == BODY


def test_a_part_longer_than_the_file_starts_again(here, server):
    here.knows(body=BODY)
    server.answers["/thing.onnx"] = in_turn(file(BODY, send=500_000), status(500))
    assert here.fetch() == 1
    with (here.models / PART[0]).open("ab") as part:
        part.write(b"x" * 100_000)
    server.answers["/thing.onnx"] = file(BODY)
    assert here.fetch() == 0 and here.content(THING) == BODY


WRONG = bytes(len(BODY))


@pytest.mark.parametrize("answer, said", [
    (file(WRONG), f"has the sha256 {sha(WRONG)}, published is {sha(BODY)}"),
    (file(BODY[:-1]), "of another size by now: 511999 bytes, 512000 were expected"),
    (file(BODY + b"x"), "of another size by now: 512001 bytes, 512000 were expected"),
    (lambda h: h.reply(200, {}, b"", 10_000_000_000), "another size by now: 10000000000 bytes, 512000 were expected"),
    (lambda h: h.reply(200, {}, BODY[:-9], None), "broke off 2 times in a row"),
    (file(b""), "is an empty file (0 bytes)"),
    (lambda h: h.reply(302, {"Location": "/thing.onnx"}), "leads from one address to the next without end"),
    (lambda h: h.reply(302, {"Location": "file:///etc/passwd"}), "could not be asked for"),
    (status(404), "does not exist (404)"),
    (status(403), "is not open to everybody (403)"),
    (status(500), "answers with an error (500 Internal Server Error)"),
    (status(429, **{"Retry-After": "7"}), "too many visitors (429): try again in 7 seconds"),
    (trickle(BODY[:1500], 0.002, len(BODY)), "is too slow"),
    (lambda h: h.reply(200, {"Content-Encoding": "gzip"}, BODY), "sends the file packed"),
    (lambda h: h.reply(200, {"Content-Type": "text/html; charset=utf-8"}, b"<title>Hi</title>"), "a web page instead"),
    (file(b"<!DOCTYPE html><html>" + BODY[:-21]), "what came is a web page, not weights"),
    (file(BODY, **{"X-Linked-Etag": f'"{"0" * 64}"'}), "is another file by now: its sha256 is 000000"),
    (lambda h: None, "could not be reached"),
], ids=[
    "wrong bytes", "too short", "too long", "claims 10 GB", "hangs up unseen", "empty", "redirect loop",
    "redirect to a file", "404", "403", "500", "429", "trickle", "packed", "page", "page as file", "hub says other",
    "no answer",
])  # fmt: skip
def test_whatever_the_server_does_the_final_name_is_not_there(here, server, answer, said, tmp_path):
    here.knows(body=BODY)
    server.answers["/thing.onnx"] = answer
    before = sorted(tmp_path.iterdir())
    begin = time.monotonic()
    assert here.fetch() == 1
    assert time.monotonic() - begin < 5
    assert said in here.text
    assert set(here.left()) <= set(PART), "nothing but what a later run goes on with"
    assert sorted(tmp_path.iterdir()) == before
    server.answers["/thing.onnx"] = file(BODY)
    assert here.fetch() == 0 and here.content(THING) == BODY, "and the next run is not spoilt by it"


def test_a_server_that_never_stops_is_stopped(here, server):
    here.knows(body=BODY)
    sent = []

    def endless(handler):
        handler.reply(200, {}, b"", None)
        while len(sent) < 200:
            handler.wfile.write(BODY)
            sent.append(True)

    server.answers["/thing.onnx"] = endless
    assert here.fetch() == 1 and "sends more than the 512000 bytes that were expected" in here.text
    assert len(sent) < 100 and here.left() == []


@pytest.mark.parametrize("facts, limit", [({"bytes_estimate": 1000}, 3000), ({}, 16_000_000_000)])
def test_a_file_of_unpublished_size_is_bounded_too(here, server, facts, limit):
    here.knows(**facts)
    server.answers["/thing.onnx"] = lambda h: h.reply(200, {}, b"", 16_000_000_001)
    assert here.fetch() == 1 and f"{limit} at most were expected" in here.text
    assert here.left() == []


def test_429_waits_as_asked_but_not_for_ever(here, server):
    here.knows(body=BODY)
    server.answers["/thing.onnx"] = in_turn(status(429, **{"Retry-After": "4"}), file(BODY))
    begin = time.monotonic()
    assert here.fetch() == 0 and here.content(THING) == BODY
    assert time.monotonic() - begin < 3


def test_redirects_are_followed_and_logins_not_handed_on(here, server):
    here.knows(body=BODY)
    other = server.url.replace("127.0.0.1", "localhost")
    server.answers["/thing.onnx"] = lambda h: h.reply(302, {"Location": f"{other}/storage"})
    server.answers["/storage"] = file(BODY)
    here.net.session.headers["Authorization"] = "Bearer secret"
    assert here.fetch() == 0
    assert "Authorization" in server.seen[0][1] and "Authorization" not in server.seen[1][1]


def test_no_network_names_what_to_carry_and_where_to(here):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    here.knows(body=BODY, source={"kind": "url", "url": f"{address}/thing.onnx"})
    here.knows("other", "other.onnx", body=BODY, source={"kind": "url", "url": f"{address}/other.onnx"})
    assert here.fetch("faces") == 1
    assert "Connection refused" in here.text
    for name in ("thing", "other"):
        assert f"  {address}/{name}.onnx\n    to {here.models / 'detection' / name}.onnx (512000 bytes)" in here.text


def test_a_full_disk_is_seen_before_and_named_while(here, server, monkeypatch):
    here.knows(body=BODY)
    server.answers["/thing.onnx"] = file(BODY)
    usage = type("Usage", (), {"free": 64_000_100})
    with monkeypatch.context() as patch:
        patch.setattr(errors.shutil, "disk_usage", lambda _: usage)
        assert here.fetch() == 1
    assert "the disk is too full: 0.5 MB are needed" in here.text
    assert here.left() == []


@pytest.mark.parametrize(
    "name, folder", [("thing.onnx", "detection"), ("thing.pt", "metrics"), ("thing.zip", "metrics")]
)
def test_a_disk_too_full_for_the_last_step_keeps_the_download(here, server, monkeypatch, name, folder):
    content = {"thing.onnx": BODY, "thing.pt": pack({"a": torch.ones(9)}), "thing.zip": zip_up({"a.onnx": DET})}[name]
    here.knows(file=name, folder=folder)
    server.answers[f"/{name}"] = file(content)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        patch.setattr(safetensors.torch, "save_file", full)
        patch.setattr(fetch.shutil, "copyfileobj", full)
        assert here.fetch() == 1
    assert "the disk is full" in here.text
    assert here.left() == [f"{folder}/{name}.part", f"{folder}/{name}.part.json"]
    assert here.fetch() == 0 and server.ranges() == [None, f"bytes={len(content)}-"]
    assert not any(".part" in location for location in here.left())


def test_a_folder_that_cannot_be_written_is_named(here, server):
    here.knows(body=BODY)
    (here.models / "detection").write_text("in the way")
    assert here.fetch() == 1 and f"{here.models / 'detection'} could not be written" in here.text
    (here.models / "detection").unlink()
    (here.models / ".likeness-weights" / "detection__thing.onnx.lock").mkdir(parents=True)
    assert here.fetch() == 1 and "thing.onnx could not be written" in here.text


CHILD = """
import importlib.util, resource, sys
from pathlib import Path
root, manifest_file, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
spec = importlib.util.spec_from_file_location("likeness", root / "__init__.py", submodule_search_locations=[str(root)])
sys.modules["likeness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["likeness"])
from likeness.weights import command, manifest
manifest._MANIFEST = manifest_file
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(command.main(sys.argv[4:]))
"""


def child(here, root, limit=0):
    """The command line in a process of its own."""
    arguments = [str(root), str(here.manifest), str(limit), "fetch", "thing", "--models", str(here.models)]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="the limit is one of POSIX systems")
def test_a_disk_that_fills_up_is_named(here, server, root):
    here.knows(body=BODY)
    server.answers["/thing.onnx"] = file(BODY)
    process = child(here, root, limit=300_000)
    assert "the disk is full" in process.communicate()[0] and process.returncode == 1
    assert here.left() == PART
    assert here.fetch() == 0 and here.content(THING) == BODY
    assert server.ranges() == [None, "bytes=300000-"]


def test_killed_in_the_middle_and_resumed(here, server, root):
    here.knows(body=BODY)
    go_on = threading.Event()

    def half(handler):
        handler.reply(200, {"ETag": '"same"'}, BODY[:256_000], len(BODY))
        go_on.wait(20)

    server.answers["/thing.onnx"] = in_turn(half, file(BODY, etag='"same"'))
    process = child(here, root)
    part = here.models / PART[0]
    while not (part.is_file() and part.stat().st_size >= 128_000):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    go_on.set()
    begun = part.stat().st_size
    assert here.left() == PART and begun < len(BODY)
    assert here.fetch() == 0
    assert server.ranges() == [None, f"bytes={begun}-"]
    assert here.left() == [THING] and here.content(THING) == BODY


def test_two_at_once_and_the_second_finds_it_done(here, server):
    here.knows(body=BODY)
    asked, go_on = threading.Event(), threading.Event()

    def slowly(handler):
        asked.set()
        go_on.wait(20)
        file(BODY)(handler)

    server.answers["/thing.onnx"] = slowly
    arguments = ["fetch", "thing", "--models", str(here.models)]
    first, second = [], []

    def second_says(text):
        second.append(text)
        if "waiting for that" in text:
            go_on.set()

    with ThreadPoolExecutor() as pool:
        one = pool.submit(command.main, arguments, first.append, here.net)
        assert asked.wait(20)
        two = pool.submit(command.main, arguments, second_says, here.net)
        assert (one.result(), two.result()) == (0, 0)
    assert "waiting for that" in "\n".join(second) and "is there already" in second[-1]
    assert len(server.seen) == 1 and here.content(THING) == BODY


def test_an_unpublished_hash_is_recorded_and_checked_ever_after(here, server):
    here.knows()
    server.answers["/thing.onnx"] = file(BODY)
    assert here.fetch() == 0 and "recorded in likeness-weights.lock.json" in here.text
    assert checking.read(here.models)[THING].sha256 == sha(BODY)
    assert here.run("verify") == 0 and here.text.splitlines()[-1].startswith("recorded")
    (here.models / THING).unlink()
    server.answers["/thing.onnx"] = file(WRONG)
    assert here.fetch() == 1 and f"the first time it was {sha(BODY)}" in here.text
    assert "delete every line with detection/thing.onnx" in here.text
    assert here.left() == []
    lock = here.models / checking.NAME
    lock.write_text("\n".join(line for line in lock.read_text().splitlines() if THING not in line))
    assert here.fetch() == 0 and here.content(THING) == WRONG


def test_a_file_that_was_there_is_left_as_it_is(here, server):
    here.knows(body=BODY)
    (here.models / "detection").mkdir()
    (here.models / THING).write_bytes(WRONG)
    assert here.fetch() == 1
    assert "published is" in here.text and "delete thing.onnx and fetch it again" in here.text
    assert here.content(THING) == WRONG and server.seen == []
    (here.models / THING).write_bytes(BODY)
    assert here.fetch() == 0


def test_verify_says_what_is_wrong(here):
    here.knows("good", "good.onnx", body=BODY)
    here.knows("bad", "bad.onnx", body=BODY)
    here.knows("short", "short.onnx", body=BODY)
    here.knows("own", "own.onnx")
    here.knows("gone", "gone.onnx")
    (here.models / "detection").mkdir()
    for name, content in {"good": BODY, "bad": WRONG, "short": b"x", "own": b"own"}.items():
        (here.models / "detection" / f"{name}.onnx").write_bytes(content)
    assert here.run("verify") == 1
    states = {line[15:].split()[0]: line[:15].strip() for line in here.said[1:]}
    assert states == {"good": "ok", "bad": "WRONG", "short": "WRONG", "own": "not published"}
    assert "has 1 bytes, published are 512000" in here.text and "recorded now" in here.text
    assert here.run("verify", "good", "own", "gone") == 0
    assert [line[:15].strip() for line in here.said[1:]] == ["ok", "recorded", "missing"]
    assert "weights fetch gone" in here.said[-1]
    (here.models / "detection" / "own.onnx").write_bytes(b"new")
    assert here.run("verify", "own") == 1
    assert "has changed" in here.text and "delete every line with detection/own.onnx" in here.text


def test_the_lock_file_is_json_and_any_line_may_go(here):
    records = {name: checking.Record(sha(name.encode()), 1, "u") for name in ("a", "b", "c")}
    checking.add(here.models, records)
    lines = (here.models / checking.NAME).read_text().splitlines()
    assert json.loads("\n".join(lines))["b"]["bytes"] == 1
    for number, name in enumerate("abc", 1):
        (here.models / checking.NAME).write_text("\n".join(lines[:number] + lines[number + 1 :]))
        assert checking.read(here.models).keys() == records.keys() - {name}
    for content in ("", "[]", "{}", '{"format": 2}', '{"format": 1, "a": 3}', '{"format": 1, "a": {"sha256": ""}}'):
        (here.models / checking.NAME).write_text(content)
        with pytest.raises(FetchError, match="likeness-weights.lock.json cannot be read"):
            checking.read(here.models)
    here.knows()
    assert here.fetch() == 1 and "cannot be read" in here.text


def test_records_made_at_once_are_all_kept(here):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: checking.add(here.models, {str(n): checking.Record("0", n, "")}), range(40)))
    assert checking.read(here.models).keys() == set(map(str, range(40)))


def test_a_licence_is_accepted_by_the_name_of_the_file(here, server):
    here.knows(body=BODY, commercial_use=False, licence="CC BY-NC 4.0")
    here.knows("free", "free.onnx", body=BODY)
    server.answers["/thing.onnx"] = server.answers["/free.onnx"] = file(BODY)
    assert here.fetch("faces") == 1
    assert here.left() == ["detection/free.onnx"], "what needs no acceptance is fetched"
    assert "CC BY-NC 4.0" in here.text and "add --accept-licence thing" in here.text
    assert here.run("fetch", "thing", "--accept-licence", "faces") == 1 and "is a pipeline" in here.text
    assert here.run("fetch", "thing", "--accept-licence", "thin") == 1 and "did you mean thing" in here.text
    assert here.run("fetch", "thing", "--accept-licence", "free") == 1
    assert THING not in here.left()
    assert here.run("fetch", "thing", "--accept-licence", "free", "--accept-licence", "thing") == 0
    assert here.fetch() == 0, "what is there needs no acceptance"


def test_names_and_folders_that_are_not_there(here):
    here.knows("by-hand", "x.7z", body=BODY)
    assert here.fetch("by-hnd") == 1 and "did you mean by-hand" in here.text
    assert here.fetch("by-hand") == 1 and ".7z" in here.text and f"{here.server.url}/x.7z" in here.text
    assert command.main(["verify", "--models", str(here.models / "typo")], here.said.append) == 1
    assert "There is no folder" in here.said[-1]


def test_the_list_needs_the_standard_library_only_and_the_rest_a_comfyui(root, monkeypatch):
    arguments = ["-I", "-S", str(root / "likeness.py"), "weights", "list", "vae-sd"]
    listed = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert listed.returncode == 0 and "334641190 bytes" in listed.stdout, listed.stderr
    assert command.runs_here(["fetch", "vae-sd"]) and command.runs_here(["verify"])
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name == "filelock" else name)
    assert command.runs_here(["list"]) and not command.runs_here(["verify"])


# Safetensors and pickles


def test_a_safetensors_file_with_a_lying_header_is_refused(here, server):
    header = b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(200)
    here.knows(file="thing.safetensors")
    for content in (
        (200).to_bytes(8, "little") + header,
        (1 << 60).to_bytes(8, "little") + header,
        safetensors.torch.save({"a": torch.ones(9)})[:-1],
        b"x" * 300,
    ):
        server.answers["/thing.safetensors"] = file(content)
        assert here.fetch() == 1 and "is no safetensors file, or a damaged one" in here.text
        assert here.left() == []
    server.answers["/thing.safetensors"] = file(safetensors.torch.save({"a": torch.ones(9)}))
    assert here.fetch() == 0


class Harmful:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def pack(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_malicious_pickle_is_refused_and_not_run(here, server, tmp_path, known):
    marker = tmp_path / "marker"
    harm = {"weight": torch.ones(2), "x": Harmful(marker)}
    for content in (pack(harm), pickle.dumps(harm)):
        here.files.clear()
        here.knows(file="thing.pt", folder="facechain_fact", body=content if known else None)
        server.answers["/thing.pt"] = file(content)
        assert here.fetch() == 1 and "was not loaded" in here.text or "could not be rewritten" in here.text
        assert here.left() == [] and not marker.exists()
        assert checking.read(here.models) == {}


@pytest.mark.parametrize("known", [True, False])
def test_a_pickle_of_ours_becomes_safetensors_that_name_their_origin(here, server, known):
    shared = torch.arange(6.0).reshape(2, 3)
    content = pack({
        "image_proj": {"a": shared, "b": shared, "half": torch.nn.Parameter(shared[1])},
        "ip_adapter": {"1.to_k_ip.weight": shared.t(), "scalar": torch.tensor(3), "bf": shared.bfloat16()},
    })  # fmt: skip
    here.knows(file="thing.bin", folder="ipadapter", body=content if known else None, licence="research only")
    server.answers["/thing.bin"] = file(content)
    assert here.fetch() == 0 and "rewritten as safetensors" in here.text
    location = "ipadapter/thing.safetensors"
    assert here.left() == [location]
    with safetensors.safe_open(here.models / location, "pt") as written:
        assert written.metadata() == {
            "format": "pt", "origin_url": f"{server.url}/thing.bin", "origin_file": "thing.bin",
            "origin_sha256": sha(content), "origin_bytes": str(len(content)), "origin_licence": "research only",
        }  # fmt: skip
    tensors = read_state_dict(here.models / location)
    assert tensors.keys() == {
        "image_proj.a", "image_proj.b", "image_proj.half",
        "ip_adapter.1.to_k_ip.weight", "ip_adapter.scalar", "ip_adapter.bf",
    }  # fmt: skip
    assert torch.equal(tensors["image_proj.b"], shared) and torch.equal(tensors["image_proj.half"], shared[1])
    assert torch.equal(tensors["ip_adapter.1.to_k_ip.weight"], shared.t())
    record = checking.read(here.models)[location]
    assert record.sha256 == sha(here.content(location)) and record.origin.sha256 == sha(content)
    assert here.fetch() == 0 and "is there already" in here.text and len(server.seen) == 1
    assert here.run("verify", "thing") == 0 and here.said[-1].startswith("ok" if known else "recorded")
    (here.models / location).write_bytes(here.content(location)[:-1] + b"\1")
    assert here.run("verify", "thing") == 1
    (here.models / location).unlink()
    if not known:
        server.answers["/thing.bin"] = file(pack({"other": torch.ones(1)}))
        assert here.fetch() == 1 and "delete every line with ipadapter/thing.bin" in here.text


def test_a_pickle_carried_by_hand_and_those_of_other_loaders_stay_pickles(here, server):
    content = pack({"a": torch.ones(1)})
    here.knows(file="thing.bin", folder="ipadapter", body=content)
    here.knows("stock", "stock.ckpt", "checkpoints", body=content)
    server.answers["/stock.ckpt"] = file(content)
    (here.models / "ipadapter").mkdir()
    (here.models / "ipadapter" / "thing.bin").write_bytes(content)
    assert here.fetch("faces") == 0
    assert here.left() == ["checkpoints/stock.ckpt", "ipadapter/thing.bin"]


@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.ones(2), "epoch": 3},
        {"a": torch.ones(2, 2).to_sparse()},
        {"a": torch.ones(2, dtype=torch.complex64)},
        [torch.ones(2)],
    ],
)
def test_a_pickle_that_cannot_be_rewritten_is_refused(here, server, content):
    here.knows(file="thing.pt", folder="metrics")
    server.answers["/thing.pt"] = file(pack(content))
    assert here.fetch() == 1 and "could not be rewritten as safetensors" in here.text
    assert here.left() == []


# Archives


def zip_up(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # without the time of day
    return buffer.getvalue()


DET, REC, MORE = b"detector" * 500, b"recogniser" * 500, b"landmarks" * 500
PACK = "insightface/models/pack"


def knows_pack(here, server, members, **facts):
    body = zip_up(members)
    source = {"kind": "github", "repo": "some/body", "tag": "v1", "path": "pack.zip"}
    here.knows("pack", "pack.zip", "insightface/models", body, source=source, **facts)
    for name, content in (("det", DET), ("rec", REC)):
        here.knows(name, f"{name}.onnx", PACK, content, source={**source, "member": f"{name}.onnx"}, **facts)
    reroute(here, server)
    server.answers["/github.com/some/body/releases/download/v1/pack.zip"] = file(body)


def reroute(here, server):
    """Let the session ask the test's server for what it asks of anyone: https://host/path is /host/path there."""

    class ToServer(HTTPAdapter):
        def send(self, request, **options):
            parts = urlsplit(request.url)
            asked, request.url = request.url, f"{server.url}/{parts.netloc}{request.path_url}"
            response = super().send(request, **options)
            response.url = asked
            return response

    here.net.session.mount("https://", ToServer())


@pytest.mark.parametrize("inside", ["", "pack/"])
def test_a_pack_is_unpacked_into_its_folder(here, server, inside):
    knows_pack(here, server, {f"{inside}det.onnx": DET, f"{inside}rec.onnx": REC, f"{inside}more.onnx": MORE})
    assert here.fetch("faces") == 0 and "3 files unpacked" in here.text
    assert here.left() == [f"{PACK}/{name}.onnx" for name in ("det", "more", "rec")]
    assert here.content(f"{PACK}/more.onnx") == MORE
    assert len(server.seen) == 1, "pack and members are one download"
    assert here.fetch("pack") == 0 and "is there already" in here.text
    assert here.run("verify", "pack", "det") == 0
    (here.models / PACK / "more.onnx").write_bytes(MORE[:-1] + b"!")
    assert here.run("verify", "pack") == 1 and "more.onnx has changed" in here.text
    (here.models / PACK / "more.onnx").unlink()
    assert here.run("verify", "pack") == 1 and "missing from the pack" in here.text


def test_a_member_alone_and_the_rest_later(here, server):
    knows_pack(here, server, {"det.onnx": DET, "rec.onnx": REC, "more.onnx": MORE}, commercial_use=False)
    assert here.run("fetch", "det", "rec", "--accept-licence", "det") == 1
    assert here.left() == [f"{PACK}/det.onnx"]
    assert here.run("fetch", "faces", "--accept-licence", "pack") == 0
    assert here.left() == [f"{PACK}/{name}.onnx" for name in ("det", "more", "rec")]


def test_an_archive_carried_by_hand_is_unpacked(here, server):
    knows_pack(here, server, {"det.onnx": DET, "rec.onnx": REC})
    target = here.models / "insightface" / "models" / "pack.zip"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"x")
    assert here.fetch("det") == 1 and target.is_file(), "a wrong one is not ours to delete"
    target.write_bytes(zip_up({"det.onnx": DET, "rec.onnx": REC}))
    assert here.fetch("pack") == 0 and server.seen == []
    assert here.left() == [f"{PACK}/det.onnx", f"{PACK}/rec.onnx"]


def test_a_member_that_is_not_the_published_one_keeps_the_pack_away(here, server):
    knows_pack(here, server, {"det.onnx": DET, "rec.onnx": DET})
    assert here.fetch("pack") == 1 and "rec.onnx in the archive is not the published file" in here.text
    assert here.left() == []
    knows_pack(here, server, {"other.onnx": DET})
    assert here.fetch("det") == 1


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("member", [
    "../outside.onnx", "a/../../outside.onnx", "/outside.onnx", "C:/outside.onnx", "..", "a//b", "./a", link("link"),
    "a\\..\\..\\outside.onnx", "nul\x01.onnx", "stream.onnx:x",
], ids=str)  # fmt: skip
def test_a_member_that_leads_out_of_the_folder_is_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("first.onnx", b"harmless")
        archive.writestr(member, b"../../outside")
    with pytest.raises(FetchError, match="could reach outside its folder: nothing was kept|holds '"):
        fetch.unpack(tmp_path / "a.zip", None, tmp_path / "deep" / "er" / "folder")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_a_zip_with_a_way_out_through_the_whole_fetcher(here, server, tmp_path):
    knows_pack(here, server, {"det.onnx": DET, "../../../outside.onnx": b"x"})
    assert here.fetch("pack") == 1 and "could reach outside its folder" in here.text
    assert here.left() == []
    assert not list(tmp_path.rglob("outside*"))


def lie(content: bytes, size: int) -> bytes:
    """A zip whose table says that its one file has `size` bytes."""
    body = bytearray(zip_up({"a.onnx": content}))
    at = body.rindex(b"PK\x01\x02")
    body[at + 24 : at + 28] = size.to_bytes(4, "little")
    return bytes(body)


@pytest.mark.parametrize("content, said", [
    (zip_up({"a.onnx": bytes(10_000_000)}), "would grow from"),
    (lie(os.urandom(100_000), 1000), "damaged or of an unknown kind"),
    (lie(os.urandom(1000), 50_000), "is damaged: 'a.onnx' is shorter than it says"),
    (zip_up({"a.onnx": DET})[:-30], "damaged or of an unknown kind"),
    (b"7z\xbc\xaf\x27\x1c" + bytes(100), "damaged or of an unknown kind"),
    (zip_up({"a.onnx": os.urandom(500)}).replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
     "locked with a password"),
], ids=["bomb", "table says less", "table says more", "cut short", "7z", "password"])  # fmt: skip
def test_archives_that_lie_are_refused(tmp_path, content, said):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(FetchError, match=said):
        fetch.unpack(tmp_path / "a.zip", None, tmp_path / "folder")
    assert sum(path.stat().st_size for path in tmp_path.rglob("folder/*")) <= 50_000


# Publishers


def test_every_kind_of_publisher_is_asked_at_its_address(here, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    reroute(here, server)
    published = {
        "hub": (
            {"kind": "huggingface", "repo": "a/b", "path": "x/hub.onnx"},
            "/huggingface.co/a/b/resolve/main/x/hub.onnx",
        ),
        "scope": (
            {"kind": "modelscope", "repo": "a/b", "path": "scope.onnx", "revision": "v1"},
            "/www.modelscope.cn/models/a/b/resolve/v1/scope.onnx",
        ),
        "tree": ({"kind": "github", "repo": "a/b", "path": "x/tree.onnx"}, "/github.com/a/b/raw/HEAD/x/tree.onnx"),
        "drive": ({"kind": "google-drive", "id": "i" * 33}, "/drive.usercontent.google.com/download"),
    }  # fmt: skip
    for name, (source, path) in published.items():
        here.knows(name, f"{name}.onnx", body=BODY, source=source)
        server.answers[path] = file(BODY)
    assert here.fetch("faces") == 0, here.text
    assert [path.split("?")[0] for path, _ in server.seen] == [path for _, path in published.values()]
    assert server.seen[3][0].endswith(f"?id={'i' * 33}&export=download&confirm=t")
    assert [headers.get("authorization") for _, headers in server.seen] == ["Bearer hf_secret", None, None, None]


@pytest.mark.parametrize(
    "page, said",
    [
        (b"<html><head><title>Google Drive - Quota exceeded</title>", "quota is used up"),
        (b"<html><title>Sign in - Google Accounts</title>", "wants you to log in"),
        (b"<html><title>Hello</title>", "the link has changed"),
    ],
)
def test_the_pages_of_google_drive_are_told_apart(here, server, page, said):
    reroute(here, server)
    here.knows(body=BODY, source={"kind": "google-drive", "id": "i" * 33})
    answer = {"Content-Type": "text/html; charset=utf-8"}
    server.answers["/drive.usercontent.google.com/download"] = lambda h: h.reply(200, answer, page)
    assert here.fetch() == 1 and said in here.text
    assert here.left() == []


def test_an_encrypted_address_that_leads_to_an_open_one_is_refused(here, server):
    reroute(here, server)
    here.knows(body=BODY, source={"kind": "url", "url": "https://example.org/thing.onnx"})
    server.answers["/example.org/thing.onnx"] = lambda h: h.reply(302, {"Location": f"{server.url}/open"})
    server.answers["/open"] = file(BODY)
    assert here.fetch() == 1 and "not encrypted" in here.text
    assert here.left() == []
