"""ComfyUI-Likeness: keep a person's likeness in generated pictures."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the extension ComfyUI registers; the nodes are imported only here, so importing the package is free."""
    from .nodes import LikenessExtension

    return LikenessExtension()
