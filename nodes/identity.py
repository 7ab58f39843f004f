"""From faces to an identity."""

from comfy_api.latest import io

from ..encoders.identity import joined
from ..encoders.loading import load_encoder
from ..faces.align import align_faces
from ..weights import folders
from .inputs import background, head_mask, mask_background, missing_file, weight_file
from .sockets import FaceEncoderType, FaceIdType, FacesType

ENCODER_FILES = ("ms1mv2_model_TransFace_S.pt",)


class LoadFaceEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadFaceEncoder",
            display_name="Load Face Encoder",
            category="likeness/loaders",
            description="Loads the network that reads an identity from an aligned face: TransFace for FACT. "
            "Recognised by its tensors, whatever the file is called.",
            search_aliases=["transface", "arcface", "facechain", "fact"],
            inputs=[
                weight_file(
                    "encoder_name", "facechain_fact", ENCODER_FILES, "TransFace weights from models/facechain_fact."
                ),
            ],
            outputs=[FaceEncoderType.Output("face_encoder")],
        )

    @classmethod
    def validate_inputs(cls, encoder_name):
        return missing_file("facechain_fact", encoder_name)

    @classmethod
    def execute(cls, encoder_name) -> io.NodeOutput:
        return io.NodeOutput(load_encoder(folders.path("facechain_fact", encoder_name)))


class EncodeIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessEncodeIdentity",
            display_name="Encode Identity",
            category="likeness/identity",
            description="Reads one person's identity from the faces found. Several photos make one identity of all of "
            "them: nothing is averaged.",
            search_aliases=["face embedding", "identity", "facechain", "fact"],
            inputs=[
                FaceEncoderType.Input("face_encoder", tooltip="From Load Face Encoder."),
                FacesType.Input("faces", tooltip="From Detect Faces: one face per photo, all of the same person."),
                mask_background(),
                head_mask(),
                FaceIdType.Input(
                    "face_id",
                    optional=True,
                    tooltip="The same person from another Encode Identity: these photos are added to it. Chain one "
                    "node per photo where the photos differ in size.",
                ),
            ],
            outputs=[
                FaceIdType.Output("face_id_out", display_name="face_id"),
                io.Image.Output("crops", tooltip="What the encoder saw, one crop per face."),
            ],
        )

    @classmethod
    def execute(cls, face_encoder, faces, mask_background, head_mask=None, face_id=None) -> io.NodeOutput:
        crops = align_faces(faces, face_encoder.crop_size, background(faces, mask_background, head_mask))
        encoded = face_encoder.encode(crops, mask_background)
        return io.NodeOutput(joined(face_id, encoded) if face_id else encoded, crops)


NODES = [LoadFaceEncoder, EncodeIdentity]
