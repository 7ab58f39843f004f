"""The demo in the miniature: a row of pictures for each method, and how much they show the person."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from .. import graphics
from ..faces.types import Faces
from ..host_process import ROOT
from ..metrics.similarity import identity_summary
from ..weights.reading import read_state_dict
from .detector import MiniatureFinder
from .models.recogniser import Recogniser
from .training.crops import align_pixels
from .world.draw import draw
from .world.people import person
from .world.scenes import Scene
from .world.sheet import save

Prompt = dict[str, dict]  # API form: node id -> {"class_type", "inputs", "_meta"}

API = ROOT / "workflows" / "api"
SCORER = ROOT / "miniature" / "weights" / "scorer.safetensors"
LEARNED = 150_004  # whom miniature_facea.safetensors was learned from
REFERENCE_SIZE = 384
MIN_SCORE = 0.5  # of the face finder
# What the published workflows' nodes are given instead, by class.
SETTINGS = {
    "LikenessLoadFaceDetector": {"detector": "drawn: miniature"},
    "EmptyLatentImage": {"width": 96, "height": 96},
    "KSampler": {"seed": 5, "steps": 20, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"},
    # A face fills two thirds of the base's pictures: a crop with less of it would reach beyond them.
    "LikenessRefineFaces": {
        "size": 96,
        "face_share": 0.7,
        "shape": "hull",
        "expand": 16,
        "feather": 4,
        "steps": 20,
        "cfg": 2.0,
    },
}
PHOTOS = (
    "a photo of {who} smiling, wearing a red cap and a blue shirt, at the beach",
    "a photo of {who}, wearing a green sweater, in a library",
    "a photo of {who} frowning, wearing a black jacket, in the snow",
    "a photo of {who}, wearing glasses and a yellow hoodie, in a forest",
)
STYLES = (
    "a sketch of {who} smiling, wearing a red cap and a blue shirt, at the beach",
    "a cartoon of {who} smiling, wearing a green sweater, in a library",
    "a sketch of {who}, wearing a black jacket, by a brick wall",
    "a cartoon of {who}, wearing glasses and a yellow hoodie, in a forest",
)
NOTE = (
    "Drawn people whom no network was trained on, but for FaceA-Net's, who was learned; every picture is of 96 x 96 "
    "pixels and was made by the nodes of this pack on this machine. Below each: the cosine of its face to the "
    "reference's by a recogniser that nothing else uses, 1 at most and about 0 for a stranger. A picture without a "
    "face counts as 0 in the mean."
)


class Server(Protocol):
    """What is asked of a running ComfyUI: to take a picture, giving its name there, and to run a graph."""

    async def upload_image(self, path: Path) -> str: ...

    async def run(self, prompt: Prompt): ...


@dataclass(frozen=True)
class Row:
    """A method with the number of a person, and prompts. graph: of a prompt and words for the person: "a woman"."""

    title: str
    number: int
    prompts: tuple[str, ...]
    graph: Callable[[str, str], Prompt]


def load_workflow(name: str) -> Prompt:
    """Return a workflow in API form."""
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


def in_miniature(name: str, **files: str) -> Prompt:
    """Return the workflow `name` with the miniature's models and settings.

    files: what its loaders are to name, by input.
    """
    prompt = load_workflow(name)
    for node in prompt.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            task = "inpainting" if "inpainting" in node["inputs"]["ckpt_name"] else "text to image"
            node |= {"class_type": "LikenessLoadMiniature", "inputs": {"task": task}}
        node["inputs"] |= SETTINGS.get(node["class_type"], {})
        node["inputs"] |= {key: file for key, file in files.items() if key in node["inputs"]}
    return prompt


def with_prompt(prompt: Prompt, text: str) -> Prompt:
    """Change the prompt to `text` and the negative prompt to nothing; all workflows number these nodes alike."""
    prompt["2"]["inputs"]["text"], prompt["3"]["inputs"]["text"] = text, ""
    return prompt


def plain(text: str, words: str) -> Prompt:
    """Return the graph of the base model alone."""
    prompt = fact(text, words)
    prompt["12"]["inputs"]["model"] = ["1", 0]
    return {key: prompt[key] for key in ("1", "2", "3", "11", "12", "13", "14")}


def fact(text: str, words: str) -> Prompt:
    return with_prompt(in_miniature("miniature"), text.format(who=words))


def face2diffusion(text: str, words: str) -> Prompt:
    names = {"encoder_name": "miniature_msid.safetensors", "adapter_name": "miniature_face2diffusion.safetensors"}
    return with_prompt(in_miniature("f2d_text_to_image", **names), text.format(who="{face}"))


def infinite_id(workflow: str) -> Callable[[str, str], Prompt]:
    """Return a function that makes graphs of a published workflow; the CLIP of the miniature sees the whole photo."""
    names = {"encoder_name": "miniature_arcface.onnx", "adapter_name": "miniature_infinite_id.safetensors"}

    def graph(text: str, words: str) -> Prompt:
        prompt = in_miniature(workflow, **names)
        for left_out in ("16", "17"):  # the crop for CLIP, and the loader of CLIP
            del prompt[left_out]
        prompt["10"]["inputs"] |= {"clip_vision": ["1", 3], "image": ["4", 0]}
        return with_prompt(prompt, text.format(who=words))

    return graph


def facea(text: str, words: str) -> Prompt:
    """Return the graph that repaints the head of a stranger as the learned person, with the same prompt."""
    prompt, text = in_miniature("facea_refine", identity_name="miniature_facea.safetensors"), text.format(who=words)
    prompt["11"]["inputs"]["face_prompt"] = text
    return with_prompt(prompt, text)


ROWS = (
    Row("FaceChain-FACT", 150_003, PHOTOS, fact),
    Row("Face2Diffusion", 150_017, PHOTOS, face2diffusion),
    Row("Infinite-ID, photos", 150_002, PHOTOS, infinite_id("infinite_id_photo")),
    Row("Infinite-ID, styles", 150_002, STYLES, infinite_id("infinite_id_style")),
    Row("FaceA-Net: faces made those of a learned person", LEARNED, PHOTOS, facea),
)


async def make(client: Server, folder: Path) -> list[Path]:
    """Have the server make all rows, write their sheet into `folder` and return the file.

    Raises GraphError where a graph fails.
    """
    made, rows = {}, []
    for row in ROWS:
        reference = render_reference(folder, row.number)
        uploaded = await client.upload_image(reference)
        images = []
        for label, graph in graphs(row, uploaded).items():
            key = json.dumps(graph)
            if key not in made:  # the server has a graph's pictures once: what it remembers, it does not send again
                made[key] = await _sample(client, graph)
            images.append((label, made[key]))
        rows.append(make_row(row, Image.open(reference), images))
        print(rows[-1][0], flush=True)
    page = folder / "sheet.png"
    graphics.draw_rows("Likeness: four methods in the miniature", rows, NOTE).save(page)
    return [page]


def graphs(row: Row, reference: str) -> dict[str, Prompt]:
    """Return the graphs of a row by their labels; reference: the picture of the person, as the server calls it."""
    words = "a woman" if person(row.number).woman else "a man"
    made = {"adapter off": plain(row.prompts[0], words)}
    made |= {text.format(who=words): row.graph(text, words) for text in row.prompts}
    for graph in made.values():
        for node in graph.values():
            if node["class_type"] == "LikenessExamplePicture":
                node["inputs"]["image"] = reference
    return made


def render_reference(folder: Path, number: int) -> Path:
    """Write an image of a person into `folder`, as a graph takes it, and return its path."""
    path = folder / f"reference_{number}.png"
    save(draw([person(number)], [Scene()], REFERENCE_SIZE).images[0], path)
    return path


def make_row(row: Row, reference: Image.Image, images: list[tuple[str, Image.Image]]) -> tuple[str, list]:
    """Return title and cells of a row of the sheet, of images by their labels; the first is without the adapter."""
    scores = identities([image for _, image in images], reference)
    mean = identity_summary(scores[1:]).all
    labels = [f"{'no face' if score.isnan() else f'{score:.2f}'}\n{label}" for score, (label, _) in zip(scores, images)]
    cells = zip(("reference", *labels), (reference, *(image for _, image in images)))
    return f"{row.title}: likeness {mean:.2f}, {scores[0].nan_to_num():.2f} with the adapter off", list(cells)


@torch.inference_mode()
def identities(images: Sequence[Image.Image], reference: Image.Image) -> torch.Tensor:
    """Return the cosine [n] of every picture's face to the reference's; NaN where no face is found."""
    scorer = Recogniser.of({name: weight.float() for name, weight in read_state_dict(SCORER).items()})
    person_vector, *vectors = (_embed(image, scorer) for image in (reference, *images))
    return torch.stack([(vector * person_vector).sum() for vector in vectors])


def _embed(image: Image.Image, scorer: Recogniser) -> torch.Tensor:
    """Return the unit vector [d] of the face in a picture; NaN without one."""
    pixels = np.array(image.convert("RGB"))
    faces = MiniatureFinder(MIN_SCORE).detect(pixels)
    if not faces:
        return torch.tensor(torch.nan)
    crop = Faces(torch.from_numpy(pixels)[None] / 255, (tuple(faces),))
    return normalize(scorer(align_pixels(crop)), dim=1)[0]


async def _sample(client: Server, graph: Prompt) -> Image.Image:
    result = await client.run(graph)
    (saved,) = (key for key, node in graph.items() if node["class_type"] == "SaveImage")
    return Image.open(io.BytesIO(result.images[saved][0].data))
