"""Draw the pictures of the help pages: what a node does, in the drawn world and with the pack's photograph."""

import asyncio
import io
import json

from PIL import Image, ImageDraw, ImageOps

from .. import graphics
from ..host_process import ROOT
from . import client as clients
from .workflow_layout import WORKFLOWS

IMAGES = ROOT / "web" / "docs" / "img"
HEIGHT, TALL, WIDTH = 176, 280, 400  # pixels: of a cell's image, of one of two, and its width at most
GAP, LABEL = 6, 22  # pixels: between cells, of the line below
LIMIT = 30_000  # bytes
DETECTOR = "face_landmarker.safetensors"


def node(kind: str, **inputs) -> dict:
    """Return a node in API form; inputs that are left out get their defaults later."""
    return {"class_type": kind, "inputs": inputs}


def likeness(kind: str, **inputs) -> dict:
    return node(f"Likeness{kind}", **inputs)


def sweep(name: str, values: tuple, source: str, label: str = "{}") -> list:
    """Return cells of `source` for values of an input, `name` being "node.input"."""
    return [(label.format(value), source, {name: value}) for value in values]


# The pack's photograph, and the face that MediaPipe finds in it.
PHOTOGRAPH = {
    "photo": likeness("ExamplePicture", image="examples/astronaut.png [temp]"),
    "group": likeness("ExamplePicture", image="examples/three_faces.png [temp]"),
    "detector": likeness("LoadFaceDetector", detector=DETECTOR),
    "face": likeness("DetectFaces", face_detector=["detector", 0], image=["photo", 0]),
    "faces": likeness("DetectFaces", face_detector=["detector", 0], image=["group", 0], choose="all"),
}
# Two people of the drawn world, and FACT with what comes of both.
MIX = {
    "second": likeness("RenderPerson", person=3),
    "second face": likeness("DetectFaces", face_detector=["5", 0], image=["second", 0]),
    "second identity": likeness("EncodeIdentity", face_encoder=["7", 0], faces=["second face", 0]),
    "mix": likeness(
        "CombineIdentities", method="interpolate",
        **{"identities.face_id_1": ["8", 0], "identities.face_id_2": ["second identity", 0]},
    ),
}  # fmt: skip
PHOTO = ("the photo", "4", {})
FIRST = "a photo of {face} smiling, wearing a green sweater, in a library"
SECOND = "a photo of {face}, wearing a red cap"
PORTRAIT = {"photo.image": "examples/portrait.png [temp]"}
CARTOON = {"2.text": "a cartoon of a person smiling, wearing a red cap and a blue shirt, in the snow"}

# By node: the workflow that draws, nodes beside it, and cells: label, "node" or "node.output", inputs that change.
PICTURES: dict[str, tuple[str | None, dict, list]] = {
    "ApplyFACT": ("miniature_fact", {}, [PHOTO, *sweep("10.strength", (0.0, 0.5, 1.0), "20", "strength {}")]),
    "ApplyImageAdapter": (
        "miniature_infinite_id", {},
        [PHOTO, *[(label, source, changes | {"12.model": ["10", 0]})
                  for label, source, changes in sweep("10.strength", (0.0, 0.5, 1.0), "20", "strength {}")]],
    ),
    "InfiniteID": (
        "miniature_infinite_id", {},
        [PHOTO, ("the text alone", "20", CARTOON | {"12.model": ["1", 0]}),
         ("the adapter alone", "20", CARTOON | {"12.model": ["10", 0]}), ("mixing", "20", CARTOON)],
    ),
    "EncodeFacePrompt": ("miniature_face2diffusion", {}, [PHOTO, ("tokens", "2.1", {}), ("the picture", "20", {})]),
    "FaceToWords": (
        "miniature_face2diffusion", {},
        [PHOTO, *sweep("2.text", (FIRST, SECOND), "20", "a prompt with {{face}}")],
    ),
    "EncodeDelayedFacePrompt": (
        "miniature_face2diffusion",
        {"2": likeness("EncodeDelayedFacePrompt", clip=["1", 1], face_words=["10", 0], text=FIRST,
                       class_words="a man")},
        [PHOTO, *sweep("2.switch_percent", (0.1, 0.4, 0.7), "20", "switch_percent {}")],
    ),
    "BestOf": ("miniature_scores", {}, [("the person", "4", {}), ("table", "19.1", {"11.batch_size": 6})]),
    "CombineIdentities": (
        "miniature_fact", MIX,
        [("the first", "4", {}),
         *[(label, source, changes | {"10.face_id": ["mix", 0]})
           for label, source, changes in sweep("mix.slider", (0.0, 0.5, 1.0), "20", "slider {}")],
         ("the second", "second", {})],
    ),
    "IdentityAgreement": (
        "miniature_fact",
        {"photos": likeness("RenderPerson", person=5, photos=3), "other": likeness("RenderPerson", person=3),
         "all": node("ImageBatch", image1=["photos", 0], image2=["other", 0]),
         "found": likeness("DetectFaces", face_detector=["5", 0], image=["all", 0]),
         "7": likeness("LoadFaceEncoder", encoder_name="miniature_arcface.onnx"),
         "identity": likeness("EncodeIdentity", face_encoder=["7", 0], faces=["found", 0]),
         "agreement": likeness("IdentityAgreement", face_id=["identity", 0])},
        [("the photos", "all", {}), ("image", "agreement", {})],
    ),
    "LoadPerson": (
        "miniature_fact",
        {"photos": likeness("RenderPerson", person=5, photos=4),
         "person": likeness("LoadPerson", photos=["photos", 0], face_detector=["5", 0], face_encoder=["7", 0])},
        [("photos", "photos", {}), ("crops", "person.1", {})],
    ),
    "EncodeIdentity": (
        "miniature_fact", {},
        [PHOTO, *sweep("8.mask_background", ("on", "off"), "8.1", "mask_background {}")],
    ),
    "PeopleInPlaces": (
        "miniature_two_people", {},
        [("on the left", "4", {}), ("on the right", "21", {}), ("the picture", "20", {})],
    ),
    "PersonInPlace": (
        "miniature_two_people", {},
        [(label, source, changes | {"10.people": ["24", 0], "24.y": 40.0, "24.height": 60.0})
         for label, source, changes in sweep("24.place", ("left half", "middle half", "right third", "box"), "10.2")],
    ),
    "RefineFaces": (
        "miniature_facea", {},
        [("who was learned", "15", {}), ("before", "4", {}), ("crops", "12.1", {}), ("painted", "12.2", {}),
         ("after", "20", {})],
    ),
    "FaceAPerson": (
        "miniature_facea", {},
        [("who was learned", "15", {}), ("before", "4", {}),
         *sweep("11.face_prompt", ("a photo of a woman smiling", "a photo of a woman frowning"), "20")],
    ),
    "ApplyFaceA": (
        "miniature_facea", {},
        [("who was learned", "15", {}), ("before", "4", {}),
         *sweep("11.strength", (0.0, 0.5, 1.0), "20", "strength {}")],
    ),
    "TrainFaceA": (
        "miniature_facea_train", {},
        [("the photos", "4", {}), ("loss_curve", "10.1", {}), ("somebody else", "7", {}), ("refined", "20", {})],
    ),
    "FacePerson": (
        "miniature_fact",
        {"1": likeness("LoadMiniature", task="inpainting"),
         "other": likeness("RenderPerson", person=8, seed=1, photos=4, size=96),
         "faces": likeness("DetectFaces", face_detector=["5", 0], image=["other", 0], choose="all"),
         "person": likeness("FacePerson", model=["10", 0], positive=["2", 0], negative=["3", 0]),
         "refined": likeness("RefineFaces", image=["other", 0], people=["person", 0], vae=["1", 2], faces=["faces", 0],
                             face_share=0.5, size=96, expand=3, feather=3, seed=1, steps=20, cfg=2.0,
                             sampler_name="euler_ancestral", scheduler="normal")},
        [(*PHOTO[:2], {"4.person": 3}), ("before", "other", {}),
         ("after, by FACT", "refined", {"4.person": 3, "2.text": "a photo of a man smiling"})],
    ),
    "RenderPerson": (
        None, {"drawn": likeness("RenderPerson")}, sweep("drawn.person", (3, 4, 5, 12, 32), "drawn", "person {}"),
    ),
    "LoadMiniature": (
        "miniature_fact", {},
        [(text.removeprefix("a photo of "), "20", {"12.model": ["1", 0], "2.text": text}) for text in (
            "a photo of a woman, at the beach", "a photo of a man, in a forest", "a cartoon of a man, in a library")],
    ),
    "ExamplePicture": (
        None, PHOTOGRAPH,
        [(name, "photo", {"photo.image": f"examples/{name}.png [temp]"}) for name in (
            "astronaut", "portrait", "pose", "three_faces", "miniature_reference")],
    ),
    "DetectFaces": (None, PHOTOGRAPH, [("image", "group", {}), ("overlay", "faces.1", {})]),
    "AlignFace": (
        None, PHOTOGRAPH | {"crop": likeness("AlignFace", faces=["face", 0], size=224)},
        [("photo", "photo", {}), *sweep("crop.mask_background", (False, True), "crop", "mask_background {}")],
    ),
    "FaceMasks": (
        None, PHOTOGRAPH | {"masks": likeness("FaceMasks", faces=["face", 0])},
        [("photo", "photo", PORTRAIT),
         *[(label, source, changes | PORTRAIT)
           for label, source, changes in sweep("masks.region", ("face", "head", "both eyes", "mouth"), "masks")]],
    ),
    "PrepareFaceCrop": (
        None, PHOTOGRAPH | {"crop": likeness("PrepareFaceCrop", faces=["face", 0])},
        [("photo", "photo", {}), ("image", "crop.1", {}), ("inpaint_mask", "crop.2", {}), ("canny", "crop.3", {})],
    ),
    "CropFacesToRefine": (
        None, PHOTOGRAPH | {"crop": likeness("CropFacesToRefine", image=["group", 0], faces=["faces", 0])},
        [("image", "group", {}), ("the crops", "crop.1", {}), ("their masks", "crop.2", {})],
    ),
    "PasteFaceBack": (
        None,
        PHOTOGRAPH | {
            "crop": likeness("PrepareFaceCrop", faces=["face", 0]),
            "painted": node("ImageQuantize", image=["crop", 1], colors=6, dither="none"),
            "back": likeness("PasteFaceBack", face_crop=["crop", 0], image=["painted", 0], colour_match=False)},
        [("photo", "photo", {}), ("the crop", "crop.1", {}), ("painted", "painted", {}), ("pasted back", "back", {})],
    ),
    "DrawFaceKeypoints": (
        None,
        PHOTOGRAPH | {"latent": node("EmptyLatentImage", width=512, height=512, batch_size=1),
                      "drawn": likeness("DrawFaceKeypoints", faces=["face", 0], latent=["latent", 0])},
        [("photo", "photo", {}), ("image", "drawn", {})],
    ),
}  # fmt: skip


def main(url: str) -> None:
    """Have the server at `url` draw the picture of every node, and write them to web/docs/img.

    Its models folder holds MediaPipe's landmarker.
    """
    asyncio.run(_draw(url))


async def _draw(url: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    async with clients.Client(url) as client:
        info = await client.object_info()
        for name, (workflow, beside, cells) in PICTURES.items():
            panels = [(label, await _run(client, info, workflow, beside, *cell)) for label, *cell in cells]
            data = compress(compose(panels))
            (IMAGES / f"Likeness{name}.jpg").write_bytes(data)
            print(name, len(data), flush=True)


async def _run(client, info: dict, workflow: str | None, beside: dict, source: str, changes: dict) -> Image.Image:
    """Return what output `source` of a graph shows; a batch as a grid of its first four."""
    text = (WORKFLOWS / "api" / f"{workflow}.json").read_text(encoding="utf-8") if workflow else "{}"
    graph = json.loads(text) | json.loads(json.dumps(beside))
    graph = {key: part for key, part in graph.items() if part["class_type"] not in ("SaveImage", "PreviewImage")}
    for part in graph.values():
        if part["class_type"] == "EmptyLatentImage":
            part["inputs"]["batch_size"] = 1
        for name, (kind, *options) in info[part["class_type"]]["input"].get("required", {}).items():
            if options and "default" in options[0]:
                part["inputs"].setdefault(name, options[0]["default"])
            elif kind == "COMBO" or isinstance(kind, list):
                part["inputs"].setdefault(name, (options[0]["options"] if kind == "COMBO" else kind)[0])
    for path, value in changes.items():
        key, name = path.split(".")
        graph[key]["inputs"][name] = value
    key, _, slot = source.partition(".")
    link = [key, int(slot or 0)]
    if info[graph[key]["class_type"]]["output"][link[1]] == "MASK":
        graph["as image"] = node("MaskToImage", mask=link)
        link = ["as image", 0]
    graph["shown"] = node("PreviewImage", images=link)
    answer = await client.run(graph)
    images = [Image.open(io.BytesIO(file.data)).convert("RGB") for file in answer.images["shown"][:4]]
    return images[0] if len(images) == 1 else tile(images)


def tile(images: list[Image.Image]) -> Image.Image:
    """Return two images side by side, three or four in two rows."""
    width, height = images[0].size
    sheet = Image.new("RGB", (2 * width, -(-len(images) // 2) * height), graphics.PAPER)
    for index, image in enumerate(images):
        sheet.paste(image, (index % 2 * width, index // 2 * height))
    return sheet


def compose(panels: list[tuple[str, Image.Image]]) -> Image.Image:
    """Return a row of images, each over its label."""
    height = TALL if len(panels) == 2 else HEIGHT
    images = [ImageOps.contain(image, (WIDTH, height), Image.Resampling.LANCZOS) for _, image in panels]
    widths = [max(image.width, graphics.measure(label, 15)) for image, (label, _) in zip(images, panels)]
    height = max(image.height for image in images)
    sheet = Image.new("RGB", (sum(widths) + GAP * (len(widths) + 1), height + LABEL + GAP), graphics.PAPER)
    pen, left = ImageDraw.Draw(sheet), GAP
    for image, width, (label, _) in zip(images, widths, panels):
        sheet.paste(image, (left + (width - image.width) // 2, GAP + (height - image.height) // 2))
        graphics.write(pen, (left + width // 2, height + GAP + LABEL // 2), label, 15, anchor="mm")
        left += width + GAP
    return sheet


def compress(image: Image.Image) -> bytes:
    """Return an image as JPEG of less than LIMIT bytes, as good as that allows."""
    for quality in range(88, 20, -6):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() < LIMIT:
            break
    return file.getvalue()
