"""Make workflows/<card>.json, the form the graph editor opens, and subgraphs/<name>.json, from workflows/api/.

The front end itself turns the API form into its own. What the API form has not is added here: positions, sizes and
groups, what is folded into one node, what the app form shows (workflow_layouts.json), notes (workflows/notes/) and
where the models are published.
"""

import contextlib
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from ..weights import manifest
from . import blueprints, card_pictures, environment, help_pictures, hosting, real_files
from .workflow_layout import TITLE, WIDTH, WORKFLOWS, Box, arrange, read_layouts

SUBGRAPHS = environment.ROOT / "subgraphs"
PROJECT = "comfyui-likeness"  # the registry's name of the pack, by which the editor says what to install
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OFFLINE = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # the front end asks its makers for news
VIEW = {"width": 1600, "height": 1000}  # pixels of the browser window
NOTE_WIDTHS = {"note 1": 320, "note 2": 320}  # pixels
NODE_WIDTH = 380  # pixels of a folded node
FILES = (
    ".safetensors",
    ".ckpt",
    ".pt",
    ".pth",
    ".bin",
    ".onnx",
)  # what the editor takes for a file that may be missing
ERROR_FOOT = 24  # pixels that the new node design adds to a node whose file is missing
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasMenu": False,
    "Comfy.Graph.CanvasInfo": False,
}  # fmt: skip
# The editor opens with a graph of its own; one loaded before that would be replaced by it.
IS_READY = "() => Boolean(window.app?.extensionManager?.workflow?.activeWorkflow && app.graph.nodes.length)"
# Without "fixed", the seed would change after every run, and with it the picture a slider is to be judged by. The
# height of the new node design, which is known only while it draws, is counted from sockets and widgets.
TO_EDITOR_FORM = """async prompt => {
    await app.loadApiJson(prompt, '')
    const graph = app.graph.serialize()
    for (const saved of graph.nodes) {
        const node = app.graph.getNodeById(saved.id), widgets = node.widgets ?? []
        const seed = widgets.findIndex(widget => widget.name === 'control_after_generate')
        if (seed >= 0) saved.widgets_values[seed] = 'fixed'
        saved.widget_names = widgets.map(widget => widget.name)
        const sockets = Math.max(node.inputs.filter(input => !input.widget).length, node.outputs.length)
        const heights = { customtext: 68, text: 36, string: 36, slider: 33, button: 0 }
        const height = widget =>
            widget.name === 'control_after_generate' ? 0 : heights[widget.type] ?? 28
        const ours = node.type.startsWith('Likeness') ? 24 : 0
        const renewed = 44 + 20 * sockets + ours + widgets.reduce((sum, widget) => sum + height(widget), 0)
        saved.room = Math.max(node.computeSize()[1], renewed - 30)
    }
    return JSON.stringify(graph)
}"""
NOTE = {
    "type": "MarkdownNote", "color": "#432", "bgcolor": "#653", "flags": {}, "order": 0, "mode": 0, "inputs": [],
    "outputs": [], "properties": {},
}  # fmt: skip
SET = "([name, value]) => app.extensionManager.setting.set(name, value)"
NOTE_HEIGHTS = """() => app.graph.nodes.map(node => Math.ceil(
    document.querySelector(`[data-node-id="${node.id}"]`).getBoundingClientRect().height / app.canvas.ds.scale) - 30)"""
BYPASSED = 4  # the editor's mode of a node that hands its inputs on


def main(comfy: Path, cards: bool, help_pages: bool) -> int:
    """Write the editor form of every workflow and the blueprints; draw the pictures of cards and of help pages.

    Raises:
        SetupError: there is no Chromium or Chrome, or the host did not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        base, layouts = Path(folder) / "base", read_layouts()
        environment.make_base(base)
        if help_pages and (not_fetched := real_files.fetch(base / "models", environment.PHOTOS)):
            raise environment.SetupError(not_fetched, "The help pages show photographs, read by MediaPipe.")
        (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
        with hosting.start(base, comfy) as host:
            with editor(host.url) as page:
                measure_notes(page, layouts)
                for name in layouts["workflows"]:
                    for file, graph in make(page, name, layouts).items():
                        file.parent.mkdir(exist_ok=True)
                        file.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                        print(file)
            if cards:
                card_pictures.main(host.url)
            if help_pages:
                help_pictures.main(host.url)
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
        page.set_default_timeout(120_000)  # a machine with other work may take its time
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function(IS_READY)
        yield page
        browser.close()


def make(page: Page, name: str, layouts: dict) -> dict[Path, dict]:
    """Return what is written for workflow `name`: its editor form, and the blueprint that it is the first to fold."""
    layout = layouts["workflows"][name]
    prompt = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    graph = json.loads(page.evaluate(TO_EDITOR_FORM, prompt))
    own = layout.get("sizes", {})
    boxes = {n["id"]: _measure(n, own.get(str(n["id"])) or layouts["sizes"].get(n["type"])) for n in graph["nodes"]}
    for node in graph["nodes"]:
        _add_models(node)
        if any(isinstance(value, str) and value.endswith(FILES) for value in node.get("widgets_values", [])):
            boxes[node["id"]] = boxes[node["id"]]._replace(height=boxes[node["id"]].height + ERROR_FOOT)
        node["mode"] = BYPASSED if node["id"] in layout.get("bypassed", ()) else 0
    files = {}
    if fold := layout.get("fold"):
        blueprint = layouts["blueprints"][fold]
        nodes = {node["id"]: node for node in graph["nodes"]}
        positions, frames = arrange(blueprint["columns"], boxes)
        node = blueprints.fold(graph, fold, blueprint, max(nodes) + 1)
        _place(nodes, positions)
        (definition,) = graph["definitions"]["subgraphs"]
        definition["groups"] = frames
        right = max(frame["bounding"][0] + frame["bounding"][2] for frame in frames)
        definition["inputNode"]["bounding"][0], definition["outputNode"]["bounding"][0] = -200, right + 60
        node["size"] = [blueprint.get("width", NODE_WIDTH), _folded_height(node, blueprint)]
        boxes["node"] = Box(node["size"][0], node["size"][1] + TITLE, False)
        if blueprint["file"] and name == next(k for k, v in layouts["workflows"].items() if v.get("fold") == fold):
            file = SUBGRAPHS / f"{blueprint['file']}.json"
            files[file] = blueprints.to_blueprint(graph, node, blueprint["description"])
    for key, note in write_notes(name, prompt, layout).items():
        graph["last_node_id"] += 1
        graph["nodes"].append({"id": graph["last_node_id"], **note})
        boxes[key] = Box(note["size"][0], note["size"][1] + TITLE, False)
    keys = {"note 1": graph["last_node_id"] - 1, "note 2": graph["last_node_id"], "node": graph["last_node_id"] - 2}
    positions, graph["groups"] = arrange(layout["columns"], boxes)
    nodes = {node["id"]: node for node in graph["nodes"]}
    _place(nodes, {keys.get(key, key): position for key, position in positions.items()})
    if left := nodes.keys() - {keys.get(key, key) for key in positions}:
        raise ValueError(f"workflow_layouts.json gives nodes {sorted(left)} of {name} no place.")
    graph["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PROJECT}/{name}"))
    shown = [[keys["note 1"], "text"], *([keys.get(key, key), widget] for key, widget in layout["app"])]
    app = {"inputs": shown, "outputs": layout.get("outputs", [14])}
    graph["extra"] = {"linearMode": False, "linearData": app}
    return {WORKFLOWS / f"{layout['card']}.json": graph, **files}


def _measure(node: dict, size: list | None) -> Box:
    """Give a node its size, by default the least, and return the room it needs in either design."""
    room = node.pop("room")
    node["size"] = size or [WIDTH, room]
    is_ours = node["type"].startswith("Likeness")
    if is_ours:
        node["properties"] |= {"cnr_id": PROJECT}
    return Box(node["size"][0], node["size"][1] + TITLE, is_ours)


def _folded_height(node: dict, blueprint: dict) -> float:
    """Return the height of a folded node's body that suffices for either design: a prompt gets four lines."""
    sockets = max(sum("widget" not in socket for socket in node["inputs"]), len(node["outputs"]))
    texts = sum(target[0][1] in ("text", "face_prompt", "prompt", "value") for _, _, *target in blueprint["inputs"])
    return 44 + 20 * sockets + 30 * (len(node["widgets_values"]) - texts) + 110 * texts


def _place(nodes: dict, positions: dict) -> None:
    for key, position in positions.items():
        nodes[key]["pos"] = position
        nodes[key].pop("widget_names", None)


def _add_models(node: dict) -> None:
    """Say where the file a loader names is published, for the editor's list of missing models.

    Its folder is the host's kind; the file's name has to be the widget's value.
    """
    values = [value for value in node.get("widgets_values", []) if isinstance(value, str)]
    entries = [(value, entry) for value in values if (entry := manifest.find_for(node["type"], value)) and entry.folder]
    if entries:
        node["properties"]["models"] = [
            {"name": value, "url": manifest.url(entry), "directory": entry.folder.split("/")[0]}
            for value, entry in entries
        ]


def write_notes(name: str, prompt: dict, layout: dict) -> dict[str, dict]:
    """Return the two notes of a workflow as nodes: what it does and what to change; its files and their licence.

    `{files}` in workflows/notes/<name>.md stands for the list of the published files that the workflow names.
    """
    text = (WORKFLOWS / "notes" / f"{name}.md").read_text(encoding="utf-8")
    values = [(node["class_type"], value) for node in prompt.values() for value in node["inputs"].values()]
    files = [file for kind, value in values if isinstance(value, str) and (file := manifest.find_for(kind, value))]
    lines = (f"- [{file.file}]({manifest.url(file)}) in `models/{file.folder}`" for file in files)
    text = text.replace("{files}", "\n".join(dict.fromkeys(lines)))
    # The new node design draws code in a blue that is hard to read on a note.
    texts = re.split(r"^---$", text.replace("`", "**"), flags=re.MULTILINE)
    titles = {"note 1": "Read me first", "note 2": "What it needs"}
    widths = NOTE_WIDTHS | ({"note 2": NODE_WIDTH} if "fold" in layout else {}) | layout.get("widths", {})
    heights = layout.get("heights", {})
    return {
        key: {**NOTE, "title": title, "size": [widths[key], heights.get(key, 100)], "widgets_values": [part.strip()]}
        for (key, title), part in zip(titles.items(), texts)
    }


def measure_notes(page: Page, layouts: dict) -> None:
    """Give every workflow's layout the "heights" of its notes: the new node design draws them as tall as their text."""
    page.evaluate(SET, ["Comfy.VueNodes.Enabled", True])
    for name, layout in layouts["workflows"].items():
        prompt = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
        notes = write_notes(name, prompt, layout)
        nodes = [{"id": i, **note, "pos": [400 * i, 0]} for i, note in enumerate(notes.values(), 1)]
        page.evaluate("graph => app.loadGraphData(graph)", {"version": 0.4, "nodes": nodes, "links": []})
        page.wait_for_function("() => document.querySelectorAll('[data-node-id] h1, [data-node-id] h2').length > 1")
        page.wait_for_timeout(300)  # until the view has settled: no event tells
        layout["heights"] = dict(zip(notes, page.evaluate(NOTE_HEIGHTS)))
    page.evaluate(SET, ["Comfy.VueNodes.Enabled", False])
