"""Faces painted anew where they are: cut out, inpainted with the host's sampler, pasted back."""

import comfy.samplers
from comfy_api.latest import io

from ..inpaint.paint import SamplerSettings, assign, check_people, paint
from ..inpaint.paste import paste
from ..inpaint.refine import EVERY_FACE, CropStyle, refine_crops
from .inputs import colour_match, crop_shape, crop_size, face_share, feather
from .sockets import FaceCropType, FacePeopleType, FacesType


def _crop_inputs() -> list[io.Input]:
    """Return the inputs of `CropStyle`, in its order."""
    return [
        face_share("Lower shows the model more of the surroundings, higher paints the face with more pixels."),
        crop_size("Side in pixels at which the face is painted: 512 for SD1.5, 1024 for SDXL."),
        crop_shape("shape", "What is painted without a mask: the face's outline, or the upright box around it. The box "
                   "is what Train FaceA learns from, unless told otherwise."),
        io.Int.Input("expand", default=12, min=-128, max=256, advanced=True,
                     tooltip="How far that is grown, in pixels of the crop, so that a jaw of another shape has room. "
                     "8 to 16 is usual. A connected mask is not grown."),
    ]  # fmt: skip


def _target_inputs() -> list[io.Input]:
    """Return the optional inputs that say what to paint."""
    return [
        FacesType.Input("faces", optional=True,
                        tooltip="From Detect Faces, with the same picture and choose set to all. Without it, mask "
                        "says what to paint."),
        io.Mask.Input("mask", optional=True,
                      tooltip="What may change, white on black, as large as the picture. With faces: instead of their "
                      "estimated outlines, each face taking what is nearest to it. Without faces: one place."),
    ]  # fmt: skip


def _sampler_inputs() -> list[io.Input]:
    """Return the inputs of `SamplerSettings`, in its order."""
    return [
        io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                     tooltip="Of the noise. Every face of a picture starts from the same."),
        io.Int.Input("steps", default=50, min=1, max=10000, tooltip="Steps of the sampler for each face."),
        io.Float.Input("cfg", default=7.5, min=0.0, max=100.0, step=0.1,
                       tooltip="How strictly the prompt is followed. The paper says that it matters, not what it was: "
                       "try 3 to 7.5."),
        io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="ddim", advanced=True,
                       tooltip="The host's samplers."),
        io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="normal", advanced=True,
                       tooltip="The host's schedulers."),
        io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                       tooltip="1: nothing of the old face is left, as in the paper. Less keeps something of it."),
    ]  # fmt: skip


class CropFacesToRefine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        index = "Which face: 0 is the leftmost, as Detect Faces numbers them. -1: all of them."
        return io.Schema(
            node_id="LikenessCropFacesToRefine",
            display_name="Crop Faces to Refine",
            category="likeness/inpaint",
            description="Cuts one face, or all, out of pictures, with what is around them and a mask, for a sampler of "
            "your own. Paste Face Back puts all of them in place.",
            search_aliases=["inpaint crop", "crop and stitch", "face detailer", "facea", "uncrop"],
            inputs=[
                io.Image.Input("image", tooltip="The pictures to change."),
                io.Int.Input("index", default=EVERY_FACE, min=EVERY_FACE, max=99, tooltip=index),
                *_crop_inputs(),
                *_target_inputs(),
            ],
            outputs=[
                FaceCropType.Output("face_crop", tooltip="For Paste Face Back."),
                io.Image.Output("image_out", display_name="image", tooltip="The crops, a batch of all the faces."),
                io.Mask.Output("mask_out", display_name="mask", tooltip="What is to be painted in each."),
            ],
        )

    @classmethod
    def execute(cls, image, index, face_share, size, shape, expand, faces=None, mask=None) -> io.NodeOutput:
        crop, _ = refine_crops(image, faces, mask, (index,), CropStyle(face_share, size, shape, expand))
        return io.NodeOutput(crop, crop.images, crop.masks)


class RefineFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        aliases = [
            "inpaint-refine", "inpaint refine", "face detailer", "adetailer", "crop and stitch", "facea", "facea-net",
            "several people",
        ]  # fmt: skip
        return io.Schema(
            node_id="LikenessRefineFaces",
            display_name="Refine Faces",
            category="likeness/inpaint",
            description="Paints the faces of a picture anew as the people you name: cuts each out, inpaints it with "
            "that person's model and prompt, and pastes it back. What is not masked stays as it was, to the last bit.",
            search_aliases=aliases,
            inputs=[
                io.Image.Input("image", tooltip="The pictures to change."),
                FacePeopleType.Input("people", tooltip="Who the faces are to become, from FaceA Person."),
                io.Vae.Input("vae", tooltip="Of the inpainting checkpoint."),
                *_crop_inputs(),
                feather("How many"),
                colour_match(
                    "Inpainting shifts colours a little. Measure by how much around the mask, where nothing was "
                    "painted, and take that back."
                ),
                *_sampler_inputs(),
                *_target_inputs(),
            ],
            outputs=[
                io.Image.Output("image_out", display_name="image"),
                io.Image.Output("crops", tooltip="What was cut out, a batch of all the faces."),
                io.Image.Output("painted", tooltip="The same as the model painted it."),
                io.Mask.Output("painted_mask", tooltip="What was to be painted in each."),
            ],
        )

    @classmethod
    def execute(
        cls, image, people, vae, face_share, size, shape, expand, feather, colour_match, seed, steps, cfg,
        sampler_name, scheduler, denoise, faces=None, mask=None,
    ) -> io.NodeOutput:  # fmt: skip
        check_people(people)
        numbers = tuple(person.number for person in people)
        crop, numbers = refine_crops(image, faces, mask, numbers, CropStyle(face_share, size, shape, expand))
        sampling = SamplerSettings(seed, steps, cfg, sampler_name, scheduler, denoise)
        painted = paint(crop, assign(numbers, people), vae, sampling)
        images = paste(crop, painted, None, None, None, "mask", feather, colour_match)
        return io.NodeOutput(images, crop.images, painted, crop.masks)


NODES = [CropFacesToRefine, RefineFaces]
