"""The pack in the graph editor, with a real browser: templates, help, and a run started by the button."""

import json
import os

import pytest
from likeness.launcher import workflow_forms
from likeness.tests.support.graphs import BUILT_IN, WORKFLOWS

NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
TEMPLATES = "api/workflow_templates/ComfyUI-Likeness"
# Where a method's own weights lie; by the beginning of a workflow's name.
FOLDERS = {
    "fact_": "facechain_fact", "f2d": "face2diffusion", "faceid": "ipadapter", "infinite_id_mixing": "instantid",
    "infinite_id_photo": "ipadapter", "infinite_id_style": "ipadapter", "two": "instantid", "facea": "checkpoints",
}  # fmt: skip
TITLE = 30  # pixels of a node's title bar, which lies above its position

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        workflow_forms.chromium() is None and "CI" not in os.environ,
        reason="no Chromium or Chrome to open the editor in",
    ),
]


@pytest.fixture(scope="module")
def page(server):
    with workflow_forms.editor(server) as page:
        yield page


@pytest.fixture(autouse=True)
def nothing_goes_wrong(page, server):
    """No error in the page, and no request to another host, while a test runs."""
    complaints = []

    def on_error(error):
        complaints.append(error.message)

    def on_request(request):
        if not request.url.startswith((server, "data:", "blob:")):
            complaints.append(request.url)

    page.on("pageerror", on_error)
    page.on("request", on_request)
    yield
    page.remove_listener("pageerror", on_error)
    page.remove_listener("request", on_request)
    assert complaints == []


def get(page, server, path):
    answer = page.request.get(f"{server}/{path}")
    assert answer.ok, path
    return answer


def open_template(page, server, name) -> dict:
    graph = get(page, server, f"{TEMPLATES}/{name}.json").json()
    page.evaluate("async graph => { await app.loadGraphData(graph) }", graph)
    return graph


def command(page, name):
    page.evaluate("name => app.extensionManager.command.execute(name)", name)


def calls(prompt: dict) -> dict:
    return {key: (node["class_type"], node["inputs"], node["_meta"]["title"]) for key, node in prompt.items()}


def test_every_workflow_is_a_template_with_a_image(page, server):
    assert sorted(get(page, server, "api/workflow_templates").json()["ComfyUI-Likeness"]) == NAMES
    for name in NAMES:
        thumbnail = get(page, server, f"{TEMPLATES}/{name}.jpg")
        assert thumbnail.headers["content-type"] == "image/jpeg" and 5_000 < len(thumbnail.body()) < 40_000


@pytest.mark.parametrize("name", NAMES)
def test_the_editor_form_is_the_api_form(page, server, name):
    open_template(page, server, name)
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert calls(prompt) == calls(json.loads((WORKFLOWS / f"{name}.json").read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_starts_from_the_seed_in_the_file_and_keeps_it(page, server, name):
    values = [node.get("widgets_values", []) for node in open_template(page, server, name)["nodes"]]
    seeds = [row[row.index("fixed") - 1] for row in values if "fixed" in row]
    assert seeds and set(seeds) == {1} and not any("randomize" in row for row in values)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_overlap_and_lie_in_their_groups(page, server, name):
    open_template(page, server, name)
    # What the editor makes of the sizes in the file, which it raises where a node needs more.
    graph = json.loads(page.evaluate("() => JSON.stringify(app.graph.serialize())"))
    boxes = {
        (node["id"], node["type"]): (x, y - TITLE, x + width, y + height)
        for node in graph["nodes"]
        for (x, y), (width, height) in [(node["pos"], node["size"])]
    }
    groups = [(x, y, x + width, y + height) for x, y, width, height in (group["bounding"] for group in graph["groups"])]
    for key, box in boxes.items():
        assert not [other for other in boxes if other != key and touch(boxes[other], box)], key
        assert sum(touch(group, box) for group in groups) == (key[1] != "MarkdownNote"), key
    assert not [pair for pair in pairs(groups) if touch(*pair)]


def touch(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def pairs(items):
    return [(a, b) for i, a in enumerate(items) for b in items[i + 1 :]]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "miniature"])  # its weights come with the pack
def test_the_note_and_the_loaders_say_where_the_weights_are(page, server, name):
    nodes = open_template(page, server, name)["nodes"]
    (note,) = (node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    models = [model for node in nodes for model in node["properties"].get("models", [])]
    (folder,) = (folder for beginning, folder in FOLDERS.items() if name.startswith(beginning))
    assert {model["directory"] for model in models} >= {"checkpoints", folder}
    for model in models:
        assert f"[{model['name']}]({model['url']}) to `models/{model['directory']}`" in note
    assert "Licence" in note and "mediapipe_face_fp32.safetensors" in note and "{files}" not in note


def test_a_template_opens_from_the_browser_of_templates(page, server):
    page.evaluate("() => app.graph.clear()")
    command(page, "Comfy.BrowseTemplates")
    page.get_by_text("ComfyUI-Likeness").first.click()
    page.get_by_test_id("template-workflow-fact_text_to_image").click()
    page.wait_for_function("() => app.graph.nodes.some(node => node.type === 'LikenessApplyFACT')")


def test_a_node_opens_its_help(page, server, root):
    open_template(page, server, "fact_text_to_image")
    page.evaluate("() => app.canvas.selectNode(app.graph.getNodeById(10))")
    command(page, "Comfy.Canvas.FitView")  # brings the selected node to the middle, with its toolbox
    page.get_by_test_id("info-button").click()
    page.get_by_role("heading", name="Recipes").wait_for()
    for file in (root / "web" / "docs").glob("*.md"):
        assert get(page, server, f"extensions/ComfyUI-Likeness/docs/{file.name}").text() == file.read_text()


def test_the_button_runs_the_graph_and_images_appear_on_the_nodes(page, server):
    open_template(page, server, "fact_text_to_image")
    page.evaluate(
        """values => {
            for (const node of app.graph.nodes)
                for (const widget of node.widgets ?? [])
                    if (widget.name in values) widget.value = values[widget.name]
        }""",
        {**BUILT_IN, "width": 64, "height": 64, "steps": 2},
    )
    command(page, "Comfy.Canvas.FitView")  # pictures are fetched for the nodes in sight
    page.get_by_test_id("queue-button").click()
    # 6 finds the face and shows it, 16 shows its crop, 14 saves the picture.
    widths = "[6, 16, 14].map(id => app.graph.getNodeById(id).imgs?.[0]?.naturalWidth)"
    page.wait_for_function(f"() => {widths}.every(Boolean)", timeout=120_000)
    assert page.evaluate(widths) == [512, 112, 64]
