"""Prompts that nobody would write, put together at random of what has ever confused a reader of prompts."""

import random

_FACES = [
    *("{face}", "{ face }", r"\{face\}", "{face1}", "{face2}", "{face0}", "{face-1}", "{face99999999999}", "{FACE}"),
    *("f l", "F  L", "fl", "f l f l"),
]
_BRACES = ["{", "}", "{{", "}}", "{a|b}", "{|}", "{face|b}", "{a|{b|c}}", "|", "\\", r"\(", r"\{"]
_WEIGHTS = [
    *("(", ")", "((", "))", "(a:1.3)", "(a:nan)", "(a:1e39)", "(a:-1e39)", "(a:1e400)", "(:)", "(a:", ":1.2)"),
    "[a:b:0.5]",
]
_FILES = [
    "embedding:nothing",
    "embedding:../../secret",
    "embedding:/etc/passwd",
    "embedding:",
    "<lora:a:1>",
    "../",
    "NUL",
]
_LETTERS = [
    *("\0", "\x1b[31m", "\ud800", "\udfff", "\u202e", "\ufeff", "\U0001f600", "é", "e\u0301", "中文", "ﷺ", "ß", "İ"),
    *("٣", "\n", "\r\n", "\t", " ", "\u2028", "\xa0", ",", ".", "'", '"', "`", "$(id)", "%s", "%n", "{0}", "${x}"),
]
_WORDS = [
    *("a", "woman", "photo of", "in a garden", "0", "-1", "1e309", "nan", "inf", "=", "down=1", "middle", "up = .5"),
    "<|endoftext|>",
]
PIECES = (*_FACES, *_BRACES, *_WEIGHTS, *_FILES, *_LETTERS, *_WORDS)


def write_prompt(rng: random.Random) -> str:
    """Return one prompt of a few of these pieces; one in twenty repeats them until it is very long or very deep."""
    pieces = [rng.choice(PIECES) for _ in range(rng.randint(0, 12))]
    if rng.random() < 0.05:
        piece, times = rng.choice(PIECES), rng.choice([100, 3000])
        pieces.insert(rng.randint(0, len(pieces)), rng.choice([piece * times, "(" * times + piece + ")" * times]))
    return rng.choice(["", " ", ", "]).join(pieces)
