"""Between our face nodes and the host's own, and photos of every kind, in the host's executor."""

import io
import sys
from typing import NamedTuple

import comfy_api.latest
import folder_paths
import numpy as np
import pytest
import torch
from likeness.tests.support import mediapipe_file
from likeness.tests.support.executor import GraphError
from likeness.tests.support.graphs import ASSETS, example
from PIL import Image, ImageOps

import nodes

HAAR = {"class_type": "LikenessLoadFaceDetector",
        "inputs": {"detector": "opencv: haar cascade", "min_score": 0.5, "det_size": 320}}  # fmt: skip
CHOICE = {"choose": "largest", "index": 0, "if_no_face": "error"}
FACE_BOX = (174, 65, 273, 162)  # of the astronaut, by the cascade


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def detect(image="photo", source="detector", **inputs):
    return node("LikenessDetectFaces", face_detector=[source, 0], image=[image, 0], **{**CHOICE, **inputs})


def import_faces(**inputs):
    return node("LikenessImportFaces", image=["photo", 0], **{**CHOICE, "choose": "all", **inputs})


def preview(source, output=0):
    return node("PreviewImage", images=[source, output])


@pytest.fixture
def graph(base):
    """The astronaut and the Haar cascade; the rest is the test's."""
    return {"photo": example("astronaut.png"), "detector": HAAR}


@pytest.fixture
def mesh_detector(tmp_path, monkeypatch, base, executor):
    """A MediaPipe file with drawn weights to which one place of the astronaut is a face, in this very picture only."""
    for module in [module for name, module in sys.modules.items() if name.endswith("faces.mediapipe")]:
        monkeypatch.setattr(module.MediaPipe, "look_closer", lambda _, image, face: face)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "detection", ([str(tmp_path)], {".safetensors"}))
    photo = torch.from_numpy(np.array(Image.open(ASSETS / "astronaut.png").convert("RGB"))).float()[None]
    states = mediapipe_file.drawn_states(photo / 255)
    # An oval large enough to be seen, in the mesh network's 192 pixels.
    angles = torch.linspace(0, 2 * torch.pi, 478)
    mesh = torch.stack([96 + 50 * angles.cos(), 96 + 60 * angles.sin(), torch.zeros(478)], dim=1)
    mesh[mediapipe_file.FIVE, :2] = torch.tensor([[75.0, 80], [117, 80], [96, 100], [80, 125], [112, 125]])
    mediapipe_file.write(tmp_path / mediapipe_file.FILE, states, ("full",), mesh)
    return node("LikenessLoadFaceDetector", detector=f"mediapipe: {mediapipe_file.FILE}", min_score=0.5, det_size=640)


def test_the_hosts_node_draws_our_boxes(executor, graph):
    graph |= {"faces": detect(), "boxes": node("DrawBBoxes", image=["photo", 0], bboxes=["faces", 2])}
    graph["shown"] = preview("boxes")
    outputs = executor.run(graph)
    (drawing,), (photo,), (_, _, boxes) = outputs["boxes"], outputs["photo"], outputs["faces"]
    changed = (drawing - photo).abs().amax(dim=3)[0] > 0.1
    (box,) = boxes[0]
    assert np.allclose([box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]], FACE_BOX, atol=8)
    x, y, right = round(box["x"]), round(box["y"]), round(box["x"] + box["width"])
    assert changed[y + 40, x - 3 : x + 4].any() and changed[y + 40, right - 3 : right + 4].any()
    assert not changed[y + 10 : y + 80, x + 10 : right - 10].any() and not changed[:, : x - 5].any()


def test_the_hosts_nodes_draw_our_landmarks_and_ours_read_the_hosts(executor, graph, mesh_detector):
    graph |= {
        "detector": mesh_detector,
        "faces": detect(search="quick"),
        "landmarks": node("LikenessFacesToLandmarks", faces=["faces", 0]),
        "mesh": node("MediaPipeFaceMeshVisualize", face_landmarks=["landmarks", 0], image=["photo", 0],
                     connections="all", color="#00ff00", thickness=1, point_size=2),
        "mask": node("MediaPipeFaceMask", face_landmarks=["landmarks", 0], regions="all"),
        "back": import_faces(face_landmarks=["landmarks", 0]),
        "shown": preview("mesh"), "shown too": preview("back", 1), "mask shown": node("MaskPreview", mask=["mask", 0]),
    }  # fmt: skip
    outputs = executor.run(graph)
    (face,) = outputs["faces"][0].per_image[0]
    changed = ((outputs["mesh"][0] - outputs["photo"][0]).abs().amax(dim=3)[0] > 0.1).nonzero().numpy()[:, ::-1]
    x0, y0, x1, y1 = face.box
    assert len(changed) > 300 and (changed >= [x0 - 3, y0 - 3]).all() and (changed <= [x1 + 3, y1 + 3]).all()
    assert outputs["mask"][0].shape == (1, 512, 512)
    (again,) = outputs["back"][0].per_image[0]
    assert np.array_equal(again.landmarks, face.landmarks) and np.array_equal(again.points, face.points)
    assert again.box == face.box and again.score == face.score
    host = node("MediaPipeFaceLandmarker", face_detection_model=["model", 0], image=["photo", 0],
                detector_variant="short", num_faces=0, min_confidence=0.5, missing_frame_fallback="empty")  # fmt: skip
    model = node("LoadMediaPipeFaceLandmarker", model_name=mediapipe_file.FILE)
    theirs = {"photo": graph["photo"], "model": model, "host": host, "faces": import_faces(face_landmarks=["host", 0])}
    (from_host,) = executor.run(theirs | {"shown": preview("faces", 1)})["faces"][0].per_image[0]
    assert np.array_equal(from_host.landmarks, face.landmarks)


def test_landmarks_of_another_detector_are_refused_by_name(executor, graph):
    graph |= {"faces": detect(), "landmarks": node("LikenessFacesToLandmarks", faces=["faces", 0])}
    graph["mask"] = node("MediaPipeFaceMask", face_landmarks=["landmarks", 0], regions="all")
    with pytest.raises(GraphError, match="LikenessFacesToLandmarks: These faces have no MediaPipe mesh .*haar cascade"):
        executor.run(graph | {"shown": node("MaskPreview", mask=["mask", 0])})


def test_a_box_made_by_hand_with_and_without_a_detector(executor, graph):
    graph |= {
        "box": node("PrimitiveBoundingBox", x=160, y=50, width=130, height=130),
        "guessed": import_faces(bboxes=["box", 0]),
        "searched": import_faces(bboxes=["box", 0], face_detector=["detector", 0]),
        "shown": preview("guessed", 1), "shown too": preview("searched", 1),
    }  # fmt: skip
    outputs = executor.run(graph)
    (guessed,), (searched,) = (outputs[name][0].per_image[0] for name in ("guessed", "searched"))
    assert guessed.box == (160, 50, 290, 180)
    assert np.allclose(searched.box, FACE_BOX, atol=8) and 0.5 < searched.score < 1
    off = change(graph, box=node("PrimitiveBoundingBox", x=300, y=60, width=60, height=60))
    del off["guessed"], off["shown"]
    with pytest.raises(
        GraphError, match="No face was found in picture 1 of 1 .*the boxes.*Look at what the other node"
    ):
        executor.run(off)


def change(graph, **changes):
    return {**graph, **changes}


def test_a_mask_from_another_node(executor, graph):
    graph |= {
        "solid": node("SolidMask", value=0.0, width=512, height=512),
        "patch": node("SolidMask", value=1.0, width=110, height=110),
        "mask": node("MaskComposite", destination=["solid", 0], source=["patch", 0], x=168, y=58, operation="add"),
        "faces": import_faces(mask=["mask", 0], face_detector=["detector", 0]),
        "shown": preview("faces", 1),
    }
    (face,) = executor.run(graph)["faces"][0].per_image[0]
    assert np.allclose(face.box, FACE_BOX, atol=8)
    with pytest.raises(GraphError, match="LikenessImportFaces: The mask has 1 pictures of 110 x 110"):
        executor.run(change(graph, faces=import_faces(mask=["patch", 0])))
    with pytest.raises(GraphError, match="LikenessImportFaces: The mask is empty"):
        executor.run(change(graph, faces=import_faces(mask=["solid", 0])))
    with pytest.raises(GraphError, match="exactly one of face_landmarks, bboxes and mask; 0 are connected"):
        executor.run(change(graph, faces=import_faces()))


@pytest.mark.slow
def test_a_video_with_faceless_frames_in_the_middle(executor, graph, monkeypatch):
    """16 frames: the astronaut walks to the right, 4 of them are grey; quick, as a long video would be searched."""
    head = _astronaut(executor)[:, 10:266, 96:352]
    person = torch.nn.functional.interpolate(head.movedim(-1, 1), (128, 128), mode="area").movedim(1, -1)
    frames = torch.full((16, 128, 192, 3), 0.5)
    for i in set(range(16)) - set(range(6, 10)):
        frames[i, :, 2 * i : 2 * i + 128] = person
    source = type("Frames", (), {"INPUT_TYPES": classmethod(lambda cls: {"required": {}}), "RETURN_TYPES": ("IMAGE",),
                                 "FUNCTION": "run", "run": lambda self: (frames,)})  # fmt: skip
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "TestFrames", source)
    options = {"choose": "left to right", "search": "quick", "min_size": 30, "video": True}
    small = node("LikenessLoadFaceDetector", detector="opencv: haar cascade", min_score=0.5, det_size=192)
    graph |= {"photo": node("TestFrames"), "detector": small, "faces": detect(**options, if_no_face="nearest frame")}
    graph["shown"] = preview("faces", 1)
    faces, overlay, boxes = executor.run(graph)["faces"]
    assert overlay.shape == frames.shape and len(boxes) == 16
    lefts = [group[0].box[0] for group in faces.per_image]
    assert np.allclose(np.diff(lefts)[[*range(5), *range(10, 15)]], 2, atol=3)
    assert lefts[6:8] == [lefts[5]] * 2 and lefts[8:10] == [lefts[10]] * 2
    assert {group[0].number for group in faces.per_image} == {0}
    with pytest.raises(GraphError, match="No face was found in picture 7, 8, 9, 10 of 16"):
        executor.run(change(graph, faces=detect(**options)))


def _astronaut(executor):
    return executor.run({"photo": example("astronaut.png"), "shown": preview("photo")})["photo"][0]


def _save(photo, kind, **options):
    file = io.BytesIO()
    photo.save(file, kind, **options)
    return file.getvalue()


def _turn_by_exif(photo):
    """Stored lying on its side, with the tag that says so: what cameras make of an upright photo."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return _save(photo.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


def _sixteen_bit_grey(photo):
    return _save(Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257), "PNG")


def _frames(kind):
    return lambda p: _save(p, kind, save_all=True, append_images=[ImageOps.mirror(p), p], duration=100, loop=0)


PHOTOS = {
    "animated.gif": (_frames("GIF"), 3),
    "animated.webp": (_frames("WEBP"), 3),
    "cmyk.jpg": (lambda p: _save(p.convert("CMYK"), "JPEG", quality=95), 1),
    "exif.jpg": (_turn_by_exif, 1),
    "grey16.png": (_sixteen_bit_grey, 1),
    "palette.png": (lambda p: _save(p.quantize(64), "PNG"), 1),
    "grey.jpg": (lambda p: _save(p.convert("L"), "JPEG", quality=95), 1),
    "alpha.png": (lambda p: _save(p.convert("RGBA"), "PNG"), 1),
    "two_levels.png": (lambda p: _save(p.convert("1"), "PNG"), 1),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_of_every_kind(executor, base, name):
    write, count = PHOTOS[name]
    path = base / "input" / f"likeness_{name}"
    path.write_bytes(write(Image.open(ASSETS / "astronaut.png").convert("RGB")))
    # In black and white dots the cascade is far less sure: 0.24.
    inputs = HAAR["inputs"] | ({"min_score": 0.2} if name == "two_levels.png" else {})
    graph = {"photo": node("LoadImage", image=path.name), "detector": node("LikenessLoadFaceDetector", **inputs)}
    graph["faces"] = detect(search="quick")
    graph["shown"] = preview("faces", 1)
    try:
        faces = executor.run(graph)["faces"][0]
    finally:
        path.unlink()
    assert len(faces.per_image) == count
    for i, group in enumerate(faces.per_image):
        x0, y0, x1, y1 = FACE_BOX
        expected = (511 - x1, y0, 511 - x0, y1) if i == 1 else FACE_BOX  # the second frame is mirrored
        assert np.allclose(group[0].box, expected, atol=8), (i, group[0])
        assert group[0].points[0, 0] < group[0].points[1, 0] and group[0].points[0, 1] < group[0].points[3, 1]


class Found(NamedTuple):
    """A segment of the Impact Pack's SEGS, as far as it is read."""

    bbox: tuple
    confidence: float


class OtherPack(comfy_api.latest.io.ComfyNode):
    """Boxes as other packs type them and hand them on."""

    @classmethod
    def define_schema(cls):
        io = comfy_api.latest.io
        outputs = [io.BBOX.Output("bbox"), io.SEGS.Output("segs"), io.Custom("BBOX,MASK").Output("both")]
        return io.Schema(node_id="LikenessTestOtherPack", display_name="Other", category="test", outputs=outputs)

    @classmethod
    def execute(cls):
        segs = ((512, 512), [Found(FACE_BOX, 0.9)])
        return comfy_api.latest.io.NodeOutput([list(FACE_BOX)], segs, [FACE_BOX])


@pytest.mark.parametrize("output", [0, 1, 2])
def test_boxes_of_other_packs_go_into_the_same_socket(executor, graph, monkeypatch, output):
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "LikenessTestOtherPack", OtherPack)
    graph |= {"other": node("LikenessTestOtherPack"), "faces": import_faces(bboxes=["other", output])}
    graph["shown"] = preview("faces", 1)
    faces = executor.run(graph)["faces"][0]
    assert [face.box for _, face in faces.pairs] == [FACE_BOX]
    types = nodes.NODE_CLASS_MAPPINGS["LikenessImportFaces"].INPUT_TYPES()["optional"]["bboxes"]
    assert types[0] == "BOUNDING_BOX,BBOX,SEGS" and types[1]["forceInput"]
