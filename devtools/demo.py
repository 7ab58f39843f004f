"""A first look at the extension: one picture without and with the adapter, and a sheet of all steps."""

import asyncio
import copy
import io
import json
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from . import hosting, sheet
from .client import Client, GraphError, Progress, Prompt, Result
from .environment import BASE, ROOT, SetupError

WORKFLOW = ROOT / "workflows" / "api" / "fact_text_to_image.json"
REFERENCE = ROOT / "workflows" / "assets" / "astronaut.png"
OUTPUT = ROOT / "output" / "demo"

# Node class and input -> the built-in file for it. The three belong together: an adapter fits only the encoder it was
# trained with and the layout of its base model.
BUILT_IN_WEIGHTS = {
    ("CheckpointLoaderSimple", "ckpt_name"): "likeness_builtin_sd15.ckpt",
    ("LikenessLoadFaceEncoder", "encoder_name"): "likeness_builtin_transface.pt",
    ("LikenessLoadFaceAdapter", "adapter_name"): "likeness_builtin_fact.ckpt",
}
BUILT_IN_DETECTOR = {("LikenessLoadFaceDetector", "detector"): "opencv: haar cascade"}
MODEL_FOLDERS = ("checkpoints", "facechain_fact", "detection")
# The built-in model draws texture at any size and step count: small and quick shows as much.
BUILT_IN_SIZE = 256
BUILT_IN_STEPS = 8
LINE_WIDTH = 70  # characters; the progress line is padded, so that a shorter text overwrites a longer one
UNTRAINED = (
    "The built-in checkpoints are untrained: these pictures show that every part is wired up and does its work, "
    "not likeness. For that, put the published files in place ('python3 likeness.py weights list' names them)."
)


def main(comfy: Path, port: int | None) -> int:
    """Make the pictures and the sheet under output/demo and print where they are.

    Raises:
        SetupError: the built-in checkpoints could not be made, the host did not start, or the graph failed.
    """
    begin = time.monotonic()
    _make_builtin_checkpoints()
    print("starting ComfyUI ...", flush=True)
    try:
        with hosting.start(BASE, comfy, port=port) as host:
            built_in, results = asyncio.run(_run_graphs(host.url))
        files = save(results, UNTRAINED if built_in else "")
    except GraphError as error:
        raise SetupError(f"The demo graph did not run.\n{error}", f"The host's log is {host.log}.") from error
    print(*files, sep="\n")
    print(f"done in {time.monotonic() - begin:.0f} s")
    return 0


def _make_builtin_checkpoints() -> None:
    # In a process of its own: it imports the host, whose memory the server should have.
    if subprocess.call([sys.executable, ROOT / "likeness.py", "_checkpoints"]):
        raise SetupError("The built-in checkpoints could not be made.", "The lines above say why.")


async def _run_graphs(url: str) -> tuple[bool, dict[str, tuple[Prompt, Result]]]:
    """Run the workflow with the adapter off and on; also tell whether the built-in checkpoints were used."""
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    results = {}
    async with Client(url) as client:
        present = {name for folder in MODEL_FOLDERS for name in await client.models(folder)}
        use_if_missing(BUILT_IN_DETECTOR, prompt, present)
        built_in = use_if_missing(BUILT_IN_WEIGHTS, prompt, present)
        if built_in:
            shrink(prompt)
            print(f"{UNTRAINED}\nTo be quick: {BUILT_IN_SIZE} x {BUILT_IN_SIZE} pixels, {BUILT_IN_STEPS} steps.")
        set_inputs(prompt, "LoadImage", image=await client.upload_image(REFERENCE))
        for label, graph in {"adapter off": without_adapter(prompt), "adapter on": prompt}.items():
            begin = time.monotonic()
            results[label] = graph, await client.run(graph, progress_line(label, graph))
            _print_line(f"{label}: {time.monotonic() - begin:.1f} s")
    return built_in, results


def use_if_missing(files: dict[tuple[str, str], str], prompt: Prompt, present: set[str]) -> bool:
    """Put all of `files` into the graph if any file that the graph names in their places is not `present`.

    Args:
        files: (node class, input) -> file to put there.
        present: the names of the files in the host's model folders.

    Returns:
        Whether the graph was changed.
    """
    named = {
        (node_class, name): node["inputs"][name]
        for node_class, name in files
        for node in prompt.values()
        if node["class_type"] == node_class
    }
    # A detector is named "family: file".
    if all(name.split(": ")[-1] in present for name in named.values()):
        return False
    for (node_class, name), file in files.items():
        print(f"{node_class}: {file} stands in for {named[node_class, name]}")
        set_inputs(prompt, node_class, **{name: file})
    return True


def set_inputs(prompt: Prompt, node_class: str, **inputs) -> None:
    """Set inputs of all nodes of a class."""
    for node in prompt.values():
        if node["class_type"] == node_class:
            node["inputs"].update(inputs)


def shrink(prompt: Prompt) -> None:
    """Make the graph small enough to run in seconds on a CPU."""
    set_inputs(prompt, "EmptyLatentImage", width=BUILT_IN_SIZE, height=BUILT_IN_SIZE)
    set_inputs(prompt, "KSampler", steps=BUILT_IN_STEPS)


def without_adapter(prompt: Prompt) -> Prompt:
    """The same graph with the adapter at strength 0, where it leaves the base model as it is."""
    off = copy.deepcopy(prompt)
    set_inputs(off, "LikenessApplyFACT", strength=0.0)
    return off


def progress_line(label: str, prompt: Prompt) -> Progress:
    """A progress callback: one line that is updated on a terminal, a line for each node elsewhere."""
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


def save(results: dict[str, tuple[Prompt, Result]], note: str) -> list[Path]:
    """Save the result pictures and the sheet, and return the files."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    off, on = OUTPUT / "adapter_off.png", OUTPUT / "adapter_on.png"
    for file, label in (off, "adapter off"), (on, "adapter on"):
        file.write_bytes(picture_of(*results[label], "SaveImage", "Result"))
    without, with_adapter = Image.open(off), Image.open(on)
    difference, factor = sheet.amplified_difference(without, with_adapter)
    panels = [
        ("Reference", Image.open(REFERENCE)),
        ("Found face", _open(picture_of(*results["adapter on"], "PreviewImage", "Found face"))),
        ("Aligned crop", _open(picture_of(*results["adapter on"], "PreviewImage", "Aligned crop"))),
        ("Adapter off", without),
        ("Adapter on", with_adapter),
        (f"Difference, amplified {factor} times", difference),
    ]
    page = OUTPUT / "sheet.png"
    sheet.draw("FaceChain-FACT: one photo's way through the graph", panels, note).save(page)
    return [off, on, page]


def picture_of(prompt: Prompt, result: Result, node_class: str, title: str) -> bytes:
    """The first picture that the node of this class and title left.

    Raises:
        GraphError: there is no such node, or it left no picture.
    """
    for node_id, node in prompt.items():
        titled = (node["class_type"], node.get("_meta", {}).get("title")) == (node_class, title)
        if titled and result.images.get(node_id):
            return result.images[node_id][0].data
    raise GraphError(f'No picture came from a {node_class} node titled "{title}" in {WORKFLOW.name}.')


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
