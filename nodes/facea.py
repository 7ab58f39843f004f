"""FaceA-Net: what was learned of a person: saved, loaded, in the model and in the prompt."""

from comfy_api.latest import io

from ..adapters.facea_file import KIND, description, find_facea, load_facea, new_path, save_facea
from ..adapters.facea_prompt import apply, encode_prompt
from ..inpaint.paint import FacePerson
from ..inpaint.refine import EVERY_FACE
from .inputs import explain_missing, filename_prefix, identity_file, read_version
from .remarks import show, show_saved
from .sockets import FaceaIdentityType, FacePeopleType


def _identity() -> io.Input:
    return FaceaIdentityType.Input("facea_identity", tooltip="From Train FaceA or Load FaceA Identity.")


def _strength() -> io.Input:
    return io.Float.Input(
        "strength",
        default=1.0,
        min=0.0,
        max=2.0,
        step=0.01,
        tooltip="Of the LoRA. 1 is as it was learned; less leaves more of the face to the base model and the prompt.",
    )


def _prompt_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "face_prompt",
            multiline=True,
            dynamic_prompts=True,
            default="a woman face, front face",
            tooltip="What the face looks like and does: expression, glasses, style, light. Clothes, place and pose "
            "belong to the prompt of the whole picture. What was learned of the person is added by itself.",
        ),
        io.String.Input(
            "negative",
            multiline=True,
            dynamic_prompts=True,
            default="",
            tooltip="What the face should not be. The paper leaves it empty.",
        ),
        io.Boolean.Input(
            "compact",
            default=False,
            advanced=True,
            tooltip="Leave the padding between the six learned prompts out: 77 rows instead of 462, which is a little "
            "faster. Off is how the paper has it.",
        ),
    ]


class SaveFaceAIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessSaveFaceAIdentity",
            display_name="Save FaceA Identity",
            category="likeness/facea",
            description="Writes a learned person to output/facea, where Load FaceA Identity finds them. The host's "
            "LoRA loaders open the same file. Every save gets a number of its own; nothing is overwritten.",
            search_aliases=["facea", "facea-net", "save lora", "export identity"],
            inputs=[
                FaceaIdentityType.Input("facea_identity", tooltip="From Train FaceA or Transfer FaceA Attribute."),
                filename_prefix(KIND),
            ],
            outputs=[
                FaceaIdentityType.Output(
                    "facea_identity_out", display_name="facea_identity", tooltip="The same person, to go on with."
                ),
                io.String.Output("path", tooltip="Where the file was written."),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, facea_identity, filename_prefix) -> io.NodeOutput:
        path = save_facea(new_path(filename_prefix), facea_identity, new=True)
        return io.NodeOutput(facea_identity, path, ui=show_saved(cls, path))


class LoadFaceAIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadFaceAIdentity",
            display_name="Load FaceA Identity",
            category="likeness/loaders",
            description="Loads a learned person that Save FaceA Identity wrote, or that a stopped training kept.",
            search_aliases=[
                "facea",
                "facea-net",
                "load lora",
                "import identity",
                "same person",
                "consistent character",
            ],
            inputs=[identity_file(KIND)],
            outputs=[
                FaceaIdentityType.Output(
                    "facea_identity", tooltip="The learned person, to FaceA Person or Apply FaceA."
                ),
                io.String.Output("info", tooltip="The word, the base model, and how the identity was trained."),
            ],
        )

    @classmethod
    def validate_inputs(cls, identity_name):
        return explain_missing(find_facea, identity_name)

    @classmethod
    def fingerprint_inputs(cls, identity_name):
        return read_version(find_facea(identity_name))

    @classmethod
    def execute(cls, identity_name) -> io.NodeOutput:
        identity = load_facea(find_facea(identity_name))
        return io.NodeOutput(identity, description(identity_name, identity))


class ApplyFaceA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessApplyFaceA",
            display_name="Apply FaceA",
            category="likeness/facea",
            description="Puts the LoRA of a FaceA identity into an inpainting model. Its learned prompts come in with "
            "Encode FaceA Prompt; FaceA Person does both for Refine Faces.",
            search_aliases=["facea", "facea-net", "identity", "lora", "likeness"],
            inputs=[
                io.Model.Input("model", tooltip="The inpainting checkpoint that the identity was trained on."),
                _identity(),
                _strength(),
            ],
            outputs=[
                io.Model.Output(
                    "model_out",
                    display_name="model",
                    tooltip="The inpainting model with the person's LoRA, to a sampler.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, facea_identity, strength) -> io.NodeOutput:
        patched, remark = apply(model, facea_identity, strength)
        return io.NodeOutput(patched, **show(cls, remark))


class EncodeFaceAPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessEncodeFaceAPrompt",
            display_name="Encode FaceA Prompt",
            category="likeness/facea",
            description="Encodes the part of a prompt that is about the face, followed by all that was learned of the "
            "person: the face, the eyes, the nose and the mouth.",
            search_aliases=["facea", "facea-net", "prompt", "clip text encode", "identity", "likeness"],
            inputs=[
                io.Clip.Input("clip", tooltip="Of the inpainting checkpoint that the identity was trained on."),
                _identity(),
                *_prompt_inputs(),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="The prompt with all that was learned, to a sampler."),
                io.Conditioning.Output(
                    "negative_out", display_name="negative", tooltip="The negative prompt, to the same sampler."
                ),
            ],
        )

    @classmethod
    def execute(cls, clip, facea_identity, face_prompt, negative, compact) -> io.NodeOutput:
        return io.NodeOutput(*encode_prompt(clip, facea_identity, face_prompt, negative, compact))


class FaceAPerson(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessFaceAPerson",
            display_name="FaceA Person",
            category="likeness/facea",
            description="Says for Refine Faces who a face is to become, and what it should look like. Chain one node "
            "per person for several people.",
            search_aliases=[
                "facea",
                "facea-net",
                "several people",
                "identity",
                "likeness",
                "face detailer",
                "restore face",
                "face swap",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The inpainting checkpoint that the identity was trained on."),
                io.Clip.Input("clip", tooltip="Of the same checkpoint."),
                _identity(),
                *_prompt_inputs(),
                _strength(),
                io.Int.Input(
                    "index",
                    default=EVERY_FACE,
                    min=EVERY_FACE,
                    max=99,
                    tooltip="Which face becomes this person: 0 is the leftmost, as Detect Faces numbers them. -1: "
                    "every face that no other person is chosen for.",
                ),
                FacePeopleType.Input(
                    "people", optional=True, tooltip="The people before this one, from another FaceA Person."
                ),
            ],
            outputs=[
                FacePeopleType.Output(
                    "people_out", display_name="people", tooltip="To Refine Faces, or to the next FaceA Person."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, clip, facea_identity, face_prompt, negative, compact, strength, index, people=()
    ) -> io.NodeOutput:
        patched, remark = apply(model, facea_identity, strength)
        conditionings = encode_prompt(clip, facea_identity, face_prompt, negative, compact)
        return io.NodeOutput((*people, FacePerson(patched, *conditionings, index)), **show(cls, remark))


NODES = [SaveFaceAIdentity, LoadFaceAIdentity, ApplyFaceA, EncodeFaceAPrompt, FaceAPerson]
