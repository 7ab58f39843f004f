"""Scores of several people by several recognisers: one order, those who pass, and what is written of them."""

import csv
import io
import json

import pytest
import torch
from likeness.encoders.identity import FaceId
from likeness.metrics.histogram import compare_people, describe, draw_histogram, find_threshold
from likeness.metrics.ranking import join, rank
from likeness.metrics.scoring import Scored, group_images, merge

NAN = float("nan")
IDENTITY = {"identity": torch.tensor([0.6, NAN, 0.4, 0.8])}
TEXT = {"text": torch.tensor([0.3, 0.3, 0.2, 0.25])}


def test_the_best_few_and_those_that_reach_a_threshold():
    ranking = rank(IDENTITY, TEXT)
    assert ranking.order == [0, 3, 2, 1]
    assert ranking.best(2, -1.0) == [0, 3] and ranking.best(9, -1.0) == ranking.order, "faceless ones come last"
    assert ranking.best(9, 0.5) == [0, 3] and ranking.best(9, 0.9) == []
    assert ranking.best(9, -0.99) == [0, 3, 2], "any threshold asks for a face"
    assert ranking.accepted(0.6) == [True, False, False, True]


def test_both_people_must_be_in_a_picture():
    """Of the second person's scores the names meet those of the first."""
    first = rank(IDENTITY, TEXT, sources={"identity": "Ann", "text": "CLIP"})
    second = rank({"identity": torch.tensor([0.1, NAN, 0.4, 0.7])}, sources={"identity": "Bob"})
    both = join(first, second)
    assert list(both.scores) == ["identity x text", "identity", "identity 2", "text"]
    assert both.order == [3, 2, 0, 1] and both.sources == {"identity": "Ann", "text": "CLIP", "identity 2": "Bob"}
    torch.testing.assert_close(both.lowest_identity, torch.tensor([0.1, NAN, 0.4, 0.7]), equal_nan=True)
    assert both.accepted(0.4) == [False, False, True, True]
    expected = 3 / (1 / 0.8 + 1 / 0.7 + 1 / 0.25)
    assert both.scores["identity x text"][3] == pytest.approx(expected)
    three = join(both, second)
    assert list(three.scores) == ["identity x text", "identity", "identity 2", "identity 3", "text"]
    with pytest.raises(ValueError, match="scores before are of 4 pictures, these of 2: score the same"):
        join(first, rank({"identity": torch.zeros(2)}))


def test_several_recognisers_without_a_text():
    ranking = rank({"identity sface": torch.tensor([0.5, 0.9]), "identity facenet": torch.tensor([0.5, 0.2])})
    assert list(ranking.scores)[0] == "mean identity" and ranking.order == [0, 1]


def test_what_only_informs_decides_nothing():
    distance = {"expression_l2": torch.tensor([9.0, NAN, 1.0, 2.0])}
    assert rank(IDENTITY, TEXT, distance).order == rank(IDENTITY, TEXT).order
    assert list(join(rank(IDENTITY, None, distance), rank(IDENTITY)).scores)[-1] == "expression_l2"


def test_csv_and_json_hold_the_same():
    ranking = rank(IDENTITY, TEXT, sources={"identity": "by sface, '\u00e9'"})
    rows = list(csv.DictReader(io.StringIO(ranking.as_csv())))
    assert [row["rank"] for row in rows] == ["1", "4", "3", "2"] and rows[1]["identity"] == ""
    content = json.loads(ranking.as_json())
    assert content["pictures"] == ranking.as_rows() and content["sources"] == ranking.sources
    assert [float(row["text"]) for row in rows] == [row["text"] for row in content["pictures"]]


def test_scores_of_one_name_are_numbered():
    parts = [Scored({"text": torch.zeros(2)}, {"text": name}) for name in "ab"]
    assert merge([*parts, Scored({}, {})]).sources == {"text": "a", "text 2": "b"}


def test_pictures_of_one_size_are_a_batch():
    small, large = torch.rand(4, 4, 3), torch.rand(8, 4, 3)
    assert [batch.shape[0] for batch in group_images([small, small])] == [2]
    assert [tuple(batch.shape) for batch in group_images([small, large])] == [(1, 4, 4, 3), (1, 8, 4, 3)]


# Two people as a histogram


def person(*degrees: float) -> FaceId:
    angles = torch.tensor(degrees).deg2rad()
    vectors = torch.stack((angles.cos(), angles.sin()), dim=1)
    return FaceId("sface", "sface.onnx", "0", vectors[:, None], vectors, torch.zeros(len(degrees), 8, 8, 3), False)


def test_the_threshold_lies_in_the_middle_of_the_gap():
    assert find_threshold(torch.tensor([0.8, 0.9]), torch.tensor([0.1, 0.3])) == pytest.approx(0.55)
    overlapping = find_threshold(torch.tensor([0.9, 0.8, 0.2]), torch.tensor([0.1, 0.3, 0.0]))
    assert overlapping == pytest.approx(0.55), "one pair of one person is lost either way; none of two people is"


def test_two_people_apart():
    pairs = compare_people(person(0, 10, 20), person(80, 90))
    assert len(pairs.same) == 4 and len(pairs.different) == 6 and pairs.auc == 1
    assert max(pairs.different) < pairs.threshold < min(pairs.same)
    assert "puts 10 of 10 pairs right" in describe(pairs)
    picture = draw_histogram(pairs)
    blue = (picture[0] - torch.tensor([111, 168, 220]) / 255).abs().amax(dim=2) < 0.2
    columns = blue.any(dim=0).nonzero()
    assert picture.shape[2] == 760 and columns.max() > 690, "pairs of one person lie near 1"


def test_single_photos_have_no_threshold():
    pairs = compare_people(person(0), person(60))
    assert pairs.threshold is None and "give each person two or more" in describe(pairs)
    assert draw_histogram(pairs).shape[0] == 1
