"""Which face encoders helped to draw some pictures: read from the graph before them, to judge who may score them."""

from collections.abc import Iterator, Sequence

from ..encoders.face_encoder import FaceEncoder
from ..encoders.identity_file import find_identity
from ..encoders.identity_format import read_header
from ..weights.files import hash_once
from .identity import ENCODER_FILES
from .inputs import weight_path
from .pulid import RECOGNISER_FILES

_LOADERS = {
    "LikenessLoadFaceEncoder": ("encoder_name", ENCODER_FILES),
    "LikenessLoadPulidEncoder": ("recogniser_name", RECOGNISER_FILES),
}
# Nodes that choose among pictures: what reaches their other inputs has drawn none of them.
_JUDGES = ("LikenessBestOf", "LikenessKeepBest", "LikenessGate")


def explain_bias(prompt: dict | None, node_id: str, scorers: Sequence[FaceEncoder]) -> str | None:
    """Return a warning where one of the scorers helped to draw the `images` of a node; None where none did.

    prompt: the queued graph in the API's form, None where a node runs without one.
    """
    node = (prompt or {}).get(node_id)
    source = node["inputs"].get("images") if node else None
    if not isinstance(source, list):
        return None
    before = [*_walk(prompt, source[0], set())]
    judges = [scorer.name for scorer in scorers if any(_is_read(scorer, earlier) for earlier in before)]
    if not judges:
        return None
    return (
        f"{', '.join(judges)} helped to draw these pictures and likes them better than another recogniser would: "
        "choose a file of another family in Load Face Scorer, such as SFace, FaceNet or AdaFace."
    )


def _walk(prompt: dict, node_id: str, visited: set[str]) -> Iterator[dict]:
    """Yield a node of the graph and all before it, each once."""
    if node_id in visited or node_id not in prompt:
        return
    visited.add(node_id)
    yield prompt[node_id]
    is_judge = prompt[node_id]["class_type"] in _JUDGES
    for name, value in prompt[node_id]["inputs"].items():
        if isinstance(value, list) and len(value) == 2 and (name == "images" or not is_judge):
            yield from _walk(prompt, str(value[0]), visited)


def _is_read(scorer: FaceEncoder, node: dict) -> bool:
    """Return whether a node of the graph brings in what this very file has read."""
    kind, inputs = node["class_type"], node["inputs"]
    if kind == "LikenessLoadIdentity" and isinstance(inputs["identity_name"], str):
        return read_header(find_identity(inputs["identity_name"])).encoder_sha256 == scorer.sha256
    name, files = _LOADERS.get(kind, ("", {}))
    if not isinstance(inputs.get(name), str):  # no such loader, or one whose file another node names
        return False
    path = weight_path(files, inputs[name])
    return path.replace("\\", "/").rsplit("/", 1)[-1] == scorer.name and hash_once(path) == scorer.sha256
