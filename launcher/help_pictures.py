"""Draw the pictures of the help pages: what a node does, in the drawn world and with the pack's photograph."""

import asyncio
import io
import itertools
import json

from PIL import Image, ImageDraw, ImageOps

from .. import graphics
from ..host_process import ROOT
from . import client as clients
from .workflow_layout import WORKFLOWS

IMAGES = ROOT / "web" / "docs" / "img"
HEIGHT, TALL, WIDTH = 176, 280, 400  # pixels: of a cell's image, of one of two, and its width at most
GAP, LABEL = 6, 22  # pixels: between cells, of the line below
BOX, ARROW, TEXT, LINE, PHOTO_HEIGHT = 172, 36, 14, 18, 128  # pixels: of diagrams
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

# A person that is saved and loaded, six pictures with their scores, and a learned person with the mouth of another.
SAVED = {
    "saved": likeness("SaveIdentity", face_id=["8", 0], filename_prefix="her", thumbnails=True, note="may be drawn"),
    "loaded": likeness("LoadIdentity", identity_name="her_00001_.safetensors"),
}
SIX = {"11.batch_size": 6, "12.seed": 5}
SCORED = {
    "scorer": likeness("LoadFaceScorer", scorer_name="miniature_arcface.onnx"),
    "second scorer": likeness(
        "LoadFaceScorer", scorer_name="face_recognition_sface_2021dec_int8bq.onnx", face_scorer=["scorer", 0]
    ),
    "scores": likeness("ScorePictures", images=["13", 0], photos=["4", 0], face_detector=["5", 0],
                       face_scorer=["scorer", 0], text=["16", 0], clip=["1", 4], clip_vision=["1", 3]),
}  # fmt: skip
OTHER_MOUTH = {
    "others": likeness("RenderPerson", person=12, photos=3),
    "other faces": likeness("DetectFaces", face_detector=["5", 0], image=["others", 0]),
    "transfer": likeness(
        "TransferFaceAAttribute", model=["1", 0], clip=["1", 1], vae=["1", 2], facea_identity=["10", 0],
        attribute="mouth", steps=30, size=96, face_share=0.7, mask_shape="hull", mask_expand=6, learning_rate=0.001,
        features_learning_rate=0.01, **{"photos.faces_1": ["other faces", 0]},
    ),
}  # fmt: skip

PORTRAIT_FACE = PHOTOGRAPH | {"photo": likeness("ExamplePicture", image="examples/portrait.png [temp]")}
POSE = PHOTOGRAPH | {
    "portrait": likeness("ExamplePicture", image="examples/portrait.png [temp]"),
    "latent": node("EmptyLatentImage", width=512, height=512, batch_size=1),
    "drawn": likeness("DrawFaceKeypoints", faces=["face", 0], latent=["latent", 0]),
}

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
    "MatchGrain": (
        None,
        PHOTOGRAPH | {
            "grainy": node("ImageAddNoise", image=["photo", 0], seed=1, strength=0.07),
            "smooth": node("ImageBlur", image=["photo", 0], blur_radius=1, sigma=0.7),
            "masks": likeness("FaceMasks", faces=["face", 0], region="head"),
            "painted": node("ImageCompositeMasked", destination=["grainy", 0], source=["smooth", 0], x=0, y=0,
                            resize_source=False, mask=["masks", 0]),
            "matched": likeness("MatchGrain", image=["painted", 0], original=["grainy", 0])} | {
            f"{name} face": node("ImageCrop", image=[name, 0], x=96, y=0, width=256, height=256)
            for name in ("grainy", "painted", "matched")},
        [("original", "grainy face", {}), ("a smooth face in it", "painted face", {}), ("image", "matched face", {})],
    ),
    "DrawFaceKeypoints": (
        None,
        PHOTOGRAPH | {"latent": node("EmptyLatentImage", width=512, height=512, batch_size=1),
                      "drawn": likeness("DrawFaceKeypoints", faces=["face", 0], latent=["latent", 0])},
        [("photo", "photo", {}), ("image", "drawn", {})],
    ),
    "CompareIdentities": (
        "miniature_fact",
        {"7": likeness("LoadFaceEncoder", encoder_name="miniature_arcface.onnx"),
         "4": likeness("RenderPerson", person=5, photos=4), "other": likeness("RenderPerson", person=3, photos=4),
         "other faces": likeness("DetectFaces", face_detector=["5", 0], image=["other", 0]),
         "other identity": likeness("EncodeIdentity", face_encoder=["7", 0], faces=["other faces", 0]),
         "compared": likeness("CompareIdentities", face_id=["8", 0], compare_with=["other identity", 0])},
        [("face_id", "4", {}), ("compare_with", "other", {}), ("picture", "compared", {})],
    ),
    "ScorePictures": (
        "miniature_scores",
        SCORED,
        [("photos", "4", {}), ("table", "scores.1", SIX)],
    ),
    "KeepBest": (
        "miniature_scores",
        {"kept": likeness("KeepBest", images=["13", 0], scores=["19", 3], count=2)},
        [("the person", "4", {}), ("images, as scored", "19.1", SIX), ("best, with count 2", "kept", SIX)],
    ),
    "Gate": (
        "miniature_scores",
        {"gate": likeness("Gate", images=["13", 0], scores=["19", 3], min_identity=0.6)},
        [("images, as scored", "19.1", SIX), ("accepted", "gate", SIX), ("rejected", "gate.1", SIX)],
    ),
    "ImportFaces": (
        None,
        PHOTOGRAPH | {
            "found elsewhere": likeness("FaceMasks", faces=["faces", 0]),
            "made": likeness("ImportFaces", image=["group", 0], mask=["found elsewhere", 0], choose="all"),
            "searched": likeness("ImportFaces", image=["group", 0], mask=["found elsewhere", 0], choose="all",
                                 face_detector=["detector", 0])},
        [("mask, of another node", "found elsewhere", {}), ("overlay", "made.1", {}),
         ("with face_detector", "searched.1", {})],
    ),
    "FacesToLandmarks": (
        None,
        PORTRAIT_FACE | {
            "landmarks": likeness("FacesToLandmarks", faces=["face", 0]),
            "mesh": node("MediaPipeFaceMeshVisualize", face_landmarks=["landmarks", 0], image=["photo", 0],
                         connections="all"),
            "mask": node("MediaPipeFaceMask", face_landmarks=["landmarks", 0], regions="all")},
        [("photo", "photo", {}), ("Visualize Face Landmarks", "mesh", {}), ("Draw Face Mask", "mask", {})],
    ),
    "LoadFaceDetector": (
        None,
        PHOTOGRAPH | {
            "drawn": likeness("RenderPerson", person=5),
            "drawn detector": likeness("LoadFaceDetector", detector="drawn: miniature"),
            "drawn face": likeness("DetectFaces", face_detector=["drawn detector", 0], image=["drawn", 0])},
        [("mediapipe, in photographs", "faces.1", {}), ("drawn: miniature", "drawn face.1", {})],
    ),
    "LoadFaceEncoder": (
        "miniature_fact", {},
        [PHOTO, *[(label, source, changes | {"8.mask_background": "auto"}) for label, source, changes in sweep(
            "7.encoder_name", ("miniature_transface.safetensors", "miniature_msid.safetensors",
                               "miniature_arcface.onnx"), "8.1")]],
    ),
    "LoadFaceAdapter": (
        "miniature_fact", {},
        [PHOTO, ("Apply FACT", "20", {}), ("Face to Words", "miniature_face2diffusion/20", {}),
         ("Apply Image Adapter", "miniature_infinite_id/20", {"12.model": ["10", 0]})],
    ),
    "LoadFaceScorer": (
        "miniature_scores", SCORED,
        [("photos", "4", {}), ("table of Score Pictures, with two recognisers", "scores.1", SIX | {
            "scores.face_scorer": ["second scorer", 0]})],
    ),
    "SaveIdentity": (
        "miniature_fact", SAVED, [PHOTO, ("face_id, in the file", "loaded.2", {}), ("thumbnails", "loaded.1", {})],
    ),
    "LoadIdentity": (
        "miniature_fact", SAVED,
        [("crops", "loaded.1", {}), ("info", "loaded.2", {}), ("the picture", "20", {"10.face_id": ["loaded", 0]})],
    ),
    "SaveFaceAIdentity": (
        "miniature_facea", {"saved": likeness("SaveFaceAIdentity", facea_identity=["10", 0], filename_prefix="her")},
        [("who was learned", "15", {}), ("what the file holds", "10.1", {}), ("painted with it", "20", {})],
    ),
    "LoadFaceAIdentity": (
        "miniature_facea", {}, [("info", "10.1", {}), ("before", "4", {}), ("after", "20", {})],
    ),
    "TransferFaceAAttribute": (
        "miniature_facea", OTHER_MOUTH,
        [("who was learned", "15", {}), ("the other person", "others", {}), ("before", "20", {}),
         ("after", "20", {"11.facea_identity": ["transfer", 0]})],
    ),
    "Weights": (
        None,
        {"encoder": likeness("LoadFaceEncoder", encoder_name="ms1mv2_model_TransFace_S.pt"),
         "detector": likeness("LoadFaceDetector", detector=DETECTOR), "weights": likeness("Weights")},
        [("report", "weights", {})],
    ),
}  # fmt: skip


# By node whose published files cannot be shipped: nodes that draw, and columns of boxes with arrows between them. A box
# is a heading with a text, or as a cell above.
DIAGRAMS: dict[str, tuple[dict, list[list[tuple]]]] = {
    "SaveImage": (
        {},
        [[("images", "made by a method of this pack")],
         [("Save Image", "becomes this node when it is queued")],
         [("workflow and prompt", "in the PNG, as ever"),
          ("DigitalSourceType", "trainedAlgorithmicMedia, in XMP")]],
    ),
    "LoadExpressionEncoder": (
        {},
        [[("epoch_20.pth", "Deep3DFaceRecon, in models/face2diffusion")],
         [("Load Expression Encoder", "reads the expression, not who it is")],
         [("Encode Expression", "a face with the expression that is wanted")],
         [("Face to Words", "the person with this expression")]],
    ),
    "EncodeExpression": (
        PHOTOGRAPH,
        [[("Load Expression Encoder", "Deep3DFaceRecon"), ("faces: anybody's", "photo", {})],
         [("Encode Expression", "64 numbers: how far each part of the face is moved")],
         [("Face to Words", "two words for the person with this expression")]],
    ),
    "LoadFaceParser": (
        {},
        [[("79999_iter.pth", "BiSeNet, in models/face_parsing")],
         [("Load Face Parser", "tells 19 kinds of pixels apart")], [("Face Masks", "region")],
         [("hair, head", "exact only with a parser"),
          ("face, eyes, nose, mouth, brows", "also without one, from landmarks")]],
    ),
    "LoadImageScorer": (
        {},
        [[("DINO", "compares whole pictures"), ("CLIP", "picture with photos and with the prompt"),
          ("SigLIP", "picture with photos and with the prompt")],
         [("Load Image Scorer", "a file of models/image_metrics; several in a row")],
         [("Score Pictures", "dino-i, clip-i, text: a column each in its table")]],
    ),
    "LoadPulidEncoder": (
        {},
        [[("recogniser_name", "glintr100.onnx: who it is"), ("eva_name", "EVA02_CLIP_L: how the face looks"),
          ("parser_name", "BiSeNet: what is face and hair")],
         [("Load PuLID Encoder", "sees a face as PuLID was trained to")],
         [("Encode Identity", "photos to face_id")], [("Apply PuLID", "face_id to model")]],
    ),
    "ApplyPulid": (
        PORTRAIT_FACE,
        [[("face_id: the person", "photo", {}), ("model", "SDXL, after its LoRAs")],
         [("Apply PuLID", "strength: how much; method: fidelity, style or neutral")],
         [("model, to KSampler", "style, light and place by the prompt; the face by the person")]],
    ),
    "ApplyInstantId": (
        POSE,
        [[("face_id: the person", "portrait", {}), ("pose: another photo", "photo", {})],
         [("who", "512 numbers"), ("keypoints", "drawn", {})],
         [("Apply InstantID", "strength: of the face in the model; control_strength: of place, size and turn")],
         [("KSampler", "the person, where and as the pose has the face")]],
    ),
    "ApplyInstantIdControl": (
        POSE,
        [[("image", "drawn", {}), ("face_id", "the person, in place of the prompt")],
         [("Apply InstantID ControlNet", "control_strength, end_percent, mask")],
         [("positive, negative", "the prompts, and the ControlNet beside them")],
         [("next ControlNet, or KSampler", "the model has its face by Apply Image Adapter")]],
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
            _write(
                name, compose([(label, await _run(client, info, workflow, beside, *cell)) for label, *cell in cells])
            )
        for name, (beside, columns) in DIAGRAMS.items():
            boxes = [
                [
                    (box[0], box[1] if len(box) == 2 else await _run(client, info, None, beside, *box[1:]))
                    for box in column
                ]
                for column in columns
            ]
            _write(name, connect(boxes), 64)


def _write(name: str, picture: Image.Image, quality: int = 88) -> None:
    data = compress(picture, quality)
    (IMAGES / f"Likeness{name}.jpg").write_bytes(data)
    print(name, len(data), flush=True)


async def _run(client, info: dict, workflow: str | None, beside: dict, source: str, changes: dict) -> Image.Image:
    """Return what output `source` of a graph shows, "node" or "workflow/node.output"; of a batch the first four."""
    other, _, source = source.rpartition("/")
    workflow = other or workflow
    text = (WORKFLOWS / "api" / f"{workflow}.json").read_text(encoding="utf-8") if workflow else "{}"
    graph = json.loads(text) | json.loads(json.dumps(beside))
    graph = {key: part for key, part in graph.items() if part["class_type"] not in ("SaveImage", "PreviewImage")}
    for part in graph.values():
        if part["class_type"] == "EmptyLatentImage":
            part["inputs"]["batch_size"] = 1
        for name, (kind, *options) in info[part["class_type"]]["input"].get("required", {}).items():
            if name in part["inputs"]:
                continue
            if options and "default" in options[0]:
                part["inputs"][name] = options[0]["default"]
            elif kind == "COMBO" or isinstance(kind, list):
                part["inputs"][name] = (options[0]["options"] if kind == "COMBO" else kind)[0]
    for path, value in changes.items():
        key, name = path.split(".")
        graph[key]["inputs"][name] = value
    key, _, slot = source.partition(".")
    link = [key, int(slot or 0)]
    if info[graph[key]["class_type"]]["output"][link[1]] == "MASK":
        graph["as image"] = node("MaskToImage", mask=link)
        link = ["as image", 0]
    if info[graph[key]["class_type"]]["output"][link[1]] == "STRING":
        graph["shown"] = node("PreviewAny", source=link)
        answer = await client.run(graph)
        return print_text(answer.history["outputs"]["shown"]["text"][0])
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


def print_text(text: str) -> Image.Image:
    """Return the first lines of a text on a sheet that is as wide and high as the cells of a row."""
    lines = [line for part in text.splitlines() for line in graphics.wrap(part, TEXT, WIDTH - 2 * GAP) or [""]]
    sheet = Image.new("RGB", (WIDTH, HEIGHT), "white")
    for index, line in enumerate(lines[: HEIGHT // LINE]):
        graphics.write(ImageDraw.Draw(sheet), (GAP, (index + 0.6) * LINE), line, TEXT, anchor="lm")
    return sheet


def connect(columns: list[list[tuple[str, str | Image.Image]]]) -> Image.Image:
    """Return columns of boxes, each a heading over a text or an image, and arrows from each column to the next.

    From every box to every one; one to one where both columns have as many.
    """
    drawn = [[draw_box(*box) for box in column] for column in columns]
    heights = [sum(box.height for box in column) + ARROW * (len(column) - 1) for column in drawn]
    width, height = len(columns) * (BOX + ARROW) - ARROW, max(heights)
    sheet = Image.new("RGB", (width + 2 * GAP, height + 2 * GAP), graphics.PAPER)
    pen, before = ImageDraw.Draw(sheet), []
    for number, (column, own) in enumerate(zip(drawn, heights)):
        left, top, middles = GAP + number * (BOX + ARROW), GAP + (height - own) // 2, []
        for box in column:
            sheet.paste(box, (left, top))
            middles.append(top + box.height // 2)
            top += box.height + ARROW
        pairs = zip(before, middles) if len(before) == len(middles) else itertools.product(before, middles)
        for start, end in pairs:
            pen.line((left - ARROW + 2, start, left - 8, end), graphics.FAINT, 2)
        for end in middles if before else ():
            pen.polygon(((left - 9, end - 5), (left - 9, end + 5), (left - 2, end)), graphics.FAINT)
        before = middles
    return sheet


def draw_box(heading: str, content: str | Image.Image) -> Image.Image:
    """Return a box with its heading over a text or an image."""
    lines = graphics.wrap(heading, TEXT, BOX - 2 * GAP)
    text = graphics.wrap(content, TEXT, BOX - 2 * GAP) if isinstance(content, str) else []
    image = content if text == [] else None
    bar = len(lines) * LINE + GAP
    inner = image and ImageOps.contain(image, (BOX - 2, PHOTO_HEIGHT), Image.Resampling.LANCZOS)
    box = Image.new("RGB", (BOX, bar + (inner.height + 1 if inner else len(text) * LINE + GAP)), "white")
    pen = ImageDraw.Draw(box)
    pen.rectangle((0, 0, BOX, bar), graphics.PALE_BLUE)
    for index, line in enumerate(lines):
        graphics.write(pen, (GAP, GAP // 2 + (index + 0.5) * LINE), line, TEXT, anchor="lm")
    for index, line in enumerate(text):
        graphics.write(pen, (GAP, bar + GAP // 2 + (index + 0.5) * LINE), line, TEXT, graphics.FAINT, "lm")
    if inner:
        box.paste(inner, ((BOX - inner.width) // 2, bar))
    pen.rectangle((0, 0, box.width - 1, box.height - 1), outline=graphics.FRAME)
    return box


def compress(image: Image.Image, best: int = 88) -> bytes:
    """Return an image as JPEG of less than LIMIT bytes and of quality `best`, or as good as LIMIT allows."""
    for quality in range(best, 20, -6):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() < LIMIT:
            break
    return file.getvalue()
