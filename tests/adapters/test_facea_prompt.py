"""T'_id: the user's words with all that was learned behind them, row for row."""

import pytest
import torch
from likeness.adapters.facea import REGIONS, encode_region
from likeness.adapters.facea_prompt import encode_prompt, match_rows
from likeness.tests.support import tiny_clip
from likeness.tests.support.facea_identity import drawn_identity

LONG = ", ".join(f"word{i}" for i in range(25))


@pytest.fixture(scope="module")
def clip():
    return tiny_clip.tiny()


def rows_of(clip, text):
    return clip.encode_from_tokens(clip.tokenize(text))


def prompt(clip, text="a woman face, smiling", negative="", compact=False, **identity):
    who = drawn_identity(width=64, **identity)
    (positive,), (negative,) = encode_prompt(clip, who, text, negative, compact)
    return who, positive, negative


@pytest.mark.parametrize("level", ["output", "input"])
def test_the_words_and_the_six_learned_prompts_follow_each_other(clip, level):
    who, (rows, extra), (negative, _) = prompt(clip, level=level)
    parts = rows.split(77, dim=1)
    assert rows.shape == negative.shape == (1, 6 * 77, 64)
    assert torch.equal(parts[0], rows_of(clip, "a woman face, smiling"))
    for part, region in zip(parts[1:], ("face", "left eye", "right eye", "nose", "mouth"), strict=True):
        assert torch.equal(part, encode_region(clip, who, region)[0])
        plain = rows_of(clip, f"a woman {region}")
        first = 5 + region.count(" ")
        if level == "output":
            assert torch.equal(part[:, first : first + 3], who.features[region][None])
            assert torch.equal(part[:, :first], plain[:, :first])
            assert torch.equal(part[:, first + 3 :], plain[:, first + 3 :])
        else:
            assert torch.equal(part[:, : first - 1], plain[:, : first - 1]), "what comes before does not see it"
            assert not torch.allclose(part[:, first - 1 :], plain[:, first - 1 :], atol=1e-3)
    assert torch.equal(negative, rows_of(clip, "").repeat(1, 6, 1))
    assert "pooled_output" in extra


@pytest.mark.parametrize("level", ["output", "input"])
def test_compact_leaves_out_the_padding_only(clip, level):
    who, (whole, _), _ = prompt(clip, level=level)
    _, (rows, _), (negative, _) = prompt(clip, level=level, compact=True)
    kept = [1 + 5 + 1] + [1 + 3 + region.count(" ") + 1 + 3 for region in REGIONS]  # "," is a token
    parts = rows.split([*kept, 77 - sum(kept)], dim=1)
    assert rows.shape == negative.shape == (1, 77, 64)
    for part, full in zip(parts, whole.split(77, dim=1)):
        assert torch.equal(part, full[:, : part.shape[1]])
    face = whole[:, 77:154]
    assert torch.equal(parts[-1], face[:, kept[1] : kept[1] + parts[-1].shape[1]]), "padding as CLIP makes it"


def test_words_beyond_one_chunk(clip):
    _, (rows, _), (negative, _) = prompt(clip, text=LONG)
    own = rows_of(clip, LONG)
    assert own.shape[1] == 154 and torch.equal(rows[:, :154], own)
    assert rows.shape == negative.shape == (1, 7 * 77, 64)
    _, (compact, _), (negative, _) = prompt(clip, text=LONG, compact=True)
    words = [sum(token[2] != 0 for token in chunk) for chunk in clip.tokenize(LONG, return_word_ids=True)["l"]]
    assert compact.shape == negative.shape == (1, 154, 64)
    assert torch.equal(compact[:, : words[0] + 2], own[:, : words[0] + 2])
    assert torch.equal(compact[:, words[0] + 2 :][:, : words[1] + 2], own[:, 77:][:, : words[1] + 2])
    _, (rows, _), (negative, _) = prompt(clip, negative=LONG)
    assert rows.shape[1] == negative.shape[1] == 462 and torch.equal(negative[:, :154], negative[:, 308:])


def test_an_empty_prompt_and_many_features(clip):
    _, (rows, _), _ = prompt(clip, text="", compact=True, rows=60)
    assert rows.shape[1] == 385
    who, (rows, _), (negative, _) = prompt(clip, text="", rows=4)
    assert torch.equal(rows[:, :77], negative[:, :77]) and torch.equal(rows[:, 82:86], who.features["face"][None])


def noise(rows, seed=3):
    return torch.randn(1, rows, 8, generator=torch.Generator().manual_seed(seed))


def matched(*lengths):
    """What becomes of rows of these lengths, each beside what it was."""
    rows = [noise(length, seed) for seed, length in enumerate(lengths)]
    return [
        (more, given) for ((more, _),), given in zip(match_rows(noise(77, 9), *([[each, {}]] for each in rows)), rows)
    ]


def test_repeated_rows_are_the_same_to_attention():
    (more, rows), (other, given) = matched(77, 462)
    assert more.shape == (1, 462, 8) and torch.equal(other, given)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert torch.allclose(attention(noise(5), more, more), attention(noise(5), rows, rows), atol=1e-6)


def test_rows_of_which_none_divides_the_other_are_padded_not_multiplied(clip):
    padding = noise(77, 9)
    (longer, given), (shorter, rows) = matched(10 * 77, 3 * 77)
    assert torch.equal(longer, given), "the longest stays as it is"
    period = torch.cat([rows, padding, padding], dim=1)
    assert torch.equal(shorter, period.repeat(1, 2, 1)), "3 chunks become 5, twice"
    (longer, given), (shorter, rows) = matched(7 * 77, 2 * 77)
    assert torch.equal(longer, given) and torch.equal(shorter, torch.cat([rows, *[padding] * 5], dim=1))


@pytest.mark.parametrize("compact", [False, True])
def test_300_words_take_no_more_rows_than_they_need(clip, compact):
    text = ", ".join(f"word{i}" for i in range(100))
    chunks = rows_of(clip, text).shape[1] // 77
    assert chunks >= 5
    _, (rows, _), (negative, _) = prompt(clip, text=text, negative=LONG, compact=compact)
    assert rows.shape == negative.shape and rows.shape[1] <= (chunks + 5) * 77
    assert torch.equal(negative[:, :154], rows_of(clip, LONG))
    _, (rows, _), (negative, _) = prompt(clip, text=LONG, negative=text)
    assert rows.shape == negative.shape == (1, 7 * 77, 64)


def test_choices_that_nobody_made_are_named(clip):
    for text, negative in (("a {young|old} woman", ""), ("a woman", "{red|green} eyes")):
        with pytest.raises(ValueError, match=r"The prompt holds the choice \{(young|red)\|.*write what is meant"):
            prompt(clip, text=text, negative=negative)
    prompt(clip, text=r"a \{young|old\} {woman}")


@pytest.mark.parametrize(
    "text, message",
    [
        ("(" * 3000 + "face" + ")" * 3000, "too many parentheses inside each other"),
        ("a face \ud800", "half a character at position 8"),
        ("a (face:1e39)", "What the text encoder computed holds NaN or infinite numbers.*look at weights"),
    ],
)
def test_hostile_prompts_are_one_sentence(clip, text, message):
    with pytest.raises(ValueError, match=message):
        prompt(clip, text=text)


def test_features_of_another_width_are_one_sentence(clip):
    with pytest.raises(ValueError, match="features 768 wide, but the connected CLIP works with 64: connect the CLIP"):
        encode_prompt(clip, drawn_identity(), "a woman face", "", False)
    with pytest.raises(ValueError, match="80 learned features do not fit"):
        prompt(clip, rows=80)
