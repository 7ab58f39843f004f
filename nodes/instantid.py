"""InstantID whole: the person in the model, and the face's pose through its ControlNet."""

import torch
from comfy_api.latest import io

from ..adapters.ip_adapter import IpAdapter, check_ip_adapter
from ..attention_patches.identity_control import apply_identity_control, make_identity_control
from ..attention_patches.ip_adapter import apply_ip_adapter
from ..faces.keypoints import box_mask, draw_keypoints, fit_faces
from .inputs import image_size, schedule
from .sockets import FaceAdapterType, FaceIdType, FacesType

_REGIONS = ("whole picture", "the faces' boxes")


def _control_strength() -> io.Float.Input:
    return io.Float.Input(
        "control_strength",
        default=0.8,
        min=0.0,
        max=2.0,
        step=0.01,
        tooltip="How strongly the ControlNet holds the face's pose and likeness; the authors use 0.8. Raise both "
        "strengths for more likeness; where colours burn lower the adapter's first.",
    )


def _conditioning_inputs() -> list[io.Input]:
    return [
        io.Conditioning.Input("positive", tooltip="The prompt. ControlNets that it has already go on reading it."),
        io.Conditioning.Input("negative", tooltip="The negative prompt."),
        FaceAdapterType.Input("face_adapter", tooltip="InstantID's ip-adapter.bin, from Load Face Adapter."),
        io.ControlNet.Input(
            "control_net", tooltip="InstantID's own ControlNet, from Load ControlNet Model (see Weights)."
        ),
        FaceIdType.Input(
            "face_id", tooltip="The person, from Encode Identity with an ArcFace encoder (antelopev2's glintr100.onnx)."
        ),
    ]


def _conditioning_outputs() -> list[io.Output]:
    return [
        io.Conditioning.Output("positive_out", display_name="positive", tooltip="To the sampler's positive."),
        io.Conditioning.Output("negative_out", display_name="negative", tooltip="To the sampler's negative."),
    ]


def _read_tokens(face_adapter: IpAdapter, face_id) -> torch.Tensor:
    check_ip_adapter(face_adapter)
    if face_adapter.format.name != "instantid":
        raise ValueError(
            f"{face_adapter.name} ({face_adapter.format.name}) is no InstantID file: use Apply Image Adapter for it, "
            "or choose InstantID's ip-adapter.bin in Load Face Adapter."
        )
    return face_adapter.tokens(face_id)


class DrawFaceKeypoints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessDrawFaceKeypoints",
            display_name="Draw Face Keypoints",
            category="likeness/faces",
            description="Draws the five points of faces as InstantID's ControlNet reads them, at the size of the "
            "picture to be made. A picture of another shape is cut at its middle.",
            search_aliases=["instantid", "face keypoints", "kps", "face pose"],
            inputs=[
                FacesType.Input("faces", tooltip="From Detect Faces, of the picture whose pose is wanted."),
                io.Latent.Input("latent", tooltip="The latent to be sampled: it gives the size."),
            ],
            outputs=[io.Image.Output("image", tooltip="Five coloured points a face on black.")],
        )

    @classmethod
    def execute(cls, faces, latent) -> io.NodeOutput:
        points, width, height = _fit(faces, latent)
        return io.NodeOutput(draw_keypoints(points, width, height)[None])


def _fit(faces, latent) -> tuple[list, int, int]:
    """Return the points of the first image's faces in the picture to be made, and its width and height."""
    height, width = image_size(latent)
    if not faces.per_image or not faces.per_image[0]:
        raise ValueError(
            "There is no face in the picture of the pose, so that InstantID's ControlNet would hold none: choose "
            "another picture in Detect Faces, or set if_no_face there."
        )
    return fit_faces(faces.per_image[0], faces.images.shape[1:3], (height, width)), width, height


class ApplyInstantIdControl(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessApplyInstantIdControl",
            display_name="Apply InstantID ControlNet",
            category="likeness/image adapters",
            description="InstantID's ControlNet alone: it reads the person's tokens in place of the prompt, while "
            "other ControlNets of the chain go on reading the prompt. Chain one per person.",
            search_aliases=["instantid", "identitynet", "controlnet", "face pose"],
            inputs=[
                *_conditioning_inputs(),
                io.Image.Input("image", tooltip="From Draw Face Keypoints."),
                _control_strength(),
                *schedule("When in the sampling it begins to act.", "When in the sampling it stops acting."),
                io.Mask.Input("mask", optional=True, tooltip="Where in the picture it acts: white on, black off."),
            ],
            outputs=_conditioning_outputs(),
        )

    @classmethod
    def execute(
        cls, positive, negative, face_adapter, control_net, face_id, image, control_strength, start_percent,
        end_percent, mask=None,
    ) -> io.NodeOutput:  # fmt: skip
        control = make_identity_control(control_net, _read_tokens(face_adapter, face_id), mask)
        span = (start_percent, end_percent)
        return io.NodeOutput(*apply_identity_control((positive, negative), control, image, control_strength, span))


class ApplyInstantId(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessApplyInstantId",
            display_name="Apply InstantID",
            category="likeness/image adapters",
            description="Puts a person into an SDXL picture by InstantID: the face in the model's attention, its pose "
            "through InstantID's ControlNet. Chain one per person, each with its own face of the pose picture.",
            search_aliases=[
                "instantid",
                "identitynet",
                "same person",
                "consistent character",
                "face pose",
                "likeness",
                "portrait",
                "sdxl",
            ],
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model, after its LoRAs."),
                *_conditioning_inputs(),
                FacesType.Input(
                    "pose", tooltip="From Detect Faces: the face whose place, size and turn the new one takes."
                ),
                io.Latent.Input("latent", tooltip="The latent to be sampled: it gives the size of the pose."),
                io.Float.Input(
                    "strength",
                    default=0.8,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How strongly the face acts in the model's attention; the authors use 0.8.",
                ),
                _control_strength(),
                *schedule("When in the sampling both begin to act.", "When in the sampling both stop acting."),
                io.Combo.Input(
                    "region",
                    options=list(_REGIONS),
                    default=_REGIONS[0],
                    tooltip="Where both act. The faces' boxes leave the rest of the picture to the prompt, and keep "
                    "several people apart.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with the face in it."),
                *_conditioning_outputs(),
                io.Image.Output("keypoints", tooltip="What the ControlNet sees."),
            ],
        )

    @classmethod
    def execute(
        cls, model, positive, negative, face_adapter, control_net, face_id, pose, latent, strength, control_strength,
        start_percent, end_percent, region,
    ) -> io.NodeOutput:  # fmt: skip
        tokens = _read_tokens(face_adapter, face_id)
        points, width, height = _fit(pose, latent)
        keypoints = draw_keypoints(points, width, height)[None]
        mask = None
        if region != _REGIONS[0]:
            mask = box_mask(pose.per_image[0], pose.images.shape[1:3], (height, width))[None]
        control = make_identity_control(control_net, tokens, mask)
        model = apply_ip_adapter(model, face_adapter, tokens, strength, start_percent, end_percent, mask=mask)
        span = (start_percent, end_percent)
        conditionings = apply_identity_control((positive, negative), control, keypoints, control_strength, span)
        return io.NodeOutput(model, *conditionings, keypoints)


NODES = [ApplyInstantId, ApplyInstantIdControl, DrawFaceKeypoints]
