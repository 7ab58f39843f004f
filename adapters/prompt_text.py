"""A prompt as a person writes it, to the host's CLIP; what the host cannot make of it becomes a sentence."""

import re

from ..patcher import check_finite

_CHOICE = re.compile(r"(?<!\\)\{[^{}]*\|[^{}]*\}")  # innermost
_SHOWN = 60  # characters of the prompt in a message


def refuse_choices(text: str) -> None:
    """Raise ValueError where the text holds a choice such as "{red|green}", which the editor has not resolved.

    The editor resolves those of the host's own nodes when a graph is queued, and would take "{face}" for one.
    """
    if choice := _CHOICE.search(text):
        raise ValueError(
            f"The prompt holds the choice {choice[0][:_SHOWN]}, of which this node takes neither: write what is meant, "
            "without braces."
        )


def tokenise(clip, text: str) -> dict:
    """Return the tokens of the host's CLIP for `text`, (token, weight, number of the word) each.

    Raises ValueError for text that the tokeniser cannot read.
    """
    half = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
    if half is not None:
        raise ValueError(f"The prompt holds half a character at position {half + 1}: write or paste that place anew.")
    try:
        return clip.tokenize(text, return_word_ids=True)
    except RecursionError as error:
        raise ValueError("The prompt has too many parentheses inside each other: take some away.") from error


def encode(clip, text: str) -> list:
    """Return the host's conditioning of `text`, as its own CLIPTextEncode makes it; raises ValueError as the others."""
    tokens = tokenise(clip, text)
    plain = {name: [[token[:2] for token in chunk] for chunk in chunks] for name, chunks in tokens.items()}
    return encode_tokens(clip, plain)


def encode_tokens(clip, tokens: dict) -> list:
    """Return the host's conditioning of tokens; raise ValueError where what comes out is not finite."""
    conditioning = clip.encode_from_tokens_scheduled(tokens)
    remedy = "look at weights such as (word:1e9) and embeddings in the prompt, and at the CLIP that is connected"
    for rows, _ in conditioning:
        check_finite(rows, "the text encoder", remedy)
    return conditioning
