"""What a picture says of itself: how it was made, with which files, and that it shows a person's likeness.

The host's own nodes that save pictures write what stands under `extra_pnginfo` of a request into them; what they cannot
write, nodes/save_image.py adds.
"""

import functools
import os
import tomllib
from concurrent import futures
from pathlib import Path

import execution
import folder_paths
from aiohttp import web
from comfyui_version import __version__ as host_version
from server import PromptServer

from ..encoders import identity_format
from ..weights import folders, licences, manifest, needs
from ..weights.files import hash_once
from . import weights

KEY = "likeness"  # of the text in a PNG file, and in the request
SWITCH = "LIKENESS_PROVENANCE"  # an environment variable: 0 turns it off for all of a server
_PACK = Path(__file__).resolve().parents[1]
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
METHODS = {
    "LikenessApplyFACT": "FaceChain-FACT",
    "LikenessFaceToWords": "Face2Diffusion",
    "LikenessEncodeFacePrompt": "Face2Diffusion",
    "LikenessEncodeDelayedFacePrompt": "Face2Diffusion",
    "LikenessApplyImageAdapter": "IP-Adapter family",
    "LikenessInfiniteID": "Infinite-ID",
    "LikenessApplyInstantId": "InstantID",
    "LikenessApplyInstantIdControl": "InstantID",
    "LikenessApplyPulid": "PuLID",
    "LikenessPeopleInPlaces": "People in Places",
    "LikenessFacePerson": "Refine Faces",
    "LikenessRefineFaces": "Refine Faces",
    "LikenessFaceAPerson": "FaceA-Net",
    "LikenessApplyFaceA": "FaceA-Net",
    "LikenessEncodeFaceAPrompt": "FaceA-Net",
}
# Nodes that leave a part of a picture as it is, with the inputs by which it comes in.
_KEEPING = {
    "LikenessPasteFaceBack": ("image", "face_crop"),
    "LikenessRefineFaces": ("image",),
    "LikenessMatchGrain": ("image", "original"),
    "VAEEncodeForInpaint": ("pixels",),
    "InpaintModelConditioning": ("pixels",),
    "SetLatentNoiseMask": ("samples",),
    "ImageCompositeMasked": ("destination", "source"),
}
_PHOTOS = ("LoadImage", "LikenessExamplePicture", "LoadImageOutput")
_PATIENCE = 1  # seconds that a request waits for hashes; a large file's is ready long before a picture is saved
_reader = futures.ThreadPoolExecutor(1)


def describe(prompt: dict[str, dict]) -> dict | None:
    """Return what pictures of a graph in API form say of themselves; None where it shows nobody by our methods."""
    prompt = {key: node for key, node in prompt.items() if {"class_type", "inputs"} <= node.keys()}
    methods = dict.fromkeys(METHODS[node["class_type"]] for node in prompt.values() if node["class_type"] in METHODS)
    if not methods:
        return None
    entries = licences.find_entries(prompt)
    weights = [
        {
            "file": name,
            "sha256": None,
            "licence": entry.licence,
            "commercial_use": manifest.COMMERCIAL_USE[entry.commercial_use],
        }
        for name, entry in entries
    ]
    weights += [{"file": name, "sha256": None, "licence": "not known"} for name in licences.find_unlisted(prompt)]
    weights += [
        {"file": name, "sha256": None, "licence": "Apache-2.0 (comes with the pack)", "commercial_use": "allowed"}
        for name in licences.find_shipped(prompt)
    ]
    identities = [{"file": name, "sha256": None} for name in licences.find_identities(prompt)]
    _fill(weights, identities, dict(entries))
    return {
        "statement": "made with a person's likeness",
        "pack": f"ComfyUI-Likeness {read_version()}",
        "host": f"ComfyUI {host_version}",
        "methods": list(methods),
        "weights": weights,
        "identities": identities,
        "digital_source_type": _SOURCE_TYPES
        + ("compositeWithTrainedAlgorithmicMedia" if keeps_photo(prompt) else "trainedAlgorithmicMedia"),
    }


@functools.cache
def read_version() -> str:
    """Return the version of the pack."""
    return tomllib.loads((_PACK / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def keeps_photo(prompt: dict[str, dict]) -> bool:
    """Return whether a part of a given picture may be left in the result, as where a face is painted into it."""
    waiting = [
        node["inputs"].get(key)
        for node in prompt.values()
        for key in _KEEPING.get(node["class_type"], ())
    ]  # fmt: skip
    visited = set()
    while waiting:
        link = waiting.pop()
        if not isinstance(link, list) or link[0] in visited or link[0] not in prompt:
            continue
        visited.add(link[0])
        node = prompt[link[0]]
        if node["class_type"] in _PHOTOS:
            return True
        if "Sampler" not in node["class_type"]:  # what a sampler makes is no photo any more
            waiting += node["inputs"].values()
    return False


def _fill(weights: list[dict], identities: list[dict], entries: dict) -> None:
    """Write the hashes into the records, those of large files a while later than this returns."""
    found = [(record, _locate(record["file"], entries.get(record["file"]))) for record in weights]
    for record in identities:
        path = next(filter(None, (folders.find(kind, record["file"]) for kind in ("face_id", "facea"))), None)
        found.append((record, path))
        if path and (encoder := _read_encoder(path)):
            record["encoder"] = encoder
    hashes = [_hash(record, path) for record, path in found if path and os.path.isfile(path)]
    futures.wait(hashes, timeout=_PATIENCE)


def _locate(name: str, entry) -> str | None:
    if entry:
        return needs.locate(name, entry)
    return next(filter(None, (folders.find(kind, name) for kind in folder_paths.folder_names_and_paths)), None)


def _read_encoder(path: str) -> str | None:
    try:
        return identity_format.read_header(path).encoder_file
    except (ValueError, OSError):  # of FaceA, or damaged: its loader says so
        return None


def _hash(record: dict, path: str) -> futures.Future:
    """Have a file's hash written into a record; one file is read after the other."""
    reading = _reader.submit(hash_once, path)
    reading.add_done_callback(lambda done: done.exception() or record.update(sha256=done.result()))
    return reading


def attach(request: dict) -> dict:
    """Let the pictures of a queued graph say how they were made, and return the request.

    A request says with `extra_data: {"likeness": false}` that it does not want that, a server by SWITCH.
    """
    extra = request.setdefault("extra_data", {})
    if extra.pop(KEY, True) is False or os.environ.get(SWITCH) == "0":
        return request
    prompt = request.get("prompt")
    if isinstance(prompt, dict) and (description := describe(prompt)):
        extra.setdefault("extra_pnginfo", {})[KEY] = description
    return request


async def check(request: web.Request) -> web.Response:
    """Answer what is wrong with a graph, as the host would, what its pictures would say, and whose licences follow."""
    prompt = (await request.json())["prompt"]
    PromptServer.instance.node_replace_manager.apply_replacements(prompt)
    valid, error, _, node_errors = await execution.validate_prompt("check", prompt, None)
    for key, found in node_errors.items():
        for problem in found["errors"]:  # of one of the host's loaders; ours say themselves how a file is got
            if problem["type"] == "value_not_in_list" and (text := weights.explain(prompt[key])):
                problem["details"] = text
    return web.json_response(
        {
            "error": None if valid else error,
            "node_errors": node_errors,
            "provenance": describe(prompt),
            "licences": licences.explain(prompt),
        }
    )
