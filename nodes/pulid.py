"""PuLID for SDXL: its encoder of three networks, and its ways of adding a face to a prompt."""

from comfy_api.latest import io

from ..adapters.ip_adapter import check_ip_adapter
from ..attention_patches.ip_adapter import apply_ip_adapter
from ..encoders import pulid
from ..encoders.loading import load_encoder, load_eva
from ..faces.parsing import load_parser
from .identity import ENCODER_FILES
from .inputs import explain_missing, schedule, weight_file, weight_path
from .masks import PARSER_FILES
from .sockets import FaceAdapterType, FaceEncoderType, FaceIdType

RECOGNISER_FILES = {"insightface": ENCODER_FILES["insightface"][::-1]}
EVA_FILES = {"pulid": (), "text_encoders": ("EVA02_CLIP_L_336_psz14_s6B.pt",)}


class LoadPulidEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadPulidEncoder",
            display_name="Load PuLID Encoder",
            category="likeness/loaders",
            description="Loads what PuLID sees a face with: an ArcFace recogniser, EVA02-CLIP, and a face parser that "
            "blanks everything but face and hair. Connect it to Encode Identity.",
            search_aliases=["pulid", "eva clip", "eva02", "load eva clip"],
            inputs=[
                weight_file(
                    "recogniser_name",
                    RECOGNISER_FILES,
                    "An ArcFace recogniser (.onnx) from models/insightface; PuLID was trained with antelopev2's "
                    "glintr100.onnx.",
                ),
                weight_file(
                    "eva_name",
                    EVA_FILES,
                    "EVA02-CLIP-L-336 from models/pulid, models/clip or models/text_encoders: "
                    "EVA02_CLIP_L_336_psz14_s6B.pt.",
                ),
                weight_file(
                    "parser_name",
                    PARSER_FILES,
                    "BiSeNet weights from models/face_parsing or models/facexlib: 79999_iter.pth, also known as "
                    "parsing_bisenet.pth.",
                ),
            ],
            outputs=[
                FaceEncoderType.Output(
                    "face_encoder", tooltip="For Encode Identity; what it makes is for PuLID adapters alone."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, recogniser_name, eva_name, parser_name):
        chosen = ((RECOGNISER_FILES, recogniser_name), (EVA_FILES, eva_name), (PARSER_FILES, parser_name))
        missing = [found for files, name in chosen if (found := explain_missing(weight_path, files, name)) is not True]
        return "\n".join(missing) or True

    @classmethod
    def execute(cls, recogniser_name, eva_name, parser_name) -> io.NodeOutput:
        recogniser = load_encoder(weight_path(RECOGNISER_FILES, recogniser_name))
        eva = load_eva(weight_path(EVA_FILES, eva_name))
        return io.NodeOutput(pulid.PulidEncoder(recogniser, *eva, load_parser(weight_path(PARSER_FILES, parser_name))))


class ApplyPulid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessApplyPulid",
            display_name="Apply PuLID",
            category="likeness/image adapters",
            description="Gives an SDXL model a face through a PuLID file, version 1 or 1.1, with little change to what "
            "the prompt says. Connect the MODEL output to any sampler.",
            search_aliases=[
                "pulid",
                "pure and lightning id",
                "same person",
                "consistent character",
                "likeness",
                "portrait",
                "anime",
                "sdxl",
            ],
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model, after its LoRAs."),
                FaceAdapterType.Input("face_adapter", tooltip="A PuLID file for SDXL, from Load Face Adapter."),
                FaceIdType.Input(
                    "face_id",
                    tooltip="An identity from Encode Identity with Load PuLID Encoder; one or several photos.",
                ),
                io.Float.Input(
                    "strength",
                    default=0.8,
                    min=0.0,
                    max=5.0,
                    step=0.01,
                    tooltip="How strongly the face acts; the authors use 0.8. 0 is the model as it was.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(pulid.METHODS),
                    default="fidelity",
                    tooltip="fidelity: the most like the person. style: leaves more of the picture to the prompt. "
                    "neutral: the face is added as by other image adapters.",
                ),
                *schedule(
                    "When in the sampling the face begins to act.", "When in the sampling the face stops acting."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture the face acts: white on, black off; one mask, or one per picture.",
                ),
                io.Int.Input(
                    "zero_tokens",
                    default=-1,
                    min=-1,
                    max=80,
                    optional=True,
                    advanced=True,
                    tooltip="Empty tokens beside the face's, which soften it; -1 takes the authors' number for the "
                    "method: 8 for fidelity (20 with version 1.1), 16 for style, 0 for neutral.",
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with the face in it.")],
        )

    @classmethod
    def execute(
        cls, model, face_adapter, face_id, strength, method, start_percent, end_percent, mask=None, zero_tokens=-1
    ) -> io.NodeOutput:
        check_ip_adapter(face_adapter)
        presets, projection = pulid.METHODS[method]
        if face_adapter.format.name not in presets:
            raise ValueError(
                f"{face_adapter.name} ({face_adapter.format.name}) is no PuLID file: use Apply Image Adapter for it."
            )
        count = presets[face_adapter.format.name] if zero_tokens < 0 else zero_tokens
        tokens = pulid.add_zero_tokens(face_adapter.tokens(face_id), count)
        return io.NodeOutput(
            apply_ip_adapter(
                model, face_adapter, tokens, strength, start_percent, end_percent, mask=mask, method=projection
            )
        )


NODES = [LoadPulidEncoder, ApplyPulid]
