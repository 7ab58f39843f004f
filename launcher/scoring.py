"""Scores beside every picture of a batch: a Best of N node in its graph, with what the graph has of its person."""

from .client import Prompt
from .run import Place, RunError, find_place, shows_media

_NODE = "likeness_scores"
_CLIP = "clip-vit-large-patch14.safetensors"


def add(prompt: Prompt, known: dict) -> tuple[Prompt, str, Place | None]:
    """Return a graph that scores what it saves, the node that has the scores, and the input with the prompt, if any.

    A graph that has Best of N already keeps its own. Raises RunError where there is no person to compare with.
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
    inputs = {
        "images": prompt[saving]["inputs"]["images"],
        "face_detector": faces["inputs"]["face_detector"],
        "face_encoder": encode["face_encoder"],
        "face_id": [identity, 0],
        "class_words": "a person",
    }
    more, halves = _find_clip(prompt, known)
    place = find_place(prompt, "Prompt") if halves else None
    # What shows a value makes the host run the node, whose other outputs nobody reads.
    nodes = {
        _NODE: {"class_type": "LikenessBestOf", "inputs": inputs | halves, "_meta": {"title": "Scores"}},
        f"{_NODE}_shown": {"class_type": "PreviewAny", "inputs": {"source": [_NODE, 0]}, "_meta": {"title": "Scored"}},
    }
    return prompt | more | nodes, _NODE, place


def _find(prompt: Prompt, node_class: str) -> str | None:
    return next((key for key, node in prompt.items() if node["class_type"] == node_class), None)


def _find_clip(prompt: Prompt, known: dict) -> tuple[Prompt, dict]:
    """Return the nodes to add, and the inputs of Best of N, for both halves of a CLIP; neither where there is none."""
    if miniature := _find(prompt, "LikenessLoadMiniature"):
        return {}, {"clip": [miniature, 4], "clip_vision": [miniature, 3]}
    loaders = {
        "clip": {"class_type": "CLIPLoader", "inputs": {"clip_name": _CLIP, "type": "stable_diffusion"}},
        "clip_vision": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": _CLIP}},
    }
    for loader in loaders.values():
        spec = known[loader["class_type"]]["input"]["required"]["clip_name"]
        if _CLIP not in (spec[0] if isinstance(spec[0], list) else spec[1].get("options", [])):
            return {}, {}
    return (
        {f"{_NODE}_{name}": loader for name, loader in loaders.items()},
        {name: [f"{_NODE}_{name}", 0] for name in loaders},
    )
