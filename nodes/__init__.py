"""The nodes of Likeness: schemas and a few lines each that call the rooms of the house."""

from comfy_api.latest import ComfyExtension

from ..weights import folders

folders.register()  # before any schema asks what a folder holds

from . import faces, fact, identity  # noqa: E402


class LikenessExtension(ComfyExtension):
    async def get_node_list(self):
        return [*faces.NODES, *identity.NODES, *fact.NODES]
