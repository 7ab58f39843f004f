"""Make workflows/<name>.json, the form the graph editor opens, and its thumbnail, from workflows/api/<name>.json.

The front end itself turns the API form into its own. What the API form has not is added here: places, sizes, groups, a
note (workflows/notes/<name>.md) and where the models are published.
"""

import contextlib
import io
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ..weights import manifest
from . import environment, hosting

WORKFLOWS = environment.ROOT / "workflows"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VIEW = {"width": 1600, "height": 900}  # pixels of the browser window
THUMBNAIL = (400, 225)
GAP = 60  # pixels between the nodes of a column, and between the columns of a group; a title bar takes 30 of them
PADDING = (20, 70, 20, 20)  # of a group around its nodes: left, top (its title and theirs), right, bottom

# Least sizes in pixels: the front end's own suffice for sockets and widgets, not for text and pictures.
SIZES = {
    "CLIPTextEncode": (380, 130),
    "LoadImage": (300, 380),
    "LikenessDetectFaces": (300, 380),
    "PreviewImage": (300, 300),
    "SaveImage": (480, 560),
}
SIZE = (300, 0)
MODEL_INPUTS = {
    "ckpt_name": "checkpoints", "lora_name": "loras", "control_net_name": "controlnet",
    "encoder_name": "facechain_fact", "adapter_name": "facechain_fact",
}  # fmt: skip
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasMenu": False,
    "Comfy.Graph.CanvasInfo": False,
}  # fmt: skip
# Without "fixed", the seed would change after every run, and with it the picture a slider is to be judged by.
TO_EDITOR_FORM = """async prompt => {
    await app.loadApiJson(prompt, '')
    for (const node of app.graph.nodes)
        for (const widget of node.widgets ?? [])
            if (widget.name === 'control_after_generate') widget.value = 'fixed'
    return JSON.stringify(app.graph.serialize())
}"""
NOTE = {"pos": [-560, 0], "size": [480, 980], "color": "#432", "bgcolor": "#653"}

PHOTO, FACE, IDENTITY = ("1  Your photo", "#3f789e"), ("2  Find the face", "#88aaaa"), ("3  Read the identity", "#a1309b")
MODEL, ADAPTER = ("4  Model and prompt", "#3f789e"), ("5  Put the face into the model", "#a1309b")
SAMPLE, RESULT = ("6  Sample", "#88aa88"), ("7  Result", "#b58b2a")
# Groups of each workflow: (title, colour), left and top of the first node, columns of node ids.
LAYOUTS = {
    "fact_text_to_image": [
        (PHOTO, 0, 0, [[4, 5]]),
        (FACE, 400, 0, [[6], [15]]),
        (IDENTITY, 1160, 0, [[7, 8], [16]]),
        (MODEL, 0, 700, [[1, 11], [2, 3]]),
        (ADAPTER, 1160, 700, [[9], [10]]),
        (SAMPLE, 1920, 700, [[12]]),
        (RESULT, 2320, 240, [[13, 14]]),
    ],
    "fact_several_references": [
        (("1  Your photos", "#3f789e"), 0, 0, [[5, 4, 17, 20]]),
        (("2  Find the face in each", "#88aaaa"), 400, 0, [[15, 6, 18, 21]]),
        (("3  Read one identity from all", "#a1309b"), 800, 0, [[7, 8], [19], [22], [16]]),
        (MODEL, 0, 1700, [[1, 11], [2, 3]]),
        (ADAPTER, 1160, 1700, [[9], [10]]),
        (SAMPLE, 1920, 1700, [[12]]),
        (RESULT, 2320, 1240, [[13, 14]]),
    ],
    "fact_lora_controlnet": [
        (PHOTO, 0, 0, [[4, 5]]),
        (FACE, 400, 0, [[6], [15]]),
        (IDENTITY, 1160, 0, [[7, 8], [16]]),
        (MODEL, 0, 700, [[1, 11], [17], [2, 3]]),
        (ADAPTER, 1160, 700, [[9], [10]]),
        (("Pose", "#b06634"), 400, 1200, [[18], [19, 20]]),
        (SAMPLE, 1920, 700, [[12]]),
        (RESULT, 2320, 240, [[13, 14]]),
    ],
}


def main(comfy: Path) -> int:
    """Write the editor form and the thumbnail of every workflow.

    Raises:
        SetupError: there is no Chromium or Chrome, or the host did not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = _base(Path(folder) / "base")
        with hosting.start(base, comfy) as host:
            for name in LAYOUTS:
                with editor(host.url) as page:
                    graph = make(page, name)
                    thumbnail(page, graph).save(WORKFLOWS / f"{name}.jpg", quality=85, optimize=True)
                file = WORKFLOWS / f"{name}.json"
                file.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                print(file)
    return 0


def chromium() -> str | None:
    """The Chromium or Chrome on this system's path."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


@contextlib.contextmanager
def editor(url: str) -> Iterator[Page]:
    """The graph editor of the host at `url` in a browser, with all nodes known.

    Raises:
        SetupError: there is no Chromium or Chrome.
    """
    executable = chromium()
    if executable is None:
        raise environment.SetupError("There is no Chromium or Chrome.", "Debian and Ubuntu: sudo apt install chromium.")
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, as whom containers run.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport=VIEW)
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function("() => Boolean(window.app?.graph && LiteGraph.registered_node_types.LikenessApplyFACT)")
        yield page
        browser.close()


def make(page: Page, name: str) -> dict:
    """The editor form of workflow `name`, arranged."""
    prompt = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    graph = json.loads(page.evaluate(TO_EDITOR_FORM, prompt))
    nodes = {node["id"]: node for node in graph["nodes"]}
    for node in nodes.values():
        _add_models(node)
    graph["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-likeness/{name}"))
    graph["groups"] = [_place(nodes, number, *group) for number, group in enumerate(LAYOUTS[name], 1)]
    graph["last_node_id"] += 1
    graph["nodes"].append(_note(graph["last_node_id"], name))
    graph["extra"] = {"ds": _view(graph)}
    return graph


def _add_models(node: dict) -> None:
    """Say where the file a loader names is published, for the editor's list of missing models."""
    values = node.get("widgets_values", [])
    entries = filter(None, (manifest.find(value) for value in values if isinstance(value, str)))
    if models := [{"name": entry.file, "url": manifest.url(entry), "directory": entry.folder} for entry in entries]:
        node["properties"]["models"] = models


def _place(nodes: dict, number: int, look: tuple[str, str], left: int, top: int, columns: list[list[int]]) -> dict:
    """Give the nodes of a group their places and sizes, and return the group."""
    x, bottom = left, top
    for column in columns:
        y = top
        for node in map(nodes.get, column):
            node["pos"] = [x, y]
            node["size"] = [max(pair) for pair in zip(node["size"], SIZES.get(node["type"], SIZE))]
            y += node["size"][1] + GAP
        bottom = max(bottom, y - GAP)
        x += max(nodes[key]["size"][0] for key in column) + GAP
    (title, colour), (before, above, after, below) = look, PADDING
    bounding = [left - before, top - above, x - GAP - left + before + after, bottom - top + above + below]
    return {"id": number, "title": title, "bounding": bounding, "color": colour, "font_size": 24, "flags": {}}


def _note(key: int, name: str) -> dict:
    text = (WORKFLOWS / "notes" / f"{name}.md").read_text(encoding="utf-8")
    return {
        "id": key, "type": "MarkdownNote", "title": "Read me first", **NOTE, "flags": {}, "order": 0, "mode": 0,
        "inputs": [], "outputs": [], "properties": {}, "widgets_values": [text],
    }  # fmt: skip


def _view(graph: dict) -> dict:
    """Scale and offset at which the editor shows the whole graph."""
    boxes = [group["bounding"] for group in graph["groups"]] + [[*NOTE["pos"], *NOTE["size"]]]
    left, top = (min(box[axis] for box in boxes) for axis in (0, 1))
    size = [max(box[axis] + box[axis + 2] for box in boxes) - low for axis, low in enumerate((left, top))]
    scale = min(0.9 * VIEW["width"] / size[0], 0.8 * VIEW["height"] / size[1])
    offset = [(VIEW[side] / scale - size[axis]) / 2 for axis, side in enumerate(("width", "height"))]
    return {"scale": scale, "offset": [offset[0] - left, offset[1] - top]}


def thumbnail(page: Page, graph: dict) -> Image.Image:
    """A small picture of the graph in the editor, without the editor's own controls."""
    page.evaluate("async graph => { await app.loadGraphData(graph) }", graph)
    page.evaluate("app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
    page.wait_for_timeout(2000)  # pictures in nodes appear when they are loaded; nothing tells
    screen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return screen.resize(THUMBNAIL, Image.Resampling.LANCZOS)


def _base(base: Path) -> Path:
    """A base directory in which nothing the workflows name is missing: empty files do, as nothing is run."""
    environment.make_base(base)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    shutil.copytree(WORKFLOWS / "assets", base / "input", dirs_exist_ok=True)
    for name in LAYOUTS:
        for node in json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8")).values():
            for key in node["inputs"].keys() & MODEL_INPUTS.keys():
                (base / "models" / MODEL_INPUTS[key] / node["inputs"][key]).touch()
    return base
