"""Draw Person: photos of one person of the drawn world, by number."""

import pytest
import torch
from likeness.miniature import detector as drawn
from likeness.miniature.nodes import RenderPerson
from likeness.miniature.world.people import SPLITS, person
from likeness.miniature.world.photos import render_photos


def test_a_seed_gives_other_photos_of_the_same_person_after_the_first():
    (one, again, other) = (render_photos(150_005, 3, seed, 96)[0] for seed in (1, 1, 2))
    assert one.shape == (3, 96, 96, 3) and torch.equal(one, again) and torch.equal(one[0], other[0])
    assert not any(torch.equal(a, b) for a in one[1:] for b in other)
    assert torch.equal(render_photos(150_005, 1, 7, 96)[0][0], one[0])


def test_words_are_what_a_prompt_calls_the_person():
    people = range(150_000, 150_008)
    assert [render_photos(number, 1, 0, 32)[1] == "a woman" for number in people] == [person(n).woman for n in people]


def test_the_node_draws_people_whom_no_network_knows():
    schema = RenderPerson.define_schema()
    last = next(entry for entry in schema.inputs if entry.id == "person").max
    assert SPLITS["test"].start + last == SPLITS["test"].stop - 1
    image, words = RenderPerson.execute(3, 2, 0, 96).result
    assert torch.equal(image, render_photos(150_003, 2, 0, 96)[0]) and words == "a man"


@pytest.mark.parametrize("number", [3, 4, 5, 12, 32, 35])
def test_the_face_is_found_in_every_photo(number):
    finder = drawn.MiniatureFinder(0.5)
    images = (render_photos(150_000 + number, 4, number, 96)[0] * 255).round().byte().numpy()
    assert [len(finder.detect(image)) for image in images] == [1] * 4
