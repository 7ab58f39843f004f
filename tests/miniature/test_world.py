"""The drawn world's people, scenes and language, without a picture."""

from dataclasses import replace

import numpy as np
import pytest
from likeness.miniature.world import captions, people, scenes
from likeness.miniature.world.captions import agrees, caption, parse
from likeness.miniature.world.people import BEARDS, HAIR_STYLES, SPLITS, TRAITS, as_vector, person
from likeness.miniature.world.scenes import Scene, scene

KINDS = {
    "style": scenes.STYLES,
    "expression": scenes.EXPRESSIONS,
    "background": scenes.BACKGROUNDS,
    "clothes": scenes.CLOTHES,
    "clothes_colour": scenes.COLOURS,
    "hat": (None, *scenes.HATS),
    "hat_colour": scenes.COLOURS,
    "glasses": (False, True),
}
WORN = Scene(hat="cap", glasses=True)


def test_the_world_is_as_varied_as_promised():
    assert len(TRAITS) >= 24 and len(HAIR_STYLES) >= 7 and len(BEARDS) >= 5
    assert len(scenes.BACKGROUNDS) >= 12 and len(scenes.COLOURS) >= 7 and len(scenes.HATS) >= 4


def test_splits_never_share_a_person():
    ranges = sorted(SPLITS.values(), key=lambda numbers: numbers.start)
    assert {"train", "score", "test"} == set(SPLITS)
    assert all(one.stop <= other.start for one, other in zip(ranges, ranges[1:]))
    assert all(people.split_of(numbers[end]) == name for name, numbers in SPLITS.items() for end in (0, -1))
    train, test = (np.stack([as_vector(person(SPLITS[name][n])) for n in range(50)]) for name in ("train", "test"))
    assert abs(train[:, None] - test[None]).max(axis=-1).min() > 0.1


@pytest.mark.parametrize("number", [-1, 200_000])
def test_nobody_lives_outside_the_splits(number):
    with pytest.raises(ValueError, match="numbered from 0 to 199999"):
        person(number)


def test_a_person_is_always_the_same_and_nobody_else():
    assert person(7) == person(7) and person(7) != person(8) and person(7, seed=1) != person(7)


def test_people_use_all_there_is():
    everybody = [person(number) for number in range(300)]
    assert {who.hair for who in everybody} == set(HAIR_STYLES)
    assert {who.beard for who in everybody} == set(BEARDS)
    assert all(who.beard == "none" for who in everybody if who.woman)
    assert 100 < sum(who.woman for who in everybody) < 200
    for name, (low, high) in TRAITS.items():
        values = [who.traits[name] for who in everybody]
        assert low <= min(values) < low + 0.1 * (high - low) and high >= max(values) > high - 0.1 * (high - low)


def test_a_vector_tells_all_of_a_person():
    who = replace(person(3), woman=False, hair="afro", beard="goatee")
    values = dict(zip(people.VECTOR_NAMES, as_vector(who)))
    assert len(values) == len(people.VECTOR_NAMES) and as_vector(who).dtype == np.float32
    assert np.abs(as_vector(who)).max() <= 1
    assert values["woman"] == -1 and values["hair: afro"] == values["beard: goatee"] == 1
    assert sum(values[f"hair: {name}"] for name in HAIR_STYLES) == 1
    low, high = TRAITS["jaw"]
    edge = replace(who, traits={**who.traits, "jaw": high})
    assert as_vector(edge)[list(TRAITS).index("jaw")] == pytest.approx(1) and low < high


def test_scenes_use_all_there_is():
    many = [scene(number, picture) for number in range(60) for picture in range(5)]
    for name, values in KINDS.items():
        assert {getattr(seen, name) for seen in many} == set(values), name
    assert all(scenes.SCALE[0] <= seen.scale <= scenes.SCALE[1] and abs(seen.yaw) <= scenes.YAW for seen in many)


def test_a_scene_is_always_the_same_and_styles_change_nothing_else():
    assert scene(4, 2) == scene(4, 2) != scene(4, 3)
    sketch = scene(4, 2, styles=(0, 1, 0))
    assert sketch.style == "sketch" and replace(sketch, style=scene(4, 2).style) == scene(4, 2)


def test_styles_come_in_the_shares_asked_for():
    drawn = [scene(number, 0, styles=(3, 1, 0)).style for number in range(400)]
    assert 270 < drawn.count("photo") < 330 and drawn.count("cartoon") == 0


def test_a_mirrored_scene_is_mirrored_back():
    seen = replace(scene(5, 1), expression="wink left")
    other = scenes.mirror(seen)
    assert other.expression == "wink right" and other.yaw == -seen.yaw and scenes.mirror(other) == seen


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seen", [Scene(), WORN], ids=["plain", "worn"])
def test_every_attribute_comes_back_from_its_caption(name, seen):
    for value in KINDS[name]:
        shown = replace(seen, **{name: value})
        for number in (0, 5):
            who = person(number)
            told = parse(caption(who, shown))
            assert agrees(told, who, shown), caption(who, shown)
            for other in KINDS[name]:
                if other != value and (name != "hat_colour" or shown.hat):
                    assert not agrees(told, who, replace(shown, **{name: other}))


def test_captions_are_short_and_of_known_words():
    assert len(captions.WORDS) == len(set(captions.WORDS)) <= 61  # 64 with three special tokens
    for number in range(200):
        said = captions.words(caption(person(number), scene(number, 0)))
        assert len(said) <= captions.LONGEST and set(said) <= set(captions.WORDS)
    longest = replace(WORN, expression="wink right", background="brick wall")
    assert len(captions.words(caption(person(0), longest))) <= captions.LONGEST


def test_a_man_is_called_a_man():
    for number in range(20):
        who = person(number)
        assert parse(caption(who, WORN))["woman"] is who.woman
        assert not agrees(parse(caption(who, WORN)), replace(who, woman=not who.woman), WORN)


def test_what_a_caption_leaves_open_agrees_with_everything():
    who = person(1)
    told = parse(caption(who, WORN, clothes=False, background=False))
    assert told["clothes"] is told["clothes_colour"] is told["background"] is None
    assert agrees(told, who, replace(WORN, clothes="hoodie", background="snow"))
    assert not agrees(told, who, replace(WORN, hat=None)) and not agrees(told, who, replace(WORN, glasses=False))
    assert caption(who, Scene(), clothes=False, background=False) == f"a photo of a {'wo' * who.woman}man"


def test_a_caption_reads_as_written():
    woman = replace(person(0), woman=True)
    seen = replace(WORN, expression="wink left", background="brick wall")
    text = "a photo of a woman winking the left eye, wearing glasses, a red cap and a blue shirt, by a brick wall"
    assert caption(woman, seen) == text


@pytest.mark.parametrize(
    "text, word",
    [
        ("", "the end"),
        ("a photo of a dog", "dog"),
        ("a painting of a man", "painting"),
        ("a photo of a man on the moon", "on the moon"),
        ("a photo of a man, wearing a red tie", "tie"),
        ("a photo of a man, wearing", "after 'wearing'"),
        ("a photo of a man, wearing a red cap and a blue crown", "crown"),
        ("a photo of a man, wearing a red shirt and a blue cap", "cap"),
        ("a photo of a man, at the beach, smiling", "smiling"),
    ],
)
def test_other_languages_are_not_understood(text, word):
    with pytest.raises(ValueError, match=word):
        parse(text)
