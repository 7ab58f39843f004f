"""What a node has to say about its own run: in the graph, in the log and in the history."""

import logging

from comfy_api.latest import ui
from server import PromptServer


def show_remark(cls, remark: str | None) -> dict:
    """Show a remark on the node, whose hidden inputs have unique_id, and in the log; return arguments of its output.

    remark: None clears what an earlier run showed.
    """
    if remark:
        logging.warning(remark)
    PromptServer.instance.send_progress_text(remark or "", cls.hidden.unique_id)
    return {"ui": ui.PreviewText(remark)} if remark else {}
