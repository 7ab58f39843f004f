"""Draw a prompt as the text encoder reads it: one line of tokens per chunk, the words of faces in gold."""

from collections.abc import Iterator

import torch
from PIL import Image, ImageDraw

from ..graphics import FAINT, FRAME, GOLD, INK, PALE_BLUE, PAPER, Colour, measure, to_tensor, write
from .face_prompt import FacePrompt, TokenIndex

_WIDTH, _PAD, _LINE, _SIZE = 640, 6, 28, 15  # pixels


def draw_tokens(clip, prompt: FacePrompt) -> torch.Tensor:
    """Return a picture [1, h, 640, 3]: words of faces in gold, those of textual inversions in blue."""
    lines = [line for number in range(len(prompt.tokens["l"])) for line in _break_lines(clip, prompt, number)]
    sheet = Image.new("RGB", (_WIDTH, _LINE * len(lines) + 2 * _PAD), PAPER)
    pen = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        for x, text, width, colour in line:
            top = _PAD + row * _LINE
            if colour:
                pen.rounded_rectangle((x, top + 2, x + width, top + _LINE - 3), 5, fill=colour)
            write(pen, (x + _PAD, top + 4), text, _SIZE, INK if colour else FAINT)
    return to_tensor(sheet)


def _break_lines(clip, prompt: FacePrompt, chunk: int) -> list[list[tuple]]:
    """Return the lines of one chunk, each a list of (x, text, width, colour or None for a remark)."""
    lines, x = [[]], _PAD
    for text, colour in _label_tokens(clip, prompt, chunk):
        width = measure(text, _SIZE) + 2 * _PAD
        if x + width > _WIDTH - _PAD and lines[-1]:
            lines.append([])
            x = _PAD
        lines[-1].append((x, text, width, colour))
        x += width + _PAD
    return lines


def _label_tokens(clip, prompt: FacePrompt, chunk: int) -> Iterator[tuple[str, Colour | None]]:
    """Yield the text of each token of a chunk up to the padding, with its colour; before and after them a remark."""
    tokens = prompt.tokens["l"][chunk]
    chunks = len(prompt.tokens["l"])
    end = _find_last_word(tokens)
    yield f"chunk {chunk + 1} of {chunks}", None
    for index in range(1, end + 1):
        token, weight = tokens[index]
        emphasis = "" if weight == 1 else f" :{weight:.4g}"
        if (at := TokenIndex(chunk, index)) in prompt.replaced:
            yield "face {} · word {}".format(*prompt.replaced[at]) + emphasis, GOLD
        elif torch.is_tensor(token):
            yield "embedding" + emphasis, PALE_BLUE
        else:
            yield clip.tokenizer.decode([token]).strip() + emphasis, FRAME
    yield f"{end} of {len(tokens) - 2} slots", None


def _find_last_word(tokens: list[tuple]) -> int:
    """Return the index before the first end token: whatever follows is padding."""
    end = tokens[-1][0]
    return next(index for index, (token, _) in enumerate(tokens) if not torch.is_tensor(token) and token == end) - 1
