"""`likeness.py batch`: rows and grids, their order and keys, the manifest, and batches made on real servers."""

import asyncio
import csv
import json
import re
from pathlib import Path

import pytest
from filelock import FileLock
from likeness.launcher import batch, contact_sheet, jobs, ledger, scoring, workers
from likeness.launcher.jobs import Cell
from likeness.launcher.run import Place, RunError
from likeness.tests.support.graphs import ASSETS, WORKFLOWS
from PIL import Image


def node(title: str, class_type: str = "Any", **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}


def graph() -> dict:
    return {
        "1": node("Load Checkpoint", ckpt_name="a.safetensors"),
        "2": node("Reference photo", image="x.png"),
        "3": node("Detect", image=["2", 0]),
        "4": node("Apply", faces=["3", 0], model=["1", 0]),
        "5": node("Prompt", text="a", clip=["1", 1]),
        "6": node("KSampler", model=["4", 0], positive=["5", 0], seed=1, steps=4),
        "7": node("Result", images=["6", 0], filename_prefix="p"),
    }


KNOWN = {
    "Any": {
        "input": {
            "required": {"seed": ["INT", {}], "steps": ["INT", {}], "text": ["STRING", {}]},
            "optional": {"image": ["COMBO", {"options": ["x.png"], "image_upload": True}]},
        }
    }
}


@pytest.mark.parametrize(
    "content, cells, faults",
    [
        ('Prompt,seed\n"a, b",1\n\nc,2\n', [(("a, b", "1"), 2), (("c", "2"), 4)], []),
        ("\ufeffPrompt , seed\r\na,\r\n", [(("a", None), 2)], []),
        ("Prompt,seed\na\nb,1,2\nc,3\n", [(("c", "3"), 4)], [(2, "it has 1 fields, and"), (3, "it has 3 fields")]),
        (b"Prompt,seed\n\xff,1\nb,2\n", [(("b", "2"), 3)], [(2, "it holds bytes that are not UTF-8")]),
        ('Prompt,seed\n"two\nlines",1\nx,2\n', [(("two\nlines", "1"), 2), (("x", "2"), 4)], []),
        ('Prompt,seed\na,1\n"b,2', [(("a", "1"), 2)], [(3, "it cannot be read")]),
    ],
)
def test_rows_of_a_table(tmp_path, content, cells, faults):
    file = tmp_path / "jobs.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = jobs.read_table(file)
    assert table.columns == ["Prompt", "seed"] and table.cells == [Cell(*cell) for cell in cells]
    assert [fault.line for fault in table.faults] == [line for line, _ in faults]
    assert all(fault.reason.startswith(words) for fault, (_, words) in zip(table.faults, faults))


def test_rows_of_json_lines(tmp_path):
    file = tmp_path / "jobs.jsonl"
    rows = ['{"Prompt": "a", "seed": 1}', "", "{", '{"seed": 2.5, "on": true}', "[1]", '{"Prompt": {"x": 1}}']
    file.write_text("\n".join(rows))
    table = jobs.read_table(file)
    assert table.columns == ["Prompt", "seed", "on"]
    assert table.cells == [Cell(("a", "1", None), 1), Cell((None, "2.5", "true"), 4)]
    assert [fault.line for fault in table.faults] == [3, 5, 6]


@pytest.mark.parametrize("name, words", [("a.txt", "neither .csv nor .jsonl"), ("a.csv", "names nothing to set")])
def test_files_that_are_no_jobs(tmp_path, name, words):
    (tmp_path / name).touch()
    with pytest.raises(RunError, match=words):
        jobs.read_table(tmp_path / name)


def test_axes_of_a_grid(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_text("a man\n\n a woman \n")
    assert jobs.list_values("photos", str(tmp_path)) == [str(tmp_path / "a.JPG"), str(tmp_path / "b.png")]
    assert jobs.list_values("prompts", str(tmp_path / "notes.txt")) == ["a man", "a woman"]
    assert jobs.list_values("photo", str(tmp_path / "b.png")) == [str(tmp_path / "b.png")]
    assert jobs.list_values("seeds", "-1..2") == ["-1", "0", "1", "2"]
    assert jobs.list_values("strength", "0.5, 1,0.5") == ["0.5", "1"]
    for nothing in ("", "3..1"):
        with pytest.raises(RunError, match="There is nothing in seeds="):
            jobs.list_values("seeds", nothing)
    with pytest.raises(RunError, match="100000000 cells, more than"):
        jobs.read_grid([("seeds", "1..10000"), ("steps", "1..10000")])


def make(table: jobs.Table, folder: Path = ASSETS) -> jobs.Jobs:
    return jobs.Jobs(graph(), KNOWN, table, folder)


def test_what_is_expensive_and_changes_rarely_is_outermost():
    grid = [("seeds", "0..1"), ("prompts", "p,q"), ("photos", "portrait.png,astronaut.png")]
    made = make(jobs.read_grid(grid))
    assert made.places == [Place("6", "seed"), Place("5", "text"), Place("2", "image")]
    assert [cell.values[::-1] for cell in made.cells] == [
        (photo, prompt, seed) for photo in ("portrait.png", "astronaut.png") for prompt in "pq" for seed in "01"
    ]
    chunks = list(jobs.chunk(made.cells, made.outermost, 3))
    assert [len(chunk) for chunk in chunks] == [3, 1, 3, 1]
    assert jobs.count_dependants(graph(), "1") == 5 and jobs.count_dependants(graph(), "7") == 1


def test_a_key_stands_for_what_decides_the_picture(tmp_path):
    names = ["photo", "seed"]
    (tmp_path / "copy.png").write_bytes((ASSETS / "portrait.png").read_bytes())
    cells = [("portrait.png", "1"), (str(tmp_path / "copy.png"), "1"), ("portrait.png", "2"), ("astronaut.png", "1")]
    made = make(jobs.Table(names, [Cell(values, 0) for values in cells], []))
    first, copy, other, another = (made.build(Cell(values, 0))[0] for values in cells)
    assert first.key == copy.key and len({first.key, other.key, another.key}) == 3
    assert first.prompt["6"]["inputs"]["seed"] == 1 and graph()["6"]["inputs"]["seed"] == 1
    (photo,) = first.photos
    assert (photo.node, photo.input) == ("2", "image") and re.fullmatch(r"[0-9a-f]{16}\.png", photo.name)
    swapped = make(jobs.Table(names[::-1], [], [])).build(Cell(("1", "portrait.png"), 0))[0]
    assert swapped.key == first.key, "the order of columns does not matter"
    changed = jobs.Jobs(graph() | {"8": node("More")}, KNOWN, jobs.Table(names, [], []), ASSETS)
    assert changed.build(Cell(cells[0], 0))[0].key != first.key


def test_columns_that_mean_nothing_or_the_same():
    with pytest.raises(RunError, match="Nothing in the workflow is called 'faces'"):
        make(jobs.Table(["faces"], [], []))
    with pytest.raises(RunError, match="seed and KSampler.seed are the same input"):
        make(jobs.Table(["seed", "KSampler.seed"], [], []))


def test_names_of_files_say_what_was_set_and_differ():
    made = make(jobs.Table(["photo", "Prompt"], [], []))
    cell = Cell(("some/folder/Ann B.png", "a man, at the beach\nin the evening of a day"), 0)
    assert made.label(cell, "0f") == "Ann-B_a-man-at-the-beach-in-th_0f"


def test_a_torn_line_is_cut_off_and_what_was_done_is_known(tmp_path):
    with ledger.open_ledger(tmp_path) as book:
        assert book.save("a.png", b"1") == "pictures/a.png"
        book.add({"key": "k1", "files": ["pictures/a.png"]})
        book.add({"key": "k2", "error": "no face"})
    with (tmp_path / ledger.NAME).open("ab") as file:
        file.write(b'{"key": "k3", "fil')
    (tmp_path / ledger.FILES / "0f.part").write_bytes(b"half")
    with ledger.open_ledger(tmp_path) as book:
        assert book.done == {"k1"} and [record["key"] for record in book.read()] == ["k1", "k2"]
        book.add({"key": "k3", "files": []})
    assert len((tmp_path / ledger.NAME).read_text().splitlines()) == 3
    assert [path.name for path in (tmp_path / ledger.FILES).iterdir()] == ["a.png"]


def test_a_folder_takes_one_batch_at_a_time_and_no_other_file(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(RunError, match="Another batch writes to"):
        with ledger.open_ledger(tmp_path):
            pass
    (tmp_path / ledger.NAME).write_text("not a manifest\n")
    with pytest.raises(RunError, match="manifest.jsonl is damaged"), ledger.open_ledger(tmp_path):
        pass


def record(key: str, cell: dict, scores: list, files: list) -> dict:
    return {"key": key, "cell": cell, "scores": scores, "files": files, "seed": 1, "seconds": 2.0}


def test_sheet_and_tables(tmp_path):
    made = make(jobs.read_grid([("photos", "portrait.png,astronaut.png"), ("seeds", "0..1")]))
    with ledger.open_ledger(tmp_path) as book:
        for number, cell in enumerate(reversed(made.cells)):
            Image.new("RGB", (50, 70), "red").save(book.folder / book.save(f"{number}.png", b""))
            scores = [{"picture": 1, "identity": 0.5 * number if number else None, "text": 0.25}]
            book.add(record(str(number), made.settings(cell), scores, [f"pictures/{number}.png"]))
        book.add(record("gone", made.settings(cell) | {"seeds": "9"}, [], ["pictures/gone.png"]))
        files = contact_sheet.write(book, made)
    rows = list(csv.DictReader(open(files["table"])))
    assert [row["photos"] for row in rows] == ["portrait.png"] * 3 + ["astronaut.png"] * 2
    assert [row["file"] for row in rows[1:3]] == ["pictures/3.png", "pictures/2.png"] and rows[1]["identity"] == "1.5"
    means = list(csv.reader(open(files["means"])))
    assert means[-1] == ["all", "5", "1", "0.75", "0.25"] and means[2][:3] == ["astronaut.png", "2", "1"]
    (sheet,) = files["sheets"]
    assert Image.open(sheet).width > 3 * 192


def test_scores_are_added_to_a_graph():
    prompt = json.loads((WORKFLOWS / "miniature_fact.json").read_text())
    options = [["miniature_arcface.onnx", "miniature_transface.safetensors"], {}]
    known = {item["class_type"]: {"output_node": False, "input": {"required": {}}} for item in prompt.values()}
    known["SaveImage"] = {"output_node": True, "input": {"required": {"images": ["IMAGE", {}]}}}
    known["LikenessLoadFaceEncoder"]["input"]["required"]["encoder_name"] = options
    scored, name, place = scoring.add(prompt, known)
    inputs = scored[name]["inputs"]
    assert inputs["images"] == prompt["14"]["inputs"]["images"] and place.input == "text"
    encoder = scored[inputs["face_encoder"][0]]
    assert encoder["inputs"]["encoder_name"] == "miniature_arcface.onnx", "not the one that the adapter learned from"
    with pytest.raises(RunError, match="--scores needs a workflow with Encode Identity"):
        scoring.add(
            json.loads((WORKFLOWS / "miniature_facea.json").read_text()),
            dict.fromkeys(known, known["SaveImage"])
            | {
                node["class_type"]: {"output_node": False, "input": {}}
                for node in json.loads((WORKFLOWS / "miniature_facea.json").read_text()).values()
            },
        )


class StandIn:
    """A crew of plain functions: what a worker answers, or how it fails, by worker and call."""

    def __init__(self, size: int, make):
        self.size, self.answer, self.calls, self.running, self.most = size, make, [], [0] * size, 0

    async def describe(self, worker):
        self.answer(worker, None, len(self.calls))
        return KNOWN

    async def check(self, task, contents):
        return {}

    async def make(self, worker, task, contents):
        self.running[worker] += 1
        self.most = max(self.most, self.running[worker])
        await asyncio.sleep(0)
        self.running[worker] -= 1
        self.calls.append((worker, task.key))
        return self.answer(worker, task, len(self.calls)) or workers.Answer([("x.png", b"1")], {}, {}, 1.0, "0")

    def put(self, content):
        return content

    async def close(self): ...


@pytest.fixture
def share(tmp_path, monkeypatch):
    """Have a crew make a grid; return the batch, its exit code and its records."""
    monkeypatch.setattr(batch, "PAUSE", 0)
    (tmp_path / "w.json").write_text(json.dumps(graph()))

    def share(crew, *arguments):
        options = ["--workflow", str(tmp_path / "w.json"), "--out", str(tmp_path / "out"), *arguments]
        monkeypatch.setattr(batch, "_open_crew", lambda *_: crew)
        code = batch.main(options, None)
        lines = (tmp_path / "out" / ledger.NAME).read_text().splitlines()
        return code, [json.loads(line) for line in lines]

    return share


GRID = ("--grid", "prompts=a,b,c", "seeds=0..9")


def test_every_cell_once_however_often_it_is_started(share, capsys):
    crew = StandIn(3, lambda *_: None)
    code, records = share(crew, *GRID)
    assert json.loads(capsys.readouterr().out)["pictures"] == 30
    assert code == 0 and len(crew.calls) == len({record["key"] for record in records}) == 30
    assert crew.most == workers.IN_FLIGHT and {worker for worker, _ in crew.calls} == {0, 1, 2}
    again = StandIn(1, lambda *_: None)
    code, records = share(again, "--grid", "prompts=a,b", "seeds=5..12", "--set", "steps=4")
    assert code == 0 and len(again.calls) == 16, "with steps set it is another cell"
    code, records = share(again, *GRID)
    assert code == 0 and len(again.calls) == 16 and len(records) == 46


def test_a_worker_that_is_lost_leaves_its_cells_to_the_others(share):
    def make(worker, task, calls):
        if worker == 0 and calls > 5:
            raise workers.WorkerLostError("A worker died")

    code, records = share(StandIn(2, make), *GRID)
    assert code == 0 and len({record["key"] for record in records}) == len(records) == 30


def test_a_worker_that_comes_back_goes_on(share):
    def make(worker, task, calls):
        if task and calls in (7, 8, 20):
            raise workers.WorkerLostError("A worker died")

    code, records = share(StandIn(1, make), *GRID)
    assert code == 0 and len({record["key"] for record in records}) == len(records) == 30


def test_with_nobody_left_it_stops_with_one_sentence_and_goes_on_later(share, capsys):
    def make(worker, task, calls):
        if calls > 9:
            raise workers.WorkerLostError("The ComfyUI at http://x went away")

    code, records = share(StandIn(2, make), *GRID)
    assert code == 1 and 9 - 2 * workers.IN_FLIGHT <= len(records) <= 9, "what was not saved yet is made again"
    assert "The ComfyUI at http://x went away. The same command goes on" in capsys.readouterr().err
    code, records = share(StandIn(1, lambda *_: None), *GRID)
    assert code == 0 and len({record["key"] for record in records}) == len(records) == 30


def test_a_cell_that_kills_every_worker_is_named(share, capsys):
    def make(worker, task, calls):
        if task and task.prompt["6"]["inputs"]["seed"] == 3:
            raise workers.WorkerLostError("A worker died")

    code, records = share(StandIn(1, make), "--grid", "seeds=0..5")
    assert code == 1 and sum("error" in record for record in records) == 1
    assert "seeds=3: its worker died 5 times over it" in capsys.readouterr().err


def test_bad_rows_are_named_by_line_and_the_rest_is_made(share, tmp_path, capsys):
    (tmp_path / "jobs.csv").write_text("Photo,seed\ngone.png,1\nportrait.png,x\nx.png,1\nx.png\nx.png,2\n")
    crew = StandIn(1, lambda *_: None)
    code, records = share(crew, str(tmp_path / "jobs.csv"))
    assert code == 1 and len(crew.calls) == 2
    said = capsys.readouterr().err
    for words in (
        "line 2: .*there is no file gone.png",
        "line 3: .*takes a whole number|line 3: .*no file",
        "line 5: it has 1",
    ):
        assert re.search(words, said), words
    assert sorted(record["line"] for record in records if "error" in record) == [2, 3, 5]
    (tmp_path / "gone.png").write_bytes((ASSETS / "portrait.png").read_bytes())
    assert share(crew, str(tmp_path / "jobs.csv"))[0] == 1 and len(crew.calls) == 3, (
        "beside the table, and mended since"
    )


def test_a_disk_that_is_full_stops_all_with_one_sentence(share, tmp_path, capsys, monkeypatch):
    def save(*_):
        raise OSError(28, "No space left on device", str(tmp_path / "out"))

    monkeypatch.setattr(ledger.Ledger, "save", save)
    crew = StandIn(1, lambda *_: None)
    code, records = share(crew, *GRID)
    assert code == 1 and not records and len(crew.calls) <= workers.IN_FLIGHT
    assert f"{tmp_path / 'out'}: No space left on device." in capsys.readouterr().err
    monkeypatch.undo()
    assert share(crew, *GRID)[0] == 0, "once there is room again"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "name either a file of jobs or a --grid"),
        (["j.csv", "--grid", "seed=1"], "name either a file of jobs or a --grid"),
        (["j.csv", "--ray", "auto", "--server", "x"], "leave out --server"),
        (["j.csv", "--workers", "2"], "goes with --ray"),
    ],
)
def test_options_that_do_not_go_together(arguments, words, capsys):
    with pytest.raises(SystemExit):
        batch.parse(["--workflow", "w.json", "--out", "o", *arguments])
    assert words in capsys.readouterr().err


def test_one_sentence_for_what_cannot_begin(tmp_path, capsys):
    (tmp_path / "file").touch()
    for out, server, words in (
        (tmp_path / "file", "127.0.0.1:9", "file/pictures: Not a directory|file: Not a directory"),
        (tmp_path / "new", "127.0.0.1:9", "The ComfyUI at http://127.0.0.1:9 cannot be reached"),
        (tmp_path / "new", "ftp://x", "is not the address of a ComfyUI"),
    ):
        options = ["--workflow", str(WORKFLOWS / "miniature.json"), "--out", str(out), "--server", server]
        assert batch.main([*options, "--grid", "seed=1"], None) == 1
        assert re.search(words, capsys.readouterr().err), words
