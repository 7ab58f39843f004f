"""The nodes of Likeness: schemas and a few lines each that call the rooms of the house."""

from comfy_api.latest import ComfyExtension

from ..weights import folders

folders.register()  # before any schema asks what a folder holds

from . import best_of, face2diffusion, faces, fact, identity, inpaint, interop, masks, weights  # noqa: E402


class LikenessExtension(ComfyExtension):
    async def get_node_list(self):
        return [
            *faces.NODES,
            *interop.NODES,
            *masks.NODES,
            *identity.NODES,
            *fact.NODES,
            *inpaint.NODES,
            *face2diffusion.NODES,
            *best_of.NODES,
            *weights.NODES,
        ]
