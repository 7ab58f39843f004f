"""`likeness.py run`: what its names and values mean, and workflows run with it on a real server."""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from likeness.launcher import run
from likeness.launcher.client import Client
from likeness.tests.support.graphs import ASSETS, WORKFLOWS
from likeness.tests.support.optional import need_program

FILES = sorted(WORKFLOWS.glob("*.json"))
MINIATURE = WORKFLOWS / "miniature.json"
PAGE = (WORKFLOWS / "README.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8188"


def node(title: str, class_type: str = "Any", **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}


def graph() -> dict:
    return {
        "1": node("Prompt: all of it", text="a", clip=["9", 1]),
        "2": node("Negative prompt", text="b"),
        "3": node("KSampler", seed=1, steps=20),
        "4": node("Size", width=8, height=8),
        "5": node("Reference photo", image="x.png"),
        "6": node("Twin", number=1),
        "7": node("Twin", number=2),
    }


@pytest.mark.parametrize(
    "name, place",
    [
        ("Prompt", ("1", "text")),
        ("prompt: all of it", ("1", "text")),
        ("Negative", ("2", "text")),
        ("KSampler.seed", ("3", "seed")),
        ("Seed", ("3", "seed")),
        ("Photo", ("5", "image")),
        ("Size.height", ("4", "height")),
    ],
)
def test_a_name_means_an_input(name, place):
    assert run.find_place(graph(), name) == place


@pytest.mark.parametrize(
    "name, words",
    [
        ("Size", "fits 2 inputs .* may be Size.width, Size.height"),
        ("Twin", "fits 2 inputs .* titles that differ"),
        ("Promp", r"called 'Promp'[\s\S]*KSampler.seed = 1\n"),
        ("clip", "Nothing .* called 'clip'"),  # a connection
    ],
)
def test_a_name_that_means_no_single_input_says_what_there_is(name, words):
    with pytest.raises(run.RunError, match=words):
        run.find_place(graph(), name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_workflows_have_the_titles_that_the_page_names(file):
    prompt = run.read_workflow(file)
    classes = [node["class_type"] for node in prompt.values()]
    if "KSampler" in classes:
        for name in ("Prompt", "Negative prompt", "KSampler.seed", "Picture size.width", "Result"):
            if name != "Picture size.width" or "EmptyLatentImage" in classes:
                run.find_place(prompt, name)
    titles = {run.title_of(node) for node in prompt.values() if node["class_type"] == "LikenessExamplePicture"}
    for title in titles:
        assert run.find_place(prompt, title).input == "image"


KNOWN = {
    "Any": {
        "input": {
            "required": {
                "n": ["INT", {}],
                "x": ["FLOAT", {}],
                "b": ["BOOLEAN", {}],
                "s": ["STRING", {}],
                "old": [["1", "two"], {}],
                "new": ["COMBO", {"options": [1, 2]}],
            },
            "optional": {"photo": ["COMBO", {"options": ["there.png"], "image_upload": True}]},
        }
    }
}


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("n", "-3", -3),
        ("x", "0.5", 0.5),
        ("x", "2", 2.0),
        ("b", "No", False),
        ("b", "true", True),
        ("s", "1=2", "1=2"),
        ("old", "1", "1"),
        ("new", "2", 2),
        ("new", "3", "3"),  # for the host to refuse, with what it knows
        ("photo", "there.png", "there.png"),
        ("photo", str(ASSETS / "portrait.png"), ASSETS / "portrait.png"),
        ("mode.width", "7", 7),  # of a dynamic combo: of the type that it has
    ],
)
def test_values_are_of_the_type_that_the_server_wants(key, text, value):
    prompt = {"1": node("T", **{key: 0})}
    converted = run.convert(prompt, KNOWN, run.Place("1", key), text)
    assert converted == value and type(converted) is type(value)


@pytest.mark.parametrize(
    "key, text, words",
    [
        ("n", "1.5", "T.n takes a whole number, not '1.5'"),
        ("x", "nan", "T.x takes a number"),
        ("b", "maybe", "T.b takes true or false"),
        ("photo", "gone.png", "T.photo: there is no file gone.png here"),
    ],
)
def test_values_of_another_type_are_refused(key, text, words):
    with pytest.raises(run.RunError, match=words):
        run.convert({"1": node("T", **{key: 0})}, KNOWN, run.Place("1", key), text)


def test_a_node_that_saves_a_model_need_not_leave_anything():
    known = {"model": ["MODEL"], "filename_prefix": ["STRING", {}]}
    assert not run.shows_media({"output_node": True, "input": {"required": known}})
    assert run.shows_media({"output_node": True, "input": {"required": {"images": ["IMAGE", {}]}}})
    assert not run.shows_media({"output_node": False, "input": {"required": {"images": ["IMAGE", {}]}}})


def test_files_are_not_overwritten_and_stay_in_the_folder(tmp_path):
    assert run.save(b"a", tmp_path, "s", "x.png") == tmp_path / "s" / "x.png"
    assert run.save(b"a", tmp_path, "s", "x.png") == tmp_path / "s" / "x.png"
    assert run.save(b"b", tmp_path, "s", "x.png") == tmp_path / "s" / "x (2).png"
    assert (tmp_path / "s" / "x.png").read_bytes() == b"a"
    assert run.save(b"c", tmp_path, "win\\dows", "x.png") == tmp_path / "win" / "dows" / "x.png"
    with pytest.raises(run.RunError, match="outside"):
        run.save(b"a", tmp_path / "s", "..", "y.png")
    assert {file.name for file in tmp_path.rglob("*.*")} == {"x.png", "x (2).png"}


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "w.json: No such file"),
        ("{", "is not JSON: .* Export"),
        ('{"nodes": [], "links": []}', "in the form of the editor"),
        ("[1]", "not a workflow in API form"),
        ("{}", "not a workflow in API form"),
        ('{"1": {"class_type": "KSampler"}}', "not a workflow in API form"),
        ('{"1": {"class_type": "KSampler", "inputs": []}}', "not a workflow in API form"),
        (
            '\ufeff{"1": {"class_type": "KSampler", "inputs": {"model": ["9", 0], "points": [[1, 2], 3]}}}',
            r"model of KSampler \(node 1\) is connected to node 9, which is not in",
        ),
        ('{"1": {"class_type": "A", "inputs": {}}}', "No ComfyUI answers at 127.0.0.1:9"),
    ],
)
def test_one_sentence_for_what_cannot_be_run(tmp_path, capsys, content, words):
    if content:
        (tmp_path / "w.json").write_text(content)
    code = run.main([str(tmp_path / "w.json"), "--server", "127.0.0.1:9", "--out", str(tmp_path / "out")], None)
    output = capsys.readouterr()
    assert code == 1 and re.search(words, output.err) and output.out == ""


def test_an_address_that_is_none(tmp_path, capsys):
    for address in ("ftp://a", "http://a/b", "http://"):
        assert run.main([str(MINIATURE), "--server", address, "--out", str(tmp_path)], None) == 1
        assert "is not the address of a ComfyUI" in capsys.readouterr().err


@pytest.fixture
def call(server, tmp_path, capsys):
    """Run a workflow with further arguments; return exit code, results by title, and what was said."""

    def call(prompt: dict, *changes: str):
        (tmp_path / "w.json").write_text(json.dumps(prompt))
        sets = [part for change in changes for part in ("--set", change)]
        code = run.main([str(tmp_path / "w.json"), "--server", server, "--out", str(tmp_path / "out"), *sets], None)
        output = capsys.readouterr()
        return code, {line["title"]: line for line in map(json.loads, output.out.splitlines())}, output.err

    return call


async def _get(url: str, path: str) -> dict:
    async with Client(url) as client, client.session.get(path) as answer:
        return await answer.json()


def get(url: str, path: str) -> dict:
    return asyncio.run(_get(url, path))


@pytest.mark.slow
def test_a_photo_and_a_prompt_in_a_picture_out(call, server, tmp_path):
    photo = shutil.copy(ASSETS / "miniature_reference.png", tmp_path / "me.png")
    changes = (f"Photo={photo}", "Prompt=a photo of a man", "seed=7", "steps=2")
    code, results, said = call(run.read_workflow(MINIATURE), *changes)
    assert code == 0 and "run: KSampler" in said
    (file,) = results["Result"]["files"]
    entry = next(reversed(get(server, "/history").values()))
    ran = entry["prompt"][2]
    assert ran["4"]["inputs"]["image"] == "me.png" and ran["2"]["inputs"]["text"] == "a photo of a man"
    assert (ran["12"]["inputs"]["seed"], ran["12"]["inputs"]["steps"]) == (7, 2)
    assert file == str(tmp_path / "out" / "likeness" / entry["outputs"]["14"]["images"][0]["filename"])
    again, repeated, _ = call(run.read_workflow(MINIATURE), *changes)
    assert again == 0 and repeated["Result"]["files"] == [file], "what the cache answers comes, too"
    shutil.copy(ASSETS / "portrait.png", photo)
    code, results, said = call(run.read_workflow(MINIATURE), *changes)
    assert code == 1 and not results and "LikenessDetectFaces (node 6)" in said, "a photograph has no drawn face"
    uploaded = get(server, "/object_info/LoadImage")["LoadImage"]["input"]["required"]["image"][0]
    assert {"me.png", "me (1).png"} <= {*uploaded}, "another photo of the same name"


@pytest.mark.slow
def test_a_part_that_lacks_its_file_stops_all_of_it(call, server):
    prompt = run.read_workflow(MINIATURE)
    prompt |= {
        "20": node("Another", "CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors"),
        "21": node("Decode", "VAEDecode", samples=["12", 0], vae=["20", 2]),
        "22": node("Other result", "SaveImage", images=["21", 0], filename_prefix="other"),
    }
    code, results, said = call(prompt, "steps=400")
    assert code == 1 and not results and "CheckpointLoaderSimple (node 20)" in said and "weights fetch sd-1-5" in said
    assert get(server, "/queue")["queue_pending"] == []
    assert call(run.read_workflow(MINIATURE), "steps=2", "seed=3")[0] == 0, "the server did not go on with the rest"
    ended = [
        entry["status"]["status_str"]
        for entry in get(server, "/history").values()
        if entry["prompt"][2].get("22", {}).get("_meta", {}).get("title") == "Other result"
    ]
    assert "success" not in ended


@pytest.mark.slow
def test_what_the_server_does_not_know_and_what_it_refuses(call):
    prompt = run.read_workflow(MINIATURE) | {"20": node("A", "Nowhere"), "21": node("B", "Elsewhere")}
    assert "no node Elsewhere, Nowhere" in call(prompt)[2]
    assert "from_nowhere" in call(run.read_workflow(MINIATURE), "KSampler.sampler_name=from_nowhere")[2]
    assert call(run.read_workflow(MINIATURE), "steps=-1")[0] == 1


@pytest.mark.slow
def test_a_success_without_the_picture_is_none(call):
    """The host's node leaves nothing in the history, as any that is blocked."""
    prompt, settings = run.read_workflow(MINIATURE), {"filename_prefix": "a", "mode": "overwrite"}
    prompt["20"] = node("Kept there", "SaveImageDataSetToFolder", images=["13", 0], folder_name="set", **settings)
    code, results, said = call(prompt, "steps=2", "seed=5")
    assert code == 1 and results["Result"]["files"] and "nothing came of Kept there (node 20)" in said


@pytest.mark.slow
def test_scores_are_in_the_history(call):
    prompt = run.read_workflow(WORKFLOWS / "miniature_scores.json")
    for _ in ("computed", "from the cache"):
        code, results, _ = call(prompt, "steps=4", "Picture size.batch_size=2")
        scores = results["Best of N"]["scores"]
        assert code == 0 and [row["picture"] for row in scores] == [1, 2]
        assert sorted(row["rank"] for row in scores) == [1, 2]
        assert all(row["identity"] is None or -1 <= row["identity"] <= 1 for row in scores)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def checkout(root, tmp_path):
    """A folder in which the page's commands find what they name, and may leave files."""
    (tmp_path / "workflows").symlink_to(root / "workflows")
    return tmp_path


@pytest.mark.slow
def test_the_pages_command(server, checkout, monkeypatch, capsys):
    (command,) = (block for block in blocks("sh") if "likeness.py run" in block)
    monkeypatch.chdir(checkout)
    words = shlex.split(command.replace(ADDRESS, server))
    assert words[:3] == ["python3", "likeness.py", "run"] and run.main(words[3:], None) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (result,) = (line for line in lines if line["title"] == "Result")
    assert (checkout / result["files"][0]).is_file() and result["files"][0].startswith("output/likeness/miniature_")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_pages_curl(server, checkout):
    (script,) = (block for block in blocks("sh") if "curl" in block)
    subprocess.run(["sh", "-e", "-c", script.replace(ADDRESS, server)], cwd=checkout, check=True, timeout=120)
    assert (checkout / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_pages_comfy_cli(server, checkout):
    program = need_program("comfy")
    (command,) = (block for block in blocks("sh") if block.startswith("comfy "))
    command = command.replace("8188", server.rpartition(":")[2])
    environment = {**os.environ, "HOME": str(checkout)}  # where it keeps what it remembers
    run = subprocess.run(
        [program, *shlex.split(command)[1:]], cwd=checkout, env=environment, capture_output=True, text=True, timeout=300
    )
    answer = json.loads(run.stdout)
    assert run.returncode == 0 and answer["ok"] and "filename=miniature_" in "".join(answer["data"]["outputs"])


@pytest.mark.slow
def test_the_pages_python(server, checkout):
    (script,) = blocks("python")
    command = [sys.executable, "-c", script.replace(ADDRESS, server)]
    subprocess.run(command, cwd=checkout, check=True, timeout=120)
    assert (checkout / "picture.png").read_bytes().startswith(b"\x89PNG")
