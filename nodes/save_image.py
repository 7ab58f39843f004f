"""ComfyUI's Save Image for pictures of a person: the same file, with IPTC's DigitalSourceType in it as well.

The host's node can only write what is JSON, and programs look for the source type in an XMP packet. So a queued graph
has this node in the place of its Save Image when it is run; the graph in the file names Save Image, and a picture that
no method of ours has made is saved as ever.
"""

import sys
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io

from .. import source_label
from ..weights import saving
from . import provenance

SAVE, OURS = "SaveImage", "LikenessSaveImage"
_INPUTS = {"images", "filename_prefix"}  # those of the host's node that ours has too


def exchange(request: dict) -> dict:
    """Put our node for every Save Image of a queued graph whose pictures say how they were made; return the request.

    Where another pack has put a node of its own in the place of the host's, that one stays.
    """
    host_nodes = sys.modules["nodes"]
    is_hosts = host_nodes.NODE_CLASS_MAPPINGS[SAVE] is host_nodes.SaveImage
    if is_hosts and provenance.KEY in request.get("extra_data", {}).get("extra_pnginfo", {}):
        for node in request["prompt"].values():
            if node.get("class_type") == SAVE and node.get("inputs", {}).keys() == _INPUTS:
                node["class_type"] = OURS
    return request


def find_sources(prompt: dict[str, dict], key: str) -> set[str]:
    """Return the nodes of a graph in API form that a node depends on, itself included."""
    waiting, found = [key], set()
    while waiting:
        key = waiting.pop()
        if key in prompt and key not in found:
            found.add(key)
            inputs = prompt[key].get("inputs", {}).values()
            waiting += [value[0] for value in inputs if isinstance(value, list) and value and isinstance(value[0], str)]
    return found


class SaveImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=OURS,
            display_name="Save Image (of a person)",
            category="likeness/identity",
            description="ComfyUI's Save Image, which also marks pictures made by a method of this pack as generated "
            "(IPTC's DigitalSourceType). In such graphs every Save Image becomes this node by itself when it is run.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures to save."),
                io.String.Input("filename_prefix", default="ComfyUI", tooltip="As in ComfyUI's Save Image."),
            ],
            outputs=[io.Image.Output("images_out", display_name="images", tooltip="The pictures as they came.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
            is_dev_only=True,  # the search shows the host's, which becomes this one
        )

    @classmethod
    def execute(cls, images, filename_prefix) -> io.NodeOutput:
        prompt, extra = cls.hidden.prompt or {}, cls.hidden.extra_pnginfo or {}
        answer = sys.modules["nodes"].SaveImage().save_images(images, filename_prefix, _name_hosts(prompt), extra)
        sources = find_sources(prompt, cls.hidden.unique_id)
        if not args.disable_metadata and any(prompt[key]["class_type"] in provenance.METHODS for key in sources):
            for item in answer["ui"]["images"]:
                path = Path(folder_paths.get_output_directory(), item["subfolder"], item["filename"])
                saving.write(path, source_label.add(path.read_bytes(), extra.get(provenance.KEY)), "Save Image")
        return io.NodeOutput(images, ui=answer["ui"])


def _name_hosts(prompt: dict[str, dict]) -> dict[str, dict]:
    """Return a graph with the host's node for ours, as it was queued."""
    return {key: node | {"class_type": SAVE} if node["class_type"] == OURS else node for key, node in prompt.items()}


NODES = [SaveImage]
