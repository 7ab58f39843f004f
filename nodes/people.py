"""Several people in one picture, each in a place; and a person out of many photos."""

from comfy_api.latest import io

from ..attention_patches.lora_rows import ALL
from ..attention_patches.people import PlacedPerson, apply_people, find_twins, make_masks, place_prompts
from ..encoders import agreement
from ..encoders.person import ODD_PHOTOS, encode_photos
from ..faces.places import PARTS
from .inputs import check_mask, image_size, is_masked, lora_rows, schedule
from .remarks import show, show_faces
from .sockets import (
    FaceAdapterType,
    FaceDetectorType,
    FaceEncoderType,
    FaceIdType,
    FacesType,
    PlacedPeopleType,
)

_BOX = "box"


def _per_cent(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=100.0, step=0.1, advanced=True, tooltip=f"Counts only with box: {tooltip}"
    )


class PersonInPlace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessPersonInPlace",
            display_name="Person in Place",
            category="likeness/people",
            description="Says for People in Places who is to be where, and what to draw there. Chain one per person.",
            search_aliases=["regional prompt", "attention couple", "two people", "several people", "region", "area"],
            inputs=[
                io.Combo.Input(
                    "place",
                    options=[*PARTS, _BOX],
                    tooltip="Where in the picture the person is. Counts only where neither mask nor faces is "
                    "connected.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw in this place, such as 'a woman in a red coat'. Empty: what the common "
                    "prompt says. Each person's prompt makes a step that much longer.",
                ),
                _per_cent("x", 25.0, "its left edge, in per cent of the picture's width."),
                _per_cent("y", 0.0, "its upper edge, in per cent of the picture's height."),
                _per_cent("width", 50.0, "in per cent of the picture's width."),
                _per_cent("height", 100.0, "in per cent of the picture's height."),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=99,
                    tooltip="Counts only where faces is connected: which face, 0 is the leftmost.",
                ),
                FaceIdType.Input(
                    "face_id", optional=True, tooltip="The person, from Load Person, Encode Identity or Load Identity."
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="For image adapters that read CLIP vision, as the input of the same name of Apply Image "
                    "Adapter.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="The place: white where the person is to be."),
                FacesType.Input(
                    "faces",
                    optional=True,
                    tooltip="The place as a face of another picture, such as a first pass or a layout: from Detect "
                    "Faces with choose set to all. Its head is taken with some room around it.",
                ),
                PlacedPeopleType.Input("people", optional=True, tooltip="The people before this one."),
            ],
            outputs=[PlacedPeopleType.Output("people_out", display_name="people", tooltip="For People in Places.")],
        )

    @classmethod
    def execute(
        cls, place, prompt, x, y, width, height, index, face_id=None, image=None, mask=None, faces=None, people=()
    ) -> io.NodeOutput:
        if mask is not None and faces is not None:
            raise ValueError("Person in Place: both mask and faces say where the person is; disconnect one of them.")
        mask = check_mask(mask)
        if mask is not None and mask.ndim == 3:
            if len(mask) > 1:
                raise ValueError(f"Person in Place takes one mask, and {len(mask)} are connected: choose one of them.")
            mask = mask[0]
        face, source = (None, None) if faces is None else (_choose_face(faces, index), tuple(faces.images.shape[1:3]))
        box = PARTS.get(place, (x, y, width, height))
        return io.NodeOutput((*people, PlacedPerson(face_id, image, prompt.strip(), box, mask, face, source)))


def _choose_face(faces, index: int):
    """Return a face of the one picture of `faces`; raise ValueError where it is not there."""
    if len(faces.per_image) != 1:
        raise ValueError(
            f"Person in Place takes the faces of one picture, and those of {len(faces.per_image)} are connected."
        )
    present = faces.per_image[0]
    if index >= len(present):
        raise ValueError(
            f"Person in Place: face {index} is asked for, but the picture has {len(present)} (numbered from 0). Choose "
            "another index, or set choose to all in Detect Faces."
        )
    return present[index]


class PeopleInPlaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessPeopleInPlaces",
            display_name="People in Places",
            category="likeness/people",
            description="Puts each of several people into a place of one picture, by one adapter: FACT, IP-Adapter, "
            "FaceID, InstantID or PuLID. Where people have prompts of their own, these hold in their places. Connect "
            "both outputs to any sampler.",
            search_aliases=[
                "regional prompt",
                "attention couple",
                "two people",
                "several people",
                "multi person",
                "group photo",
                "couple",
                "omost",
            ],
            inputs=[
                io.Model.Input("model", tooltip="As the adapter asks, SD1.5 or SDXL, after its LoRAs."),
                io.Conditioning.Input(
                    "positive", tooltip="The common prompt: the whole picture, such as 'two friends at the beach'."
                ),
                PlacedPeopleType.Input("people", tooltip="From Person in Place."),
                FaceAdapterType.Input("face_adapter", tooltip="From Load Face Adapter; the same for all people."),
                io.Latent.Input("latent", tooltip="The latent to be sampled: it gives the size."),
                io.Float.Input(
                    "strength",
                    default=0.8,
                    min=0.0,
                    max=3.0,
                    step=0.01,
                    tooltip="How strongly each person acts, as in the node that applies the adapter alone: 0.5 for "
                    "FACT, 0.8 for InstantID and PuLID, 0.6 to 1 for FaceID.",
                ),
                *schedule("When in the sampling people begin to act.", "When in the sampling people stop acting."),
                io.Float.Input(
                    "blend",
                    default=8.0,
                    min=0.0,
                    max=50.0,
                    step=0.5,
                    advanced=True,
                    tooltip="How wide the rim is in which a place fades out, in per cent of the picture's shorter "
                    "side.",
                ),
                io.Float.Input(
                    "common_share",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="How much the common prompt counts in the places of people with a prompt of their own. 0: "
                    "not at all, so that it is not seen where places cover the whole picture.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="Reads the people's prompts; needed where there are any."),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="For image adapters that read it, see Apply Image Adapter."
                ),
                lora_rows(),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with all people, to a sampler."),
                io.Conditioning.Output("positive_out", display_name="positive", tooltip="To the sampler's positive."),
                io.Mask.Output("masks", tooltip="Where each person acts, in turn, as for other nodes with a mask."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, positive, people, face_adapter, latent, strength, start_percent, end_percent, blend, common_share,
        clip=None, clip_vision=None, lora_rows=ALL,
    ) -> io.NodeOutput:  # fmt: skip
        if clip is None and any(person.prompt for person in people):
            raise ValueError(
                "People in Places: a person has a prompt of its own, so connect clip, the one that encoded positive."
            )
        masks = make_masks(people, image_size(latent), blend)
        prompts = [
            clip.encode_from_tokens_scheduled(clip.tokenize(person.prompt)) if person.prompt else None
            for person in people
        ]
        span = (strength, start_percent, end_percent)
        model = apply_people(model, face_adapter, people, masks, clip_vision, *span, lora_rows)
        twins = find_twins(people)
        remark = twins and "Person {} and person {} have the same face, once in each place.".format(*twins)
        return io.NodeOutput(model, place_prompts(positive, prompts, masks, common_share), masks, **show(cls, remark))


class LoadPerson(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadPerson",
            display_name="Load Person",
            category="likeness/people",
            description="Makes one person of one or many photos: a picture, a batch, or the list of a folder loader, "
            "of any sizes. Takes the largest face of each, and says which photos show somebody else.",
            search_aliases=["folder of photos", "several photos", "face embedding", "identity", "load image folder"],
            is_input_list=True,
            inputs=[
                io.Image.Input("photos", tooltip="Photos of one person: one, a batch, or a list, as from Load Image "
                               "(from Folder)."),
                FaceDetectorType.Input("face_detector", tooltip="From Load Face Detector."),
                FaceEncoderType.Input(
                    "face_encoder",
                    tooltip="From Load Face Encoder, as the adapter asks: TransFace for FACT, ArcFace for FaceID and "
                    "InstantID; from Load PuLID Encoder for PuLID.",
                ),
                io.Combo.Input(
                    "odd_photos",
                    options=list(ODD_PHOTOS),
                    tooltip="mark: photos that disagree with the others are named and stay in. drop: they are left "
                    "out. It takes three photos to tell which is odd. Photos without a face are always left out.",
                ),
                io.Float.Input(
                    "min_agreement",
                    default=agreement.MIN_AGREEMENT,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Photos below it are odd: the cosine of a photo with the mean of the others. Measured with "
                    "the recogniser SFace; other encoders may ask for another value.",
                ),
            ],
            outputs=[
                FaceIdType.Output(
                    "face_id", tooltip="The person, to Person in Place, Apply FACT, Apply Image Adapter or the like."
                ),
                io.Image.Output("crops", tooltip="What the encoder saw, one crop per photo that is in."),
                io.String.Output("report", tooltip="What became of each photo, and how far they agree."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, photos, face_detector, face_encoder, odd_photos, min_agreement) -> io.NodeOutput:
        masked = is_masked("auto", face_encoder[0].kind)
        face_id, report = encode_photos(
            photos, face_detector[0], face_encoder[0], masked, odd_photos[0], min_agreement[0]
        )
        return io.NodeOutput(face_id, face_id.crops, report, ui=show_faces(cls, face_id.crops, report))


NODES = [LoadPerson, PersonInPlace, PeopleInPlaces]
