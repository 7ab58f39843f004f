"""The demo's first part: photographs of people, found, masked, aligned and compared by trained networks."""

import io
from pathlib import Path

from PIL import Image

from .. import graphics
from ..host_process import ROOT
from .client import Client, Prompt

PORTRAIT = ROOT / "workflows" / "assets" / "astronaut.png"
DETECTOR = "face_landmarker.safetensors"
RECOGNISER = "face_recognition_sface_2021dec_int8bq.onnx"
# Of one person, and last of another.
COMPARED = ("obama.jpg", "obama2.jpg", "obama3.jpg", "obama_partial_face.jpg", "biden.jpg")
MASKS = {"face": "the face", "both eyes": "the eyes"}
MIN_AGREEMENT = 0.5  # between what strangers and what photos of one person reach with SFace
TITLE = "Likeness: real photographs, read by trained networks"
NOTE = (
    "Photographs and networks are real: MediaPipe finds the faces and their 478 points, SFace compares them. Each "
    "number is the cosine of two faces, 1 at most; the last photo is of another person, and marked."
)


async def is_ready(client: Client) -> bool:
    """Return whether the host has the networks for this part."""
    return DETECTOR in await client.models("detection") and RECOGNISER in await client.models("insightface")


async def make(client: Client, photos: Path) -> Image.Image:
    """Have the server read the portrait and the photographs in the folder `photos`; return the sheet of it.

    Raises GraphError where a graph fails.
    """
    found = await client.run(find_graph(await client.upload_image(PORTRAIT)))
    compared = await client.run(compare_graph([await client.upload_image(photos / name) for name in COMPARED]))

    def shown(result, node: str) -> Image.Image:
        return Image.open(io.BytesIO(result.images[node][0].data))

    panels = [("A photograph", Image.open(PORTRAIT)), ("The face found, its points", shown(found, "faces"))]
    panels += [(f"A mask of {words}", shown(found, region)) for region, words in MASKS.items()]
    panels += [("The aligned crop", shown(found, "crop")), ("How far photos agree", shown(compared, "agreement"))]
    return graphics.draw_sheet(TITLE, panels, NOTE)


def find_graph(photo: str) -> Prompt:
    """Return the graph that finds the face in a photo of the server's input, masks parts of it and aligns it."""
    graph = _detect("photo", "faces", photo)
    style = {"shape": "hull", "expand": 0.0, "feather": 0.0, "unit": "pixels", "per_face": False}
    for region in MASKS:
        graph[region] = _node("FaceMasks", faces=["faces", 0], region=region, **style)
        # The node above shows the mask on the photo itself, but runs only for one that comes after it.
        graph[f"{region} mask"] = {"class_type": "MaskPreview", "inputs": {"mask": [region, 0]}}
    return {
        **graph,
        "aligned": _node("AlignFace", faces=["faces", 0], size=224, mask_background=False),
        "crop": {"class_type": "PreviewImage", "inputs": {"images": ["aligned", 0]}},
    }


def compare_graph(photos: list[str]) -> Prompt:
    """Return the graph that reads who is in each photo, all into one identity, and shows how far they agree."""
    graph = {"encoder": _node("LoadFaceEncoder", encoder_name=RECOGNISER)}
    for number, photo in enumerate(photos):
        graph |= _detect(f"photo {number}", f"faces {number}", photo)
        encode = _node("EncodeIdentity", face_encoder=["encoder", 0], faces=[f"faces {number}", 0])
        encode["inputs"] |= {"mask_background": False} | ({"face_id": [f"identity {number - 1}", 0]} if number else {})
        graph[f"identity {number}"] = encode
    last = [f"identity {len(photos) - 1}", 0]
    return {**graph, "agreement": _node("IdentityAgreement", face_id=last, min_agreement=MIN_AGREEMENT)}


def _detect(photo_key: str, faces_key: str, photo: str) -> Prompt:
    settings = {"choose": "largest", "index": 0, "if_no_face": "error"}
    return {
        "detector": _node("LoadFaceDetector", detector=DETECTOR, min_score=0.5, det_size=640),
        photo_key: {"class_type": "LoadImage", "inputs": {"image": photo}},
        faces_key: _node("DetectFaces", face_detector=["detector", 0], image=[photo_key, 0], **settings),
    }


def _node(name: str, **inputs) -> dict:
    return {"class_type": f"Likeness{name}", "inputs": inputs}
