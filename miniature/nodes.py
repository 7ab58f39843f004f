"""The miniature: the drawn world's own small base model and CLIP, which come with the pack."""

from comfy_api.latest import io

from .models import base_model

_TASKS = {"text to image": False, "inpainting": True}


class LoadMiniature(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadMiniature",
            display_name="Load Miniature",
            category="likeness/loaders",
            description="Loads a base model of a drawn world of portraits, which comes with the pack: small enough to "
            "try every method in seconds on a CPU, with nothing to fetch. Its pictures are drawings of 96 x 96 pixels.",
            search_aliases=["checkpoint", "tiny", "demo", "toy model", "try without weights", "cpu"],
            inputs=[
                io.Combo.Input(
                    "task",
                    options=list(_TASKS),
                    tooltip="text to image: draws a whole picture. inpainting: fills a mask, for Refine Faces and "
                    "Train FaceA.",
                ),
            ],
            outputs=[
                io.Model.Output("model", tooltip="As an SD1.5 model: 96 x 96 pixels in Empty Latent Image."),
                io.Clip.Output("clip", tooltip="Knows the words of the drawn world only; see the help page."),
                io.Vae.Output("vae", tooltip="12 pixels of a side to one of the latents."),
                io.ClipVision.Output("clip_vision", tooltip="For Apply Image Adapter and Best of N."),
                io.Clip.Output("score_clip", tooltip="The text half of the CLIP of clip_vision, for Best of N."),
            ],
        )

    @classmethod
    def validate_inputs(cls, task):
        try:
            base_model.check_files(base_model.WEIGHTS, _TASKS[task])
        except FileNotFoundError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, task) -> io.NodeOutput:
        score_clip, clip_vision = base_model.load_pair(base_model.WEIGHTS)
        return io.NodeOutput(*base_model.load_miniature(base_model.WEIGHTS, _TASKS[task]), clip_vision, score_clip)


NODES = [LoadMiniature]
