"""The miniature's report: what is measured of whom, the verdicts, and a small evaluation from end to end."""

import json
import math

import numpy as np
import pytest
import torch
from likeness.launcher import picture_sets
from likeness.miniature.evaluation import command, export, measure, prompts, report
from likeness.miniature.evaluation.claims import TOO_NEAR, Claim, verdict
from likeness.miniature.evaluation.instruments import WEIGHTS, noise
from likeness.miniature.evaluation.methods import AGAIN, METHODS, ROWS, SHORT_F2D
from likeness.miniature.evaluation.people import hold_out
from likeness.miniature.evaluation.report import MINIATURE
from likeness.miniature.recipes import facea
from likeness.miniature.world import captions
from likeness.miniature.world.people import SPLITS
from PIL import Image

ROW = {
    "identity": 0.5, "identity_deviation": 0.01, "undetected": 0.1, "text": 0.6, "text_deviation": 0.02,
    "direction": 0.3, "harmonic": 0.55, "background": 0.04, "expression_diversity": 0.5, "pose_diversity": 3.0,
    "distance": 0.2, "best_of": {"1": 0.5, "2": 0.6},
}  # fmt: skip
LIMITS = {"same": 0.8, "different": 0.01, "auc": 0.999, "text": 0.7}


def test_held_out_people_are_strangers_with_one_reference_and_four_others():
    people = hold_out(3)
    assert all(held.subject.number in SPLITS["test"] for held in people)
    assert people[0].reference.images.shape == (1, 96, 96, 3) and people[0].others.images.shape == (4, 96, 96, 3)
    assert not (people[0].reference.images == people[0].others.images[:1]).all()


@pytest.mark.parametrize("text", [*prompts.PHOTOS, *prompts.STYLES])
def test_prompts_are_of_the_worlds_language(text):
    captions.parse(text.format(who="a woman"))


def test_every_person_has_prompts_and_over_people_all_come_in_turn():
    asked = [text for number in range(6) for text in prompts.of_person(number, prompts.PHOTOS, 2)]
    assert sorted(asked) == sorted(prompts.PHOTOS)


def test_pictures_and_photos_as_files_are_what_the_other_evaluation_reads(tmp_path):
    people, plan = hold_out(2), measure.Plan(people=2, prompts=2, seeds=2)
    texts = [text for number in range(2) for text in prompts.of_person(number, prompts.PHOTOS, 2)]
    images = torch.arange(2 * 4 * 4 * 4 * 3, dtype=torch.uint8).reshape(2, 4, 4, 4, 3)
    export.write_people(tmp_path, people)
    export.write_pictures(tmp_path / "FACT", people, measure.SampledImages(images, texts), plan)
    known = picture_sets.read_people(tmp_path / "photos")
    pictures = picture_sets.read_pictures(tmp_path / "FACT")
    groups = picture_sets.match(pictures, known, tmp_path)
    assert [len(own) for own in groups.values()] == [4, 4] and [len(one.photos) for one in known.values()] == [4, 4]
    assert {one.class_words for one in known.values()} <= {"a man", "a woman"}
    assert {*known[pictures[0].person].labels} == {"skin", "woman", "hair", "beard"}
    last = pictures[-1]
    assert last.prompt == texts[3].format(who="{subject}") and last.seed == "1" and {*last.labels} == {"glasses", "hat"}
    torch.testing.assert_close(picture_sets.read_image(last.file) * 255, images[1, 3].float())


def test_noise_is_each_pictures_own_and_the_same_in_every_batch():
    together = noise([(0, 0, 0), (0, 0, 1), (1, 0, 0)], 8)
    assert torch.equal(together[2:], noise([(1, 0, 0)], 8))
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("other", "deviation", "less", "expected"),
    [
        (0.4, 0.01, False, "reproduced"),
        (0.6, 0.01, False, "not reproduced"),
        (0.49, 0.01, False, "no difference"),
        (0.6, 0.01, True, "reproduced"),
        (0.6, 0.06, True, "no difference"),
        (0.4, math.nan, False, "no difference"),
    ],
)
def test_a_verdict_needs_more_than_twice_the_seeds_deviation(other, deviation, less, expected):
    rows = {"a": ROW, "b": ROW | {"identity": other, "identity_deviation": deviation}}
    measured, told = verdict(Claim("", "a", "b", "identity", less), rows)
    assert told == expected and f"0.500 against {other:.3f}" in measured


@pytest.mark.parametrize("worse", ["reconstruction", "reconstruction with DSC"])
def test_rows_that_were_trained_apart_must_differ_by_more_than_two_trainings_do(worse):
    rows = {SHORT_F2D: ROW, worse: ROW | {"identity": 0.4}}
    claim = Claim("", SHORT_F2D, worse, "identity")
    assert verdict(claim, rows)[1] == "reproduced"
    assert verdict(claim, rows | {AGAIN: ROW | {"identity": 0.42}})[1] == "no difference"


def test_rows_of_one_training_differ_by_their_seeds_alone():
    rows = {"Infinite-ID": ROW, "mutual attention": ROW | {"identity": 0.4}}
    rows |= {SHORT_F2D: ROW, AGAIN: ROW | {"identity": 0.42}}
    assert verdict(Claim("", "Infinite-ID", "mutual attention", "identity"), rows)[1] == "reproduced"


@pytest.mark.parametrize(
    ("other", "deviation", "expected"),
    [(0.47, 0.014, TOO_NEAR), (0.473, 0.014, TOO_NEAR), (0.477, 0.014, "no difference"), (0.465, 0.014, "reproduced")],
)
def test_digits_that_a_row_was_not_kept_with_give_no_verdict(other, deviation, expected):
    rows = {"a": ROW | {"digits": 3}, "b": ROW | {"digits": 3, "identity": other, "identity_deviation": deviation}}
    assert verdict(Claim("", "a", "b", "identity"), rows)[1] == expected


def test_rows_without_all_digits_say_so():
    rows = json.loads((MINIATURE / "report" / "numbers.json").read_text())
    for row in rows.values():
        scores = [value for name, value in row.items() if isinstance(value, float) and not math.isnan(value)]
        assert row.get("digits") == (3 if all(round(value, 3) == value for value in scores) else None)


def test_goals_tell_settings_that_are_not_the_papers(tmp_path):
    (tmp_path / "limits.json").write_text(json.dumps(LIMITS))
    for name in ("base", "FACT"):
        (tmp_path / f"{report.file_name(name)}.json").write_text(json.dumps({"name": name, **ROW}))
    goals = report.write(tmp_path, tmp_path / "out").read_text().split("## Goals")[1]
    assert goals.count("| L_FAIR counts 0.002, not 0.01; ") == 2


def test_what_was_not_measured_is_said():
    assert verdict(Claim("", "a", "b", "identity"), {"a": ROW}) == ("", "not measured")


def test_a_report_has_every_row_and_survives_missing_ones(tmp_path):
    (tmp_path / "limits.json").write_text(json.dumps(LIMITS))
    for name in ("base", "FACT"):
        (tmp_path / f"{report.file_name(name)}.json").write_text(json.dumps({"name": name, **ROW}))
    text = report.write(tmp_path, tmp_path / "out").read_text()
    assert "| FACT | 0.500 ± 0.010 | 62% | 10.0% | 0.600 ± 0.020 |" in text
    assert "Face2Diffusion |" not in text and "not measured" in text and "N = 2" in text
    assert "which was trained only once" in text
    for plot in ("scores", "orderings"):
        assert f"](report/{plot}.png)" in text
        assert np.ptp(Image.open(tmp_path / "out" / "report" / f"{plot}.png").convert("L")) > 150


def test_what_is_not_measured_again_stays_as_in_the_last_report(tmp_path):
    (tmp_path / "limits.json").write_text(json.dumps(LIMITS))
    base, fact = (tmp_path / f"{name}.json" for name in ("base", "FACT"))
    base.write_text(json.dumps(ROW))
    fact.write_text(json.dumps(ROW | {"background": math.nan}))
    drawn = {"pictures": torch.zeros(2, 8, 96, 96, 3, dtype=torch.uint8), "plan": [8, 1, 2]}
    torch.save(drawn, tmp_path / "FACT.pt")
    first = report.write(tmp_path, tmp_path / "out").read_text()
    assert "![FACT](report/FACT.jpg)" in first and (tmp_path / "out" / "report" / "FACT.jpg").is_file()
    for path in (fact, tmp_path / "FACT.pt"):
        path.unlink()
    assert report.write(tmp_path, tmp_path / "out").read_text() == first
    base.write_text(json.dumps(ROW | {"text": 0.3}))
    again = report.write(tmp_path, tmp_path / "out").read_text()
    assert "| base | 0.500 ± 0.010 | 62% | 10.0% | 0.300 ± 0.020 |" in again and "| FACT | 0.500 ± 0.010 |" in again


def test_a_report_tells_how_far_two_trainings_differ(tmp_path):
    (tmp_path / "limits.json").write_text(json.dumps(LIMITS))
    for name, identity in ((SHORT_F2D, 0.5), (AGAIN, 0.52)):
        (tmp_path / f"{report.file_name(name)}.json").write_text(json.dumps({**ROW, "identity": identity}))
    assert "the second with another seed: identity 0.014, text 0.000" in report.write(tmp_path, tmp_path).read_text()


def test_rows_have_names_of_their_own():
    assert len({report.file_name(name) for name in ROWS}) == len(ROWS) and len(METHODS) < len(ROWS)


def test_facea_goes_on_after_the_last_person_that_was_learned(tmp_path, monkeypatch):
    plan, learned = measure.Plan(4, 2, 1), []

    def repainted(world, name, held, drawn):
        learned.append(held)
        return measure.SampledImages(drawn.images + 1, drawn.texts)

    monkeypatch.setattr(command, "OUTPUT", tmp_path)
    monkeypatch.setattr(command.facea, "repaint", repainted)
    base = measure.SampledImages(torch.arange(8).view(1, 8, 1, 1, 1), [f"prompt {number}" for number in range(8)])
    for people in ("AB", "ABCD", "ABC"):
        drawn = command._repaint_people(None, "FaceA", people, base, plan)
        assert drawn.images.flatten().tolist() == list(range(1, 2 * len(people) + 1))
        assert drawn.texts == base.texts[: 2 * len(people)]
    assert learned == ["A", "B", "C", "D"]
    command._repaint_people(None, "FaceA", "AB", base, measure.Plan(4, 1, 1))
    assert learned == ["A", "B", "C", "D", "A", "B"]


@pytest.mark.slow
def test_the_shipped_weights_are_measured_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "OUTPUT", tmp_path)
    monkeypatch.setattr(report, "MINIATURE", tmp_path)
    monkeypatch.setitem(facea.SETTINGS, "steps", 2)
    few = ["--people", "3", "--prompts", "1", "--seeds", "2", "--facea", "2", "--no-report"]
    for name in ("base", "FACT", "Face2Diffusion", "Infinite-ID"):
        few += ["--only", name]
    assert command.main(few) == 0
    rows = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert rows["base"]["text"] > 0.3 and rows["limits"]["auc"] > 0.95
    assert rows["FACT"]["identity_all"] > rows["base"]["identity_all"]
    assert rows["FaceA"]["undetected"] < 1 and rows["FaceA"]["background"] > 0
    assert rows["base__of_FaceA_s_people"]["identity"] != rows["base"]["identity"]
    again = torch.load(tmp_path / "FACT.pt", weights_only=True)["pictures"]
    (tmp_path / "FACT.pt").unlink()
    assert command.main(few) == 0
    assert torch.equal(again, torch.load(tmp_path / "FACT.pt", weights_only=True)["pictures"])
    assert WEIGHTS.is_dir() and measure.Plan().people >= 100
