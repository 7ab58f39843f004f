"""What the graph at hand lacks of its weights."""

from comfy_api.latest import io, ui
from server import PromptServer

from ..weights import needs


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


NODES = [Weights]
