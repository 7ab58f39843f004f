"""Faces from other packs' nodes, and for them."""

from comfy_api.latest import io

from ..faces import draw, host_types
from ..faces.choose import apply_policy
from ..faces.detector import as_rgb
from .faces import choice_inputs, show, video
from .inputs import check_mask
from .sockets import FaceDetectorType, FaceLandmarksType, FacesType


class ImportFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessImportFaces",
            display_name="Faces from Other Nodes",
            category="likeness/faces",
            description="Makes faces of what other nodes found: MediaPipe landmarks, bounding boxes, SEGS or a "
            "mask, as SAM, Grounding DINO, RT-DETR and Impact nodes give them.",
            search_aliases=["import faces", "bbox to faces", "mask to faces", "sam", "grounding dino", "impact"],
            inputs=[
                io.Image.Input("image", tooltip="The pictures in which the other node found the faces."),
                *choice_inputs("all"),
                FaceLandmarksType.Input(
                    "face_landmarks",
                    optional=True,
                    tooltip="From Detect Face Landmarks (MediaPipe); taken exactly as they are. Connect one of "
                    "face_landmarks, bboxes and mask.",
                ),
                io.MultiType.Input(
                    io.BoundingBox.Input("bboxes", optional=True, force_input=True),
                    [io.BBOX, io.SEGS],
                    tooltip="Boxes around faces or persons: one, a list, or a list per picture; BBOX of other packs "
                    "and SEGS of the Impact Pack too.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="One mask per picture, or one for all; every patch of it is a face.",
                ),
                FaceDetectorType.Input(
                    "face_detector",
                    optional=True,
                    tooltip="Looks for the face in each box or patch. Without it the eyes, nose and mouth are guessed "
                    "from the box, upright.",
                ),
                video(),
            ],
            outputs=[
                FacesType.Output(
                    "faces", tooltip="The kept faces with their pictures, to Encode Identity or Align Face."
                ),
                io.Image.Output("overlay", tooltip="The pictures with boxes, points, scores and numbers drawn in."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image,
        choose,
        index,
        if_no_face,
        face_landmarks=None,
        bboxes=None,
        mask=None,
        face_detector=None,
        video=False,
    ) -> io.NodeOutput:
        faces = host_types.import_faces(image, face_landmarks, bboxes, check_mask(mask), face_detector)
        faces = apply_policy(faces, choose, index, if_no_face, video, host_types.LOOK_THERE)
        overlay = draw.overlay(faces)
        return io.NodeOutput(faces, overlay, ui=show(faces, overlay, cls, as_rgb(image) if video else None))


class FacesToLandmarks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessFacesToLandmarks",
            display_name="Faces to MediaPipe Landmarks",
            category="likeness/faces",
            description="Hands faces that MediaPipe found to ComfyUI's own MediaPipe nodes, which draw meshes and "
            "masks.",
            search_aliases=["face mesh", "face landmarks", "export faces"],
            inputs=[FacesType.Input("faces", tooltip="From Detect Faces with a mediapipe detector.")],
            outputs=[
                FaceLandmarksType.Output(
                    "face_landmarks", tooltip="To the host's nodes that draw face meshes and masks."
                )
            ],
        )

    @classmethod
    def execute(cls, faces) -> io.NodeOutput:
        return io.NodeOutput(host_types.export_landmarks(faces))


NODES = [ImportFaces, FacesToLandmarks]
