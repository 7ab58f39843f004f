"""Finding faces, choosing among them, cutting them out."""

import logging

import torch
from comfy_api.latest import io, ui

from ..faces import draw
from ..faces.align import align_faces
from ..faces.choose import IF_NO_FACE, RULES, apply_policy, report_faceless
from ..faces.detector import MEASURED, as_rgb, available, detect_faces, find_files, load
from ..faces.frames import report_cuts
from ..faces.host_types import export_boxes
from ..faces.search import SEARCHES
from ..faces.types import Faces
from .inputs import background, explain_missing, head_mask, mask_background
from .sockets import FaceDetectorType, FacesType


class LoadFaceDetector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadFaceDetector",
            display_name="Load Face Detector",
            category="likeness/faces",
            description="Loads what finds faces. MediaPipe runs in the host itself; InsightFace and OpenCV need their "
            "Python packages. Nothing is downloaded.",
            search_aliases=["mediapipe", "insightface", "retinaface", "yunet", "haar", "face detection"],
            inputs=[
                io.Combo.Input(
                    "detector",
                    options=available(),
                    tooltip="Backend and model. MediaPipe files lie in models/detection, InsightFace packs in "
                    "models/insightface/models, YuNet in models/detection; the Haar cascade comes with "
                    "opencv-python 4.",
                ),
                io.Float.Input(
                    "min_score",
                    default=MEASURED,
                    min=MEASURED,
                    max=1.0,
                    step=0.01,
                    tooltip="Faces the detector is less sure of are ignored. -1 takes what was measured to be right "
                    "for it: MediaPipe 0.6, YuNet 0.85, the Haar cascade 0.4, InsightFace 0.5. Lower it for small or "
                    "half-hidden faces.",
                ),
                io.Int.Input(
                    "det_size",
                    default=640,
                    min=64,
                    max=2048,
                    step=32,
                    advanced=True,
                    tooltip="Longest side in pixels at which InsightFace and OpenCV look for faces, a multiple of 32. "
                    "Smaller finds tight portraits more readily, larger finds small faces. MediaPipe ignores it.",
                ),
            ],
            outputs=[FaceDetectorType.Output("face_detector", tooltip="To Detect Faces.")],
        )

    @classmethod
    def validate_inputs(cls, detector):
        return explain_missing(find_files, detector)

    @classmethod
    def execute(cls, detector, min_score, det_size) -> io.NodeOutput:
        return io.NodeOutput(load(detector, min_score, det_size))


def choice_inputs(rule: str) -> list[io.Input]:
    """Return the inputs that say which of the found faces to keep; rule: the one at first."""
    return [
        io.Combo.Input(
            "choose",
            options=list(RULES),
            default=rule,
            tooltip="Which face of each picture to keep. 'left to right' takes the one that index names.",
        ),
        io.Int.Input(
            "index",
            default=0,
            min=0,
            max=99,
            tooltip="Counts only with 'left to right': 0 is the leftmost face, of a group in its first row.",
        ),
        io.Combo.Input(
            "if_no_face",
            options=list(IF_NO_FACE),
            default="error",
            tooltip="A picture without a face: stop with an explanation, take the whole picture for an already "
            "aligned face, leave the picture out, borrow the faces of the nearest picture that has some, or leave it "
            "as it is, without faces, for nodes that paint faces.",
        ),
    ]


def video() -> io.Boolean.Input:
    return io.Boolean.Input(
        "video",
        default=False,
        optional=True,
        advanced=True,
        tooltip="The batch is the frames of one video: number the faces in the first frame that has some and follow "
        "each person. index is then the person's number, 'largest' and 'most central' are decided once.",
    )


def show(faces: Faces, overlay: torch.Tensor, cls: type[io.ComfyNode], frames: torch.Tensor | None = None) -> dict:
    """Show the overlay, how many pictures had no face, and where the video `frames` cuts; the latter in the log too."""
    preview = ui.PreviewImage(overlay, cls=cls).as_dict()
    cuts = "" if frames is None else report_cuts(frames)
    if remark := " ".join(filter(None, (report_faceless(faces), cuts))):
        logging.warning(remark)
        preview |= ui.PreviewText(remark).as_dict()
    return preview


class DetectFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessDetectFaces",
            display_name="Detect Faces",
            category="likeness/faces",
            description="Finds the faces of every picture, keeps the ones chosen and shows them.",
            search_aliases=["face detection", "find face", "bounding box", "landmarks"],
            inputs=[
                FaceDetectorType.Input("face_detector", tooltip="From Load Face Detector."),
                io.Image.Input(
                    "image", tooltip="One picture or a batch; several photos of one person go in as a batch."
                ),
                *choice_inputs("largest"),
                io.Combo.Input(
                    "search",
                    options=list(SEARCHES),
                    default="thorough",
                    optional=True,
                    advanced=True,
                    tooltip="Where nothing is found, both look again with a black border around the picture; thorough "
                    "looks at the picture turned all four ways, takes the best look of each face, and also tries other "
                    "detection sizes. quick saves time in long videos.",
                ),
                io.Int.Input(
                    "min_size",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    advanced=True,
                    tooltip="Faces whose box is narrower or lower than this many pixels do not count.",
                ),
                video(),
            ],
            outputs=[
                FacesType.Output(
                    "faces", tooltip="The kept faces with their pictures, to Encode Identity, Align Face or Face Masks."
                ),
                io.Image.Output("overlay", tooltip="The pictures with boxes, points, scores and numbers drawn in."),
                io.BoundingBox.Output("bboxes", tooltip="The kept faces' boxes for other nodes, a list per picture."),
            ],
        )

    @classmethod
    def execute(
        cls, face_detector, image, choose, index, if_no_face, search="thorough", min_size=0, video=False
    ) -> io.NodeOutput:
        faces = detect_faces(face_detector, image, search, min_size)
        faces = apply_policy(faces, choose, index, if_no_face, video)
        overlay = draw.overlay(faces)
        return io.NodeOutput(
            faces, overlay, export_boxes(faces), ui=show(faces, overlay, cls, as_rgb(image) if video else None)
        )


class AlignFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessAlignFace",
            display_name="Align Face",
            category="likeness/faces",
            description="Turns, scales and cuts every face so that its eyes, nose and mouth lie where the ArcFace "
            "template has them.",
            search_aliases=["arcface", "crop face", "norm crop", "face align"],
            inputs=[
                FacesType.Input("faces", tooltip="From Detect Faces."),
                io.Int.Input(
                    "size",
                    default=112,
                    min=16,
                    max=2048,
                    step=8,
                    tooltip="Side of the square crop in pixels. Face encoders see 112.",
                ),
                mask_background(),
                head_mask(),
            ],
            outputs=[io.Image.Output("crops", tooltip="One crop per face.")],
        )

    @classmethod
    def execute(cls, faces, size, mask_background, head_mask=None) -> io.NodeOutput:
        return io.NodeOutput(align_faces(faces, size, background(faces, mask_background, head_mask)))


NODES = [LoadFaceDetector, DetectFaces, AlignFace]
