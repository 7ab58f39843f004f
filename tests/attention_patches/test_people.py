"""The regions of several people's prompts, as the host's conditioning."""

import pytest
import torch
from likeness.attention_patches.people import PlacedPerson, make_masks, place_prompts

HALVES = torch.stack([torch.cat((torch.ones(8, 4), torch.zeros(8, 4)), dim=1)] * 2)
HALVES[1] = 1 - HALVES[0]


def prompt(number: float, **options) -> list:
    return [[torch.full((1, 77, 4), number), {"pooled_output": torch.full((1, 4), number), **options}]]


def test_every_place_sums_to_one():
    common = prompt(0.0, control="a ControlNet", start_percent=0.2)
    entries = place_prompts(common, [prompt(1.0), prompt(2.0)], HALVES, 0.3)
    assert [text[0, 0, 0].item() for text, _ in entries] == [0.0, 1.0, 2.0]
    masks = [options["mask"] for _, options in entries]
    assert torch.allclose(sum(masks), torch.ones(1, 8, 8)) and torch.allclose(masks[0], torch.full((1, 8, 8), 0.3))
    for number, (_, options) in enumerate(entries):
        assert options["set_area_to_bounds"] is False and options["pooled_output"][0, 0] == number
        assert options["control"] == "a ControlNet"
    assert [options.get("start_percent") for _, options in entries] == [0.2, None, None]
    assert "mask" not in common[0][1], "the prompt that came in is left as it was"


def test_the_rest_is_the_common_prompts():
    entries = place_prompts(prompt(0.0), [None, prompt(2.0)], HALVES, 0.0)
    assert torch.equal(entries[0][1]["mask"][0], HALVES[0]) and torch.equal(entries[1][1]["mask"][0], HALVES[1])
    assert len(place_prompts(prompt(0.0), [prompt(1.0), prompt(2.0)], HALVES, 0.0)) == 2, "it would be seen nowhere"
    masked = prompt(0.0, mask=torch.full((1, 16, 16), 0.5))
    assert torch.equal(place_prompts(masked, [None, prompt(2.0)], HALVES, 0.0)[0][1]["mask"][0], HALVES[0] / 2)


def test_without_prompts_of_their_own():
    common = prompt(0.0)
    assert place_prompts(common, [None, None], HALVES, 0.3) is common


def test_a_place_that_covers_nothing():
    people = (PlacedPerson(None), PlacedPerson(None, box=(30, 30, 0, 20)))
    with pytest.raises(ValueError, match="place of person 2 covers nothing"):
        make_masks(people, (64, 64), 8.0)
    whole = make_masks((PlacedPerson(None), PlacedPerson(None)), (64, 64), 8.0)
    assert torch.equal(whole, torch.full((2, 64, 64), 0.5)), "two in one place share it"
