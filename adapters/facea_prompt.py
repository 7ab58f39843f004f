"""A learned person in model and prompt: the LoRA, and T'_id, what was learned behind the user's own words.

See docs/papers.md 6.4.

T'_id = T_id ++ T_face+feat ++ T_v+feat for every attribute v. Each is encoded apart, as in training, and their rows are
put one behind the other; cross-attention does not mind how many there are.
"""

import math

import torch

from .facea import REGIONS, FaceaIdentity, apply_lora, encode_region, warn_of_base

CHUNK = 77  # rows that a text encoder gives at once


def apply(model, identity: FaceaIdentity, strength: float) -> tuple:
    """Return the model of `facea.apply_lora`, and a sentence or two about what does not fit, or None."""
    remarks = [warn_of_base(identity, model)]
    if not model.model.concat_keys:
        remarks.append(
            "The connected model is not an inpainting model: it does not see what surrounds the face it paints. Load "
            "an SD1.5 inpainting checkpoint."
        )
    return apply_lora(model, identity, strength), " ".join(filter(None, remarks)) or None


def encode_prompt(clip, identity: FaceaIdentity, text: str, negative: str, compact: bool) -> tuple[list, list]:
    """Return the host's conditionings of T'_id with the words `text`, and of `negative`, with equally many rows.

    compact: leave the padding of every part out, then fill up to a multiple of 77 rows: a sixth of the whole for short
    words. Raises ValueError where the identity does not fit `clip`, see `facea.encode_region`.
    """
    learned = [encode_region(clip, identity, region) for region in REGIONS]
    rows = torch.cat([part[:, :count] if compact else part for part, count in learned], dim=1)
    face, count = learned[0]
    text_rows = _list_rows(clip, text) if compact else slice(None)
    positive = [
        [_fill(torch.cat([words[:, text_rows], rows.to(words)], dim=1), face[:, count:].to(words)), extra]
        for words, extra in _encode(clip, text)
    ]
    return repeat_rows(positive, _encode(clip, negative))


def repeat_rows(*conditionings: list) -> tuple[list, ...]:
    """Return conditionings with their rows repeated to the least number that all have in common.

    Attention gives the same with repeated rows. The host repeats them too, to put both conditionings into one batch,
    but four times at most, and T'_id is six times as long as a negative prompt.
    """
    length = math.lcm(*(rows.shape[1] for conditioning in conditionings for rows, _ in conditioning))
    return tuple(
        [[rows.repeat(1, length // rows.shape[1], 1), extra] for rows, extra in conditioning]
        for conditioning in conditionings
    )


def _encode(clip, text: str) -> list:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _list_rows(clip, text: str) -> list[int]:
    """Return which rows of the host's CLIP for `text` are not padding: start, words and end of each chunk."""
    (chunks,) = clip.tokenize(text, return_word_ids=True).values()
    words = [sum(token[2] != 0 for token in chunk) for chunk in chunks]
    return [chunk * CHUNK + row for chunk, count in enumerate(words) for row in range(count + 2)]


def _fill(rows: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """Return `rows` [1, n, width] with as many padding rows behind them as make n a multiple of 77."""
    missing = -rows.shape[1] % CHUNK
    return torch.cat([rows, padding.repeat(1, math.ceil(missing / padding.shape[1]), 1)[:, :missing]], dim=1)
