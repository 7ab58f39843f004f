"""Infinite-ID: mixed attention between an identity stream and a text stream."""

from comfy_api.latest import io

from ..attention_patches.infinite_id import MIXINGS, PARTS, STYLES, TRAJECTORIES, apply_infinite_id
from .inputs import schedule

PART_CHOICES = {
    "all": tuple(PARTS),
    **{part: (part,) for part in PARTS},
    **{f"all but {left_out}": tuple(part for part in PARTS if part != left_out) for left_out in PARTS},
}


class InfiniteID(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessInfiniteID",
            display_name="Infinite-ID Mixing",
            category="likeness/infinite-id",
            description="Draws a second picture from the prompt alone beside yours, and lets yours look at it: the "
            "face comes from Apply Image Adapter, before or after this node, scene and style from the text. Takes more "
            "than twice the time per step.",
            search_aliases=[
                "infinite-id",
                "infiniteid",
                "mixed attention",
                "adain-mean",
                "identity",
                "style",
                "anime",
                "sdxl",
                "consistent character",
                "likeness",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model with an image adapter, or the one that goes into it."),
                io.Combo.Input(
                    "mixing",
                    options=list(MIXINGS),
                    default="mixed",
                    tooltip="What the identity stream's self-attention looks at. mixed: both streams (the paper). "
                    "mutual: the text stream only. off: itself, so that only the style acts.",
                ),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default="none",
                    tooltip="none: for photos. AdaIN-mean: for drawings, the text stream's mean colours and strokes "
                    "(the paper). AdaIN: its variance too, stronger and less of the face.",
                ),
                io.Float.Input(
                    "style_strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the style is taken over; 1 is the paper.",
                ),
                *schedule(
                    "When in the sampling the streams begin to mix; before that each is on its own.",
                    "When in the sampling the streams stop mixing. Earlier leaves the details to the face.",
                ),
                io.Combo.Input(
                    "trajectory",
                    options=list(TRAJECTORIES),
                    default="own",
                    tooltip="own: the text stream is a picture of its own from the same noise (the paper). same "
                    "latent: at every step it starts from your picture. Either goes with any sampler.",
                ),
                io.Combo.Input(
                    "parts",
                    options=list(PART_CHOICES),
                    default="all",
                    tooltip="In which parts of the UNet the streams mix. all is the paper.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with both streams, to a sampler.")
            ],
        )

    @classmethod
    def execute(
        cls, model, mixing, style, style_strength, start_percent, end_percent, trajectory, parts
    ) -> io.NodeOutput:
        return io.NodeOutput(
            apply_infinite_id(
                model,
                mixing,
                style,
                style_strength,
                start_percent,
                end_percent,
                trajectory,
                PART_CHOICES[parts],
            )
        )


NODES = [InfiniteID]
