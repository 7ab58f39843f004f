"""Identities: read from faces, saved, loaded, combined and compared."""

from comfy_api.latest import io, ui

from ..encoders import agreement, agreement_picture
from ..encoders.combine import METHODS, combine
from ..encoders.identity import join
from ..encoders.identity_file import KIND, description, find_identity, load_identity, new_path, save_identity
from ..metrics.loading import load_recogniser
from .inputs import (
    MASK_BACKGROUND,
    background,
    explain_missing,
    filename_prefix,
    head_mask,
    identity_file,
    is_masked,
    mask_background_by_encoder,
    read_version,
    weight_file,
    weight_path,
)
from .remarks import show_faces, show_saved
from .sockets import FaceEncoderType, FaceIdType, FacesType

ENCODER_FILES = {
    "facechain_fact": ("ms1mv2_model_TransFace_S.pt",),
    "face2diffusion": ("msid.pt",),
    "insightface": (
        "models/buffalo_l/w600k_r50.onnx",
        "models/antelopev2/glintr100.onnx",
        "models/auraface/glintr100.onnx",
        "face_recognition_sface_2021dec_int8bq.onnx",
    ),
    "metrics": (
        "20180402-114759-vggface2.pt",
        "adaface_ir101_webface12m.ckpt",
        "cvlface_adaface_ir101_webface12m.safetensors",
        "sphere20a_20171020.pth",
    ),
}
_IDENTITIES = [f"face_id_{number}" for number in range(1, 21)]


def _min_agreement(beginning: str) -> io.Float.Input:
    return io.Float.Input(
        "min_agreement",
        default=agreement.MIN_AGREEMENT,
        min=-1.0,
        max=1.0,
        step=0.01,
        tooltip=f"{beginning}The cosine of a photo with the mean of the others. Measured with the recogniser SFace, "
        "a person's photos have 0.76 and more, strangers 0.35 at most; the help page of Identity Agreement says how.",
    )


class LoadFaceEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadFaceEncoder",
            display_name="Load Face Encoder",
            category="likeness/loaders",
            description="Loads the network that reads an identity from a face: TransFace for FACT, MSID for "
            "Face2Diffusion, an ArcFace recogniser for FaceID, InstantID and Infinite-ID; SFace, FaceNet, SphereFace "
            "or AdaFace to compare and to score. Recognised by what is in it, whatever the file is called.",
            search_aliases=[
                "transface",
                "msid",
                "arcface",
                "insightface",
                "auraface",
                "sface",
                "facenet",
                "sphereface",
                "adaface",
                "facechain",
                "fact",
                "face2diffusion",
                "faceid",
                "instantid",
            ],
            inputs=[
                weight_file(
                    "encoder_name",
                    ENCODER_FILES,
                    "TransFace weights from models/facechain_fact, MSID weights from models/face2diffusion, an "
                    "ArcFace recogniser or SFace (.onnx) from models/insightface, or from models/metrics a recogniser "
                    "that only scores.",
                ),
            ],
            outputs=[FaceEncoderType.Output("face_encoder", tooltip="To Encode Identity.")],
        )

    @classmethod
    def validate_inputs(cls, encoder_name):
        return explain_missing(weight_path, ENCODER_FILES, encoder_name)

    @classmethod
    def execute(cls, encoder_name) -> io.NodeOutput:
        return io.NodeOutput(load_recogniser(weight_path(ENCODER_FILES, encoder_name)))


class EncodeIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessEncodeIdentity",
            display_name="Encode Identity",
            category="likeness/identity",
            description="Reads one person's identity from the faces found. Several photos make one identity of all of "
            "them: nothing is averaged.",
            search_aliases=["face embedding", "identity", "facechain", "fact", "likeness", "same person"],
            inputs=[
                FaceEncoderType.Input("face_encoder", tooltip="From Load Face Encoder."),
                FacesType.Input("faces", tooltip="From Detect Faces: one face per photo, all of the same person."),
                mask_background_by_encoder(),
                head_mask(),
                FaceIdType.Input(
                    "face_id",
                    optional=True,
                    tooltip="The same person from another Encode Identity: these photos are added to it. Chain one "
                    "node per photo where the photos differ in size.",
                ),
            ],
            outputs=[
                FaceIdType.Output(
                    "face_id_out",
                    display_name="face_id",
                    tooltip="The person, to Apply FACT, Apply Image Adapter, Face to Words or Save Identity.",
                ),
                io.Image.Output("crops", tooltip="What the encoder saw, one crop per face."),
            ],
        )

    @classmethod
    def validate_inputs(cls, mask_background="auto"):
        if isinstance(mask_background, bool) or mask_background in (None, *MASK_BACKGROUND):
            return True
        return f"Choose one of {', '.join(MASK_BACKGROUND)}, not {mask_background}."

    @classmethod
    def execute(cls, face_encoder, faces, mask_background, head_mask=None, face_id=None) -> io.NodeOutput:
        masked = is_masked(mask_background, face_encoder.kind)
        encoded = face_encoder.encode_faces(faces, background(faces, masked, head_mask))
        return io.NodeOutput(join(face_id, encoded) if face_id else encoded, encoded.crops)


class SaveIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessSaveIdentity",
            display_name="Save Identity",
            category="likeness/identity",
            description="Writes an identity to output/face_id, where Load Identity finds it. The photos are not needed "
            "any more then. Every save gets a number of its own; nothing is overwritten.",
            search_aliases=["save face", "save embeds", "face model", "export identity", "same person"],
            inputs=[
                FaceIdType.Input("face_id", tooltip="From Encode Identity or Combine Identities."),
                filename_prefix(KIND),
                io.Boolean.Input(
                    "thumbnails",
                    default=False,
                    advanced=True,
                    tooltip="Keep the crops as small pictures in the file, so that you see later who it is. Without "
                    "them the likeness is the same.",
                ),
                io.String.Input(
                    "note",
                    default="",
                    multiline=True,
                    tooltip="Kept in the file, for instance whose face it is and what that person agreed to.",
                ),
                io.String.Input(
                    "consent",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="What the person agreed to: pictures of what, for whom, until when. A file holds what a "
                    "face is recognised by, so ask before you save somebody else's. Kept in the file.",
                ),
            ],
            outputs=[
                FaceIdType.Output(
                    "face_id_out",
                    display_name="face_id",
                    tooltip="The person, to Apply FACT, Apply Image Adapter, Face to Words or Save Identity.",
                ),
                io.String.Output("path", tooltip="Where the file was written."),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, face_id, filename_prefix, thumbnails, note, consent="") -> io.NodeOutput:
        path = save_identity(new_path(filename_prefix), face_id, thumbnails, note, consent, new=True)
        remark = "" if consent.strip() else " No consent is noted in it: did the person agree?"
        return io.NodeOutput(face_id, path, ui=show_saved(cls, path, face_id.crops, remark))


class LoadIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadIdentity",
            display_name="Load Identity",
            category="likeness/loaders",
            description="Loads an identity that Save Identity wrote. It does exactly what the encoded one did; neither "
            "the photos nor the face encoder are needed.",
            search_aliases=[
                "load face",
                "load embeds",
                "face model",
                "import identity",
                "same person",
                "consistent character",
            ],
            inputs=[identity_file(KIND)],
            outputs=[
                FaceIdType.Output(
                    "face_id", tooltip="The person, to Apply FACT, Apply Image Adapter or Face to Words."
                ),
                io.Image.Output("crops", tooltip="The thumbnails, one per photo; grey figures where none were kept."),
                io.String.Output("info", tooltip="Photos, encoder, agreement between the photos, and the note."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, identity_name):
        return explain_missing(find_identity, identity_name)

    @classmethod
    def fingerprint_inputs(cls, identity_name):
        return read_version(find_identity(identity_name))

    @classmethod
    def execute(cls, identity_name) -> io.NodeOutput:
        face_id, header = load_identity(find_identity(identity_name))
        info = description(identity_name, header)
        return io.NodeOutput(face_id, face_id.crops, info, ui=show_faces(cls, face_id.crops, info))


class CombineIdentities(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        identity = FaceIdType.Input("face_id", tooltip="An identity; its photos are taken as those of one person.")
        return io.Schema(
            node_id="LikenessCombineIdentities",
            display_name="Combine Identities",
            category="likeness/identity",
            description="Makes one identity of several, or of the photos of one: all of them, their mean or median, "
            "without those of somebody else, or something between two people.",
            search_aliases=["merge faces", "average face", "blend faces", "interpolate identity", "outliers"],
            inputs=[
                io.Autogrow.Input(
                    "identities",
                    template=io.Autogrow.TemplateNames(identity, names=_IDENTITIES, min=1),
                    tooltip="One or more identities from the same face encoder; a new socket appears as you connect.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="concatenate",
                    tooltip="concatenate: every photo of all. mean, median: one typical photo. drop outliers: without "
                    "the photos that do not agree with the others. interpolate: between the first identity and the "
                    "second.",
                ),
                io.Float.Input(
                    "slider",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Counts only with interpolate: 0 is the first identity, 1 the second.",
                    display_mode=io.NumberDisplay.slider,
                ),
                _min_agreement("Counts only with drop outliers: "),
            ],
            outputs=[
                FaceIdType.Output(
                    "face_id", tooltip="The person, to Apply FACT, Apply Image Adapter or Face to Words."
                ),
                io.String.Output("report", tooltip="What was done, and which photos were dropped."),
            ],
        )

    @classmethod
    def execute(cls, identities: io.Autogrow.Type, method, slider, min_agreement) -> io.NodeOutput:
        return io.NodeOutput(*combine(list(identities.values()), method, slider, min_agreement))


class IdentityAgreement(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessIdentityAgreement",
            display_name="Identity Agreement",
            category="likeness/identity",
            description="Shows how far the photos of an identity agree, so that a photo of somebody else is seen at "
            "once. With a second identity it compares the two.",
            search_aliases=["compare faces", "face similarity", "face distance", "wrong photo", "outliers"],
            inputs=[
                FaceIdType.Input("face_id", tooltip="The identity whose photos are compared."),
                _min_agreement("Photos below it are marked. "),
                FaceIdType.Input(
                    "compare_with",
                    optional=True,
                    tooltip="A second identity from the same face encoder: its photos are then the columns.",
                ),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="The table with thumbnails; photos that disagree have a red frame."),
                io.String.Output("table", tooltip="The same as text; ! marks the photos that disagree."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, face_id, min_agreement, compare_with=None) -> io.NodeOutput:
        other = face_id if compare_with is None else compare_with
        comparison = agreement.compare(face_id, compare_with, min_agreement)
        image = agreement_picture.draw(comparison, face_id.crops, other.crops)
        return io.NodeOutput(image, agreement.table(comparison), ui=ui.PreviewImage(image, cls=cls))


NODES = [LoadFaceEncoder, EncodeIdentity, SaveIdentity, LoadIdentity, CombineIdentities, IdentityAgreement]
