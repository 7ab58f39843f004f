"""Scores beside every picture of a batch: a Best of N node in its graph, with what the graph has of its person."""

from .client import Prompt
from .run import Place, RunError, find_place, list_options, shows_media

_NODE = "likeness_scores"
# Recognisers that no adapter learned from, the first of which that a server has compares the faces.
_RECOGNISERS = ("face_recognition_sface_2021dec_int8bq.onnx", "20180402-114759-vggface2.pt")
_MINIATURE = "miniature_arcface.onnx"
_CLIP = "clip-vit-large-patch14.safetensors"


def add(prompt: Prompt, known: dict) -> tuple[Prompt, str, Place | None]:
    """Return a graph that scores what it saves, the node that has the scores, and the input with the prompt, if any.

    Faces are compared by a recogniser other than the adapter's own encoder, where the server has one. A graph that has
    Best of N already keeps its own. Raises RunError where there is no person to compare with.
    """
    if present := _find(prompt, "LikenessBestOf"):
        return prompt, present, None
    saving = next((key for key, node in prompt.items() if shows_media(known[node["class_type"]])), None)
    identity = _find(prompt, "LikenessEncodeIdentity")
    if saving is None or identity is None or "images" not in prompt[saving]["inputs"]:
        raise RunError("--scores needs a workflow with Encode Identity and a node that saves pictures.")
    encode = prompt[identity]["inputs"]
    faces = prompt[encode["faces"][0]]
    if "face_detector" not in faces["inputs"]:
        raise RunError("--scores needs the faces of Encode Identity to come from Detect Faces.")
    recogniser, compared = _find_recogniser(prompt, known, identity)
    inputs = {
        "images": prompt[saving]["inputs"]["images"],
        "face_detector": faces["inputs"]["face_detector"],
        **compared,
        "class_words": "a person",
    }
    more, halves = _find_clip(prompt, known)
    place = find_place(prompt, "Prompt") if halves else None
    # What shows a value makes the host run the node, whose other outputs nobody reads.
    nodes = {
        _NODE: {"class_type": "LikenessBestOf", "inputs": inputs | halves, "_meta": {"title": "Scores"}},
        f"{_NODE}_shown": {"class_type": "PreviewAny", "inputs": {"source": [_NODE, 0]}, "_meta": {"title": "Scored"}},
    }
    return prompt | recogniser | more | nodes, _NODE, place


def _find(prompt: Prompt, node_class: str) -> str | None:
    return next((key for key, node in prompt.items() if node["class_type"] == node_class), None)


def _find_recogniser(prompt: Prompt, known: dict, identity: str) -> tuple[Prompt, dict]:
    """Return the nodes to add, and the inputs of Best of N, for the person as a recogniser sees them."""
    present = _list_options(known, "LikenessLoadFaceEncoder", "encoder_name")
    preferred = [_MINIATURE] if _find(prompt, "LikenessLoadMiniature") else _RECOGNISERS
    name = next((name for name in preferred if name in present), None)
    encode = prompt[identity]["inputs"]
    if name is None:
        return {}, {"face_encoder": encode["face_encoder"], "face_id": [identity, 0]}
    encoder, encoded = f"{_NODE}_encoder", f"{_NODE}_person"
    inputs = {"face_encoder": [encoder, 0], "faces": encode["faces"], "mask_background": "auto"}
    nodes = {
        encoder: {"class_type": "LikenessLoadFaceEncoder", "inputs": {"encoder_name": name}},
        encoded: {"class_type": "LikenessEncodeIdentity", "inputs": inputs},
    }
    return nodes, {"face_encoder": [encoder, 0], "face_id": [encoded, 0]}


def _list_options(known: dict, node_class: str, name: str) -> list:
    return list_options(known[node_class]["input"]["required"][name])


def _find_clip(prompt: Prompt, known: dict) -> tuple[Prompt, dict]:
    """Return the nodes to add, and the inputs of Best of N, for both halves of a CLIP; neither where there is none."""
    if miniature := _find(prompt, "LikenessLoadMiniature"):
        return {}, {"clip": [miniature, 4], "clip_vision": [miniature, 3]}
    loaders = {
        "clip": {"class_type": "CLIPLoader", "inputs": {"clip_name": _CLIP, "type": "stable_diffusion"}},
        "clip_vision": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": _CLIP}},
    }
    if not all(_CLIP in _list_options(known, loader["class_type"], "clip_name") for loader in loaders.values()):
        return {}, {}
    return (
        {f"{_NODE}_{name}": loader for name, loader in loaders.items()},
        {name: [f"{_NODE}_{name}", 0] for name in loaders},
    )
