"""What a node shows of its own run, in the graph, in the log and in the history.

Every node that calls these has asked for its hidden `unique_id`.
"""

import logging
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io, ui
from server import PromptServer


def show(cls, remark: str | None) -> dict:
    """Show a remark in the node and the log, where there is one; return what else the node's output takes.

    cls: the node, which has asked for its hidden `unique_id`.
    """
    if remark:
        logging.warning(remark)
    PromptServer.instance.send_progress_text(remark or "", cls.hidden.unique_id)
    return {"ui": ui.PreviewText(remark)} if remark else {}


def show_text(cls, text: str) -> dict:
    """Show a text in the node; return what the history keeps of it."""
    PromptServer.instance.send_progress_text(text, cls.hidden.unique_id)
    return {"text": (text,)}


def show_faces(cls, crops: torch.Tensor, text: str) -> dict:
    """Show crops and a text in the node; return what the history keeps of both."""
    return ui.PreviewImage(crops, cls=cls).as_dict() | show_text(cls, text)


def show_saved(cls, path: str, crops: torch.Tensor | None = None, remark: str = "") -> dict:
    """Show where a file was written, with whose face; return what the history keeps: the file, the text, the crops."""
    file = Path(path)
    folder = file.parent.relative_to(folder_paths.get_output_directory()).as_posix()
    text = f"Saved as {folder}/{file.name} in the output folder.{remark}"
    shown = {"files": [ui.SavedResult(file.name, folder, io.FolderType.output)]}
    if crops is not None:
        return shown | show_faces(cls, crops, text)
    return shown | show_text(cls, text)
