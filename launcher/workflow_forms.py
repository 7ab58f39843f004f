"""Make workflows/<name>.json, the form the graph editor opens, and its thumbnail, from workflows/api/<name>.json.

The front end itself turns the API form into its own. What the API form has not is added here: positions, sizes and
groups (workflow_layouts.json), a note (workflows/notes/<name>.md) and where the models are published.
"""

import contextlib
import io
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ..weights import manifest
from . import environment, hosting

WORKFLOWS = environment.ROOT / "workflows"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OFFLINE = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # the front end asks its makers for news
VIEW = {"width": 1600, "height": 900}  # pixels of the browser window
LARGE_VIEW = {"width": 3200, "height": 1800}
THUMBNAIL = (400, 225)
PITCH = 320  # pixels from one column of the grid to the next
GAP = 60  # pixels between the nodes of a column; a node's title takes 30 of them
PADDING = (10, 70, 10, 30)  # pixels of a group around its nodes: left, top (two titles), right, bottom
WIDTH = 280  # pixels of a node without a size in workflow_layouts.json
MODEL_INPUTS = {
    "ckpt_name": ("checkpoints",), "lora_name": ("loras",), "control_net_name": ("controlnet",),
    "encoder_name": ("facechain_fact", "insightface"), "adapter_name": ("facechain_fact",),
    "clip_name": ("text_encoders", "clip_vision"), "identity_name": ("facea",),
}  # fmt: skip
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasMenu": False,
    "Comfy.Graph.CanvasInfo": False,
}  # fmt: skip
# The editor opens with a graph of its own; one loaded before that would be replaced by it.
IS_READY = "() => Boolean(window.app?.extensionManager?.workflow?.activeWorkflow && app.graph.nodes.length)"
# Without "fixed", the seed would change after every run, and with it the picture a slider is to be judged by.
TO_EDITOR_FORM = """async prompt => {
    await app.loadApiJson(prompt, '')
    for (const node of app.graph.nodes)
        for (const widget of node.widgets ?? [])
            if (widget.name === 'control_after_generate') widget.value = 'fixed'
    return JSON.stringify(app.graph.serialize())
}"""
NOTE = {
    "type": "MarkdownNote", "title": "Read me first", "pos": [-450, -40], "size": [420, 640], "color": "#432",
    "bgcolor": "#653", "flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": [], "properties": {},
}  # fmt: skip
# Of the canvas when a workflow is opened: the note and the first groups, large enough to be read.
OPENING_VIEW = {"scale": 0.75, "offset": [570, 200]}


class Frame(NamedTuple):
    """A titled group: colour, first column of the grid, top of its nodes in pixels, their ids column by column."""

    title: str
    colour: str
    column: int
    top: int
    ids: list[list[int]]


class Layouts(NamedTuple):
    """What the API form has not. workflows: the groups of each by its name; sizes: (width, height) of nodes by class.

    sizes holds only what the front end's own height, which suffices for sockets and widgets, is not right for.
    """

    workflows: dict[str, list[Frame]]
    sizes: dict[str, tuple[int, int]]


def read_layouts() -> Layouts:
    """Return what workflow_layouts.json holds; there a name stands for groups that several workflows share."""
    data = json.loads(Path(__file__).with_name("workflow_layouts.json").read_text(encoding="utf-8"))
    shared = data["parts"] | data["workflows"]

    def expand(entry: str | list) -> list[Frame]:
        if isinstance(entry, str):
            return [group for part in shared[entry] for group in expand(part)]
        title, colour, *rest = entry
        return [Frame(title, data["colours"][colour], *rest)]

    return Layouts({name: expand(name) for name in data["workflows"]}, data["sizes"])


def main(comfy: Path) -> int:
    """Write the editor form and the thumbnail of every workflow.

    Raises:
        SetupError: there is no Chromium or Chrome, or the host did not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        base, layouts = Path(folder) / "base", read_layouts()
        _fill_base(base, list(layouts.workflows))
        with hosting.start(base, comfy) as host:
            for name, groups in layouts.workflows.items():
                with editor(host.url) as page:
                    graph = make(page, name, groups, layouts.sizes)
                    thumbnail(page, graph).save(WORKFLOWS / f"{name}.jpg", quality=85, optimize=True)
                file = WORKFLOWS / f"{name}.json"
                file.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                print(file)
    return 0


def chromium() -> str | None:
    """Return the Chromium or Chrome on this system's path."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


@contextlib.contextmanager
def editor(url: str) -> Iterator[Page]:
    """Open the graph editor of the host at `url` in a browser, with all nodes known.

    Raises:
        SetupError: there is no Chromium or Chrome.
    """
    executable = chromium()
    if executable is None:
        raise environment.SetupError("There is no Chromium or Chrome.", "Debian and Ubuntu: sudo apt install chromium.")
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, as whom containers run.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", *OFFLINE])
        page = browser.new_page(viewport=VIEW)
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function(IS_READY)
        yield page
        browser.close()


def make(page: Page, name: str, groups: list[Frame], sizes: dict[str, tuple[int, int]]) -> dict:
    """Return the editor form of workflow `name` with its nodes in `groups`; sizes: as in `Layouts`."""
    prompt = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    graph = json.loads(page.evaluate(TO_EDITOR_FORM, prompt))
    nodes = {node["id"]: node for node in graph["nodes"]}
    for node in nodes.values():
        node["size"] = [*sizes.get(node["type"], (WIDTH, node["size"][1]))]
        _add_models(node)
    graph["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-likeness/{name}"))
    graph["groups"] = [_arrange(nodes, number, group) for number, group in enumerate(groups, 1)]
    graph["last_node_id"] += 1
    graph["nodes"].append({"id": graph["last_node_id"], **NOTE, "widgets_values": [write_note(name, prompt)]})
    graph["extra"] = {"ds": OPENING_VIEW}
    return graph


def _add_models(node: dict) -> None:
    """Say where the file a loader names is published, for the editor's list of missing models; not from an archive."""
    values = node.get("widgets_values", [])
    entries = filter(None, (manifest.find(value) for value in values if isinstance(value, str)))
    single = [entry for entry in entries if not entry.source.member]
    if models := [{"name": entry.file, "url": manifest.url(entry), "directory": entry.folder} for entry in single]:
        node["properties"]["models"] = models


def _arrange(nodes: dict, number: int, group: Frame) -> dict:
    """Put the nodes of a group where they belong, and return its frame."""
    for x, stack in enumerate(group.ids, group.column):
        y = group.top
        for node in map(nodes.get, stack):
            node["pos"] = [x * PITCH, y]
            y += node["size"][1] + GAP
    members = [nodes[key] for stack in group.ids for key in stack]
    corners = [[start + extent for start, extent in zip(node["pos"], node["size"])] for node in members]
    left, above, right, below = PADDING
    x, y = group.column * PITCH - left, group.top - above
    bounding = [
        x,
        y,
        max(corner[0] for corner in corners) + right - x,
        max(corner[1] for corner in corners) + below - y,
    ]
    frame = {"id": number, "title": group.title, "bounding": bounding, "color": group.colour}
    return frame | {"font_size": 24, "flags": {}}


def write_note(name: str, prompt: dict) -> str:
    """Return the note of a workflow: its own text, with the list of the published files that the workflow names."""
    text = (WORKFLOWS / "notes" / f"{name}.md").read_text(encoding="utf-8")
    values = [value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)]
    # A detector is named "family: file".
    files = filter(None, (manifest.find(value.split(": ")[-1]) for value in values))
    lines = (f"- [{file.file}]({manifest.url(file)}) to `models/{file.folder}` ({file.licence})" for file in files)
    return text.replace("{files}", "\n".join(lines))


def thumbnail(page: Page, graph: dict) -> Image.Image:
    """Return a small picture of the graph in the editor, without the editor's own controls."""
    page.set_viewport_size(LARGE_VIEW)  # in a small one, the editor leaves the text out
    page.evaluate("async graph => { await app.loadGraphData(graph) }", graph)
    page.evaluate("app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
    page.evaluate("view => { Object.assign(app.canvas.ds, view); app.canvas.setDirty(true, true) }", _fit_view(graph))
    page.wait_for_timeout(3000)  # until the pictures in the nodes are there and the view has settled: no event tells
    screen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return screen.resize(THUMBNAIL, Image.Resampling.LANCZOS)


def _fit_view(graph: dict) -> dict:
    """Return scale and offset of the canvas at which the graph fills the large view."""
    boxes = [group["bounding"] for group in graph["groups"]] + [[*NOTE["pos"], *NOTE["size"]]]
    lefts, tops, widths, heights = zip(*boxes)
    left, top = min(lefts), min(tops)
    size = max(map(sum, zip(lefts, widths))) - left, max(map(sum, zip(tops, heights))) - top
    view = LARGE_VIEW["width"], LARGE_VIEW["height"]
    scale = 0.96 * min(view[axis] / size[axis] for axis in (0, 1))
    return {"scale": scale, "offset": [(view[axis] / scale - size[axis]) / 2 - (left, top)[axis] for axis in (0, 1)]}


def _fill_base(base: Path, names: list[str]) -> None:
    """Make a base directory that lacks nothing the workflows name: empty files do, as nothing is run."""
    environment.make_base(base)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    shutil.copytree(WORKFLOWS / "assets", base / "input", dirs_exist_ok=True)
    prompts = [json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8")) for name in names]
    for node in (node for prompt in prompts for node in prompt.values()):
        for key in node["inputs"].keys() & MODEL_INPUTS.keys():
            for folder in MODEL_INPUTS[key]:
                model = base / "models" / folder / node["inputs"][key]
                model.parent.mkdir(parents=True, exist_ok=True)
                model.touch()
