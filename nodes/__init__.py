"""The nodes of Likeness: schemas and a few lines each that call the rooms of the house."""

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
    interop,
    ip_adapter,
    masks,
    refine_faces,
    unused,
    weights,
)


class LikenessExtension(ComfyExtension):
    async def on_load(self):
        examples.offer_examples()
        PromptServer.instance.add_on_prompt_handler(weights.show_missing)
        PromptServer.instance.add_on_prompt_handler(unused.settle)

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
            *infinite_id.NODES,
            *best_of.NODES,
            *miniature.NODES,
            *weights.NODES,
        ]
