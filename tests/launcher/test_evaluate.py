"""`likeness.py evaluate PROTOCOL`: what it reads, what it keeps, and what its report says."""

import csv
import importlib.util
import json
from types import SimpleNamespace

import folder_paths
import numpy as np
import pytest
import torch
from likeness.faces import detector as detectors
from likeness.host_process import SetupError
from likeness.launcher import evaluate, evaluation_report, picture_sets
from likeness.launcher.picture_sets import Person, Picture
from likeness.launcher.protocols import PROTOCOLS
from likeness.metrics import evaluation
from likeness.metrics.evaluation import Job
from likeness.metrics.image_features import load_image_network
from likeness.miniature.detector import MiniatureFinder
from likeness.miniature.models import base_model
from likeness.miniature.registration import NETWORKS
from likeness.miniature.world.photos import render_photos
from likeness.tests.support.golden_cases import Case
from likeness.weights import folders
from PIL import Image
from safetensors.torch import load_file

NAN = float("nan")


def put(path, level: int = 90, mode: str = "RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 6), level if mode == "L" else (level,) * len(mode)).save(path)
    return path


def write_csv(path, *rows: dict):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# What is read


def test_photos_of_people_and_what_is_said_of_them(tmp_path):
    put(tmp_path / "ann" / "1.jpg"), put(tmp_path / "ann" / "2.PNG"), put(tmp_path / "bob.webp")
    write_csv(tmp_path / "people.csv", {"person": "ann", "class_words": "a woman", "skin": "dark"})
    people = picture_sets.read_people(tmp_path)
    assert list(people) == ["ann", "bob"] and [path.name for path in people["ann"].photos] == ["1.jpg", "2.PNG"]
    assert (people["ann"].class_words, people["ann"].labels) == ("a woman", {"skin": "dark"})
    assert (people["bob"].class_words, people["bob"].labels) == ("a person", {})
    write_csv(tmp_path / "people.csv", {"person": "eve", "skin": "dark"})
    with pytest.raises(SetupError, match="names eve, of whom"):
        picture_sets.read_people(tmp_path)
    with pytest.raises(SetupError, match="holds no photos"):
        picture_sets.read_people(tmp_path / "elsewhere")


def test_three_ways_to_lay_out_the_same_pictures(tmp_path):
    folders, table, batch = (tmp_path / name for name in ("folders", "table", "batch"))
    put(folders / "ann" / "h-01" / "0.png"), put(folders / "ann" / "a photo of {subject}" / "0.png")
    write_csv(folders / "prompts.csv", {"id": "h-01", "text": "{subject} at sea"})
    for folder in (table, batch):
        put(folder / "x" / "1.png"), put(folder / "x" / "2.png")
    write_csv(
        table / "pictures.csv",
        {"file": "x/1.png", "person": "ann", "prompt": "a photo of {subject}", "seed": "0", "pose": "front"},
        {"file": "x/2.png", "person": "ann", "prompt": "{subject} at sea", "seed": "0", "pose": "side"},
    )
    at_sea = {"photos": "people/ann/7.jpg", "prompts": "{subject} at sea"}
    cells = [
        {"key": "a", "cell": {"photo": "ann.jpg", "Prompt": "a photo of {subject}"}, "files": ["x/1.png"], "seed": 0},
        {"key": "b", "cell": {"photo": "people/ann/7.jpg"}, "error": "no face"},
        {"key": "b", "cell": at_sea, "files": ["x/2.png", "x/2.json"], "seed": 0},
    ]
    (batch / "manifest.jsonl").write_text("\n".join(json.dumps(cell) for cell in cells))
    photos = tmp_path / "photos"
    put(photos / "ann" / "ann.jpg")
    people = picture_sets.read_people(photos)
    seen = []
    for folder in (folders, table, batch):
        groups = picture_sets.match(picture_sets.read_pictures(folder), people, folder)
        assert list(groups) == ["ann"]
        seen.append(sorted((picture.prompt, picture.seed) for picture in groups["ann"]))
    assert seen[0] == seen[1] == seen[2] == [("a photo of {subject}", "0"), ("{subject} at sea", "0")]
    assert picture_sets.read_pictures(table)[1].labels == {"pose": "side"}


def test_what_lacks_is_named(tmp_path):
    with pytest.raises(SetupError, match="holds no pictures of people"):
        picture_sets.read_pictures(tmp_path)
    write_csv(tmp_path / "pictures.csv", {"file": "x.png", "person": "ann", "prompt": "p"})
    with pytest.raises(SetupError, match="x.png is not there"):
        picture_sets.read_pictures(tmp_path)
    write_csv(tmp_path / "pictures.csv", {"file": "x.png", "person": "", "prompt": "p"})
    with pytest.raises(SetupError, match="a line without person"):
        picture_sets.read_pictures(tmp_path)
    with pytest.raises(SetupError, match="pictures of eve, of whom there are no photos"):
        picture_sets.match([Picture(tmp_path / "x.png", "eve", "p")], {"ann": Person("ann", [])}, tmp_path)


def test_pictures_of_every_kind_are_read_as_they_look(tmp_path):
    grey = picture_sets.read_image(put(tmp_path / "grey.png", 128, "L"))
    alpha = picture_sets.read_image(put(tmp_path / "alpha.png", 128, "RGBA"))
    Image.fromarray(np.full((6, 8), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    deep = picture_sets.read_image(tmp_path / "deep.png")
    for image in (grey, alpha, deep):
        assert image.shape == (6, 8, 3)
        torch.testing.assert_close(image, torch.full((6, 8, 3), 128 / 255))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(SetupError, match="broken.png cannot be read as a picture"):
        picture_sets.read_image(tmp_path / "broken.png")


def test_prompts_are_scored_with_class_words_and_the_protocols_ending():
    woman = Person("ann", [], "a woman")
    assert evaluate.make_text("{face} at sea", woman, "") == "a woman at sea"
    assert evaluate.make_text("{subject} at sea", woman, "front face") == "a woman at sea, front face"
    assert evaluate.make_text("{subject}, front face", woman, "front face") == "a woman, front face"


def test_the_command_line_knows_the_protocols(root, capsys):
    spec = importlib.util.spec_from_file_location("likeness_command", root / "likeness.py")
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    assert set(command.PROTOCOLS) == set(PROTOCOLS)
    assert evaluate.main(["facea", "--list-prompts", "{face}"], None) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 25 and all("{face}" in line and "front face" in line for line in lines)
    assert len(evaluate.list_prompts(PROTOCOLS["face2diffusion"], "x")) == 40
    with pytest.raises(SystemExit):
        evaluate.parse(["facea"])
    with pytest.raises(SystemExit):
        evaluate.parse(["facea", "--photos", "p", "--pictures", "a/x", "--pictures", "b/x"])
    assert "two --pictures have one name" in capsys.readouterr().err


def test_a_copy_of_a_photo_it_was_drawn_from_is_refused(tmp_path):
    held_out = Person("ann", [put(tmp_path / "held_out" / "1.png", 10), put(tmp_path / "held_out" / "2.png", 20)])
    put(tmp_path / "drawn_from" / "sub" / "x.png", 30)
    evaluate.refuse_copies({"ann": held_out}, tmp_path / "drawn_from")
    put(tmp_path / "drawn_from" / "y.png", 20)
    with pytest.raises(SetupError, match="2.png is one of the photos that the pictures were made from"):
        evaluate.refuse_copies({"ann": held_out}, tmp_path / "drawn_from")


# What is scored


def test_directions_start_at_the_plain_prompts_picture_of_the_same_seed():
    jobs = [Job(None, text, seed) for seed in "01" for text in ("plain", "at sea")]
    vectors = torch.eye(4)
    words, plain = torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 2), torch.tensor([[1.0, 0.0]])
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "directional_similarity", lambda *arguments: seen.append(arguments) or torch.ones(4))
        scores = evaluation._compare_directions(vectors, words, jobs, plain, "plain")
    assert seen[0][1].argmax(dim=1).tolist() == [0, 0, 2, 2]
    assert scores.isnan().tolist() == [True, False, True, False]
    assert evaluation._compare_directions(vectors, words, jobs, plain, "another") is None


# What the report says


def method(identity: list[float], text: list[float], prompts=None) -> tuple[list[Picture], dict[str, torch.Tensor]]:
    prompts = prompts or ["p"] * len(identity)
    pictures = [Picture(None, "", prompt, str(seed)) for seed, prompt in enumerate(prompts)]
    scores = {"identity sface": torch.tensor(identity), "text clip l14": torch.tensor(text)}
    return pictures, scores | {"photos": torch.nn.functional.normalize(torch.rand(2, 4), dim=1)}


def test_identities_count_0_without_a_face_and_are_given_apart():
    rows = evaluation_report.gather({"ann": method([0.6, NAN], [0.2, 0.4])})
    figures = evaluation_report.measure(rows, None)
    assert figures["identity sface"]["mean"] == pytest.approx(0.3)
    assert (figures["identity sface"]["found"], figures["identity sface"]["without"]) == (pytest.approx(0.6), 1)
    assert figures["text clip l14"]["mean"] == pytest.approx(0.3) and "found" not in figures["text clip l14"]


def test_prompts_are_counted_by_person():
    """Whose prompts name a man and a woman have no more of them."""
    ann, bob = (method([0.5] * 4, [0.2] * 4, prompts=["p", "p", words, words]) for words in ("a woman", "a man"))
    people = {name: Person(name, [None] * 3) for name in ("ann", "bob")}
    lines = evaluation_report._counts({"FACT": evaluation_report.gather({"ann": ann, "bob": bob})}, people)
    assert "| FACT | 2 | 2 | 2 | 8 |" in lines and "Photos compared with: 3 a person, 3 at most." in lines


def test_seeds_and_sets_of_pictures():
    pictures, scores = method([0.4, 0.6, 0.2, 0.4], [0.2] * 4, prompts=["p", "p", "q", "q"])
    features = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    rows = evaluation_report.gather({"ann": (pictures, scores | {"inception": features})})
    figures = evaluation_report.measure(rows, features + 2)
    assert figures["identity sface"]["seeds"] == pytest.approx(0.2 / 2**0.5), "means .3 and .5"
    assert figures["FID"] == pytest.approx(12, abs=1e-4) and figures["real"] == 4
    text = "\n".join(evaluation_report._means({"FACT": figures}))
    assert "| FID | 12.00 (n = 4) |" in text and "seeds ± 0.14" in text


def test_the_plain_prompts_own_pictures_are_left_out():
    pictures, scores = method([0.6, 0.2], [0.2, 0.4], prompts=["plain", "p"])
    rows = evaluation_report.gather({"ann": (pictures, scores | {"dCLIP l14": torch.tensor([NAN, 0.3])})})
    assert len(rows.pictures) == 1 and rows.scores["identity sface"].tolist() == pytest.approx([0.2])
    assert list(rows.scores) == ["identity sface", "text clip l14", "dCLIP l14"]


def test_a_protocols_columns_find_ours():
    row = {"identity sface": 0, "identity facenet": 0, "text clip b32": 0, "text clip l14": 0, "hMean": 0}
    found = [evaluation_report._find(ours, row) for ours in PROTOCOLS["face2diffusion"].columns.values()]
    assert found == [None, None, "identity facenet", "text clip l14", None, None, "hMean", None]
    assert evaluation_report._find(PROTOCOLS["fact-t2i"].columns["Face Sim"], row) == "identity sface"
    for protocol in PROTOCOLS.values():
        assert all(len(row) == 1 + len(protocol.columns) for row in protocol.printed)


def test_the_group_that_is_served_worst():
    """Twelve people in each of two groups; the second has .2 less, whatever is drawn."""
    people, groups = {}, {}
    noise = torch.rand(24, generator=torch.Generator().manual_seed(0)) / 10
    for number in range(24):
        name, glasses = f"p{number}", "yes" if number % 2 else "no"
        people[name] = Person(name, [], labels={"glasses": glasses})
        value = 0.6 + float(noise[number]) - 0.2 * (number % 2)
        groups[name] = method([value, value], [0.3, 0.3])
    rows = evaluation_report.gather(groups)
    figures = evaluation_report.compare_groups(rows, groups, people)["glasses"]
    assert figures["yes"]["gap"]["high"] < 0 and figures["yes"]["chance"] < 0.001 and "gap" not in figures["no"]
    text = "\n".join(evaluation_report._groups({"FACT": {"glasses": figures}}))
    assert "**claimed**" in text and "### FACT, by glasses" in text


def test_two_methods_differ_on_the_cells_that_both_have():
    base = evaluation_report.gather({"ann": method([0.2, 0.4], [0.2, 0.2], prompts=["p", "q"])})
    other = evaluation_report.gather({
        "ann": method([0.5, 0.6], [0.2, 0.2], prompts=["p", "r"]), "bob": method([0.9], [0.9])
    })  # fmt: skip
    difference = evaluation_report._subtract(other, base, "identity sface")
    assert difference["mean"] == pytest.approx(0.3) and difference["people"] == 1


# The whole


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Photos of three drawn people and, as pictures, other renders of them, two of each of two prompts."""
    folder = tmp_path_factory.mktemp("drawn")
    for number in (5, 6, 7):
        photos, _ = render_photos(number, 6)
        for index, photo in enumerate(photos):
            image = Image.fromarray((photo * 255).round().byte().numpy())
            place = ("photos", str(number)) if index < 2 else ("pictures", str(number), f"{{subject}} {index % 2}")
            path = folder.joinpath(*place, f"{index // 2}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    write_csv(folder / "photos" / "people.csv", *({"person": str(n), "odd": str(n % 2)} for n in (5, 6, 7)))
    return folder


def run(folder, *more) -> SimpleNamespace:
    options = evaluate.parse(
        ["face2diffusion", "--photos", f"{folder / 'photos'}", "--pictures", f"renders={folder / 'pictures'}",
         "--miniature", *more]
    )  # fmt: skip
    printed = evaluate.run(options)
    return SimpleNamespace(
        printed=printed, out=options.out, report=json.loads((options.out / "report.json").read_text())
    )


@pytest.mark.slow
def test_pictures_are_scored_once_and_reported(drawn, capsys):
    first = run(drawn)
    figures = first.report["methods"]["renders"]
    assert figures["pictures"] == 12 and figures["people"] == 3
    assert figures["identity arcface"]["mean"] > 0.6, "they are the people themselves"
    assert "| Face2Diffusion | 0.3143 |" in first.printed and "**renders**, here" in first.printed
    text = (first.out / "report.md").read_text()
    assert "by odd" in text and "N = 2" in text and (first.out / "sheet.jpg").is_file()
    rows = list(csv.DictReader((first.out / "scores.csv").open()))
    assert len(rows) == 12 and {row["person"] for row in rows} == {"5", "6", "7"}
    assert capsys.readouterr().out.count(" of 3 people)") == 3
    again = run(drawn)
    assert "people)" not in capsys.readouterr().out and again.report == first.report, "all of it was kept"
    kept = sorted((first.out / "scores").iterdir())
    kept[0].write_bytes(kept[0].read_bytes()[:50])  # of a disk that was full
    (drawn / "pictures" / "6" / "{subject} 0" / "1.png").touch()
    assert run(drawn).report == first.report and capsys.readouterr().out.count("people)") in (1, 2)


@pytest.mark.slow
def test_fid_by_the_published_inception(drawn, base, tmp_path, monkeypatch):
    """FID's network as pytorch-fid publishes it, found in its folder, with drawn weights."""
    case = Case("metric_inception_fid")
    gain = float(case.metadata["conv_gain"])  # without it such weights forget what they see
    folder = tmp_path / "models"
    folder.mkdir()
    file = folder / "pt_inception-2015-12-05-6726825d.pth"
    torch.save({name: value * gain if value.ndim > 1 else value for name, value in case.weights().items()}, file)
    folders.register()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "image_metrics", ([str(folder)], {".pth"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(detectors, "load", lambda label: MiniatureFinder(0.5))
    recogniser = base_model.weight_file(base_model.WEIGHTS, NETWORKS["arcface"])
    command = ["stress", "--photos", f"{drawn / 'photos'}", "--pictures", f"{drawn / 'pictures'}",
               "--recogniser", f"{recogniser}", "--detector", "drawn", "--out", f"{tmp_path / 'out'}"]  # fmt: skip
    printed = evaluate.run(evaluate.parse(command))
    figures = json.loads((tmp_path / "out" / "report.json").read_text())["methods"]["pictures"]
    scores = sorted((tmp_path / "out" / "scores").glob("pictures_*"))
    parts = [torch.cat([load_file(path)["inception"] for path in scores])]
    parts.append(load_file(tmp_path / "out" / "scores" / "real.safetensors")["features"])
    pixels = np.asarray(Image.open(drawn / "photos" / "5" / "0.png"))
    with torch.inference_mode():
        first = load_image_network(file).patcher.model(torch.tensor(pixels).movedim(-1, 0)[None] / 255)
    torch.testing.assert_close(parts[1][:1], first, atol=1e-4, rtol=0)
    means = [rows.double().numpy().mean(axis=0) for rows in parts]
    roots = [(rows.double().numpy() - mean) / (len(rows) - 1) ** 0.5 for rows, mean in zip(parts, means)]
    cross = np.linalg.eigvalsh(roots[0] @ roots[1].T @ roots[1] @ roots[0].T).clip(0) ** 0.5  # of root.T @ root each
    expected = ((means[0] - means[1]) ** 2).sum() + sum((root**2).sum() for root in roots) - 2 * cross.sum()
    assert figures["FID"] == pytest.approx(expected, rel=1e-4) and figures["real"] == 3
    assert f"| FID | {expected:.2f}"[:-1] in printed and figures["FID, endless"] is not None
    assert "pt_inception-2015-12-05" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow
def test_photos_without_a_face_are_named(tmp_path):
    put(tmp_path / "photos" / "ann.png"), put(tmp_path / "pictures" / "ann" / "p" / "1.png")
    with pytest.raises(SetupError, match=r"ann, .*photos: evaluate: none of the 1 photos shows a face"):
        run(tmp_path)


@pytest.mark.slow
def test_templates_are_what_expressions_are_compared_with(drawn, tmp_path):
    """A picture that is its own template is 0 away from it; a template without a face is an error."""
    picture = drawn / "pictures" / "5" / "{subject} 0" / "1.png"
    blank = put(tmp_path / "blank.png")
    rows = [
        {"file": str(picture), "person": "5", "prompt": "p", "template": str(template)} for template in (picture, blank)
    ]
    for count, outcome in ((1, 0.0), (2, None)):
        folder = tmp_path / str(count)
        folder.mkdir()
        write_csv(folder / "pictures.csv", *rows[:count])
        arguments = ["fact-inpaint", "--photos", f"{drawn / 'photos'}", "--pictures", f"{folder}", "--miniature"]
        if outcome is None:
            with pytest.raises(SetupError, match="1 of 2 templates show no face"):
                evaluate.run(evaluate.parse(arguments))
        else:
            evaluate.run(evaluate.parse(arguments))
            figures = json.loads((folder / "evaluation" / "report.json").read_text())["methods"]["1"]
            assert figures["expression_l2"]["mean"] < 1e-4 < figures["shape_l2"]["mean"]


@pytest.mark.slow
def test_no_recogniser_is_said(drawn):
    options = evaluate.parse(["stress", "--photos", f"{drawn / 'photos'}", "--pictures", f"{drawn / 'pictures'}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "_find", lambda *arguments: [])
        with pytest.raises(SetupError, match="no recogniser to score with"):
            evaluate.load_judges(options)
