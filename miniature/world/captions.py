"""The drawn world's language: a caption for every scene, and back.

    a photo of a woman winking the left eye, wearing glasses, a red cap and a blue shirt, by a brick wall

Expression, glasses and hat are told whenever there are any: a caption that names no hat means none. Clothes and
background may be left open.
"""

from .people import Person
from .scenes import CLOTHES, COLOURS, HATS, STYLES, Scene

LONGEST = 24  # words
_EXPRESSIONS = {
    "neutral": "",
    "smile": "smiling",
    "open mouth": "with open mouth",
    "frown": "frowning",
    "wink left": "winking the left eye",
    "wink right": "winking the right eye",
}
_BACKGROUNDS = {
    "beach": "at the beach",
    "forest": "in a forest",
    "city": "in a city",
    "mountains": "in the mountains",
    "desert": "in a desert",
    "snow": "in the snow",
    "meadow": "in a meadow",
    "stars": "under the stars",
    "sunset": "at sunset",
    "library": "in a library",
    "kitchen": "in a kitchen",
    "brick wall": "by a brick wall",
    "grey wall": "by a grey wall",
    "red curtain": "by a red curtain",
}


def caption(who: Person, seen: Scene, clothes: bool = True, background: bool = True) -> str:
    """What the picture of a person in a scene shows; clothes and background only where asked for."""
    worn = ["glasses"] * seen.glasses
    worn += [f"a {seen.hat_colour} {seen.hat}"] if seen.hat else []
    worn += [f"a {seen.clothes_colour} {seen.clothes}"] if clothes else []
    clauses = [
        f"a {seen.style} of a {'woman' if who.woman else 'man'} {_EXPRESSIONS[seen.expression]}".strip(),
        f"wearing {' and '.join(filter(None, [', '.join(worn[:-1]), worn[-1]]))}" if worn else "",
        _BACKGROUNDS[seen.background] if background else "",
    ]
    return ", ".join(filter(None, clauses))


def parse(text: str) -> dict:
    """What a caption tells: `woman` and the attributes of Scene by name; None for what it leaves open.

    Raises ValueError, naming the words, where the grammar has no such caption.
    """
    rest = words(text)
    told: dict = {}
    _, told["style"], _, _, who = _take(rest, ["a"], STYLES, ["of"], ["a"], ("man", "woman"))
    told["woman"] = who == "woman"
    told["expression"] = _phrase(rest, _EXPRESSIONS) or "neutral"
    told.update(glasses=False, hat=None, hat_colour=None, clothes=None, clothes_colour=None)
    if rest[:1] == ["wearing"]:
        del rest[0]
        _worn(rest, told)
    told["background"] = _phrase(rest, _BACKGROUNDS)
    if rest:
        raise ValueError(f"The miniature's language has no place for '{' '.join(rest)}' in '{text}'.")
    return told


def agrees(told: dict, who: Person, seen: Scene) -> bool:
    """Whether a person in a scene is as `parse` says; what was left open is not compared."""
    shown = {**vars(seen), "woman": who.woman}
    always = ("style", "woman", "expression", "glasses", "hat")
    return all(shown[name] == value for name, value in told.items() if name in always or value is not None)


def words(text: str) -> list[str]:
    """A caption's words: lower case, without commas."""
    return text.lower().replace(",", " ").split()


def _worn(rest: list[str], told: dict) -> None:
    """Glasses, a hat and clothes, in this order, each if it is there; at least one."""
    if rest[:1] == ["glasses"]:
        told["glasses"] = bool(rest.pop(0))
    while rest and (rest[0] == "and" or rest[0] == "a"):
        del rest[: 2 if rest[0] == "and" else 1]
        colour, kind = _take(rest, COLOURS, (*HATS, *CLOTHES))
        name = "hat" if kind in HATS else "clothes"
        if told[name] or told["clothes"]:
            raise ValueError(f"A caption names one hat and then one kind of clothes, but here comes a second '{kind}'.")
        told.update({name: kind, f"{name}_colour": colour})
    if not (told["glasses"] or told["hat"] or told["clothes"]):
        raise ValueError("A caption names glasses, a hat or clothes after 'wearing'.")


def _take(rest: list[str], *choices) -> list[str]:
    """The next words, one from each of `choices`; they are removed from `rest`."""
    taken = rest[: len(choices)]
    for word, allowed in zip([*taken, *["the end"] * (len(choices) - len(taken))], choices):
        if word not in allowed:
            raise ValueError(f"The miniature's language expects {' or '.join(allowed)} here, not '{word}'.")
    del rest[: len(choices)]
    return taken


def _phrase(rest: list[str], phrases: dict[str, str]) -> str | None:
    """The name of the phrase that comes next, which is removed from `rest`; None if there is none."""
    for name, phrase in phrases.items():
        if phrase and rest[: len(phrase.split())] == phrase.split():
            del rest[: len(phrase.split())]
            return name
    return None


# Every word there is, in a fixed order: a tokenizer's vocabulary.
WORDS = tuple(
    dict.fromkeys(
        [
            *("a", "of", "man", "woman", "wearing", "glasses", "and", *STYLES, *COLOURS, *HATS, *CLOTHES),
            *(word for phrase in (*_EXPRESSIONS.values(), *_BACKGROUNDS.values()) for word in phrase.split()),
        ]
    )
)
