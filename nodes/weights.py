"""What the graph at hand lacks of its weights."""

import inspect

from comfy_api.latest import io, ui
from server import PromptServer
from server import nodes as host_nodes

from ..weights import needs

_SHOWN: set[tuple[str, str]] = set()  # clients and nodes whose node shows a text of ours


class Weights(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessWeights",
            display_name="Weights",
            category="likeness/loaders",
            description="Shows which of the published weight files this graph names are missing, and how to get them. "
            "Put it anywhere: it needs no wire, and runs although other nodes have errors. Nothing is downloaded.",
            search_aliases=["missing models", "download", "checkpoints", "licence", "license"],
            inputs=[],
            outputs=[io.String.Output("report", tooltip="The same as text.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls) -> float:
        return float("nan")  # it has no inputs that could change, but the graph and the folders around it do

    @classmethod
    def execute(cls) -> io.NodeOutput:
        report = needs.report(cls.hidden.prompt)
        PromptServer.instance.send_progress_text(report, cls.hidden.unique_id)  # what the editor shows in the node
        return io.NodeOutput(report, ui=ui.PreviewText(report))


def show_missing(request: dict) -> dict:
    """Write onto the nodes of a graph that is queued which file each lacks, and return the request as it is.

    The host asks this of every request, before it checks the graph: the text is there however that ends, and, unlike
    the host's own message, can be read at the node and copied from it. A node that lacks nothing any more says so.
    """
    client = request.get("client_id")
    prompt = request.get("prompt")
    if not (client and isinstance(prompt, dict)):
        return request
    for node_id, node in prompt.items():
        text = explain(node)
        if text or (client, node_id) in _SHOWN:
            PromptServer.instance.send_progress_text(text or "The file is here now.", node_id, client)
        (_SHOWN.add if text else _SHOWN.discard)((client, node_id))
    return request


def explain(node: dict) -> str | None:
    """Return which file a node of a graph in API form lacks and how to get it; None where it lacks none.

    A node of ours is asked itself, any other by the names of the published files.
    """
    values = {key: value for key, value in node.get("inputs", {}).items() if isinstance(value, str)}
    node_class = host_nodes.NODE_CLASS_MAPPINGS.get(node.get("class_type"))
    if issubclass(node_class or object, io.ComfyNode) and node["class_type"].startswith("Likeness"):
        names = inspect.signature(node_class.validate_inputs).parameters
        answer = (
            node_class.validate_inputs(**{name: values[name] for name in names})
            if names and names.keys() <= values.keys()
            else True
        )
        return None if answer is True else answer
    return needs.explain_missing({"": {"inputs": values}})


NODES = [Weights]
