"""The nodes of Likeness: schemas and a few lines each that call the rooms of the house."""

import logging
import sys
from pathlib import Path

from comfy_api.latest import ComfyExtension
from server import PromptServer

from ..miniature import nodes as miniature
from ..miniature import registration
from ..weights import folders

folders.register()  # before any schema asks what a folder holds
registration.register()

from . import (  # noqa: E402
    best_of,
    examples,
    face2diffusion,
    facea,
    facea_train,
    faces,
    fact,
    identity,
    infinite_id,
    inpaint,
    instantid,
    interop,
    ip_adapter,
    masks,
    people,
    provenance,
    pulid,
    refine_faces,
    save_image,
    scores,
    unused,
    weights,
)

_PACK = Path(__file__).resolve().parents[1]


def explain_second_copy(registered: dict[str, type]) -> str | None:
    """Return a sentence where another copy of the pack has its nodes in `registered`, the host's, already."""
    first = registered.get(faces.DetectFaces.GET_SCHEMA().node_id)
    other = Path(sys.modules[first.__module__].__file__).resolve().parents[1] if first else _PACK
    if other == _PACK:
        return None
    return (
        f"ComfyUI-Likeness is here twice, in {other} and in {_PACK}. The nodes are now those of {_PACK}; what the "
        "two make cannot be mixed. Move one of the two folders out of custom_nodes and start ComfyUI again."
    )


class LikenessExtension(ComfyExtension):
    async def on_load(self):
        if warning := explain_second_copy(sys.modules["nodes"].NODE_CLASS_MAPPINGS):  # the host's
            logging.warning(warning)
        examples.offer_examples()
        PromptServer.instance.add_on_prompt_handler(weights.show_missing)
        PromptServer.instance.add_on_prompt_handler(unused.settle)
        PromptServer.instance.add_on_prompt_handler(provenance.attach)
        PromptServer.instance.add_on_prompt_handler(save_image.exchange)
        PromptServer.instance.routes.post("/likeness/check")(provenance.check)

    async def get_node_list(self):
        return [
            *examples.NODES,
            *faces.NODES,
            *interop.NODES,
            *masks.NODES,
            *identity.NODES,
            *fact.NODES,
            *inpaint.NODES,
            *refine_faces.NODES,
            *facea_train.NODES,
            *facea.NODES,
            *face2diffusion.NODES,
            *ip_adapter.NODES,
            *instantid.NODES,
            *pulid.NODES,
            *infinite_id.NODES,
            *people.NODES,
            *best_of.NODES,
            *scores.NODES,
            *save_image.NODES,
            *miniature.NODES,
            *weights.NODES,
        ]
