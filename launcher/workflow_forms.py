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
OFFLINE = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # the front end asks its makers for news
VIEW = {"width": 1600, "height": 900}  # pixels of the browser window
LARGE_VIEW = {"width": 3200, "height": 1800}
THUMBNAIL = (400, 225)
PITCH = 320  # pixels from one column of the grid to the next
GAP = 60  # pixels between the nodes of a column; a node's title takes 30 of them
PADDING = (10, 70, 10, 30)  # pixels of a group around its nodes: left, top (two titles), right, bottom
# Where the front end's own height, which suffices for sockets and widgets, is not right.
SIZES = {
    "CLIPTextEncode": (280, 140),
    "LoadImage": (280, 360),
    "LikenessDetectFaces": (280, 370),
    "PreviewImage": (280, 290),
    "MaskPreview": (280, 290),
    "SaveImage": (440, 480),
    "LikenessEncodeFacePrompt": (600, 320),
    "LikenessEncodeDelayedFacePrompt": (600, 380),
    "LikenessBestOf": (440, 640),
    "LikenessFaceAPerson": (600, 400),
    "PrimitiveStringMultiline": (600, 140),
}
WIDTH = 280  # of all other nodes
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
NOTE = {"pos": [-450, -40], "size": [420, 640], "color": "#432", "bgcolor": "#653"}
# Of the canvas when a workflow is opened: the note and the first groups, large enough to be read.
OPENING_VIEW = {"scale": 0.75, "offset": [570, 200]}

BLUE, TEAL, PURPLE, GREEN, GOLD, BROWN = "#6fa8dc", "#9fc5c5", "#c58bd9", "#93c47d", "#e0b84f", "#e08f5a"
# Groups of each workflow: title, colour, first column of the grid, top of its nodes, node ids column by column.
LAYOUTS = {
    "fact_text_to_image": [
        ("1  Choose a photo", BLUE, 0, 0, [[4, 5]]),
        ("2  Find the face", TEAL, 1, 0, [[6]]),
        ("3  Read the identity", PURPLE, 2, 120, [[7, 8]]),
        ("See what was found", TEAL, 3, 0, [[15, 16]]),
        ("4  Load a model, write a prompt", BLUE, 0, 770, [[1, 11], [2, 3]]),
        ("5  Put the face into the model", PURPLE, 2, 770, [[9], [10]]),
        ("6  Sample", GREEN, 4, 770, [[12, 13]]),
        ("7  Result", GOLD, 5, 658, [[14]]),
    ],
    "fact_several_references": [
        ("1  Choose photos", BLUE, 0, 0, [[4, 17, 20, 5]]),
        ("2  Find the face in each", TEAL, 1, 0, [[6, 18, 21]]),
        ("3  Read the first photo", PURPLE, 2, 120, [[7, 8]]),
        ("Add the second", PURPLE, 3, 540, [[19]]),
        ("Add the third", PURPLE, 4, 840, [[22]]),
        ("See what was found", TEAL, 4, 0, [[15]]),
        ("See what was read", TEAL, 5, 620, [[16]]),
        ("4  Load a model, write a prompt", BLUE, 2, 1090, [[1, 11], [2, 3]]),
        ("5  Put the face into the model", PURPLE, 4, 1090, [[9], [10]]),
        ("6  Sample", GREEN, 6, 1090, [[12, 13]]),
        ("7  Result", GOLD, 7, 978, [[14]]),
    ],
    "fact_lora_controlnet": [
        ("1  Choose a photo", BLUE, 0, 0, [[4, 5]]),
        ("2  Find the face", TEAL, 1, 0, [[6]]),
        ("3  Read the identity", PURPLE, 2, 120, [[7, 8]]),
        ("See what was found", TEAL, 3, 0, [[15, 16]]),
        ("4  Load model and style, write a prompt", BLUE, 0, 770, [[1, 17, 11], [2, 3]]),
        ("5  Put the face into the model", PURPLE, 2, 770, [[9], [10]]),
        ("6  Choose a pose", BROWN, 2, 1060, [[18], [19, 20]]),
        ("7  Sample", GREEN, 4, 770, [[12, 13]]),
        ("8  Result", GOLD, 5, 658, [[14]]),
    ],
}


LAYOUTS["miniature"] = LAYOUTS["fact_text_to_image"]
FIRST_PERSON = [
    ("1  Choose a photo", BLUE, 0, 0, [[4, 5]]),
    ("2  Find the face", TEAL, 1, 0, [[6]]),
    ("3  Read the identity", PURPLE, 2, 120, [[7, 8]]),
    ("See what was read", TEAL, 3, 0, [[15]]),
]
LAYOUTS |= {
    name: [
        *FIRST_PERSON,
        ("4  Turn it into words", PURPLE, 4, 120, [[9, 10]]),
        ("5  Load a model", BLUE, 0, 820, [[1, 11]]),
        ("6  Write a prompt with the face", BLUE, 1, 820, [[2, 3]]),
        ("7  Sample", GREEN, 3, 820, [[12, 13]]),
        ("8  Result", GOLD, 4, 708, [[14]]),
    ]
    for name in ("f2d_text_to_image", "f2d_delayed")
}
LAYOUTS["f2d_expression"] = [
    *FIRST_PERSON,
    ("4  Choose an expression", BROWN, 0, 820, [[16]]),
    ("Find it", TEAL, 1, 820, [[17]]),
    ("Read it", PURPLE, 2, 940, [[18, 19]]),
    ("See what was read", TEAL, 3, 820, [[20]]),
    ("5  Turn both into words", PURPLE, 4, 120, [[9, 10]]),
    ("6  Load a model", BLUE, 0, 1500, [[1, 11]]),
    ("7  Write a prompt with the face", BLUE, 1, 1500, [[2, 3]]),
    ("8  Sample", GREEN, 3, 1500, [[12, 13]]),
    ("9  Result", GOLD, 4, 1388, [[14]]),
]
LAYOUTS["f2d_two_people"] = [
    *FIRST_PERSON,
    ("4  Choose a second person", BLUE, 0, 820, [[16]]),
    ("Find the face", TEAL, 1, 820, [[17]]),
    ("Read the identity", PURPLE, 2, 940, [[18]]),
    ("See what was read", TEAL, 3, 820, [[20]]),
    ("5  Turn both into words", PURPLE, 4, 120, [[9, 10], [19]]),
    ("6  Load a model", BLUE, 0, 1500, [[1, 11]]),
    ("7  Write a prompt with both", BLUE, 1, 1500, [[2, 3]]),
    ("8  Sample", GREEN, 3, 1500, [[12, 13]]),
    ("9  Result", GOLD, 4, 1388, [[14]]),
]
LAYOUTS["f2d_best_of"] = [
    *FIRST_PERSON,
    ("4  Turn it into words", PURPLE, 4, 120, [[9, 10]]),
    ("5  Load a model", BLUE, 0, 820, [[1, 11]]),
    ("6  Write a prompt with the face", BLUE, 1, 820, [[16, 2, 3]]),
    ("7  Sample", GREEN, 3, 820, [[12, 13]]),
    ("All pictures", TEAL, 4, 820, [[20]]),
    ("8  Load a CLIP that scores", BROWN, 4, 1320, [[17, 18]]),
    ("9  Keep the best", GREEN, 5, 820, [[19]]),
    ("10  Result", GOLD, 7, 820, [[14]]),
]
LAYOUTS |= {
    name: [
        *FIRST_PERSON[:3],
        ("See what was read", TEAL, 3, 0, [[29]]),
        ("4  Choose the picture to change", BLUE, 0, 690, [[11], [25]]),
        ("5  Find its faces", TEAL, 2, 690, [[15]]),
        ("6  Cut one out", PURPLE, 3, 690, [[16]]),
        ("See what was cut", TEAL, 4, 690, [[26], [27], [28]]),
        ("7  Load a model, write a prompt", BLUE, 0, 1210, [[1], [2, 3]]),
        ("8  Put the face into the model", PURPLE, 2, 1210, [[9, 10]]),
        ("9  Guide it by pose and edges", BROWN, 3, 1210, [[19, 20], [21, 22]]),
        ("10  Paint the face", GREEN, 5, 1210, [[17, 18, 12]]),
        ("11  Paste it back", GOLD, 6, 1210, [[13, 23, 24]]),
        ("12  Result", GOLD, 7, 1210, [[14]]),
    ]
    for name in ("fact_inpaint", "fact_inpaint_one_of_three")
}

ONE_FACE_FOR_CLIP = [
    ("1  Choose a photo", BLUE, 0, 0, [[4, 5]]),
    ("2  Find the face", TEAL, 1, 0, [[6]]),
    ("3  Read who it is", PURPLE, 2, 120, [[7, 8]]),
    ("4  Cut it out for CLIP", TEAL, 3, 120, [[16, 17]]),
    ("See what CLIP sees", TEAL, 4, 120, [[15]]),
    ("5  Load a model, write a prompt", BLUE, 0, 770, [[1, 11], [2, 3]]),
    ("6  Put the face into the model", PURPLE, 2, 770, [[9], [10]]),
]
LAYOUTS |= {
    name: [
        *ONE_FACE_FOR_CLIP,
        ("7  Mix it with the text", BROWN, 4, 770, [[18]]),
        ("8  Sample", GREEN, 5, 770, [[12, 13]]),
        ("9  Result", GOLD, 6, 770, [[14]]),
    ]
    for name in ("infinite_id_photo", "infinite_id_style")
}
LAYOUTS["faceid_plusv2"] = [
    *ONE_FACE_FOR_CLIP,
    ("7  Sample", GREEN, 4, 770, [[12, 13]]),
    ("8  Result", GOLD, 5, 770, [[14]]),
]
LAYOUTS["infinite_id_mixing"] = [
    ("1  Choose a first person", BLUE, 0, 0, [[4, 5]]),
    ("Find the face", TEAL, 1, 0, [[6]]),
    ("Read who it is", PURPLE, 2, 120, [[7, 8]]),
    ("See what was read", TEAL, 3, 120, [[15]]),
    ("2  Choose a second person", BLUE, 0, 770, [[16]]),
    ("Find the face", TEAL, 1, 770, [[17]]),
    ("Read who it is", PURPLE, 2, 890, [[20]]),
    ("See what was read", TEAL, 3, 890, [[21]]),
    ("3  Mix the two", PURPLE, 4, 450, [[19]]),
    ("4  Load a model, write a prompt", BLUE, 0, 1400, [[1, 11], [2, 3]]),
    ("5  Put the face into the model", PURPLE, 2, 1400, [[9], [10]]),
    ("6  Mix it with the text", BROWN, 4, 1400, [[18]]),
    ("7  Sample", GREEN, 5, 1400, [[12, 13]]),
    ("8  Result", GOLD, 6, 1400, [[14]]),
]
LAYOUTS["two_image_adapters"] = [
    ("1  Choose a photo", BLUE, 0, 0, [[4, 5]]),
    ("2  Find the face", TEAL, 1, 0, [[6]]),
    ("3  Read who it is", PURPLE, 2, 120, [[7, 8]]),
    ("See what was read", TEAL, 3, 120, [[15]]),
    ("4  Load a model, write a prompt", BLUE, 0, 770, [[1, 11], [2, 3]]),
    ("5  Who it is", PURPLE, 2, 770, [[9], [19]]),
    ("6  What the photo looks like", PURPLE, 4, 770, [[16, 17], [10]]),
    ("7  Sample", GREEN, 6, 770, [[12, 13]]),
    ("8  Result", GOLD, 7, 770, [[14]]),
]
SDXL_PICTURE = [
    ("1  Load SDXL, describe the picture", BLUE, 0, 0, [[1, 4], [2, 3]]),
    ("2  Sample it", GREEN, 2, 0, [[5, 6]]),
    ("Before", TEAL, 3, 0, [[14]]),
    ("3  Find the faces", TEAL, 4, 0, [[7, 8]]),
]
LAYOUTS |= {
    name: [
        *SDXL_PICTURE,
        ("4  Load model and person", BLUE, 0, 730, [[9, 10]]),
        ("5  Say what the face does", PURPLE, 1, 730, [[11]]),
        ("6  Paint the face", GREEN, 3, 730, [[12]]),
        ("As it was painted", TEAL, 4, 730, [[15]]),
        ("7  Result", GOLD, 5, 730, [[13]]),
    ]
    for name in ("facea_refine", "facea_style")
}
LAYOUTS["facea_two_people"] = [
    *SDXL_PICTURE,
    ("4  Load model and people", BLUE, 0, 730, [[9, 10, 16]]),
    ("5  Say who becomes whom", PURPLE, 1, 730, [[11, 17]]),
    ("6  Paint the faces", GREEN, 3, 730, [[12]]),
    ("As they were painted", TEAL, 4, 730, [[15]]),
    ("7  Result", GOLD, 5, 730, [[13]]),
]
LAYOUTS["facea_expression"] = [
    ("1  Choose a picture", BLUE, 0, 0, [[6]]),
    ("2  Find its faces", TEAL, 1, 0, [[7, 8]]),
    ("3  Load model and person", BLUE, 2, 0, [[9, 10]]),
    ("4  Say an expression", PURPLE, 3, 0, [[11]]),
    ("Paint it", GREEN, 5, 0, [[12]]),
    ("Laughing", GOLD, 6, 0, [[13]]),
    ("5  Say what to put on", PURPLE, 3, 740, [[16]]),
    ("Paint it", GREEN, 5, 740, [[17]]),
    ("With glasses", GOLD, 6, 740, [[18]]),
]
LAYOUTS["facea_train"] = [
    ("1  Choose three photos", BLUE, 0, 0, [[1], [2], [3]]),
    ("2  Find the face in each", TEAL, 0, 500, [[4], [5], [6]]),
    ("Load a detector", TEAL, 0, 1010, [[7]]),
    ("3  Load the inpainting model", BLUE, 1, 1010, [[9]]),
    ("4  Train", PURPLE, 3, 0, [[10]]),
    ("5  Save the person", GOLD, 4, 0, [[11]]),
    ("See how it went", TEAL, 4, 260, [[12], [13]]),
]
LAYOUTS["facea_transfer"] = [
    ("1  Load model and person", BLUE, 0, 0, [[9, 10]]),
    ("2  Choose the other person", BLUE, 1, 0, [[1]]),
    ("3  Find the face", TEAL, 2, 0, [[7, 2]]),
    ("4  Hand the mouth over", PURPLE, 3, 0, [[3]]),
    ("5  Save the person", GOLD, 4, 0, [[4]]),
    ("6  Choose a picture", BLUE, 0, 760, [[6]]),
    ("Find its faces", TEAL, 1, 760, [[8]]),
    ("7  Say what the face does", PURPLE, 2, 760, [[11]]),
    ("8  Paint the face", GREEN, 4, 760, [[12]]),
    ("As it was painted", TEAL, 5, 760, [[14]]),
    ("9  Result", GOLD, 6, 760, [[13]]),
]


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
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", *OFFLINE])
        page = browser.new_page(viewport=VIEW)
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function(IS_READY)
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
    graph["nodes"].append(_note(graph["last_node_id"], note_text(name, prompt)))
    graph["extra"] = {"ds": OPENING_VIEW}
    return graph


def _add_models(node: dict) -> None:
    """Say where the file a loader names is published, for the editor's list of missing models; not from an archive."""
    values = node.get("widgets_values", [])
    entries = filter(None, (manifest.find(value) for value in values if isinstance(value, str)))
    single = [entry for entry in entries if not entry.source.member]
    if models := [{"name": entry.file, "url": manifest.url(entry), "directory": entry.folder} for entry in single]:
        node["properties"]["models"] = models


def _place(nodes: dict, number: int, title: str, colour: str, column: int, top: int, ids: list[list[int]]) -> dict:
    """Give the nodes of a group their places and sizes, and return the group."""
    for x, stack in enumerate(ids, column):
        y = top
        for node in map(nodes.get, stack):
            node["pos"] = [x * PITCH, y]
            node["size"] = [*SIZES.get(node["type"], (WIDTH, node["size"][1]))]
            y += node["size"][1] + GAP
    corners = [[at + extent for at, extent in zip(nodes[key]["pos"], nodes[key]["size"])] for key in sum(ids, [])]
    left, above, right, below = PADDING
    x, y = column * PITCH - left, top - above
    size = max(corner[0] for corner in corners) + right - x, max(corner[1] for corner in corners) + below - y
    return {"id": number, "title": title, "bounding": [x, y, *size], "color": colour, "font_size": 24, "flags": {}}


def note_text(name: str, prompt: dict) -> str:
    """The note of a workflow: its own text, with the list of the published files that the workflow names."""
    text = (WORKFLOWS / "notes" / f"{name}.md").read_text(encoding="utf-8")
    values = [value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)]
    # A detector is named "family: file".
    files = filter(None, (manifest.find(value.split(": ")[-1]) for value in values))
    lines = (f"- [{file.file}]({manifest.url(file)}) to `models/{file.folder}` ({file.licence})" for file in files)
    return text.replace("{files}", "\n".join(lines))


def _note(key: int, text: str) -> dict:
    return {
        "id": key, "type": "MarkdownNote", "title": "Read me first", **NOTE, "flags": {}, "order": 0, "mode": 0,
        "inputs": [], "outputs": [], "properties": {}, "widgets_values": [text],
    }  # fmt: skip


def thumbnail(page: Page, graph: dict) -> Image.Image:
    """A small picture of the graph in the editor, without the editor's own controls."""
    page.set_viewport_size(LARGE_VIEW)  # in a small one, the editor leaves the text out
    page.evaluate("async graph => { await app.loadGraphData(graph) }", graph)
    page.evaluate("app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
    page.evaluate("view => { Object.assign(app.canvas.ds, view); app.canvas.setDirty(true, true) }", _whole(graph))
    page.wait_for_timeout(3000)  # until the pictures in the nodes are there and the view has settled: no event tells
    screen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return screen.resize(THUMBNAIL, Image.Resampling.LANCZOS)


def _whole(graph: dict) -> dict:
    """Scale and offset of the canvas at which the graph fills the large view."""
    boxes = [group["bounding"] for group in graph["groups"]] + [[*NOTE["pos"], *NOTE["size"]]]
    lefts, tops, widths, heights = zip(*boxes)
    left, top = min(lefts), min(tops)
    size = max(map(sum, zip(lefts, widths))) - left, max(map(sum, zip(tops, heights))) - top
    view = LARGE_VIEW["width"], LARGE_VIEW["height"]
    scale = 0.96 * min(view[axis] / size[axis] for axis in (0, 1))
    return {"scale": scale, "offset": [(view[axis] / scale - size[axis]) / 2 - (left, top)[axis] for axis in (0, 1)]}


def _base(base: Path) -> Path:
    """A base directory in which nothing the workflows name is missing: empty files do, as nothing is run."""
    environment.make_base(base)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    shutil.copytree(WORKFLOWS / "assets", base / "input", dirs_exist_ok=True)
    for name in LAYOUTS:
        for node in json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8")).values():
            for key in node["inputs"].keys() & MODEL_INPUTS.keys():
                for folder in MODEL_INPUTS[key]:
                    model = base / "models" / folder / node["inputs"][key]
                    model.parent.mkdir(parents=True, exist_ok=True)
                    model.touch()
    return base
