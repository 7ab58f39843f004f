"""Where the nodes, notes and groups of a workflow lie on the editor's canvas.

A layout is a list of columns from left to right; a column is a list of groups from top to bottom; a group is its title,
its colour and its stacks, side by side; a stack is a list of ids from top to bottom: of nodes, or "note 1" and so on.
"""

import json
from pathlib import Path
from typing import NamedTuple

WORKFLOWS = Path(__file__).parents[1] / "workflows"
TITLE = 30  # pixels of a node's or a group's title bar; a node's lies above its position
BADGE = 24  # pixels above the title of one of our nodes, where the classic design writes the pack's name
GAP = 20  # pixels between nodes, and between groups
WIDTH = 270  # pixels of a node without a width of its own
GROUP_KEYS = {"font_size": 24, "flags": {}}


class Group(NamedTuple):
    """A titled group and its stacks of ids."""

    title: str
    colour: str
    stacks: list[list[int | str]]


class Box(NamedTuple):
    """The room of a node in either design: width and height in pixels, the title included."""

    width: float
    height: float
    is_ours: bool

    @property
    def above(self) -> float:
        """Return the pixels to keep free above the node's title."""
        return BADGE if self.is_ours else 0


def read_layouts() -> dict:
    """Return what workflow_layouts.json holds, with `Group`s of its groups and the colours' values for their names."""
    data = json.loads(Path(__file__).with_name("workflow_layouts.json").read_text(encoding="utf-8"))

    def to_columns(columns: list) -> list[list[Group]]:
        return [
            [Group(title, data["colours"][colour], stacks) for title, colour, stacks in column] for column in columns
        ]

    for entry in [*data["workflows"].values(), *data["blueprints"].values()]:
        entry["columns"] = to_columns(entry["columns"])
    return data


def arrange(columns: list[list[Group]], boxes: dict) -> tuple[dict, list[dict]]:
    """Return the position of every node by its id, and the groups as the editor saves them; boxes: a `Box` by id."""
    positions, frames, x = {}, [], 0.0
    for column in columns:
        y, widest = 0.0, 0.0
        for group in column:
            width, height = _fill(group, x + GAP / 2, y + TITLE + GAP / 2, boxes, positions)
            size = [width + GAP, height + TITLE + GAP]
            frame = {"id": len(frames) + 1, "title": group.title, "bounding": [x, y, *size], "color": group.colour}
            frames.append(frame | GROUP_KEYS)
            y, widest = y + size[1] + GAP, max(widest, size[0])
        for frame in frames[-len(column) :]:
            frame["bounding"][2] = widest
        x += widest + GAP
    return positions, frames


def _fill(group: Group, left: float, top: float, boxes: dict, positions: dict) -> tuple[float, float]:
    """Put the stacks of a group side by side from (left, top) on; return the width and height they take."""
    x, bottom = left, top
    for stack in group.stacks:
        y = top
        for key in stack:
            y += boxes[key].above
            positions[key] = [x, y + TITLE]
            y += boxes[key].height + GAP
        bottom = max(bottom, y - GAP)
        x += max(boxes[key].width for key in stack) + GAP
    return x - GAP - left, bottom - top
