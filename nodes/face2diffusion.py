"""Face2Diffusion: a face as two words of the prompt."""

from comfy_api.latest import io, ui

from ..adapters.face2diffusion import check_mapping
from ..adapters.face_prompt import encode, encode_delayed, make_face_prompt
from ..adapters.token_picture import draw_tokens
from ..encoders.loading import load_expression_encoder
from .inputs import class_words, explain_missing, weight_file, weight_path
from .sockets import (
    ExpressionEncoderType,
    ExpressionType,
    FaceAdapterType,
    FaceIdType,
    FacesType,
    FaceWordsType,
)

EXPRESSION_FILES = {"face2diffusion": ("epoch_20.pth",)}
TOKENS = "The prompt as the text encoder reads it, a face's words in gold."


class LoadExpressionEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadExpressionEncoder",
            display_name="Load Expression Encoder",
            category="likeness/loaders",
            description="Loads the network that reads a face's expression: Deep3DFaceRecon, for Face2Diffusion. "
            "Recognised by its tensors, whatever the file is called.",
            search_aliases=["deep3d", "3dmm", "expression", "face2diffusion", "smile"],
            inputs=[
                weight_file("encoder_name", EXPRESSION_FILES, "Deep3DFaceRecon weights from models/face2diffusion."),
            ],
            outputs=[ExpressionEncoderType.Output("expression_encoder", tooltip="To Encode Expression.")],
        )

    @classmethod
    def validate_inputs(cls, encoder_name):
        return explain_missing(weight_path, EXPRESSION_FILES, encoder_name)

    @classmethod
    def execute(cls, encoder_name) -> io.NodeOutput:
        return io.NodeOutput(load_expression_encoder(weight_path(EXPRESSION_FILES, encoder_name)))


class EncodeExpression(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessEncodeExpression",
            display_name="Encode Expression",
            category="likeness/face2diffusion",
            description="Reads the expression of one face, of anybody, for Face to Words.",
            search_aliases=["expression", "smile", "face2diffusion", "deep3d"],
            inputs=[
                ExpressionEncoderType.Input("expression_encoder", tooltip="From Load Expression Encoder."),
                FacesType.Input("faces", tooltip="From Detect Faces: one face, with the expression to copy."),
            ],
            outputs=[
                ExpressionType.Output("expression", tooltip="To Face to Words."),
                io.Image.Output("crop", tooltip="What the encoder saw."),
            ],
        )

    @classmethod
    def execute(cls, expression_encoder, faces) -> io.NodeOutput:
        expression = expression_encoder.encode(faces)
        return io.NodeOutput(expression, expression.crop)


class FaceToWords(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessFaceToWords",
            display_name="Face to Words",
            category="likeness/face2diffusion",
            description="Turns an identity into two words that a prompt for SD1.5 understands. Chain one node per "
            "person for several people.",
            search_aliases=[
                "face2diffusion",
                "mapping network",
                "textual inversion",
                "face",
                "likeness",
                "portrait",
                "sd1.5",
                "same person",
                "consistent character",
            ],
            inputs=[
                FaceAdapterType.Input("face_adapter", tooltip="The mapping network, from Load Face Adapter."),
                FaceIdType.Input(
                    "face_id",
                    tooltip="From Encode Identity with an MSID encoder and mask_background auto or off. "
                    "Several photos are averaged.",
                ),
                ExpressionType.Input(
                    "expression",
                    optional=True,
                    tooltip="From Encode Expression: the face to draw looks like this. Without it the prompt decides.",
                ),
                io.Float.Input(
                    "expression_strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Counts only with an expression: from 0, as if there were none, to 1, as it was read.",
                ),
                FaceWordsType.Input(
                    "face_words",
                    optional=True,
                    tooltip="The people before this one, from another Face to Words. The first is {face1} in the "
                    "prompt, this node's person comes after them.",
                ),
            ],
            outputs=[
                FaceWordsType.Output(
                    "face_words_out",
                    display_name="face_words",
                    tooltip="To Encode Prompt with Faces, or to the next person's Face to Words.",
                )
            ],
        )

    @classmethod
    def execute(cls, face_adapter, face_id, expression=None, expression_strength=1.0, face_words=()) -> io.NodeOutput:
        check_mapping(face_adapter)
        coefficients = expression.coefficients if expression else None
        return io.NodeOutput((*face_words, face_adapter.words(face_id, coefficients, expression_strength)))


def _prompt_inputs() -> list:
    return [
        io.Clip.Input("clip", tooltip="The text encoder of an SD1.x checkpoint, with or without LoRAs."),
        FaceWordsType.Input("face_words", tooltip="From Face to Words."),
        io.String.Input(
            "text",
            multiline=True,
            dynamic_prompts=False,
            default="photo of {face} in a garden",
            tooltip="The prompt. Write {face} (or the authors' words f l) where the person belongs; with several "
            "people {face1}, {face2} in the order in which they are chained.",
        ),
    ]


class EncodeFacePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessEncodeFacePrompt",
            display_name="Encode Prompt with Faces",
            category="likeness/face2diffusion",
            description="Encodes a prompt in which {face} is a person, and shows the tokens that were replaced. "
            "Nothing is added to the model: any sampler, LoRA and ControlNet works, at the same speed.",
            search_aliases=["face2diffusion", "prompt", "clip text encode", "face", "likeness", "two people"],
            inputs=[
                *_prompt_inputs(),
            ],
            outputs=[
                io.Conditioning.Output("conditioning", tooltip="The prompt with the faces in it, to a sampler."),
                io.Image.Output("tokens", tooltip=TOKENS),
            ],
        )

    @classmethod
    def execute(cls, clip, face_words, text) -> io.NodeOutput:
        prompt = make_face_prompt(clip, text, face_words)
        tokens = draw_tokens(clip, prompt)
        return io.NodeOutput(encode(clip, prompt), tokens, ui=ui.PreviewImage(tokens, cls=cls))


class EncodeDelayedFacePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessEncodeDelayedFacePrompt",
            display_name="Encode Delayed Face Prompt",
            category="likeness/face2diffusion",
            description="Like Encode Prompt with Faces, but ordinary words stand for the person in the first steps, so "
            "that the prompt lays out the picture before the face comes in (delayed subject conditioning).",
            search_aliases=["face2diffusion", "delayed subject conditioning", "dsc", "fastcomposer", "prompt"],
            inputs=[
                *_prompt_inputs(),
                class_words(),
                io.Float.Input(
                    "switch_percent",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="The part of the sampling with ordinary words. The paper's comparison uses 0.3.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("conditioning", tooltip="The prompt with the faces in it, to a sampler."),
                io.Image.Output("tokens", tooltip=TOKENS),
            ],
        )

    @classmethod
    def execute(cls, clip, face_words, text, class_words, switch_percent) -> io.NodeOutput:
        prompt = make_face_prompt(clip, text, face_words)
        tokens = draw_tokens(clip, prompt)
        conditioning = encode_delayed(clip, text, class_words, prompt, switch_percent)
        return io.NodeOutput(conditioning, tokens, ui=ui.PreviewImage(tokens, cls=cls))


NODES = [LoadExpressionEncoder, EncodeExpression, FaceToWords, EncodeFacePrompt, EncodeDelayedFacePrompt]
