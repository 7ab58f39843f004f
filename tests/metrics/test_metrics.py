"""Scores of many pictures, against what can be counted or worked out by hand."""

from itertools import combinations
from math import cos, log, pi, sin, sqrt

import pytest
import torch
from likeness.metrics.differences import (
    change,
    class_diversity,
    image_diversity,
    pose,
    pose_diversity,
    vector_diversity,
)
from likeness.metrics.scores import geometric_mean, harmonic_mean
from likeness.metrics.similarity import (
    directional_similarity,
    identity_similarity,
    identity_summary,
    pair_cosines,
    reference_similarity,
    text_similarity,
)
from likeness.metrics.statistics import (
    _best_threshold,
    best_of_curve,
    chance_of_best,
    frechet_distance,
    separation,
    spread,
    verification_accuracy,
)
from torch.testing import assert_close

NAN = float("nan")
FACE = torch.tensor([[20.0, 30.0], [40.0, 30.0], [30.0, 45.0], [22.0, 50.0], [38.0, 50.0]])


def sample(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(degrees: float) -> list[float]:
    return [cos(degrees * pi / 180), sin(degrees * pi / 180)]


def turn(points: torch.Tensor, degrees: float) -> torch.Tensor:
    """Clockwise as seen in a picture, about its corner."""
    c, s = at(degrees)
    return points @ torch.tensor([[c, s], [-s, c]])


# Similarity


def test_identity_is_the_mean_cosine_to_the_persons_own_references():
    embeddings = torch.tensor([at(0), at(90), at(45)]) * torch.tensor([[1.0], [5.0], [0.1]])
    references = torch.tensor([[at(0), at(60)], [at(0), at(180)], [at(45), at(135)]]) * 3
    scores = identity_similarity(embeddings, references, torch.ones(3, dtype=torch.bool))
    assert_close(scores, torch.tensor([0.75, 0.0, 0.5]))


def test_one_persons_references_serve_all_images():
    scores = identity_similarity(torch.tensor([at(0), at(60)]), torch.tensor([[at(0)]]), torch.tensor([True, True]))
    assert_close(scores, torch.tensor([1.0, 0.5]))


def test_images_without_a_face_are_counted_apart():
    detected = torch.tensor([True, False, True, False])
    embeddings = torch.tensor([at(0), at(0), at(60), [NAN, NAN]])
    scores = identity_similarity(embeddings, torch.tensor([[at(0)]]), detected)
    assert scores.isnan().tolist() == [False, True, False, True]
    assert identity_summary(scores) == pytest.approx((0.75, 0.375, 2))


def test_the_summary_without_any_face():
    detected, everything, undetected = identity_summary(torch.tensor([NAN, NAN]))
    assert detected != detected and everything == 0 and undetected == 2


def test_every_pair_is_of_one_person_or_of_two():
    embeddings = torch.tensor([at(0), at(90), at(60), at(180)]) * torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    same, different = pair_cosines(embeddings, torch.tensor([7, 3, 7, 3]))
    assert_close(same, torch.tensor([0.5, 0.0]), atol=1e-6, rtol=0)  # 0-60, 90-180
    assert_close(different.sort().values, torch.tensor([-1.0, -0.5, 0.0, sqrt(0.75)]), atol=1e-6, rtol=0)


def test_text_similarity_is_a_cosine_to_each_or_to_one_prompt():
    images, prompts = torch.tensor([at(10), at(100)]) * 9, torch.tensor([at(70), at(100)])
    assert_close(text_similarity(images, prompts), torch.tensor([0.5, 1.0]))
    assert_close(text_similarity(images, prompts[1:]), torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)


def test_directional_similarity_by_hand():
    """Embeddings of length 1 in a plane: from 0 to 60 degrees is a step towards 120, from 10 to 110 one towards 150."""
    images, prompts = torch.tensor([at(60), at(60)]) * 3, torch.tensor([at(60), at(110)]) * 0.2
    scores = directional_similarity(images, torch.tensor([at(0)]) * 7, prompts, torch.tensor([at(0), at(10)]))
    assert_close(scores, torch.tensor([1.0, cos(pi / 6)]))


def test_directional_similarity_does_not_know_lengths():
    sets = [sample(3, 8), sample(3, 8, seed=1), sample(3, 8, seed=2), sample(1, 8, seed=3)]
    scores = directional_similarity(*sets)
    for i in range(4):
        longer = [part * 5 if i == j else part for j, part in enumerate(sets)]
        assert_close(directional_similarity(*longer), scores)
    assert scores.abs().min() > 0.01


def test_similarity_to_references_is_the_mean_over_all_of_them():
    scores = reference_similarity(torch.tensor([at(0), at(60)]) * 5, torch.tensor([at(60), at(90)]) * 0.3)
    assert_close(scores, torch.tensor([(0.5 + 0) / 2, (1 + sqrt(0.75)) / 2]))


@pytest.mark.parametrize("length", [1, 3.7])
def test_directional_similarity_of_no_step_is_0(length):
    images, prompts = sample(4, 8).float(), sample(4, 8, seed=1).float()
    assert directional_similarity(images * length, images, prompts, sample(4, 8, seed=2).float()).tolist() == [0] * 4
    assert directional_similarity(prompts, sample(4, 8, seed=2).float(), images * length, images).tolist() == [0] * 4


# Means of scores


def test_means_of_six_scores_for_each_image():
    scores = [torch.tensor([value, 0.5]) for value in (1.0, 0.5, 0.25, 0.25, 0.5, 1.0)]
    assert_close(harmonic_mean(*scores), torch.tensor([6 / 14, 0.5]))
    assert_close(geometric_mean(*scores), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("mean", [harmonic_mean, geometric_mean])
def test_a_score_of_nothing_spoils_the_mean(mean):
    scores = mean(torch.tensor([0.0, -0.0, -0.3, 0.4]), torch.tensor([0.0, 0.0, 0.9, 0.4]), torch.full((4,), 0.4))
    assert torch.equal(scores[:3], torch.zeros(3))
    assert_close(scores[3], torch.tensor(0.4))


# Differences of pictures


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_change_is_told_apart_by_the_face(kind):
    before, faces = torch.full((2, 4, 4, 3), 0.5), torch.zeros(2, 4, 4, dtype=kind)
    faces[0, :2, :2] = 1
    after = before.clone()
    after[0, :2, :2] += 0.3
    after[0, 3, :3, 1] -= 0.4
    outside, inside = change(before, after, faces)
    assert_close(inside[0], torch.tensor(0.3))
    assert_close(outside, torch.tensor([3 * 0.4 / (12 * 3), 0.0]))
    assert inside[1].isnan(), "the second has no face"


def test_change_of_a_soft_mask_weighs_each_pixel():
    after = torch.tensor([0.1, 0.5]).view(1, 1, 2, 1).expand(1, 1, 2, 3)
    outside, inside = change(torch.zeros(1, 1, 2, 3), after, torch.tensor([[[0.25, 0.75]]]))
    assert_close((float(outside), float(inside)), (0.2, 0.4))


@pytest.mark.parametrize(
    "classes, expected",
    [([2, 2, 2, 2], 0.0), ([0, 1, 2, 3], 1.0), ([0, 0, 3, 3], 0.5), ([0, 0, 0, 1], 0.5 * (2 - 0.75 * log(3, 2)))],
)
def test_class_diversity_is_normalised_entropy(classes, expected):
    assert_close(class_diversity(torch.tensor([classes, classes]), 4).tolist(), [expected, expected])


@pytest.mark.parametrize("classes, count", [([5, 1], 7), ([1, 0, 0, 1], 2)], ids=["few pictures", "few classes"])
def test_as_diverse_as_can_be(classes, count):
    assert_close(class_diversity(torch.tensor([classes, classes[:1] * len(classes)]), count).tolist(), [1.0, 0.0])


def test_vector_diversity_is_the_mean_distance_of_two():
    triangle = [[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]
    assert_close(vector_diversity(torch.tensor([triangle, [[1.0, 1.0]] * 3])), torch.tensor([4.0, 0.0]))


def test_vector_diversity_of_near_vectors_far_from_nothing():
    vectors = 1000 + torch.arange(40.0)[:, None].expand(40, 2) / 64
    exact = torch.pdist(vectors.double()).mean()
    assert_close(vector_diversity(vectors[None])[0].double(), exact, rtol=1e-6, atol=0)


def test_image_diversity_is_the_mean_difference_of_two():
    levels = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.2, 0.2]])
    images = levels[..., None, None, None].expand(2, 3, 4, 5, 3)
    assert_close(image_diversity(images), torch.tensor([2 / 3, 0.0]))


# Pose


def test_pose_of_an_upright_face():
    roll, yaw, position, scale = pose(FACE)
    assert roll == 0 and yaw == 0 and position.tolist() == [30.0, 41.0]
    assert_close(scale, torch.tensor(sqrt((221 + 221 + 16 + 145 + 145) / 5)))


def test_roll_scale_and_position_do_not_mix():
    upright, other = pose(FACE), pose(turn(FACE, 25) * 1.5 + torch.tensor([7.0, -3.0]))
    assert_close(other.roll, torch.tensor(25.0))
    assert_close(other.scale, 1.5 * upright.scale)
    assert_close(other.position, turn(upright.position, 25) * 1.5 + torch.tensor([7.0, -3.0]))
    assert abs(other.yaw) < 1e-6


@pytest.mark.parametrize("degrees", [0, 40, -70])
def test_yaw_is_where_the_nose_lies_along_the_eyes(degrees):
    looking = FACE.clone()
    looking[2, 0] += 5
    assert_close(pose(turn(looking, degrees)).yaw, torch.tensor(0.25))


def test_pose_diversity_is_one_standard_deviation_of_each():
    def people(*faces):
        return torch.stack([torch.stack(faces), torch.stack([FACE] * len(faces))])

    nose = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])[:, None] * torch.tensor([4.0, 0.0])
    rolled = pose_diversity(people(turn(FACE, -10), FACE, turn(FACE, 10)))
    looking = pose_diversity(people(FACE - nose, FACE, FACE + nose))
    moved = pose_diversity(people(FACE - torch.tensor([3.0, 4.0]), FACE, FACE + torch.tensor([3.0, 4.0])))
    scaled = pose_diversity(people(FACE * 0.9, FACE, FACE * 1.1))
    assert_close(rolled.roll, torch.tensor([10.0, 0.0]))
    assert_close(looking.yaw, torch.tensor([0.2, 0.0]))
    assert_close(moved.position, torch.tensor([5.0, 0.0]))
    assert_close(scaled.scale, torch.tensor([0.1 * float(pose(FACE).scale), 0.0]))
    assert moved.roll[0] == moved.yaw[0] == 0 and moved.scale[0] < 1e-5


# Statistics


def test_spread_over_seeds():
    values = torch.tensor([[0.1, 0.3], [0.3, 0.5], [0.5, 0.7]])
    assert spread(values) == pytest.approx((0.4, 0.2, 0.2 / sqrt(3)))


def test_spread_leaves_out_what_was_not_found():
    assert spread(torch.tensor([[0.2, NAN], [0.3, 0.5]])) == pytest.approx((0.3, sqrt(0.02), 0.1))


def test_one_seed_has_a_mean_and_no_spread():
    assert spread(torch.tensor([[0.2, 0.4]])) == pytest.approx((0.3, NAN, NAN), nan_ok=True)


@pytest.mark.parametrize(
    "same, different, expected",
    [([0.8, 0.9], [0.1, 0.2, 0.3], 1.0), ([0.1], [0.5, 0.6], 0.0), ([0.5], [0.5, 0.5], 0.5), ([0, 2], [1, 2], 0.375)],
)
def test_separation_is_the_share_of_pairs_in_order(same, different, expected):
    assert separation(torch.tensor(same, dtype=torch.float32), torch.tensor(different, dtype=torch.float32)) == expected


def test_separation_counts_what_all_pairs_say():
    same, different = sample(30).mul(2).round() + 1, sample(17, seed=1).mul(2).round()
    against = same[:, None] - different
    assert separation(same, different) == pytest.approx(float(((against > 0) + (against == 0) / 2).mean()))


@pytest.mark.parametrize("n, d", [(200, 6), (5, 40)], ids=["many pictures", "fewer than features"])
def test_frechet_distance_of_moved_and_scaled_sets(n, d):
    features, shift = sample(n, d), sample(d, seed=1)
    variance = float(features.var(dim=0).sum())
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features, features + shift) == pytest.approx(float(shift.square().sum()))
    centred = features - features.mean(dim=0)
    assert frechet_distance(centred, 3 * centred + shift) == pytest.approx(float(shift.square().sum()) + 4 * variance)


def test_frechet_distance_of_two_gaussians_in_different_directions():
    """C_1 = diag(4, 1), C_2 = diag(1, 9): 4 + 1 + 1 + 9 - 2 (2 + 3); without a common direction the sum."""
    cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) * sqrt(1.5)
    one, other = cross * torch.tensor([2.0, 1.0]), cross * torch.tensor([1.0, 3.0])
    assert frechet_distance(one, other) == pytest.approx(5)
    assert frechet_distance(one * torch.tensor([1.0, 0.0]), other * torch.tensor([0.0, 1.0])) == pytest.approx(4 + 9)


def test_frechet_distance_agrees_with_the_root_of_the_product():
    one, other = sample(60, 5) @ sample(5, 5, seed=1), sample(80, 5, seed=2) @ sample(5, 5, seed=3) + 1
    first, second = one.T.cov(), other.T.cov()
    root = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    expected = (one.mean(dim=0) - other.mean(dim=0)).square().sum() + first.trace() + second.trace() - 2 * root
    assert frechet_distance(one, other) == pytest.approx(float(expected))
    assert frechet_distance(other, one) == pytest.approx(float(expected))
    assert frechet_distance(one.float(), other.float()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("first, second", [((1, 4), (3, 4)), ((3, 4), (3, 5))])
def test_frechet_distance_says_what_it_needs(first, second):
    with pytest.raises(ValueError, match=r"at least two rows of the same width, but these are \[\d, 4\] and \[3, \d\]"):
        frechet_distance(torch.zeros(first), torch.zeros(second))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_chance_of_best_counts_all_subsets(n):
    scores = torch.stack([sample(6), sample(6, seed=1), torch.tensor([0.0, 0.2, 0.0, 0.2, 0.2, 0.0])])
    chances = torch.zeros(3, 6, dtype=torch.float64)
    subsets = list(combinations(range(6), n))
    for pair in range(3):
        for subset in subsets:
            chances[pair, max(subset, key=lambda i: (float(scores[pair, i]), -i))] += 1 / len(subsets)
    assert_close(chance_of_best(scores, n), chances)


def test_best_of_curve_of_permutations():
    """The best of n from 1..M is n (M + 1) / (n + 1) on average, whatever the order; another score follows it."""
    generator = torch.Generator().manual_seed(4)
    scores = torch.stack([torch.randperm(8, generator=generator) + 1.0 for _ in range(5)])
    expected = {n: n * 9 / (n + 1) for n in (1, 2, 4, 8)}
    assert best_of_curve(scores, scores) == pytest.approx(expected)
    assert best_of_curve(scores, 10 - scores) == pytest.approx({n: 10 - value for n, value in expected.items()})
    assert best_of_curve(scores, torch.full((5, 8), 0.7)) == pytest.approx(dict.fromkeys(expected, 0.7))


@pytest.mark.parametrize("images, sizes", [(1, [1]), (3, [1, 2]), (4, [1, 2, 4]), (7, [1, 2, 4])])
def test_best_of_curve_ends_with_what_there_is(images, sizes):
    assert list(best_of_curve(torch.rand(2, images), torch.rand(2, images))) == sizes


def test_what_cannot_be_ranked_is_refused():
    for n in (0, 5):
        with pytest.raises(ValueError, match=f"best of {n} cannot be taken of 4 pictures a pair: give n from 1 to 4"):
            chance_of_best(torch.zeros(2, 4), n)
    with pytest.raises(ValueError, match="1 of 4 scores are NaN"):
        best_of_curve(torch.tensor([[0.1, NAN], [0.2, 0.3]]), torch.zeros(2, 2))


def test_pairs_are_told_by_the_best_threshold_of_the_other_folds():
    scores = torch.tensor([0.9, 0.2, 0.8, 0.3, 0.56, 0.6])
    same, folds = torch.tensor([True, False] * 3), torch.tensor([0, 0, 1, 1, 2, 2])
    # Without the third fold the limit is (0.8 + 0.3) / 2; without another one, whose pairs are plain, one in between.
    assert verification_accuracy(scores, same, folds) == pytest.approx((1 + 1 + 0.5) / 3)
    assert verification_accuracy(-scores, ~same, folds) == pytest.approx((1 + 1 + 0.5) / 3)
    equal = torch.full((6,), 0.5)
    assert verification_accuracy(equal, same, folds) == 0.5, "what cannot be parted is not"


@pytest.mark.parametrize("seed", range(3))
def test_the_best_threshold_is_that_of_a_search(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(12, (30,), generator=generator) / 12.0
    same = torch.rand(30, generator=generator) < scores

    def right(threshold: float) -> int:
        return int(((scores >= threshold) == same).sum())

    assert right(_best_threshold(scores, same)) == max(right(limit / 24) for limit in range(-1, 26))
