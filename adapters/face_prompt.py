"""A prompt with faces: placeholders become two learned words each in the tokens of CLIP (docs/papers.md 3.4).

As published, a word replaces the *sum* of token and position embedding. The host adds positions to every token, tensors
among them, so a word goes in with the embedding of its position taken off beforehand: (w - p) + p is w up to one
rounding of float32.
"""

import re
from typing import NamedTuple

import comfy.ops
import node_helpers
import torch

from . import prompt_text

FIRST, LAST = 325, 331  # CLIP's tokens of the words "f" and "l", which stand where a face's two words will
# "{face}", "{ face 2 }", "\{face\}" as those write it who know the editor's choices, or the authors' own words "f l"; a
# token of CLIP's ends where letters end.
PLACEHOLDER = re.compile(
    r"\\?\{\s*face\s*([0-9]{0,3})\s*\\?\}|(?<![^\W\d_])f\s+l(?![^\W\d_])", re.IGNORECASE | re.ASCII
)
FITTING = "SD 1.4, SD 1.5 or another SD1.x checkpoint"


class TokenIndex(NamedTuple):
    """Where a token is: which chunk, and its index there (0 is the start token)."""

    chunk: int
    index: int


class FacePrompt(NamedTuple):
    """A prompt ready for the host's CLIP.

    tokens:   what `CLIP.tokenize` returns, with tensors in place of the words
    replaced: the index of every word -> (person, counted from 1; word, 1 or 2)
    """

    tokens: dict
    replaced: dict[TokenIndex, tuple[int, int]]


def list_people(text: str) -> list[int]:
    """Return the numbers of the people in a prompt, in their order; "{face}" and "f l" are person 1."""
    return [int(match[1] or 1) for match in PLACEHOLDER.finditer(text)]


def put_class_words(text: str, class_words: str) -> str:
    """Return the prompt with ordinary words for the people: one phrase for all, or one each, separated by commas."""
    phrases = [phrase.strip() for phrase in class_words.split(",")]
    return PLACEHOLDER.sub(lambda match: phrases[min(int(match[1] or 1), len(phrases)) - 1], text)


def make_face_prompt(clip, text: str, words: list[torch.Tensor]) -> FacePrompt:
    """Tokenise `text` with `clip`, the host's CLIP, and put the words [2, width] of the people at their placeholders.

    Raises ValueError where the words do not fit the text encoder, text and people do not fit each other, or the text
    holds a choice.
    """
    prompt_text.refuse_choices(PLACEHOLDER.sub("face", text))
    for width in {word.shape[1] for word in words}:
        check_clip(clip, width)
    named = list_people(text)
    check_people(named, len(words))
    chunks, pairs = _tokenise(clip, text, [" f l "] * len(named))
    if any(first.chunk != last.chunk for first, last in pairs):
        # In parentheses with a weight, here the one it has already, the host keeps a short phrase in one chunk.
        weights = (chunks[first.chunk][first.index][1] for first, _ in pairs)
        chunks, pairs = _tokenise(clip, text, [f" (f l:{weight!r}) " for weight in weights])
    replaced = {index: (person, word) for person, pair in zip(named, pairs) for word, index in enumerate(pair, 1)}
    vectors = {index: words[person - 1][word - 1] for index, (person, word) in replaced.items()}
    return FacePrompt({"l": put_words(clip, chunks, vectors)}, replaced)


def encode(clip, prompt: FacePrompt) -> list:
    """Return the host's conditioning of a prompt, as its own CLIPTextEncode makes it."""
    return prompt_text.encode_tokens(clip, prompt.tokens)


def encode_delayed(clip, text: str, class_words: str, prompt: FacePrompt, switch: float) -> list:
    """Return conditionings of class words until the part `switch` (0..1) of the sampling, and of `prompt` from then on.

    text: the prompt that `prompt` was made of. The time ranges are the stock node's; at 0 it is `prompt` alone
    (delayed words, docs/papers.md 3.5).
    """
    if switch == 0:
        return encode(clip, prompt)
    class_prompt = prompt_text.encode(clip, put_class_words(text, class_words))
    return [
        *node_helpers.conditioning_set_values(class_prompt, {"start_percent": 0.0, "end_percent": switch}),
        *node_helpers.conditioning_set_values(encode(clip, prompt), {"start_percent": switch, "end_percent": 1.0}),
    ]


def put_words(clip, chunks: list[list[tuple]], words: dict[TokenIndex, torch.Tensor]) -> list[list[tuple]]:
    """Return the token list with the vectors [width] of `words` at their indices; other tokens, and all weights, stay.

    chunks: lists of (token, weight, ...) as the host's tokeniser makes them.
    """
    positions = read_position_embedding(clip) if words else None
    return [
        [
            (
                words[at].to(positions) - positions[index] if (at := TokenIndex(chunk, index)) in words else token[0],
                token[1],
            )
            for index, token in enumerate(tokens)
        ]
        for chunk, tokens in enumerate(chunks)
    ]


def read_position_embedding(clip) -> torch.Tensor:
    """Return CLIP-L's position embedding [77, width], as it is after the patches of LoRAs, in float32."""
    clip.load_model()
    weight = clip.cond_stage_model.clip_l.transformer.text_model.embeddings.position_embedding.weight
    return comfy.ops.cast_to(weight, torch.float32, torch.device("cpu"))


def _tokenise(clip, text: str, phrases: list[str]) -> tuple[list[list[tuple]], list[tuple[TokenIndex, TokenIndex]]]:
    """Return the tokens of `text` with one of `phrases` for each placeholder, and where the phrases' "f" and "l" are.

    Raises ValueError where the text encoder cuts a placeholder off.
    """
    written = iter(phrases)
    chunks = prompt_text.tokenise(clip, PLACEHOLDER.sub(lambda _: next(written), text))["l"]
    pairs = find_pairs(chunks)
    if len(pairs) != len(phrases):
        raise ValueError(
            f"The prompt has {len(phrases)} placeholders for faces, but {len(pairs)} are left in what the text encoder "
            f"reads of it, {_count(len(chunks), 'chunk', 'chunks')} of tokens: the prompt was cut. Shorten it, or put "
            "the placeholders nearer to its beginning."
        )
    return chunks, pairs


def find_pairs(chunks: list[list[tuple]]) -> list[tuple[TokenIndex, TokenIndex]]:
    """Return where the words "f" and "l" follow each other in one phrase: tokens of (token, weight, phrase)."""
    tokens = [
        (TokenIndex(chunk, index), token[0], token[2])
        for chunk, tokens in enumerate(chunks)
        for index, token in enumerate(tokens)
        if token[2]  # 0: start, end and padding
    ]
    return [
        (here, there)
        for (here, first, phrase), (there, last, next_phrase) in zip(tokens, tokens[1:])
        if phrase == next_phrase and (_is_token(first, FIRST) and _is_token(last, LAST))
    ]


def _is_token(token, number: int) -> bool:
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
            f"Words {width} wide fit the text encoder of SD 1.x, but the connected CLIP is {_name_family(clip)}'s, "
            f"with the parts {', '.join(parts)}: connect the CLIP of {FITTING}."
        )
    clip_width = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().embedding_dim
    if clip_width != width:
        raise ValueError(
            f"The words are {width} wide, but the connected CLIP ({_name_family(clip)}) reads words of {clip_width}: "
            f"connect the CLIP of {FITTING}, or load the mapping file that belongs to this one."
        )


def _name_family(clip) -> str:
    return type(clip.cond_stage_model).__name__.removesuffix("ClipModel")
