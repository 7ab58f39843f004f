"""The models folders there may be. Standard library only."""

import os
from pathlib import Path


def default_roots() -> list[Path]:
    """The folders that hold checkpoints/, loras/ and so on, the likeliest first: fetched files go there.

    Those of the ComfyUI this checkout lies in, of the one in $COMFYUI_PATH, and of the test host.
    """
    # The way here may be a link from a host's custom_nodes, but the command line is started from the checkout itself.
    checkout = Path(__file__).resolve().parents[1]
    roots = [checkout.parents[1] / "models"] if checkout.parent.name == "custom_nodes" else []
    if os.environ.get("COMFYUI_PATH"):
        roots.append(Path(os.environ["COMFYUI_PATH"]).expanduser() / "models")
    return [*roots, checkout / ".host" / "base" / "models"]
