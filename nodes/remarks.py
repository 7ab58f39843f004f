"""Sentences that a node shows where it goes on, but perhaps not as was meant."""

import logging

from comfy_api.latest import ui
from server import PromptServer


def show(cls, remark: str | None) -> dict:
    """Show a remark in the node and the log, where there is one; return what else the node's output takes.

    cls: the node, which has asked for its hidden `unique_id`.
    """
    if remark:
        logging.warning(remark)
    PromptServer.instance.send_progress_text(remark or "", cls.hidden.unique_id)
    return {"ui": ui.PreviewText(remark)} if remark else {}
