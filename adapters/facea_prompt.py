"""A learned person in model and prompt: the LoRA, and T'_id, what was learned behind the user's own words.

See docs/papers.md 6.4.

T'_id = T_id ++ T_face+feat ++ T_v+feat for every attribute v. Each is encoded apart, as in training, and their rows are
put one behind the other; cross-attention does not mind how many there are.
"""

import math

import torch

from . import prompt_text
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
    words. Raises ValueError where the identity does not fit `clip`, see `facea.encode_region`, and for texts that
    `prompt_text` refuses.
    """
    for written in (text, negative):
        prompt_text.refuse_choices(written)
    learned = [encode_region(clip, identity, region) for region in REGIONS]
    rows = torch.cat([part[:, :count] if compact else part for part, count in learned], dim=1)
    face, count = learned[0]
    text_rows = _list_rows(clip, text) if compact else slice(None)
    positive = [
        [_fill(torch.cat([words[:, text_rows], rows.to(words)], dim=1), face[:, count:].to(words)), extra]
        for words, extra in prompt_text.encode(clip, text)
    ]
    ((padding, _), *_) = prompt_text.encode(clip, "")
    return match_rows(padding, positive, prompt_text.encode(clip, negative))


def match_rows(padding: torch.Tensor, *conditionings: list) -> tuple[list, ...]:
    """Return conditionings with as many rows each as the longest has, of rows that come in chunks of 77.

    Attention gives the same with repeated rows. So rows are repeated, behind as few chunks of `padding`, what an empty
    prompt gives [1, 77, width], as make their number a divisor of the longest. The host repeats rows too, to put
    conditionings into one batch, but four times at most, and T'_id is six times as long as a negative prompt.
    """
    chunks = max(rows.shape[1] for conditioning in conditionings for rows, _ in conditioning) // CHUNK
    return tuple([[_repeat(rows, padding, chunks), extra] for rows, extra in each] for each in conditionings)


def _repeat(rows: torch.Tensor, padding: torch.Tensor, chunks: int) -> torch.Tensor:
    own = rows.shape[1] // CHUNK
    period = next(count for count in range(own, chunks + 1) if chunks % count == 0)
    return torch.cat([rows, *[padding.to(rows)] * (period - own)], dim=1).repeat(1, chunks // period, 1)


def _list_rows(clip, text: str) -> list[int]:
    """Return which rows of the host's CLIP for `text` are not padding: start, words and end of each chunk."""
    (chunks,) = prompt_text.tokenise(clip, text).values()
    words = [sum(token[2] != 0 for token in chunk) for chunk in chunks]
    return [chunk * CHUNK + row for chunk, count in enumerate(words) for row in range(count + 2)]


def _fill(rows: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """Return `rows` [1, n, width] with as many padding rows behind them as make n a multiple of 77."""
    missing = -rows.shape[1] % CHUNK
    return torch.cat([rows, padding.repeat(1, math.ceil(missing / padding.shape[1]), 1)[:, :missing]], dim=1)
