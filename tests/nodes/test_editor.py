"""The pack in the graph editor, with a real browser, by clicks: from a base directory that holds nothing."""

import contextlib
import json
import os
import re
import tarfile

import pytest
from likeness.launcher import environment, hosting, workflow_forms
from likeness.launcher.workflow_layout import TITLE, read_layouts
from likeness.tests.support.graphs import WORKFLOWS
from PIL import Image
from playwright.sync_api import TimeoutError

LAYOUTS = read_layouts()
NAMES = {layout["card"]: name for name, layout in LAYOUTS["workflows"].items()}
CARDS = sorted(NAMES)
FIRST = LAYOUTS["workflows"]["miniature_fact"]
BLUEPRINTS = sorted(file.stem for file in (WORKFLOWS.parents[1] / "subgraphs").glob("*.json"))
OLD = WORKFLOWS.parents[1] / "tests" / "golden" / "workflows_0.5.0.tar.xz"
# Inputs that nodes have got since then.
LATER = {"LikenessRefineFaces": ("if_no_face",), "LikenessApplyImageAdapter": ("lora_rows",)}
TEMPLATES = "api/workflow_templates/ComfyUI-Likeness"
REGISTERED = "comfyui-likeness"  # the pack's folder where the registry installed it
LETTER = 10  # pixels of a letter of a group's title, on the average
# The server refuses requests to other hosts and lacks files that its makers' own site has: not ours.
NOT_OURS = ("Content Security Policy", "Failed to load resource", "status code 404", "PromptExecutionError")
ACTIVE = "() => app.extensionManager.workflow.activeWorkflow.path"
# The last lines of the front end's loadWorkflowTemplate, which a card calls.
LOAD_TEMPLATE = """async ([path, name]) => app.loadGraphData(
    await (await fetch(path)).json(), true, true, name, { openSource: 'template' })"""
DRAWN = """() => app.graph.nodes.every(node => document.querySelector(`[data-node-id="${node.id}"]`))"""
FEW_CARDS = """() => {
    const cards = document.querySelectorAll('[data-testid^="template-workflow-"]').length
    return 0 < cards && cards < 20
}"""
BOXES = """isNew => app.graph.nodes.map(node => {
    const rect = isNew && document.querySelector(`[data-node-id="${node.id}"]`).getBoundingClientRect()
    const [width, height] = isNew
        ? [rect.width, rect.height].map(size => size / app.canvas.ds.scale) : [node.size[0], node.size[1] + 30]
    return [node.id, node.pos[0], node.pos[1] - 30, node.pos[0] + width, node.pos[1] - 30 + height]
})"""
# The same view and boxes five times in a row.
SETTLED = """() => {
    const boxes = [...document.querySelectorAll('[data-node-id]')].map(box => box.getBoundingClientRect())
    const { scale, offset } = app.canvas.ds
    const view = JSON.stringify([scale, offset, app.graph.nodes.map(({ size }) => size), boxes])
    window.views = view === window.view ? window.views + 1 : 0
    window.view = view
    return window.views >= 4
}"""
GROUPS = """() => app.graph.groups.map(({title, pos, size}) => [title, ...pos, pos[0] + size[0], pos[1] + size[1]])"""
# The one training takes longer than all other templates; what comes of all its steps is other tests' matter.
FEW_STEPS = """() => app.graph.nodes.filter(node => node.type === 'LikenessTrainFaceA').forEach(node => {
    node.widgets.find(widget => widget.name === 'steps').value = 10
})"""
UNKNOWN = "kinds => kinds.filter(kind => !LiteGraph.registered_node_types[kind])"
ROWS = """() => [...document.querySelectorAll('[data-testid="missing-model-locate"]')].map(button => {
    const row = button.closest('[data-testid="missing-model-importable-rows"] > div') ?? button.parentElement
    return [row.querySelector('[title]').title, row.querySelector('span.block')?.textContent ?? '',
            Boolean(row.querySelector('[aria-label="Copy URL"]'))]
})"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        workflow_forms.chromium() is None and "CI" not in os.environ,
        reason="no Chromium or Chrome to open the editor in",
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a server whose base directory holds nothing but the pack; FRONT_END: see CONTRIBUTING.md."""
    base = tmp_path_factory.mktemp("empty") / "base"
    environment.make_base(base)
    front_end = ["--front-end-root", os.environ["FRONT_END"]] if "FRONT_END" in os.environ else []
    with hosting.start(base, environment.find_host(), extra_args=front_end) as host:
        yield host.url


@pytest.fixture(scope="module")
def page(server):
    with workflow_forms.editor(server) as page:
        yield page


@pytest.fixture(scope="module")
def complaints(page, server):
    """Errors of the page or its console, dropped inputs of an app, and requests to other hosts, as they come."""
    complaints = []

    def on_console(message):
        is_ours = not any(words in message.text for words in NOT_OURS)
        if is_ours and (message.type == "error" or "dropping legacy selectedInput" in message.text):
            complaints.append(message.text)

    def on_answer(response):
        if not response.url.startswith((server, "data:", "blob:")):
            complaints.append(response.url)

    page.on("pageerror", lambda error: complaints.append(error.message))
    page.on("console", on_console)
    page.on("response", on_answer)
    return complaints


@pytest.fixture(autouse=True)
def nothing_goes_wrong(complaints):
    yield
    heard = complaints.copy()
    complaints.clear()
    assert heard == []


@pytest.fixture(scope="module")
def opened(request, page, complaints):
    """A template in the classic design, opened by its card, or in the new one: its card and its file."""
    card, is_new = request.param
    set_design(page, is_new)
    yield card, load_as_card(page, card) if is_new else open_card(page, card)
    set_design(page, False)


def each(cards, *designs):
    """Have a test take `opened` for every card and design; tests of one card and design share the opening."""
    cases = [pytest.param((card, new), id=f"{card}-{'new' if new else 'classic'}") for new in designs for card in cards]
    return pytest.mark.parametrize("opened", cases, indirect=True, scope="module")


def set_design(page, is_new):
    page.evaluate(workflow_forms.SET, ["Comfy.VueNodes.Enabled", is_new])


def get(page, server, path):
    answer = page.request.get(f"{server}/{path}")
    assert answer.ok, path
    return answer


def command(page, name):
    page.evaluate("name => app.extensionManager.command.execute(name)", name)


def open_card(page, card, pack="ComfyUI-Likeness") -> dict:
    """Open a template by its card, and return the file."""
    page.evaluate("() => app.graph.clear()")
    before, button = page.evaluate(ACTIVE), page.get_by_test_id(f"template-workflow-{card}")
    for _ in range(9):  # a click on the list while it is drawn anew is lost
        with contextlib.suppress(TimeoutError):
            command(page, "Comfy.BrowseTemplates")
            page.get_by_text(pack).first.click(timeout=30_000)
            page.get_by_placeholder("Search").last.fill(card, timeout=30_000)  # newer editors draw the first cards only
            page.wait_for_function(FEW_CARDS, timeout=30_000)
            button.click(timeout=30_000)
            page.wait_for_function(f"before => ({ACTIVE})() !== before", arg=before, timeout=10_000)
            break
    assert card in page.evaluate(ACTIVE)
    button.wait_for(state="detached")
    return read_opened(page, card)


def load_as_card(page, card) -> dict:
    """Do what a click on a template's card comes down to, without the clicks, and return the file."""
    page.evaluate(LOAD_TEMPLATE, [f"{TEMPLATES}/{card}.json", card])
    page.wait_for_function(DRAWN)
    return read_opened(page, card)


def read_opened(page, card) -> dict:
    graph = json.loads((WORKFLOWS.parent / f"{card}.json").read_text(encoding="utf-8"))
    opened = page.evaluate("() => app.graph.nodes.map(node => `${node.id}`)")
    assert {str(node["id"]) for node in graph["nodes"]} == set(opened)
    return graph


def list_missing(page) -> list[list]:
    """Return what the editor's own panel says is missing: name, folder, whether there is a link."""
    if not page.get_by_text("Workflow Overview").count():
        page.get_by_text("View details").first.click()
    page.get_by_test_id("panel-tab-errors").click()
    page.get_by_test_id("missing-model-locate").first.wait_for()
    page.wait_for_timeout(300)  # until all rows are there: no event tells
    return page.evaluate(ROWS)


def touch(a, b) -> bool:
    """Return whether two boxes (left, top, right, bottom) overlap by more than a rounding error."""
    return a[0] < b[2] - 1 and b[0] < a[2] - 1 and a[1] < b[3] - 1 and b[1] < a[3] - 1


def is_inside(box, frame) -> bool:
    return frame[0] <= box[0] and frame[1] + TITLE <= box[1] and box[2] <= frame[2] + 1 and box[3] <= frame[3] + 1


def calls(prompt: dict) -> dict:
    """The nodes of a prompt: inner nodes of a folded one have its id before their own."""
    return {
        key.split(":")[-1]: (
            node["class_type"],
            {
                name: [value[0].split(":")[-1], value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            },
        )
        for key, node in prompt.items()
    }


def read_prompt(page) -> dict:
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def test_every_workflow_is_a_template_with_a_square_picture(page, server):
    assert sorted(get(page, server, "api/workflow_templates").json()["ComfyUI-Likeness"]) == CARDS
    for card in CARDS:
        picture = get(page, server, f"{TEMPLATES}/{card}.jpg").body()
        assert len(picture) < 100_000
        with Image.open(WORKFLOWS.parent / f"{card}.jpg") as image:
            assert image.width == image.height >= 512, card


@pytest.mark.parametrize("words", [
    "portrait", "face swap", "anime", "sdxl", "sd1.5", "same person", "consistent character", "likeness",
    "instantid", "pulid", "restore face", "two people", "train", "ipadapter", "expression", "faceid", "controlnet",
])  # fmt: skip
def test_cards_are_found_by_the_words_people_type(words):
    """The editor's search looks for a word within the first 33 letters."""
    assert any(0 <= card.lower().find(words) <= 33 for card in CARDS)


def check_layout(page, graph, is_new):
    """No node overlaps another or grows out of its group."""
    boxes = {key: box for key, *box in page.evaluate(BOXES, is_new)}
    frames = [frame for _, *frame in page.evaluate(GROUPS)]
    assert len(boxes) == len(graph["nodes"])
    for key, box in boxes.items():
        assert not [other for other in boxes if other != key and touch(boxes[other], box)], key
        assert sum(is_inside(box, frame) for frame in frames) == 1, key


@each(CARDS, False, True)
def test_a_template_opens_readable_and_whole(page, opened, request):
    _, graph = opened
    page.wait_for_function(SETTLED, polling=100)
    assert page.evaluate("() => app.canvas.ds.scale") >= (0.75 if len(graph["nodes"]) <= 6 else 0.6)
    assert page.evaluate("() => app.graph.nodes.every(node => !node.has_errors || node.type)")
    check_layout(page, graph, request.node.callspec.id.endswith("new"))
    for title, left, _, right, _ in page.evaluate(GROUPS):
        assert LETTER * len(title) <= right - left, f"'{title}' runs out of its group"
    assert not page.get_by_test_id("missing-media-row").count() and not page.get_by_text("Missing Node").count()


@each(CARDS, False)
def test_the_editor_form_is_the_api_form(page, opened):
    card, graph = opened
    expected = calls(json.loads((WORKFLOWS / f"{NAMES[card]}.json").read_text()))
    for key in LAYOUTS["workflows"][NAMES[card]].get("bypassed", ()):
        outputs = [["1", 0], ["1", 1]]  # of the checkpoint, which a bypassed LoRA hands on
        del expected[str(key)]
        for _, inputs in expected.values():
            inputs.update({n: outputs[v[1]] for n, v in inputs.items() if isinstance(v, list) and v[0] == str(key)})
    assert calls(read_prompt(page)) == expected
    nodes = [
        *graph["nodes"],
        *(node for part in graph.get("definitions", {}).get("subgraphs", ()) for node in part["nodes"]),
    ]
    rows = [node.get("widgets_values", []) for node in nodes]
    seeds = [row[row.index("fixed") - 1] for row in rows if "fixed" in row]
    assert (seeds or "miniature_facea" in NAMES[card]) and not any("randomize" in row for row in rows)


@each([card for card in CARDS if "drawn world" not in card], False)
def test_every_missing_file_is_listed_with_folder_and_link(page, opened):
    card, _ = opened
    expected = set()
    prompt = json.loads((WORKFLOWS / f"{NAMES[card]}.json").read_text())
    bypassed = {str(key) for key in LAYOUTS["workflows"][NAMES[card]].get("bypassed", ())}
    for key, node in prompt.items():
        values = [value for value in node["inputs"].values() if isinstance(value, str)]
        expected |= {value for value in values if value.endswith(workflow_forms.FILES) and key not in bypassed}
    rows = list_missing(page)
    assert {name for name, *_ in rows} == expected
    for name, folder, is_linked in rows:
        if not re.match(r"s?her?_00001_", name):  # a person whom the user has yet to learn
            assert folder and folder != "Unknown" and is_linked, name


@each([card for card in CARDS if "drawn world" in card], False)
def test_run_on_a_template_of_the_drawn_world_gives_a_picture(page, server, opened):
    _, graph = opened
    assert not page.get_by_text("errors found").count() and not page.get_by_text("error found").count()
    page.evaluate(FEW_STEPS)
    page.get_by_test_id("queue-button").click()
    page.wait_for_function("() => app.nodeOutputs[14]?.images?.length", timeout=400_000)
    image, *_ = page.evaluate("() => app.nodeOutputs[14].images")
    file = get(page, server, f"view?filename={image['filename']}&subfolder={image['subfolder']}&type=output")
    assert file.headers["content-type"] == "image/png"
    page.wait_for_timeout(1000)  # until the pictures are drawn: no event tells
    check_layout(page, graph, False)


def test_the_app_form_shows_photo_text_strength_seed_and_run(page, server):
    open_card(page, CARDS[0])
    command(page, "Comfy.ToggleLinear")
    page.get_by_test_id("linear-run-button").wait_for()
    for label in ("prompt", "strength of the face", "seed"):
        assert page.get_by_text(label, exact=True).count(), label
    runs = len(get(page, server, "history").json())
    page.get_by_test_id("linear-run-button").click()
    finished = "async runs => Object.keys(await (await fetch('/history')).json()).length > runs"
    page.wait_for_function(finished, arg=runs, timeout=120_000)
    command(page, "Comfy.ToggleLinear")


def test_a_photo_of_one_s_own_is_one_click_away(page, server, tmp_path):
    open_card(page, next(card for card in CARDS if NAMES[card] == "fact_text_to_image"))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "mine.png")
    with page.expect_file_chooser() as chooser:
        page.evaluate("() => app.graph.getNodeById(4).widgets.find(widget => widget.name === 'upload').callback()")
    chooser.value.set_files(tmp_path / "mine.png")
    page.wait_for_function("() => app.graph.getNodeById(4).widgets[0].value === 'mine.png'")
    page.wait_for_function("() => app.graph.getNodeById(4).imgs?.[0]?.naturalWidth === 64")


def test_run_writes_onto_the_nodes_what_they_lack(page, server):
    card = next(card for card in CARDS if NAMES[card] == "fact_lora_controlnet")
    open_card(page, card)
    page.get_by_test_id("queue-button").click()
    text = "id => app.graph.getNodeById(id).widgets.find(widget => widget.name.includes('text-preview'))?.value ?? ''"
    for node, words in [(1, "v1-5-pruned"), (5, "mediapipe"), (7, "TransFace"), (9, "adapter_maj"), (19, "openpose")]:
        page.wait_for_function(f"([id, words]) => ({text})(id).includes(words)", arg=[node, words])
        shown = page.evaluate(text, node)
        assert "https://" in shown and "models" in shown and "likeness.py weights fetch" in shown


def test_a_node_opens_its_help(page, server, root):
    card = next(card for card in CARDS if NAMES[card] == "fact_lora_controlnet")
    open_card(page, card)
    page.evaluate("() => app.canvas.selectNode(app.graph.getNodeById(10))")
    command(page, "Comfy.Canvas.FitView")  # brings the selected node to the middle, with its toolbox
    page.get_by_test_id("info-button").click()
    page.get_by_role("heading", name="Recipes").wait_for()
    page.wait_for_function(
        "() => [...document.images].some(({src, naturalWidth}) => /docs.img/.test(src) && naturalWidth)"
    )
    for file in (root / "web" / "docs").glob("*.md"):
        assert get(page, server, f"extensions/ComfyUI-Likeness/docs/{file.name}").text() == file.read_text()


def test_what_chinese_lacks_is_english(page, server, root):
    texts = json.loads((root / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))["LikenessApplyFACT"]

    def answer_with_gaps(route):
        translations = route.fetch().json()
        node = translations["zh"]["nodeDefs"]["LikenessApplyFACT"]
        del node["display_name"], node["inputs"]["strength"]
        route.fulfill(json=translations)

    other = page.context.browser.new_page()  # a page loads its graph anew when its language changes
    other.set_default_timeout(120_000)
    other.route("**/i18n", answer_with_gaps)
    other.goto(server)
    other.wait_for_function(workflow_forms.IS_READY)
    other.evaluate(workflow_forms.SET, ["Comfy.Locale", "zh"])
    other.reload()
    other.wait_for_function(workflow_forms.IS_READY)
    node = "LiteGraph.createNode('LikenessApplyFACT')"
    title, *labels = other.evaluate(f"() => [{node}.title, ...{node}.widgets.map(({{label, name}}) => label ?? name)]")
    other.evaluate(workflow_forms.SET, ["Comfy.Locale", "en"])
    other.close()
    assert title == "Apply FACT" and labels[:2] == ["strength", texts["inputs"]["start_percent"]["name"]]


def test_blueprints_are_offered_in_node_search(page, server):
    offered = get(page, server, "api/global_subgraphs").json()
    ours = {
        entry["name"] for entry in offered.values() if entry["info"]["node_pack"] == "custom_nodes.ComfyUI-Likeness"
    }
    assert ours == set(BLUEPRINTS)
    page.evaluate("() => { app.graph.clear(); app.canvas.setDirty(true, true) }")
    page.wait_for_function("() => !app.canvas.visible_nodes.length")  # a click would still go to what was drawn there
    for _ in range(9):  # a canvas that is still being drawn does not see a click
        with contextlib.suppress(TimeoutError):
            page.mouse.dblclick(800, 600)
            page.wait_for_function("() => document.activeElement.tagName === 'INPUT'", timeout=10_000)
            break
    page.keyboard.type("Fix Faces restore detailer")
    page.get_by_text("Fix Faces (restore, detailer, FaceA)").first.wait_for()
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    page.mouse.click(700, 500)
    page.wait_for_function("() => app.graph.nodes.length === 1 && app.graph.nodes[0].isSubgraphNode()")
    names = page.evaluate("() => app.graph.nodes[0].widgets.map(widget => widget.name)")
    assert names[:5] == ["person", "face prompt", "checkpoint", "denoise", "seed"]


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_s_values_fit_the_nodes_inside(page, server, name):
    blueprint = json.loads((WORKFLOWS.parents[1] / "subgraphs" / f"{name}.json").read_text())
    page.evaluate("graph => app.loadGraphData(graph)", blueprint)
    prompt = read_prompt(page)
    (part,), (node,) = blueprint["definitions"]["subgraphs"], blueprint["nodes"]
    assert len(prompt) == len(part["nodes"]) and len(part["inputs"]) == len(node["inputs"])
    promoted = [socket for socket in node["inputs"] if "widget" in socket]
    assert len(promoted) == len(node["widgets_values"])
    values = page.evaluate("() => app.graph.nodes[0].widgets.map(widget => widget.value)")
    assert values[: len(promoted)] == node["widgets_values"]


with tarfile.open(OLD) as archive:
    OLD_NAMES = sorted(name.removesuffix(".json") for name in archive.getnames() if "/" not in name)


@pytest.mark.parametrize("name", OLD_NAMES)
def test_a_template_of_an_earlier_version_is_read_as_it_was(page, server, name):
    with tarfile.open(OLD) as archive:
        graph, prompt = (json.load(archive.extractfile(f"{folder}{name}.json")) for folder in ("", "api/"))
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    expected, read = calls(prompt), calls(read_prompt(page))
    for key, (class_type, inputs) in expected.items():  # what inputs that came later hold is the node's to say
        inputs |= {name: value for name, value in read[key][1].items() if name in LATER.get(class_type, ())}
    assert read == expected


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """The URL of a server with the pack in the folder that the registry makes."""
    base = tmp_path_factory.mktemp("registry") / "base"
    environment.make_base(base)
    (base / "custom_nodes" / "ComfyUI-Likeness").unlink()
    environment.link_folder(base / "custom_nodes" / REGISTERED, environment.ROOT)
    with hosting.start(base, environment.find_host()) as host:
        yield host.url


def test_the_pack_is_whole_in_the_registry_s_folder(page, registered, root):
    """Cards, blueprints, help pages and their pictures, and no node of any graph that the editor does not know."""
    page, errors = page.context.browser.new_page(viewport=workflow_forms.VIEW), []
    page.on("pageerror", lambda error: errors.append(error.message))
    page.goto(registered, wait_until="domcontentloaded")
    page.wait_for_function(workflow_forms.IS_READY, timeout=120_000)
    assert sorted(get(page, registered, "api/workflow_templates").json()[REGISTERED]) == CARDS
    offered = get(page, registered, "api/global_subgraphs").json().values()
    ours = {entry["name"] for entry in offered if entry["info"]["node_pack"] == f"custom_nodes.{REGISTERED}"}
    assert ours == set(BLUEPRINTS)
    for file in [*(root / "web" / "docs").glob("*.md"), *(root / "web" / "docs" / "img").glob("*.jpg")]:
        path = file.relative_to(root / "web" / "docs").as_posix()
        assert get(page, registered, f"extensions/{REGISTERED}/docs/{path}").body() == file.read_bytes()
    for folder, names in ((WORKFLOWS.parent, CARDS), (root / "subgraphs", BLUEPRINTS)):
        graphs = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names]
        page.evaluate("graph => app.loadGraphData(graph)", graphs[0])  # with its subgraph, a kind of its own
        parts = [part for graph in graphs for part in graph.get("definitions", {}).get("subgraphs", ())]
        kinds = {node["type"] for part in (*graphs, *parts) for node in part["nodes"]} - {part["id"] for part in parts}
        assert page.evaluate(UNKNOWN, sorted(kinds)) == []
    open_card(page, CARDS[0], REGISTERED)
    page.get_by_test_id("queue-button").click()
    page.wait_for_function("() => app.nodeOutputs[14]?.images?.length", timeout=400_000)
    assert errors == []
    page.close()
