"""Numbers that count only beside a certain choice: elsewhere they must not make anything run again."""

from typing import NamedTuple


class Unused(NamedTuple):
    """An input that counts only where `choice` is one of `counts_for`; elsewhere `value` stands for all values.

    Without `counts_for` it counts where the socket `choice` is connected.
    """

    name: str
    choice: str
    counts_for: tuple[str, ...]
    value: float


UNUSED = {
    "LikenessDetectFaces": (Unused("index", "choose", ("left to right",), 0),),
    "LikenessImportFaces": (Unused("index", "choose", ("left to right",), 0),),
    "LikenessPersonInPlace": (
        *(Unused(name, "place", ("box",), 50.0) for name in ("x", "y", "width", "height")),
        Unused("index", "faces", (), 0),
    ),
    "LikenessCombineIdentities": (
        Unused("slider", "method", ("interpolate",), 0.5),
        Unused("min_agreement", "method", ("drop outliers",), 0.5),
    ),
    "LikenessFaceToWords": (Unused("expression_strength", "expression", (), 1.0),),
    "LikenessTrainFaceA": (Unused("steps", "preset", ("own: as many as steps says",), 1000),),
}


def settle(request: dict) -> dict:
    """Give every unused number of a queued graph the same value, and return the request.

    The host compares all values of a node with those of its last run; it asks this before.
    """
    prompt = request.get("prompt")
    for node in prompt.values() if isinstance(prompt, dict) else ():
        inputs = node.get("inputs", {}) if isinstance(node, dict) else {}
        for unused in UNUSED.get(node.get("class_type"), ()) if inputs else ():
            if unused.name in inputs and not _counts(unused, inputs.get(unused.choice)):
                inputs[unused.name] = unused.value
    return request


def _counts(unused: Unused, choice) -> bool:
    """Return whether an input counts beside a choice; where that comes from another node, nobody knows it yet."""
    if not unused.counts_for:
        return choice is not None
    return not isinstance(choice, str) or choice in unused.counts_for
