"""A new face into an old picture: cut the face out to be inpainted, and put it back."""

import torch
from comfy_api.latest import io

from ..faces.detector import as_rgb
from ..inpaint import fact_crop, paste
from ..inpaint.grain import find_grain, match_grain
from .inputs import check_mask, colour_match, crop_size, face_share, feather
from .sockets import FaceCropType, FacesType


class PrepareFaceCrop(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessPrepareFaceCrop",
            display_name="Prepare Face Crop",
            category="likeness/inpaint",
            description="Cuts one face out of a picture, large enough to be painted anew, with the masks and guides "
            "for it. Paste Face Back puts the result in place.",
            search_aliases=[
                "inpaint face",
                "crop and stitch",
                "face detailer",
                "facechain",
                "fact",
                "template",
                "face swap",
            ],
            inputs=[
                FacesType.Input(
                    "faces",
                    tooltip="From Detect Faces with choose set to all: the other faces are hidden in the crop.",
                ),
                io.Int.Input("index", default=0, min=0, max=99, tooltip="Which face: 0 is the leftmost."),
                face_share(
                    "Lower shows the model more of the surroundings; the authors use 0.7.", default=0.7, least=0.3
                ),
                crop_size("Side in pixels at which the face is painted. 512 suits SD1.5."),
                io.Mask.Input(
                    "face_mask",
                    optional=True,
                    tooltip="The faces in the picture, white on black, from a face parsing or SAM node; as large as "
                    "the picture. Without it the face is estimated from its landmarks.",
                ),
                io.Image.Input(
                    "control_image",
                    optional=True,
                    tooltip="A map of the whole picture, e.g. of poses, as large as the picture; it is cut alike.",
                ),
                FacesType.Input(
                    "donor",
                    optional=True,
                    tooltip="A picture of the new person in this pose, after Detect Faces. Its face is laid over the "
                    "old one, for a pose detector to read, and widens the mask where its jaw is wider.",
                ),
            ],
            outputs=[
                FaceCropType.Output("face_crop", tooltip="For Paste Face Back."),
                io.Image.Output("image", tooltip="The crop, to VAE Encode."),
                io.Mask.Output("inpaint_mask", tooltip="What is to be painted over, to Set Latent Noise Mask."),
                io.Image.Output("canny", tooltip="Edges without the face below the eyes, for a canny ControlNet."),
                io.Image.Output("control", tooltip="The crop of control_image; black without one."),
                io.Image.Output(
                    "control_without_face", tooltip="The same with the face deleted, so that the expression is free."
                ),
                io.Image.Output("composite", tooltip="The crop with the donor's face in place, for a pose detector."),
            ],
        )

    @classmethod
    def execute(cls, faces, index, face_share, size, face_mask=None, control_image=None, donor=None) -> io.NodeOutput:
        face_mask = check_mask(face_mask, "face_mask")
        crop, composite = fact_crop.prepare(faces, index, face_share, size, face_mask, donor)
        control = fact_crop.cut_control(crop, control_image)
        return io.NodeOutput(
            crop,
            crop.images,
            crop.masks,
            fact_crop.canny_without_face(crop),
            control,
            fact_crop.without_face(crop, control),
            composite,
        )


class PasteFaceBack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessPasteFaceBack",
            display_name="Paste Face Back",
            category="likeness/inpaint",
            description="Puts an inpainted face crop back where it was cut out. Every pixel that was not painted stays "
            "as it was, to the last bit.",
            search_aliases=["stitch", "uncrop", "composite", "inpaint face", "facechain", "fact", "face swap"],
            inputs=[
                FaceCropType.Input("face_crop", tooltip="From Prepare Face Crop or Crop Faces to Refine."),
                io.Image.Input("image", tooltip="The inpainted crop, from VAE Decode."),
                io.Combo.Input(
                    "blend",
                    options=list(paste.BLENDS),
                    tooltip="mask: only what was masked comes into the picture. whole crop: the whole crop with a soft "
                    "border, as the authors do it; connect round_trip then.",
                ),
                feather("With 'mask': how many"),
                colour_match(
                    "The VAE shifts colours a little. Measure by how much around the mask and take that back."
                ),
                io.Image.Input(
                    "round_trip",
                    optional=True,
                    tooltip="The prepared crop through VAE Encode and VAE Decode, without sampling. It tells which "
                    "details the VAE lost, and these are returned outside the mask.",
                ),
                io.Image.Input(
                    "picture",
                    optional=True,
                    tooltip="Paste into this picture, e.g. the result of another Paste Face Back, instead of the one "
                    "the face was cut from.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Of the crop's size: counts instead of the mask it was cut out with."
                ),
            ],
            outputs=[
                io.Image.Output("picture_out", display_name="picture", tooltip="The whole picture with the new face.")
            ],
        )

    @classmethod
    def execute(
        cls, face_crop, image, blend, feather, colour_match, round_trip=None, picture=None, mask=None
    ) -> io.NodeOutput:
        mask = check_mask(mask)
        return io.NodeOutput(paste.paste(face_crop, image, round_trip, picture, mask, blend, feather, colour_match))


class MatchGrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessMatchGrain",
            display_name="Match Grain",
            category="likeness/inpaint",
            description="Gives what was painted into a picture the grain of the picture. Painted faces are smoother "
            "than a photo, which shows on film and in dim light. What was not painted stays as it was.",
            search_aliases=["film grain", "noise", "add grain", "inpaint", "composite", "face swap", "fix faces"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The pictures with the new faces, from Refine Faces, Paste Face Back or an edit model.",
                ),
                io.Image.Input("original", tooltip="The same pictures before that. Grain goes where the two differ."),
                io.Float.Input(
                    "amount", default=1.0, min=0.0, max=2.0, step=0.05,
                    tooltip="1: as much as the picture has; 0: none.",
                ),
            ],
            outputs=[io.Image.Output("image_out", display_name="image", tooltip="The pictures with grain.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, original, amount) -> io.NodeOutput:
        if len(original) not in (1, len(image)) or original.shape[1:3] != image.shape[1:3]:
            raise ValueError(
                f"Match Grain compares pictures one by one, but there are {len(image)} of {image.shape[2]} x "
                f"{image.shape[1]} pixels and {len(original)} originals of {original.shape[2]} x {original.shape[1]}: "
                "connect the pictures that went into the node that painted, as large as they came out."
            )
        pairs = zip(as_rgb(image), as_rgb(original).expand(len(image), -1, -1, -1))
        blocks = find_grain(as_rgb(original)[0]) if len(original) == 1 else None  # of one for all, measured once
        grained = [match_grain(painted, before, amount, frame, blocks) for frame, (painted, before) in enumerate(pairs)]
        return io.NodeOutput(torch.stack(grained))


NODES = [PrepareFaceCrop, PasteFaceBack, MatchGrain]
