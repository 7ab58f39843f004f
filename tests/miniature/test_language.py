"""Captions as tokens, and the text model in training, against the host's own."""

import random

import pytest
import torch
from comfy.sd1_clip import SD1Tokenizer
from likeness.miniature.models import base_model
from likeness.miniature.models.language import ROWS, SHORT, Captions, TextEncoder, Vocabulary, manners
from likeness.miniature.world.captions import LONGEST, WORDS, caption
from likeness.miniature.world.people import VECTOR_NAMES, person
from likeness.miniature.world.scenes import scene
from likeness.tests.support import tiny_frozen
from likeness.training.text_model import NAME, text_rows

MAN, WOMAN = "a photo of a man smiling, at the beach", "a drawing of a woman wearing glasses"


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary([*WORDS, ",", "person", MAN, WOMAN])


@pytest.fixture(scope="module")
def encoder(vocabulary):
    torch.manual_seed(1)
    return TextEncoder(vocabulary)


def host_tokens(text: str) -> list[int]:
    return [token for token, *_ in SD1Tokenizer().tokenize_with_weights(text)["l"][0]]


def captions_of_the_world(count: int) -> list[str]:
    draw = random.Random(1)
    people = [person(draw.randrange(1000)) for _ in range(count)]
    return [
        caption(who, scene(who.number, draw.randrange(9)), draw.random() < 0.5, draw.random() < 0.5) for who in people
    ]


def test_tokens_are_the_hosts(vocabulary):
    told = captions_of_the_world(30)
    told += [each for text in told[:6] for each in manners(text).values()]
    rows = vocabulary.tokens[vocabulary.rows([*WORDS, *told])]
    assert rows.shape == (len(WORDS) + len(told), ROWS)
    tokenizer = SD1Tokenizer()
    for text, row in zip([*WORDS, *told], rows.tolist()):
        assert row == [token for token, *_ in tokenizer.tokenize_with_weights(text)["l"][0]], text


def test_the_longest_caption_fits_into_the_short_rows(vocabulary):
    end = vocabulary.rows([""])[0, 1]
    longest = "a sketch of a woman winking the left eye, wearing glasses, a red cap and a blue shirt, by a brick wall"
    assert len(longest.replace(",", "").split()) <= LONGEST
    assert max(int((row != end).sum()) for row in vocabulary.rows(captions_of_the_world(30))) < SHORT
    assert LONGEST + longest.count(",") + 2 <= SHORT


def test_a_word_that_is_not_in_it_is_an_error(vocabulary):
    with pytest.raises(KeyError):
        vocabulary.rows(["a photo of a zebra"])


def test_manners_of_speaking():
    assert manners(WOMAN) == {
        "plain": WOMAN,
        "person": "a drawing of a person wearing glasses",
        "named": f"a drawing of {NAME} wearing glasses",
        "": "",
    }
    assert manners(MAN)["named"] == f"a photo of {NAME} smiling, at the beach"


def test_every_manner_is_drawn_as_often_as_asked_for(vocabulary):
    captions = Captions([MAN, WOMAN], vocabulary)
    indices, shares = torch.arange(2).repeat(3000), {"": 0.1, "named": 0.4, "person": 0.2}
    tokens = captions.draw(indices, shares, 0.0, torch.Generator().manual_seed(1))
    assert tokens.shape == (6000, SHORT) and tokens.dtype == torch.int64
    found = {}
    for how in captions.tokens:
        expected = captions.tokens[how][indices][:, :SHORT]
        found[how] = float((tokens == expected).all(dim=1).float().mean())
    assert found == pytest.approx({"plain": 0.3, **shares}, abs=0.03)
    assert captions.draw(indices, {}, 1.0, torch.Generator().manual_seed(1)).shape == (6000, ROWS)


def test_the_rows_are_the_hosts_text_model_and_the_input_stays():
    transformer = tiny_frozen.frozen_base().clip.cond_stage_model.clip_l.transformer
    tokens = torch.tensor([host_tokens(text) for text in (MAN, "")])
    with torch.no_grad():
        words = transformer.get_input_embeddings()(tokens)
        embeddings = words + transformer.text_model.embeddings.position_embedding.weight
        given = embeddings.clone()
        rows = text_rows(transformer.text_model, embeddings)
        assert torch.allclose(rows, transformer(tokens)[0], atol=1e-5) and torch.equal(embeddings, given)


def test_a_text_is_not_changed_by_what_follows(encoder, vocabulary):
    tokens, nobody = vocabulary.rows([MAN]), torch.zeros(1, len(VECTOR_NAMES))
    with torch.no_grad():
        assert torch.allclose(encoder(tokens, nobody)[:, :SHORT], encoder(tokens[:, :SHORT], nobody), atol=1e-5)


def test_a_name_replaces_exactly_its_two_slots(encoder, vocabulary):
    seen, first = [], encoder.encoder.layers[0].layer_norm1
    handle = first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tokens = vocabulary.rows([f"a photo of {NAME} smiling", MAN])
    traits = torch.randn(2, len(VECTOR_NAMES), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        encoder(tokens, traits)
        plain = encoder.words(tokens) + encoder.positions
        handle.remove()
        assert torch.equal(seen[0][0, 4:6].flatten(), encoder.names(traits[0]))
    assert (seen[0] != plain).any(dim=2).nonzero().tolist() == [[0, 4], [0, 5]]


def test_the_weights_are_the_hosts_by_name_and_give_the_same_rows(encoder, vocabulary):
    weights = encoder.weights()
    clip = base_model.clip(weights, vocabulary.tokens)
    with torch.no_grad():
        rows = encoder(vocabulary.rows([WOMAN]), torch.zeros(1, len(VECTOR_NAMES)))
        assert torch.allclose(clip.encode_from_tokens(clip.tokenize(WOMAN)), rows, atol=5e-3)  # the host keeps halves
