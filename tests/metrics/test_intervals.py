"""Intervals over people, and distances of sets, against what is known without computing."""

import pytest
import torch
from likeness.metrics.intervals import average_seeds, bootstrap, correct, draw_means, gap
from likeness.metrics.statistics import frechet_at_infinity, frechet_distance, kernel_distance

NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def names(prefix: str, *counts: int) -> list[str]:
    return [f"{prefix}{number}" for number, count in enumerate(counts) for _ in range(count)]


PEOPLE, PROMPTS = names("p", *[4] * 12), ["a", "a", "b", "b"] * 12


def test_seeds_are_averaged_first():
    cells = average_seeds(torch.tensor([1.0, 3.0, 5.0, NAN, 7.0]), ["x", "x", "x", "y", "y"], ["a", "a", "b", "a", "b"])
    assert cells[0].tolist() == [2, 5] and cells[1].isnan().tolist() == [True, False]
    assert bootstrap(cells).mean == pytest.approx((2 + 5 + 7) / 3)


def test_equal_scores_have_no_width():
    interval = bootstrap(average_seeds(torch.full((48,), 0.4), PEOPLE, PROMPTS))
    assert interval == pytest.approx((0.4, 0.4, 0.4, 12))


def test_what_differs_between_people_is_less_sure_than_what_differs_between_pictures():
    between_people = normal(12).repeat_interleave(4)
    between_pictures = between_people[torch.randperm(48, generator=torch.Generator().manual_seed(1))]
    widths = [
        interval.high - interval.low
        for values in (between_people, between_pictures)
        for interval in [bootstrap(average_seeds(values, PEOPLE, PROMPTS))]
    ]
    assert widths[0] > 1.5 * widths[1]


def test_a_constant_shift_is_a_point():
    """Two methods on the same cells: the difference of each cell is what is resampled."""
    values = normal(48)
    assert bootstrap(average_seeds((values + 0.25) - values, PEOPLE, PROMPTS)) == pytest.approx((0.25, 0.25, 0.25, 12))


def test_prompts_may_be_drawn_too():
    by_prompt = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(12)
    cells = average_seeds(by_prompt, PEOPLE, PROMPTS)
    assert bootstrap(cells)[:3] == pytest.approx((0.5, 0.5, 0.5))
    assert bootstrap(cells, over_prompts=True)[1:3] == pytest.approx((0, 1))


def test_the_interval_holds_the_mean_of_all_people_nineteen_times_in_twenty():
    hits = 0
    for trial in range(100):
        interval = bootstrap(average_seeds(normal(40, seed=trial), names("p", *[1] * 40), ["a"] * 40))
        hits += interval.low <= 0 <= interval.high
    assert 88 <= hits <= 99


def test_of_few_people_the_range_is_given():
    interval = bootstrap(average_seeds(torch.tensor([0.1, 0.3, 0.8]), ["x", "x", "y"], ["a", "b", "a"]))
    assert interval.is_range and interval[1:] == pytest.approx((0.2, 0.8, 2))
    nothing = bootstrap(average_seeds(torch.tensor([NAN]), ["x"], ["a"]))
    assert nothing.mean != nothing.mean and nothing.people == 0


def test_the_same_people_are_drawn_for_every_method():
    cells = average_seeds(normal(48), PEOPLE, PROMPTS)
    assert torch.equal(draw_means(cells), draw_means(cells))


def test_groups_apart_and_groups_alike():
    one, other = (average_seeds(normal(48, seed=seed), PEOPLE, PROMPTS) for seed in (1, 2))
    interval, chance = gap(one, other)
    assert interval.low < 0 < interval.high and chance > 0.05
    far = average_seeds(normal(48, seed=2) + 9, PEOPLE, PROMPTS)
    interval, chance = gap(one, far)
    assert interval.high < 0 and chance == pytest.approx(2 / 10_000)
    together, _ = gap(one + 0.25, one, of_same_people=True)
    assert together == pytest.approx((0.25, 0.25, 0.25, 12)), "of the same people each one's own difference counts"


def test_holms_correction():
    assert correct([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert correct([0.9, 0.8]) == [1.0, 1.0] and correct([]) == []


# Distances of sets


def test_kid_of_single_numbers_by_hand():
    """Kernel (xy + 1)^3 of {0, 1} and {0, 2}: within 1, 1; between 1, 1, 1, 27."""
    first, second = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    assert kernel_distance(first, second, subsets=1).mean == pytest.approx((1 + 1 - 2 * 30 / 4) * 1000)


def test_kid_does_not_grow_where_there_are_few():
    many = normal(2000, 8)
    few = kernel_distance(normal(40, 8, seed=1), many)
    assert abs(few.mean) < 4 * few.deviation
    assert kernel_distance(normal(200, 8, seed=1) + 1, many).mean > 300


def test_fid_at_infinity_takes_most_of_the_bias_away():
    many = normal(4000, 16)
    few = normal(100, 16, seed=3)
    assert abs(frechet_at_infinity(few, many)) < frechet_distance(few, many) / 3
    shifted = few + 1
    assert frechet_at_infinity(shifted, many) == pytest.approx(16, rel=0.2)


def test_too_few_rows_for_kid():
    with pytest.raises(ValueError, match="at least two rows of the same width"):
        kernel_distance(normal(1, 3), normal(5, 3))
