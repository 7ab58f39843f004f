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


def caption(subject: Person, scene: Scene, clothes: bool = True, background: bool = True) -> str:
    """Return what an image of a person in a scene shows; clothes and background only where asked for."""
    worn = ["glasses"] * scene.glasses
    worn += [f"a {scene.hat_colour} {scene.hat}"] if scene.hat else []
    worn += [f"a {scene.clothes_colour} {scene.clothes}"] if clothes else []
    clauses = [
        f"a {scene.style} of a {'woman' if subject.woman else 'man'} {_EXPRESSIONS[scene.expression]}".strip(),
        f"wearing {' and '.join(filter(None, [', '.join(worn[:-1]), worn[-1]]))}" if worn else "",
        _BACKGROUNDS[scene.background] if background else "",
    ]
    return ", ".join(filter(None, clauses))


def parse(text: str) -> dict:
    """Return what a caption tells: `woman` and the attributes of Scene by name; None for what it leaves open.

    Raises ValueError, naming the words, where the grammar has no such caption.
    """
    rest = words(text)
    attributes: dict = {}
    _, attributes["style"], _, _, subject = _take(rest, ["a"], STYLES, ["of"], ["a"], ("man", "woman"))
    attributes["woman"] = subject == "woman"
    attributes["expression"] = _phrase(rest, _EXPRESSIONS) or "neutral"
    attributes.update(glasses=False, hat=None, hat_colour=None, clothes=None, clothes_colour=None)
    if rest[:1] == ["wearing"]:
        del rest[0]
        _parse_clothes(rest, attributes)
    attributes["background"] = _phrase(rest, _BACKGROUNDS)
    if rest:
        raise ValueError(f"The miniature's language has no place for '{' '.join(rest)}' in '{text}'.")
    return attributes


def agrees(attributes: dict, subject: Person, scene: Scene) -> bool:
    """Return whether a person in a scene is as `parse` says; what was left open is not compared."""
    truth = {**vars(scene), "woman": subject.woman}
    always = ("style", "woman", "expression", "glasses", "hat")
    return all(truth[name] == value for name, value in attributes.items() if name in always or value is not None)


def words(text: str) -> list[str]:
    """Return a caption's words: lower case, without commas."""
    return text.lower().replace(",", " ").split()


def _parse_clothes(rest: list[str], attributes: dict) -> None:
    """Take glasses, a hat and clothes from `rest`, in this order, each if it is there; at least one."""
    if rest[:1] == ["glasses"]:
        attributes["glasses"] = bool(rest.pop(0))
    while rest and (rest[0] == "and" or rest[0] == "a"):
        del rest[: 2 if rest[0] == "and" else 1]
        colour, kind = _take(rest, COLOURS, (*HATS, *CLOTHES))
        name = "hat" if kind in HATS else "clothes"
        if attributes[name] or attributes["clothes"]:
            raise ValueError(f"A caption names one hat and then one kind of clothes, but here comes a second '{kind}'.")
        attributes.update({name: kind, f"{name}_colour": colour})
    if not (attributes["glasses"] or attributes["hat"] or attributes["clothes"]):
        raise ValueError("A caption names glasses, a hat or clothes after 'wearing'.")


def _take(rest: list[str], *choices) -> list[str]:
    """Remove the next words from `rest`, one from each of `choices`, and return them."""
    taken = rest[: len(choices)]
    for word, allowed in zip([*taken, *["the end"] * (len(choices) - len(taken))], choices):
        if word not in allowed:
            raise ValueError(f"The miniature's language expects {' or '.join(allowed)} here, not '{word}'.")
    del rest[: len(choices)]
    return taken


def _phrase(rest: list[str], phrases: dict[str, str]) -> str | None:
    """Remove the phrase that comes next from `rest` and return its name; None if there is none."""
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
