"""The IP-Adapter family: images and faces read by cross-attention."""

from comfy_api.latest import io

from ..adapters.ip_adapter import check_ip_adapter
from ..attention_patches.ip_adapter import apply_ip_adapter, parse_layer_weights
from ..attention_patches.lora_rows import ALL
from .inputs import check_numbers, explain_placeholder, is_masked, lora_rows, schedule
from .remarks import show
from .sockets import FaceAdapterType, FaceIdType


def _photo_inputs() -> list[io.Input]:
    """Return the optional inputs that show the person; which of them are needed depends on the adapter."""
    return [
        FaceIdType.Input(
            "face_id",
            optional=True,
            tooltip="For FaceID, InstantID and Infinite-ID: an identity from Encode Identity with an ArcFace encoder.",
        ),
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="For all but FaceID (plain), FaceID-Portrait and InstantID: from Load CLIP Vision, "
            "CLIP-ViT-H-14 for the published files.",
        ),
        io.Image.Input(
            "image",
            optional=True,
            tooltip="What CLIP sees, cut to its middle square; several pictures are all seen. FaceID-Plus and "
            "PlusV2 want the face from Align Face at size 224, one for each photo of the identity; the others "
            "the picture itself.",
        ),
    ]


def _reach_inputs() -> list[io.Input]:
    """Return the optional inputs that say where in image and UNet, and by which of its parts, the adapter acts."""
    return [
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where in the picture the image acts: white on, black off; one mask, or one per picture.",
        ),
        io.String.Input(
            "layer_weights",
            default="",
            optional=True,
            advanced=True,
            tooltip='Strength by place in the UNet: one number, "down=1, middle=0.5, up=0.7", or a number for '
            "each of the 16 (SD1.5) or 70 (SDXL) layers. Empty: all 1.",
        ),
        io.Float.Input(
            "lora_strength",
            default=1.0,
            min=-2.0,
            max=2.0,
            step=0.01,
            optional=True,
            advanced=True,
            tooltip="Of the LoRA inside FaceID files, see lora_rows; others have none. Set 0 where the LoRA is loaded "
            "as a file of its own.",
        ),
        io.Float.Input(
            "shortcut_scale",
            default=1.0,
            min=0.0,
            max=5.0,
            step=0.01,
            optional=True,
            advanced=True,
            tooltip="Only for FaceID-PlusV2: how much of the picture is added to the face embedding; 0 is the "
            "embedding alone.",
        ),
        lora_rows(),
    ]


class ApplyImageAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessApplyImageAdapter",
            display_name="Apply Image Adapter",
            category="likeness/image adapters",
            description="Gives an SD1.5 or SDXL model a face or picture through an IP-Adapter, FaceID, InstantID or "
            "Infinite-ID file. Chain several: what they add is summed. Connect the MODEL output to any sampler.",
            search_aliases=[
                "ipadapter",
                "ip-adapter",
                "faceid",
                "instantid",
                "plus face",
                "infinite-id",
                "identity",
                "likeness",
                "portrait",
                "sdxl",
                "sd1.5",
                "same person",
                "consistent character",
            ],
            inputs=[
                io.Model.Input("model", tooltip="An SD1.5 or SDXL model, as the adapter asks, after its LoRAs."),
                FaceAdapterType.Input("face_adapter", tooltip="An image adapter, from Load Face Adapter."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-1.0,
                    max=3.0,
                    step=0.01,
                    tooltip="How strongly the image acts. 0.6 to 1 for a FaceID, 0.5 to 0.8 for InstantID and beside a "
                    "second adapter; 0 is the model as it was.",
                ),
                *schedule(
                    "When in the sampling the image begins to act. A little later leaves more of the layout to "
                    "the prompt.",
                    "When in the sampling the image stops acting.",
                ),
                *_photo_inputs(),
                *_reach_inputs(),
            ],
            outputs=[
                io.Model.Output(
                    "model_out", display_name="model", tooltip="The model with the face or picture, to a sampler."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        face_adapter,
        strength,
        start_percent,
        end_percent,
        face_id=None,
        clip_vision=None,
        image=None,
        mask=None,
        layer_weights="",
        lora_strength=1.0,
        shortcut_scale=1.0,
        lora_rows=ALL,
    ) -> io.NodeOutput:
        check_ip_adapter(face_adapter)
        tokens = face_adapter.tokens(face_id, face_adapter.clip_input(clip_vision, image), shortcut_scale)
        weights, mask = parse_layer_weights(layer_weights), check_numbers(mask)
        patched = apply_ip_adapter(
            model, face_adapter, tokens, strength, start_percent, end_percent, weights, mask, lora_strength,
            lora_rows=lora_rows,
        )  # fmt: skip
        remarks = filter(None, (explain_placeholder(mask), doubt_crops(face_id)))
        return io.NodeOutput(patched, **show(cls, " ".join(remarks)))


def doubt_crops(face_id) -> str | None:
    """Return a sentence where an identity was read from crops that its encoder was not trained on."""
    if face_id is None or is_masked("auto", face_id.encoder) == face_id.masked:
        return None
    return (
        f"The identity was read from crops with a {'blacked out' if face_id.masked else 'visible'} background, which "
        f"{face_id.file} was not trained on: the likeness suffers. Set mask_background to auto in Encode Identity."
    )


NODES = [ApplyImageAdapter]
