"""Several identities made into one: the equations, what is kept bit for bit, and the photos that are dropped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from likeness.encoders.agreement import agreement
from likeness.encoders.combine import combine, interpolate, mean, median, outliers
from likeness.encoders.identity import FaceId, joined
from likeness.tests.support import tiny
from torch.nn.functional import normalize


def person(photos, who, wrong=(), noise=0.5) -> FaceId:
    """Photos of one person whose embeddings agree; those of `wrong` are of somebody else each."""
    generator = torch.Generator().manual_seed(who)
    embedding = torch.randn(1, 64, generator=generator) + noise * torch.randn(photos, 64, generator=generator)
    for photo in wrong:
        embedding[photo] = torch.randn(64, generator=generator)
    crops = torch.rand(photos, 8, 8, 3, generator=generator)
    return replace(tiny.face_id(photos, who), embedding=normalize(embedding, dim=1), crops=crops)


def same(first: FaceId, second: FaceId) -> bool:
    return all(torch.equal(getattr(first, part), getattr(second, part)) for part in ("features", "embedding", "crops"))


def test_concatenate_keeps_every_photo():
    a, b, c = (person(photos, who) for who, photos in enumerate((1, 2, 3)))
    whole, report = combine([a, b, c], "concatenate", 0.5, 0.3)
    assert same(whole, joined(joined(a, b), c)) and torch.equal(whole.features[3:], c.features)
    assert report == "6 photos side by side, of 3 identities."
    assert same(combine([b], "concatenate", 0.5, 0.3)[0], b)


@pytest.mark.parametrize("photos", [3, 4])
@pytest.mark.parametrize("method", ["mean", "median"])
def test_mean_and_median_are_one_photo(method, photos):
    a, b = person(photos - 1, 1), person(1, 2)
    one, report = combine([a, b], method, 0.5, 0.3)
    everything = joined(a, b)
    expected = everything.features.numpy()
    expected = expected.mean(axis=0) if method == "mean" else np.median(expected, axis=0)
    assert one.features.shape == (1, 9, 24) and torch.allclose(one.features[0], torch.from_numpy(expected), atol=1e-6)
    pooled = everything.embedding.double().quantile(0.5, dim=0)
    pooled = everything.embedding.double().mean(dim=0) if method == "mean" else pooled
    assert torch.allclose(one.embedding[0].double(), pooled / pooled.norm(), atol=1e-6)
    assert one.crops.shape == (1, 8, 8, 3) and report == f"The {method} of {photos} photos."


def test_the_median_leaves_a_wrong_photo_out_where_the_mean_does_not():
    right = person(4, 1, noise=0.01)
    wrong = replace(person(1, 2), features=right.features[:1] + 1000)
    features = torch.cat([right.features[:1]] * 4 + [wrong.features])
    five = replace(joined(right, wrong), features=features)
    assert torch.equal(median(five).features, right.features[:1])
    assert (mean(five).features - right.features[:1]).min() > 100


def test_one_photo_is_its_own_mean_and_median():
    one = person(1, 1)
    assert same(mean(one), one) and same(median(one), one)


@pytest.mark.parametrize("photos", [(1, 1), (2, 3)])
def test_interpolation_is_exact_at_its_ends_and_straight_between(photos):
    a, b = person(photos[0], 1), person(photos[1], 2)
    assert same(interpolate(a, b, 0.0), mean(a)) and same(interpolate(a, b, 1.0), mean(b))
    for slider in (0.25, 0.5, 0.9):
        between, _ = combine([a, b], "interpolate", slider, 0.3)
        expected = (1 - slider) * a.features.mean(dim=0) + slider * b.features.mean(dim=0)
        assert between.features.shape[0] == 1 and torch.allclose(between.features[0], expected, atol=1e-6)
        near_a, near_b = (float(between.embedding[0] @ mean(one).embedding[0]) for one in (a, b))
        assert (near_a > near_b) == (slider < 0.5) or slider == 0.5
        assert between.embedding.norm() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_interpolation_takes_two(count):
    with pytest.raises(ValueError, match=f"^Combine Identities: interpolate .* two must be connected, not {count}"):
        combine([person(1, who) for who in range(count)], "interpolate", 0.5, 0.3)


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_numbers_outside_their_range(value):
    with pytest.raises(ValueError, match="slider must lie between 0 and 1"):
        combine([person(1, 1), person(1, 2)], "interpolate", value, 0.3)
    with pytest.raises(ValueError, match="min_agreement is a cosine"):
        combine([person(3, 1)], "drop outliers", 0.5, value * 20)


def test_wrong_photos_are_dropped_worst_first_and_named():
    a, b = person(4, 1, wrong=(2,)), person(4, 1, wrong=(0,))
    kept, report = combine([a, b], "drop outliers", 0.5, 0.3)
    whole = joined(a, b)
    right = [0, 1, 3, 5, 6, 7]
    assert torch.equal(kept.features, whole.features[right]) and torch.equal(kept.embedding, whole.embedding[right])
    assert torch.equal(kept.crops, whole.crops[right])
    lines = report.splitlines()
    assert {line.split(":")[0] for line in lines[:2]} == {
        "Dropped photo 3 of identity 1",
        "Dropped photo 1 of identity 2",
    }
    assert all("with the others, 0.30 is asked." in line for line in lines[:2])
    assert lines[2:] == ["Kept 6 of 8 photos."]
    assert combine([a], "drop outliers", 0.5, 0.3)[1].startswith("Dropped photo 3: ")


def test_right_photos_that_a_wrong_one_pulls_down_stay():
    embedding = person(4, 1, wrong=(2,), noise=0.3).embedding
    right = [0, 1, 3]
    pulled_down, alone = agreement(embedding)[right], agreement(embedding[right])
    asked = float(pulled_down.max() + alone.min()) / 2
    assert pulled_down.max() < asked < alone.min(), "all four are below what is asked, until the wrong one is gone"
    assert [photo for photo, _ in outliers(embedding, asked)] == [2]


@pytest.mark.parametrize("photos", [1, 2])
def test_never_fewer_than_two_are_left(photos):
    strangers = person(photos, 1, wrong=range(photos))
    kept, report = combine([strangers], "drop outliers", 0.5, 1.0)
    assert same(kept, strangers) and "Dropped" not in report
    assert ("which of them is wrong cannot be told" in report) == (photos == 2)
    five, report = combine([person(5, 2, wrong=range(5))], "drop outliers", 0.5, 1.0)
    assert len(five.features) == 2 and report.count("Dropped") == 3 and "cannot be told" in report


@pytest.mark.parametrize("method", ["concatenate", "mean", "median", "drop outliers", "interpolate"])
def test_identities_of_two_encoders_do_not_mix(method):
    other = replace(person(1, 2), file="other.pt", sha256="1" * 64)
    with pytest.raises(ValueError, match="one was encoded by tiny_transface.pt .*the other by other.pt"):
        combine([person(1, 1), other], method, 0.0 if method == "interpolate" else 0.5, 0.3)


def test_two_shapes_under_one_name_are_refused():
    other = replace(person(1, 2), features=torch.zeros(1, 9, 25))
    with pytest.raises(ValueError, match=r"the features of a photo are \[9, 24\] in one and \[9, 25\] in the other"):
        combine([person(1, 1), other], "concatenate", 0.5, 0.3)


def test_the_result_is_masked_only_where_all_are():
    a, b = person(1, 1), replace(person(1, 2), masked=False)
    assert not combine([a, b], "mean", 0.5, 0.3)[0].masked and combine([a, a], "mean", 0.5, 0.3)[0].masked
