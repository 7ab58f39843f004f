"""A prompt with faces: placeholders become two learned words each in the tokens of CLIP (docs/papers.md 3.4).

As published, a word replaces the *sum* of token and position embedding. The host adds positions to every slot, tensors
among them, so a word goes in with the position embedding of its slot taken off beforehand: (w - p) + p is w up to one
rounding of float32.
"""

import re
from typing import NamedTuple

import comfy.ops
import node_helpers
import torch

FIRST, LAST = 325, 331  # CLIP's tokens of the words "f" and "l", which stand where a face's two words will
# "{face}", "{face2}", or the authors' own words "f l"; a token of CLIP's ends where letters end.
PLACEHOLDER = re.compile(r"\{face(\d*)\}|(?<![^\W\d_])f\s+l(?![^\W\d_])", re.IGNORECASE)
FITTING = "SD 1.4, SD 1.5 or another SD1.x checkpoint"


class TokenIndex(NamedTuple):
    """A place in the token list: chunk, and slot in it (0 is the start token)."""

    chunk: int
    slot: int


class FacePrompt(NamedTuple):
    """A prompt ready for the host's CLIP.

    tokens:   what `CLIP.tokenize` returns, with tensors in the slots of the words
    replaced: the slot of every word -> (person, counted from 1; word, 1 or 2)
    """

    tokens: dict
    replaced: dict[TokenIndex, tuple[int, int]]


def list_people(text: str) -> list[int]:
    """Who the placeholders of a prompt stand for, in their order; "{face}" and "f l" are the first person."""
    return [int(match[1] or 1) for match in PLACEHOLDER.finditer(text)]


def put_class_words(text: str, class_words: str) -> str:
    """The prompt with ordinary words for the people: one phrase for all, or one each, separated by commas."""
    phrases = [phrase.strip() for phrase in class_words.split(",")]
    return PLACEHOLDER.sub(lambda match: phrases[min(int(match[1] or 1), len(phrases)) - 1], text)


def make_face_prompt(clip, text: str, words: list[torch.Tensor]) -> FacePrompt:
    """Tokenise `text` with `clip`, the host's CLIP, and put the words of each person [2, width] in their place.

    Raises ValueError where the words do not fit the text encoder, or text and people do not fit each other.
    """
    for width in {word.shape[1] for word in words}:
        check_clip(clip, width)
    named = list_people(text)
    check_people(named, len(words))
    chunks, pairs = _tokens_and_pairs(clip, text, [" f l "] * len(named))
    if any(first.chunk != last.chunk for first, last in pairs):
        # In parentheses with a weight, here the one it has already, the host keeps a short phrase in one chunk.
        weights = (chunks[first.chunk][first.slot][1] for first, _ in pairs)
        chunks, pairs = _tokens_and_pairs(clip, text, [f" (f l:{weight!r}) " for weight in weights])
    replaced = {slot: (person, word) for person, pair in zip(named, pairs) for word, slot in enumerate(pair, 1)}
    put = {slot: words[person - 1][word - 1] for slot, (person, word) in replaced.items()}
    return FacePrompt({"l": put_words(clip, chunks, put)}, replaced)


def encode(clip, prompt: FacePrompt) -> list:
    """The host's conditioning of a prompt, as its own CLIPTextEncode makes it."""
    return clip.encode_from_tokens_scheduled(prompt.tokens)


def encode_delayed(clip, text: str, class_words: str, prompt: FacePrompt, switch: float) -> list:
    """Class words until the part `switch` (0..1) of the sampling, then `prompt`: delayed words (docs/papers.md 3.5).

    text: the prompt that `prompt` was made of. Conditionings with the stock node's time ranges; at 0 `prompt` alone.
    """
    if switch == 0:
        return encode(clip, prompt)
    class_prompt = clip.encode_from_tokens_scheduled(clip.tokenize(put_class_words(text, class_words)))
    return [
        *node_helpers.conditioning_set_values(class_prompt, {"start_percent": 0.0, "end_percent": switch}),
        *node_helpers.conditioning_set_values(encode(clip, prompt), {"start_percent": switch, "end_percent": 1.0}),
    ]


def put_words(clip, chunks: list[list[tuple]], words: dict[TokenIndex, torch.Tensor]) -> list[list[tuple]]:
    """The token list with the vectors [width] of `words` in their slots; all other tokens, and all weights, stay.

    chunks: lists of (token, weight, ...) as the host's tokeniser makes them.
    """
    positions = position_embedding(clip) if words else None
    return [
        [
            (
                words[at].to(positions) - positions[slot] if (at := TokenIndex(chunk, slot)) in words else token[0],
                token[1],
            )
            for slot, token in enumerate(tokens)
        ]
        for chunk, tokens in enumerate(chunks)
    ]


def position_embedding(clip) -> torch.Tensor:
    """CLIP-L's position embedding [77, width], as it is after the patches of LoRAs, in float32."""
    clip.load_model()
    weight = clip.cond_stage_model.clip_l.transformer.text_model.embeddings.position_embedding.weight
    return comfy.ops.cast_to(weight, torch.float32, torch.device("cpu"))


def _tokens_and_pairs(
    clip, text: str, phrases: list[str]
) -> tuple[list[list[tuple]], list[tuple[TokenIndex, TokenIndex]]]:
    """Tokenise with one of `phrases`, each with the words "f l", for each placeholder."""
    written = iter(phrases)
    chunks = clip.tokenize(PLACEHOLDER.sub(lambda _: next(written), text), return_word_ids=True)["l"]
    pairs = find_pairs(chunks)
    if len(pairs) != len(phrases):
        raise ValueError(
            f"The prompt has {len(phrases)} placeholders for faces, but {len(pairs)} are left in what the text encoder "
            f"reads of it, {_count(len(chunks), 'chunk', 'chunks')} of tokens: the prompt was cut. Shorten it, or put "
            "the placeholders nearer to its beginning."
        )
    return chunks, pairs


def find_pairs(chunks: list[list[tuple]]) -> list[tuple[TokenIndex, TokenIndex]]:
    """Where the words "f" and "l" follow each other in one phrase: tokens of (token, weight, phrase)."""
    slots = [
        (TokenIndex(chunk, slot), token[0], token[2])
        for chunk, tokens in enumerate(chunks)
        for slot, token in enumerate(tokens)
        if token[2]  # 0: start, end and padding
    ]
    return [
        (here, there)
        for (here, first, phrase), (there, last, next_phrase) in zip(slots, slots[1:])
        if phrase == next_phrase and (_is(first, FIRST) and _is(last, LAST))
    ]


def _is(token, number: int) -> bool:
    return not torch.is_tensor(token) and token == number


def check_people(named: list[int], known: int) -> None:
    """Raise ValueError unless the prompt names each of the `known` people just once."""
    if not named and known:
        raise ValueError(
            "The prompt has no placeholder for the face: write {face} where the person belongs, as in 'photo of {face} "
            "in a garden'."
        )
    unknown = [person for person in named if not 1 <= person <= known]
    if unknown:
        raise ValueError(
            f"The prompt names {{face{unknown[0]}}}, but {_count(known, 'face is', 'faces are')} connected: chain one "
            "Face to Words per person, or take the placeholder out."
        )
    repeated = [person for person in named if named.count(person) > 1]
    if repeated:
        raise ValueError(
            f"The prompt names face {repeated[0]} {named.count(repeated[0])} times, but a face goes in once: "
            "write {face1} and {face2} for two people, and 'he', 'she' or 'they' for the same one."
        )
    missing = [person for person in range(1, known + 1) if person not in named]
    if missing:
        raise ValueError(
            f"{_count(known, 'face is', 'faces are')} connected, but the prompt does not name {{face{missing[0]}}}: "
            "write it where that person belongs."
        )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def check_clip(clip, width: int) -> None:
    """Raise ValueError unless `clip` is a text encoder of CLIP-L alone whose words are `width` wide."""
    parts = sorted(clip.tokenize(""))
    if parts != ["l"]:
        raise ValueError(
            f"Words {width} wide fit the text encoder of SD 1.x, but the connected CLIP is {_name(clip)}'s, with the "
            f"parts {', '.join(parts)}: connect the CLIP of {FITTING}."
        )
    own = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().embedding_dim
    if own != width:
        raise ValueError(
            f"The words are {width} wide, but the connected CLIP ({_name(clip)}) reads words of {own}: connect the "
            f"CLIP of {FITTING}, or load the mapping file that belongs to this one."
        )


def _name(clip) -> str:
    return type(clip.cond_stage_model).__name__.removesuffix("ClipModel")
