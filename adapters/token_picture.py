"""Draw a prompt as the text encoder reads it: one line of tokens per chunk, the words of faces in gold."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .face_prompt import FacePrompt, Slot

_WIDTH, _PAD, _LINE = 640, 6, 28  # pixels
_PAPER, _INK, _FAINT = (250, 250, 248), (32, 32, 32), (120, 120, 120)
_PLAIN, _VECTOR, _FACE = (228, 228, 224), (190, 214, 240), (255, 205, 70)


def token_picture(clip, prompt: FacePrompt) -> torch.Tensor:
    """A picture [1, h, 640, 3]: words of faces in gold, other vectors (textual inversion) in blue, padding counted."""
    lines = [line for number in range(len(prompt.tokens["l"])) for line in _lines(clip, prompt, number)]
    sheet = Image.new("RGB", (_WIDTH, _LINE * len(lines) + 2 * _PAD), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        for x, text, width, colour in line:
            top = _PAD + row * _LINE
            if colour:
                pen.rounded_rectangle((x, top + 2, x + width, top + _LINE - 3), 5, fill=colour)
            pen.text((x + _PAD, top + 4), text, fill=_INK if colour else _FAINT, font=_font())
    return torch.from_numpy(np.array(sheet, dtype=np.float32) / 255)[None]


def _font():
    return ImageFont.load_default(15)


def _lines(clip, prompt: FacePrompt, chunk: int) -> list[list[tuple]]:
    """The lines of one chunk, each a list of (x, text, width, colour or None for a remark)."""
    lines, x = [[]], _PAD
    for text, colour in _labels(clip, prompt, chunk):
        width = round(_font().getlength(text)) + 2 * _PAD
        if x + width > _WIDTH - _PAD and lines[-1]:
            lines.append([])
            x = _PAD
        lines[-1].append((x, text, width, colour))
        x += width + _PAD
    return lines


def _labels(clip, prompt: FacePrompt, chunk: int) -> Iterator[tuple[str, tuple | None]]:
    tokens = prompt.tokens["l"][chunk]
    chunks = len(prompt.tokens["l"])
    end = _last_word(tokens)
    yield f"chunk {chunk + 1} of {chunks}", None
    for slot in range(1, end + 1):
        token, weight = tokens[slot]
        emphasis = "" if weight == 1 else f" :{weight:.4g}"
        if (at := Slot(chunk, slot)) in prompt.replaced:
            yield "face {} · word {}".format(*prompt.replaced[at]) + emphasis, _FACE
        elif torch.is_tensor(token):
            yield "embedding" + emphasis, _VECTOR
        else:
            yield clip.tokenizer.decode([token]).strip() + emphasis, _PLAIN
    yield f"{end} of {len(tokens) - 2} slots", None


def _last_word(tokens: list[tuple]) -> int:
    """The slot before the first end token: whatever follows is padding."""
    end = tokens[-1][0]
    return next(slot for slot, (token, _) in enumerate(tokens) if not torch.is_tensor(token) and token == end) - 1
