"""Masks of faces and their parts."""

from comfy_api.latest import io, ui

from ..faces.masks import REGIONS, SHAPES, UNITS, MaskStyle, describe, face_masks, join_per_image, tint
from ..faces.parsing import load_parser
from .inputs import explain_missing, weight_file, weight_path
from .sockets import FaceParserType, FacesType

PARSER_FILES = {"face_parsing": ("79999_iter.pth",)}


class LoadFaceParser(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadFaceParser",
            display_name="Load Face Parser",
            category="likeness/loaders",
            description="Loads the network that tells skin, hair, eyes and mouth of a face apart: BiSeNet, trained on "
            "CelebAMask-HQ. Recognised by its tensors, whatever the file is called.",
            search_aliases=["bisenet", "face parsing", "segmentation", "celebamask", "hair mask", "facexlib"],
            inputs=[
                weight_file(
                    "parser_name",
                    PARSER_FILES,
                    "BiSeNet weights from models/face_parsing or models/facexlib: 79999_iter.pth, which facexlib calls "
                    "parsing_bisenet.pth.",
                ),
            ],
            outputs=[FaceParserType.Output("face_parser", tooltip="To Face Masks.")],
        )

    @classmethod
    def validate_inputs(cls, parser_name):
        return explain_missing(weight_path, PARSER_FILES, parser_name)

    @classmethod
    def execute(cls, parser_name) -> io.NodeOutput:
        return io.NodeOutput(load_parser(weight_path(PARSER_FILES, parser_name)))


def _style_inputs() -> list[io.Input]:
    """Return the inputs of `MaskStyle`, in its order."""
    return [
        io.Combo.Input(
            "shape",
            options=list(SHAPES),
            default="hull",
            tooltip="The outline of the part, or the upright box around it.",
        ),
        io.Float.Input(
            "expand",
            default=0.0,
            min=-256.0,
            max=256.0,
            step=0.5,
            tooltip="How far to move the edge outwards, in the chosen unit; a negative number shrinks.",
        ),
        io.Float.Input(
            "feather",
            default=0.0,
            min=0.0,
            max=256.0,
            step=0.5,
            tooltip="How far the soft edge reaches to either side, in the chosen unit. 0 gives black and white only.",
        ),
        io.Combo.Input(
            "unit",
            options=list(UNITS),
            default=UNITS[0],
            tooltip="What expand and feather count: pixels, or per cent of the longer side of the face's box, "
            "which fits small and large faces alike.",
        ),
    ]


class FaceMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessFaceMasks",
            display_name="Face Masks",
            category="likeness/faces",
            description="Masks the face or a part of it in every picture: from the detector's landmarks, or from face "
            "parsing where a parser is connected.",
            search_aliases=[
                "face mask",
                "eye mask",
                "mouth mask",
                "hair mask",
                "head mask",
                "segment face",
                "face box",
            ],
            inputs=[
                FacesType.Input("faces", tooltip="From Detect Faces: these faces are masked, others are not."),
                io.Combo.Input(
                    "region",
                    options=list(REGIONS),
                    default="face",
                    tooltip="What to mask. The subject's left is left: in an upright portrait the left eye is on the "
                    "right-hand side of the picture. Hair needs a face parser.",
                ),
                *_style_inputs(),
                io.Boolean.Input(
                    "per_face",
                    default=False,
                    tooltip="Off: one mask per picture, of all its faces. On: one mask per face, picture by picture, "
                    "left to right.",
                ),
                FaceParserType.Input(
                    "face_parser",
                    optional=True,
                    tooltip="From Load Face Parser: masks then follow the pixels of the part and not its landmarks.",
                ),
            ],
            outputs=[
                io.Mask.Output("mask", tooltip="As large as the pictures; empty where there is no face."),
                io.String.Output("source", tooltip="What the masks were made from, and how many are empty."),
            ],
        )

    @classmethod
    def execute(cls, faces, region, shape, expand, feather, unit, per_face, face_parser=None) -> io.NodeOutput:
        masks, sources = face_masks(faces, region, MaskStyle(shape, expand, feather, unit), face_parser)
        joined = join_per_image(faces, masks)
        preview = ui.PreviewImage(tint(faces.images, joined), cls=cls)
        output = masks if per_face and len(masks) else joined
        return io.NodeOutput(output, describe(region, output, sources), ui=preview)


NODES = [LoadFaceParser, FaceMasks]
