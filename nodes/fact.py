"""FaceChain-FACT: the adapter and its place in the model."""

from comfy_api.latest import io

from ..adapters.ip_adapter import BY_NAME, VARIANTS
from ..adapters.loading import load_adapter
from ..attention_patches.fact import apply_fact
from ..weights import manifest
from .inputs import check_numbers, explain_missing, explain_placeholder, schedule, weight_file, weight_path
from .remarks import show
from .sockets import FaceAdapterType, FaceIdType

ADAPTER_FILES = {
    "facechain_fact": (
        "adapter_maj_mask_large_new_reg001_faceshuffle_00290001.ckpt",
        "adapter_film_mask_large_new_reg001_faceshuffle_00290001.ckpt",
    ),
    "face2diffusion": ("mapping.pt",),
    "ipadapter": tuple(entry.file for entry in manifest.entries() if entry.folder == "ipadapter"),
    "instantid": ("ip-adapter.bin",),
    "pulid": ("ip-adapter_pulid_sdxl_fp16.safetensors", "pulid_v1.1.safetensors"),
}


class LoadFaceAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadFaceAdapter",
            display_name="Load Face Adapter",
            category="likeness/loaders",
            description="Loads the weights that carry an identity into the model (FACT; IP-Adapter, FaceID, InstantID, "
            "PuLID, Infinite-ID) or the prompt (Face2Diffusion). Recognised by their tensors, whatever the file is "
            "called.",
            search_aliases=[
                "facechain",
                "fact",
                "face2diffusion",
                "mapping network",
                "face adapter",
                "ipadapter",
                "ip-adapter",
                "faceid",
                "instantid",
                "pulid",
                "infinite-id",
            ],
            inputs=[
                weight_file(
                    "adapter_name",
                    ADAPTER_FILES,
                    "FACT adapter from models/facechain_fact, mapping network from models/face2diffusion, or image "
                    "adapter (IP-Adapter, FaceID, InstantID, PuLID, Infinite-ID) from models/ipadapter, "
                    "models/instantid or models/pulid.",
                ),
                io.Combo.Input(
                    "variant",
                    options=list(VARIANTS),
                    default=BY_NAME,
                    optional=True,
                    advanced=True,
                    tooltip="Only for a renamed image adapter: FaceID-Plus and PlusV2 have the same tensors, and so "
                    "have InstantID and FaceID-Portrait unnorm. Otherwise the file's name says which it is.",
                ),
            ],
            outputs=[
                FaceAdapterType.Output(
                    "face_adapter", tooltip="To Apply FACT, Apply Image Adapter or Face to Words, as its kind is."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, adapter_name):
        return explain_missing(weight_path, ADAPTER_FILES, adapter_name)

    @classmethod
    def execute(cls, adapter_name, variant=BY_NAME) -> io.NodeOutput:
        return io.NodeOutput(load_adapter(weight_path(ADAPTER_FILES, adapter_name), variant))


class ApplyFACT(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessApplyFACT",
            display_name="Apply FACT",
            category="likeness/fact",
            description="Gives an SD1.5 model the face of an identity. Connect the MODEL output to any sampler; LoRAs, "
            "ControlNets and other adapters keep working beside it. Chain several: what they add is summed.",
            search_aliases=[
                "facechain",
                "fact",
                "sfags",
                "identity",
                "face",
                "likeness",
                "portrait",
                "sd1.5",
                "same person",
                "consistent character",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Any SD1.5 model, after its LoRAs."),
                FaceAdapterType.Input("face_adapter", tooltip="From Load Face Adapter."),
                FaceIdType.Input("face_id", tooltip="From Encode Identity."),
                io.Float.Input(
                    "strength",
                    default=0.5,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How strongly the face acts. The authors use 0.5 for text-to-image and pose control, 0.55 "
                    "for inpainting; 0 is the model as it was.",
                ),
                *schedule(
                    "When in the sampling the face begins to act. A little later leaves more of the layout to "
                    "the prompt (the authors' delayed face condition).",
                    "When in the sampling the face stops acting.",
                ),
                io.Boolean.Input(
                    "cfg_face",
                    default=True,
                    advanced=True,
                    tooltip="On: the negative prompt's branch sees an empty face, so that the CFG scale amplifies the "
                    "likeness as well (the authors' default). Off: both branches see the face.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture the face acts: white on, black off; one mask, or one per picture.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with the face, to a sampler.")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, face_adapter, face_id, strength, start_percent, end_percent, cfg_face, mask=None
    ) -> io.NodeOutput:
        mask = check_numbers(mask)
        patched = apply_fact(model, face_adapter, face_id, strength, start_percent, end_percent, cfg_face, mask)
        return io.NodeOutput(patched, **show(cls, explain_placeholder(mask)))


NODES = [LoadFaceAdapter, ApplyFACT]
