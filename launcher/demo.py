"""A first look at the extension: one image without and with the adapter, and a sheet of all steps."""

import asyncio
import copy
import io
import json
import sys
import time
from pathlib import Path

from PIL import Image

from .. import graphics
from ..host_process import BASE, ROOT, SetupError
from ..miniature import demo as miniature_demo
from ..weights import paths
from . import hosting, photographs
from .client import Client, GraphError, GraphResult, Progress, Prompt

WORKFLOW = ROOT / "workflows" / "api" / "fact_text_to_image.json"
REFERENCE = ROOT / "workflows" / "assets" / "astronaut.png"
OUTPUT = ROOT / "output" / "demo"

STAND_INS = (photographs.DETECTOR, "opencv: haar cascade")  # the last needs no file
WEIGHTS = {"CheckpointLoaderSimple", "LikenessLoadFaceEncoder", "LikenessLoadFaceAdapter"}  # what loads the published
MODEL_FOLDERS = ("checkpoints", "facechain_fact", "detection")
LINE_WIDTH = 70  # characters; the progress line is padded, so that a shorter text overwrites a longer one
IN_MINIATURE = (
    "The published files are not in place ('python3 likeness.py weights list' names them), so the miniature stands in: "
    "small models of a drawn world, which come with the pack."
)


def main(comfy: Path, port: int | None, photos: Path) -> int:
    """Make the images and the sheet under output/demo and print where they are; photos: the folder of photographs.

    Raises:
        SetupError: the host did not start, or a graph failed.
    """
    begin = time.monotonic()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    print("starting ComfyUI ...", flush=True)
    try:
        with hosting.start(BASE, comfy, port=port) as host:
            files = asyncio.run(_make(host.url, photos))
    except GraphError as error:
        raise SetupError(f"The demo graph did not run.\n{error}", f"The host's log is {host.log}.") from error
    print(*files, sep="\n")
    print(f"done in {time.monotonic() - begin:.0f} s")
    return 0


async def _make(url: str, photos: Path) -> list[Path]:
    """Have the server make everything and return the files: first the photographs, where the networks for them are."""
    async with Client(url) as client:
        if not await photographs.is_ready(client):
            return await _make_people(client)
        begin = time.monotonic()
        first = await photographs.make(client, photos)
        _print_line(f"photographs: {time.monotonic() - begin:.1f} s")
        *files, page = await _make_people(client)
    graphics.stack([first, Image.open(page)]).save(page)
    return [*files, page]


async def _make_people(client: Client) -> list[Path]:
    """Have the methods show people, with the published weights where all are there; the last file is the sheet."""
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    present = {name for folder in MODEL_FOLDERS for name in await client.models(folder)}
    if missing := find_missing(prompt, present):
        print(f"missing: {', '.join(missing)}\n{IN_MINIATURE}")
        return await miniature_demo.make(client, OUTPUT)
    use_ready_detector(prompt, present)
    results = {}
    for label, graph in {"adapter off": without_adapter(prompt), "adapter on": prompt}.items():
        begin = time.monotonic()
        results[label] = graph, await client.run(graph, progress_line(label, graph))
        _print_line(f"{label}: {time.monotonic() - begin:.1f} s")
    return save(results)


def find_missing(prompt: Prompt, present: set[str]) -> list[str]:
    """Return the published files that the graph names and that are not `present` in the host's model folders."""
    nodes = [node for node in prompt.values() if node["class_type"] in WEIGHTS]
    named = [value for node in nodes for key, value in node["inputs"].items() if key.endswith("_name")]
    # A fetched PyTorch file was rewritten.
    return [name for name in named if not {name, paths.safetensors_name(name)} & present]


def use_ready_detector(prompt: Prompt, present: set[str]) -> None:
    """Let the first of `STAND_INS` that is ready stand in where the file of the graph's detector is not `present`."""
    for node in prompt.values():
        # A detector is named "family: file".
        if "detector" in node["inputs"] and node["inputs"]["detector"].split(": ")[-1] not in present:
            ready = next((label for label in STAND_INS if label.split(": ")[-1] in present), STAND_INS[-1])
            print(f"{ready} stands in for {node['inputs']['detector']}")
            node["inputs"]["detector"] = ready


def set_inputs(prompt: Prompt, node_class: str, **inputs) -> None:
    """Set inputs of all nodes of a class."""
    for node in prompt.values():
        if node["class_type"] == node_class:
            node["inputs"].update(inputs)


def without_adapter(prompt: Prompt) -> Prompt:
    """Return the same graph with the adapter at strength 0, where it leaves the base model as it is."""
    off = copy.deepcopy(prompt)
    set_inputs(off, "LikenessApplyFACT", strength=0.0)
    return off


def progress_line(label: str, prompt: Prompt) -> Progress:
    """Return a progress callback: one line that is updated on a terminal, a line for each node elsewhere."""
    shown = ""

    def show(node: str, value: float, maximum: float) -> None:
        nonlocal shown
        text = f"{label}: {prompt[node].get('_meta', {}).get('title', prompt[node]['class_type'])}"
        if sys.stdout.isatty():
            steps = f" {value:.0f}/{maximum:.0f}" if maximum > 1 else ""
            _print_line(text + steps, end="\r")
        elif text != shown:
            _print_line(text)
        shown = text

    return show


def _print_line(text: str, end: str = "\n") -> None:
    print(text.ljust(LINE_WIDTH) if sys.stdout.isatty() else text, end=end, flush=True)


def save(results: dict[str, tuple[Prompt, GraphResult]]) -> list[Path]:
    """Save the resulting images and the sheet, and return the files."""
    off, on = OUTPUT / "adapter_off.png", OUTPUT / "adapter_on.png"
    for file, label in (off, "adapter off"), (on, "adapter on"):
        file.write_bytes(image_of(*results[label], "SaveImage", "Result"))
    without, with_adapter = Image.open(off), Image.open(on)
    difference, factor = graphics.amplify_difference(without, with_adapter)
    panels = [
        ("Reference", Image.open(REFERENCE)),
        ("Found face", _open(image_of(*results["adapter on"], "PreviewImage", "Found face"))),
        ("Aligned crop", _open(image_of(*results["adapter on"], "PreviewImage", "Aligned crop"))),
        ("Adapter off", without),
        ("Adapter on", with_adapter),
        (f"Difference, amplified {factor} times", difference),
    ]
    page = OUTPUT / "sheet.png"
    graphics.draw_sheet("FaceChain-FACT: one photo's way through the graph", panels).save(page)
    return [off, on, page]


def image_of(prompt: Prompt, result: GraphResult, node_class: str, title: str) -> bytes:
    """Return the first image that the node of this class and title left.

    Raises:
        GraphError: there is no such node, or it left none.
    """
    for node_id, node in prompt.items():
        titled = (node["class_type"], node.get("_meta", {}).get("title")) == (node_class, title)
        if titled and result.images.get(node_id):
            return result.images[node_id][0].data
    raise GraphError(f'No picture came from a {node_class} node titled "{title}" in {WORKFLOW.name}.')


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
