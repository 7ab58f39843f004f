"""Faces painted anew where they are: cut out, inpainted with the host's sampler, pasted back."""

import comfy.samplers
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..faces.choose import lay_out, report_faceless
from ..inpaint.paint import FacePerson, SamplerSettings, assign, check_people, paint
from ..inpaint.paste import paste
from ..inpaint.refine import EVERY_FACE, CropStyle, refine_crops
from ..metrics.scores import face_scores
from .inputs import check_mask, check_numbers, colour_match, crop_shape, crop_size, face_share, feather
from .remarks import show
from .sockets import FaceCropType, FaceEncoderType, FaceIdType, FacePeopleType, FacesType

_IF_NO_FACE = ("error", "pass through")


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
        crop, _ = refine_crops(image, faces, check_mask(mask), (index,), CropStyle(face_share, size, shape, expand))
        return io.NodeOutput(crop, crop.images, crop.masks)


class ChooseFacePerson(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessFacePerson",
            display_name="Face Person",
            category="likeness/inpaint",
            description="Says for Refine Faces what a face is to become, with any model: one that an adapter (FACT, "
            "image adapters, PuLID) gave a person, a plain one for detail alone, inpainting checkpoint or not. Chain "
            "one per person.",
            search_aliases=[
                "face detailer", "adetailer", "fix faces", "restore face", "face swap", "several people", "same person",
                "likeness",
            ],
            inputs=[
                io.Model.Input("model", tooltip="What paints the face: after Apply FACT, Apply Image Adapter and the "
                               "like, without a mask there. Of SD1.5, SDXL or another base."),
                io.Conditioning.Input("positive", tooltip="A prompt of the face alone, from the same checkpoint."),
                io.Conditioning.Input("negative", tooltip="What the face should not be."),
                io.Int.Input("index", default=EVERY_FACE, min=EVERY_FACE, max=99,
                             tooltip="Which face becomes this person: 0 is the leftmost, as Detect Faces numbers them. "
                             "-1: every face that no other person is chosen for. Not used where face_id is "
                             "connected."),
                FaceIdType.Input("face_id", optional=True,
                                 tooltip="Chooses the face by likeness instead: in each picture the one most like this "
                                 "person. Others are left alone."),
                FaceEncoderType.Input("face_encoder", optional=True,
                                      tooltip="The encoder that read face_id; best a recogniser (ArcFace, SFace)."),
                io.Float.Input("min_likeness", default=0.4, min=-1.0, max=1.0, step=0.01, optional=True,
                               tooltip="The cosine that a face must have to the person, where face_id chooses. Face "
                               "recognisers give strangers up to about 0.4."),
                FacePeopleType.Input("people", optional=True, tooltip="The people before this one."),
            ],
            outputs=[FacePeopleType.Output("people_out", display_name="people", tooltip="For Refine Faces.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, positive, negative, index, face_id=None, face_encoder=None, min_likeness=0.4, people=()
    ) -> io.NodeOutput:
        if (face_id is None) != (face_encoder is None):
            raise ValueError(
                "Face Person chooses a face by likeness with both face_id and the face_encoder that read it: connect "
                "both, or neither."
            )
        score = None if face_id is None else lambda faces: face_scores(face_encoder, faces, face_id)
        return io.NodeOutput((*people, FacePerson(model, positive, negative, index, score, min_likeness)))


class RefineFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        aliases = [
            "inpaint-refine", "inpaint refine", "face detailer", "adetailer", "crop and stitch", "facea", "facea-net",
            "several people", "two people", "fix faces", "restore face", "face swap", "likeness",
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
                FacePeopleType.Input(
                    "people", tooltip="Who the faces are to become, from Face Person or FaceA Person."
                ),
                io.Vae.Input("vae", tooltip="Of the inpainting checkpoint."),
                *_crop_inputs(),
                feather("How many"),
                colour_match(
                    "Inpainting shifts colours a little. Measure by how much around the mask, where nothing was "
                    "painted, and take that back."
                ),
                *_sampler_inputs(),
                *_target_inputs(),
                io.Combo.Input(
                    "if_no_face",
                    options=list(_IF_NO_FACE),
                    default="error",
                    optional=True,
                    tooltip="pass through: pictures without a face to paint come out as they are, and a person whose "
                    "face is not there is left out. The outputs crops, painted and painted_mask then run nothing.",
                ),
            ],
            outputs=[
                io.Image.Output("image_out", display_name="image", tooltip="The pictures with the new faces."),
                io.Image.Output("crops", tooltip="What was cut out, a batch of all the faces."),
                io.Image.Output("painted", tooltip="The same as the model painted it."),
                io.Mask.Output("painted_mask", tooltip="What was to be painted in each."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, image, people, vae, face_share, size, shape, expand, feather, colour_match, seed, steps, cfg,
        sampler_name, scheduler, denoise, faces=None, mask=None, if_no_face="error",
    ) -> io.NodeOutput:  # fmt: skip
        check_people(people)
        numbers = tuple(EVERY_FACE if person.score else person.number for person in people)
        style = CropStyle(face_share, size, shape, expand)
        none_is_well = if_no_face == "pass through"
        # Empty, the black mask of Load Image among them, is then as good as another.
        mask = check_numbers(mask) if none_is_well else check_mask(mask)
        crop, numbers = refine_crops(image, faces, mask, numbers, style, none_is_well)
        shown = show(cls, report_faceless(lay_out(faces, image)) if faces else None)
        owners = assign(crop, numbers, people)
        crop = crop.select([i for i, owner in enumerate(owners) if owner])
        if not (any(owners) or none_is_well):
            raise ValueError(
                "No face of the picture is like any of the people: lower min_likeness in Face Person, choose the face "
                'by its index, or set if_no_face to "pass through".'
            )
        if not any(owners):
            return io.NodeOutput(crop.originals, *[ExecutionBlocker(None)] * 3, **shown)
        sampling = SamplerSettings(seed, steps, cfg, sampler_name, scheduler, denoise)
        painted = paint(crop, [owner for owner in owners if owner], vae, sampling)
        images = paste(crop, painted, None, None, None, "mask", feather, colour_match)
        return io.NodeOutput(images, crop.images, painted, crop.masks, **shown)


NODES = [CropFacesToRefine, ChooseFacePerson, RefineFaces]
