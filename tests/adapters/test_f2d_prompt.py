"""Faces in prompts: where the words go in the host's own CLIP, and that nothing else changes."""

import comfy.lora
import comfy.sd1_clip
import pytest
import torch
from likeness.adapters.face_prompt import (
    TokenIndex,
    encode,
    encode_delayed,
    find_pairs,
    list_people,
    make_face_prompt,
    put_class_words,
    put_words,
    read_position_embedding,
)
from likeness.tests.support import tiny_clip
from safetensors.torch import save_file

import nodes

WIDTH = tiny_clip.SIZES["hidden_size"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    save_file({"emb_params": noise(5, 3, WIDTH)}, folder / "style.safetensors")
    return tiny_clip.tiny(embeddings=str(folder))


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def person(number=1):
    return noise(number, 2, WIDTH) * 0.3


@torch.inference_mode()
def look(clip, text, *words):
    """(what the first layer receives, the stock encoder's for the authors' words, prompt, conditioning)."""
    prompt = make_face_prompt(clip, text, list(words))
    with tiny_clip.first_layer(clip) as seen:
        conditioning = encode(clip, prompt)
        nodes.CLIPTextEncode().encode(clip, authors_words(text))
    return *seen, prompt, conditioning


def authors_words(text):
    for placeholder in ("{face}", "{face1}", "{face2}"):
        text = text.replace(placeholder, " f l ")
    return text


def assert_only_words_changed(received, stock, prompt, *words):
    """Each word in its slots up to one rounding of float32, all other slots bit for bit the stock encoder's."""
    chunks = len(prompt.tokens["l"])
    untouched = torch.ones(chunks, 77, dtype=torch.bool)
    for (chunk, slot), (number, word) in prompt.replaced.items():
        untouched[chunk, slot] = False
        torch.testing.assert_close(received[chunk, slot], words[number - 1][word - 1], atol=2**-23, rtol=2**-23)
    assert torch.equal(received[:chunks][untouched], stock[:chunks][untouched])
    assert (~untouched).sum() == 2 * len(words)


@pytest.mark.parametrize(
    "text, slots",
    [
        ("{face}", [(0, 1), (0, 2)]),
        ("photo of {face} in a garden", [(0, 3), (0, 4)]),
        ("photo of f l, smiling", [(0, 3), (0, 4)]),
        ("photo of F L, smiling", [(0, 3), (0, 4)]),
        ("photo of {face}'s dog", [(0, 3), (0, 4)]),
        ("photo of{face}in a garden", [(0, 3), (0, 4)]),
        ("a ({face} smiling:1.3), (night:0.8)", [(0, 2), (0, 3)]),
        ("f-l and of l, {face}", [(0, 8), (0, 9)]),
        ("(f) l {face}", [(0, 3), (0, 4)]),
        ("embedding:style photo of {face}", [(0, 6), (0, 7)]),
        ("photo of {face} embedding:style night", [(0, 3), (0, 4)]),
    ],
)
def test_words_reach_the_first_layer_and_nothing_else_changes(clip, text, slots):
    received, stock, prompt, _ = look(clip, text, person())
    assert list(prompt.replaced) == [TokenIndex(*slot) for slot in slots]
    assert_only_words_changed(received, stock, prompt, person())


def test_two_people_in_any_order(clip):
    received, stock, prompt, _ = look(clip, "{face2} and {face1} dancing", person(1), person(2))
    assert list(prompt.replaced.items()) == [
        (TokenIndex(0, 1), (2, 1)),
        (TokenIndex(0, 2), (2, 2)),
        (TokenIndex(0, 4), (1, 1)),
        (TokenIndex(0, 5), (1, 2)),
    ]
    assert_only_words_changed(received, stock, prompt, person(1), person(2))
    assert not torch.equal(look(clip, "{face1} and {face2} dancing", person(1), person(2))[0], received)


@pytest.mark.parametrize("before", [0, 60, 73, 74, 75, 76, 120, 148, 149, 150, 151])
@pytest.mark.parametrize("words", ["{face}", "({face}:1.2)"])
def test_long_prompts_keep_both_words_in_one_chunk(clip, before, words):
    received, stock, prompt, _ = look(clip, f"{'tree ' * before}{words} {'sea ' * 30}", person())
    first, last = prompt.replaced
    assert first.chunk == last.chunk and last.index == first.index + 1 and 1 <= first.index <= 74
    weights = {prompt.tokens["l"][chunk][slot][1] for chunk, slot in prompt.replaced}
    assert weights == {1.0 if words == "{face}" else 1.2}
    if not (words == "{face}" and before in (74, 149)):  # where the words go to the next chunk, whole
        assert_only_words_changed(received, stock, prompt, person())
    else:
        assert first.index == 1
        tokens = [token for chunk in prompt.tokens["l"] for token, _ in chunk if not torch.is_tensor(token)]
        assert tokens.count(token_of(clip, "tree")) == before and tokens.count(token_of(clip, "sea")) == 30
        assert prompt.tokens["l"][first.chunk - 1][-2:] == [(49407, 1.0)] * 2


def token_of(clip, word):
    return clip.tokenize(word)["l"][0][1][0]


def test_two_people_at_two_chunk_borders(clip):
    text = "tree " * 74 + "{face1} " + "sea " * 72 + "{face2} night"
    _, _, prompt, _ = look(clip, text, person(1), person(2))
    assert [(at, who) for at, who in prompt.replaced.items() if who[1] == 1] == [
        (TokenIndex(1, 1), (1, 1)),
        (TokenIndex(2, 1), (2, 1)),
    ]


def test_emphasis_is_the_hosts(clip):
    """Weighted words: their outputs lie as far from the empty prompt's as the host's rule says."""
    plain, strong = (look(clip, text, person())[3][0][0][0] for text in ("a {face}", "a ({face}:1.5)"))
    empty = nodes.CLIPTextEncode().encode(clip, "")[0][0][0][0]
    expected = plain.clone()
    expected[2:4] = empty[2:4] + 1.5 * (plain[2:4] - empty[2:4])
    torch.testing.assert_close(strong, expected, atol=2e-6, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("text", ["", "photo of a woman", "a (red:1.3) coat, embedding:style", "tree " * 100])
def test_without_a_placeholder_it_is_the_stock_encoder_bit_for_bit(clip, text):
    ours = encode(clip, make_face_prompt(clip, text, []))
    (stock,) = nodes.CLIPTextEncode().encode(clip, text)
    assert torch.equal(ours[0][0], stock[0][0]) and torch.equal(
        ours[0][1]["pooled_output"], stock[0][1]["pooled_output"]
    )


@torch.inference_mode()
def test_the_words_of_the_embedding_itself_give_the_stock_prompt(clip):
    """f and l plus their positions, put in as learned words, are the prompt "f l"."""
    table = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    words = table[[325, 331]] + read_position_embedding(clip)[3:5]
    _, _, _, conditioning = look(clip, "photo of {face} here", words)
    (stock,) = nodes.CLIPTextEncode().encode(clip, "photo of f l here")
    torch.testing.assert_close(conditioning[0][0], stock[0][0], atol=2e-6, rtol=0)


@torch.inference_mode()
def test_lora_patched_text_encoder(clip):
    """A LoRA on an attention changes the result; one on the position embedding is taken into account."""
    base = look(clip, "a {face} here", person())[3][0][0]
    patched = clip.clone()
    prefix = "clip_l.transformer.text_model."
    query = f"{prefix}encoder.layers.1.self_attn.q_proj.weight"
    positions = f"{prefix}embeddings.position_embedding.weight"
    patched.add_patches({query: ("diff", (noise(3, WIDTH, WIDTH),)), positions: ("diff", (noise(4, 77, WIDTH),))})
    received, stock, prompt, conditioning = look(patched, "a {face} here", person())
    assert (conditioning[0][0] - base).abs().max() > 1e-3
    assert torch.equal(received[0, 4:], stock[0, 4:])
    for (chunk, slot), (_, word) in prompt.replaced.items():
        assert (received[chunk, slot] - person()[word - 1]).abs().max() < 1e-6  # of positions as loud as 4
    assert torch.equal(look(clip, "a {face} here", person())[3][0][0], base), "the other CLIP is as it was"


@torch.inference_mode()
def test_clip_skip_is_kept(clip):
    skipped = clip.clone()
    skipped.clip_layer(-2)
    assert not torch.equal(look(skipped, "a {face}", person())[3][0][0], look(clip, "a {face}", person())[3][0][0])


@pytest.mark.parametrize(
    "text, known, message",
    [
        ("photo of a woman", 1, r"no placeholder .* write \{face\}"),
        ("", 1, "no placeholder"),
        ("f-l, of l, fl, face", 1, "no placeholder"),
        ("{face} and {face}", 1, "names face 1 2 times"),
        ("{face} and f l", 1, "names face 1 2 times"),
        ("{face1} and {face2}", 1, r"names \{face2\}, but 1 face is connected"),
        ("{face0}", 1, r"names \{face0\}"),
        ("{face}", 2, r"2 faces are connected, but the prompt does not name \{face2\}"),
        ("{face}", 0, "0 faces are connected"),
    ],
)
def test_prompt_and_people_that_do_not_fit(clip, text, known, message):
    with pytest.raises(ValueError, match=message) as raised:
        make_face_prompt(clip, text, [person(i) for i in range(known)])
    assert "\n" not in str(raised.value)


class CuttingTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """A tokeniser as in the authors' code and in some packs: what does not fit into the first chunk is dropped."""

    def tokenize_with_weights(self, text, return_word_ids=False, **kwargs):
        tokens = super().tokenize_with_weights(text, return_word_ids, **kwargs)
        return {key: chunks[:1] for key, chunks in tokens.items()}


def test_a_placeholder_cut_by_truncation(clip):
    cutting = clip.clone()
    cutting.tokenizer = CuttingTokenizer()
    assert make_face_prompt(cutting, "tree " * 72 + "{face}", [person()]).replaced
    for before in (74, 75, 80):
        with pytest.raises(ValueError, match="1 placeholders .* 0 are left .* the prompt was cut"):
            make_face_prompt(cutting, "tree " * before + "{face}", [person()])


def test_words_of_another_width(clip):
    with pytest.raises(ValueError, match=f"words are 768 wide, .* reads words of {WIDTH}: connect the CLIP of SD 1.4"):
        make_face_prompt(clip, "{face}", [torch.zeros(2, 768)])
    with pytest.raises(ValueError, match="768 wide"):
        make_face_prompt(clip, "{face} {face2}", [person(), torch.zeros(2, 768)])


def test_class_words():
    assert put_class_words("photo of {face}, {face2} and f l", "a man, a woman") == "photo of a man, a woman and a man"
    assert put_class_words("{face1} {face2} {face3}", "a man, a woman") == "a man a woman a woman"
    assert list_people("{FACE} {face3} f  l of l f-l {face 2} {face-4} face") == [1, 3, 1, 2]
    assert list_people(r"{ face } \{face2\} \{ face 3 \} {face٣} {face9999}") == [1, 2, 3]


@torch.inference_mode()
def test_delayed_subject_conditioning_is_what_the_stock_nodes_make(clip):
    text = "photo of {face} in a garden"
    prompt = make_face_prompt(clip, text, [person()])
    conditioning = encode_delayed(clip, text, "a person", prompt, 0.3)
    (stock,) = nodes.CLIPTextEncode().encode(clip, "photo of a person in a garden")
    (expected,) = nodes.ConditioningSetTimestepRange().set_range(stock, 0.0, 0.3)
    (rest,) = nodes.ConditioningSetTimestepRange().set_range(encode(clip, prompt), 0.3, 1.0)
    assert len(conditioning) == 2
    for ours, theirs in zip(conditioning, expected + rest):
        assert torch.equal(ours[0], theirs[0]) and ours[1].keys() == theirs[1].keys()
        assert all(ours[1][key] == theirs[1][key] for key in ("start_percent", "end_percent"))
    ((always, options),) = encode_delayed(clip, text, "a person", prompt, 0.0)
    assert torch.equal(always, encode(clip, prompt)[0][0]) and "start_percent" not in options


def test_pairs_lie_in_one_phrase():
    chunk = [(49406, 1.0, 0), (325, 1.0, 1), (331, 1.0, 2), (325, 1.0, 3), (331, 1.0, 3), (49407, 1.0, 0)]
    assert find_pairs([chunk]) == [(TokenIndex(0, 3), TokenIndex(0, 4))]
    vector = [(torch.zeros(4), 1.0, 1), (325, 1.0, 2), (torch.zeros(4), 1.0, 2), (331, 1.0, 2)]
    assert find_pairs([vector]) == []


def test_nothing_is_put_where_nothing_is_asked():
    chunks = [[(1, 1.0, 0), (2, 1.3, 1)]]
    assert put_words(None, chunks, {}) == [[(1, 1.0), (2, 1.3)]]


def test_placeholders_as_people_write_them_are_the_same_prompt(clip):
    expected = look(clip, "photo of {face} in a garden", person())[3]
    for written in (r"\{face\}", "{ face }", "{Face1}", r"\{ face 1 \}"):
        conditioning = look_at(clip, f"photo of {written} in a garden", person())
        assert torch.equal(conditioning[0][0], expected[0][0]), written


def look_at(clip, text, *words):
    return encode(clip, make_face_prompt(clip, text, list(words)))


@pytest.mark.parametrize("text", ["{face} in {red|green}", "{{face} at sea|{face} on land}", "{face|a cat}"])
def test_choices_are_named(clip, text):
    with pytest.raises(ValueError, match=r"holds the choice \{.*\|.*\}, of which this node takes neither"):
        look_at(clip, text, person())


@pytest.mark.parametrize(
    "text, message",
    [
        ("(" * 3000 + "{face}" + ")" * 3000, "too many parentheses"),
        ("{face} \udfff", "half a character"),
        ("({face}:1e39)", "look at weights"),
        ("{face" + "9" * 5000 + "}", "no placeholder for the face"),
    ],
)
def test_hostile_prompts_are_one_sentence(clip, text, message):
    with pytest.raises(ValueError, match=message):
        look_at(clip, text, person())
