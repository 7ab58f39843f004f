"""The miniature: the drawn world's own small base model and CLIP, which come with the pack, and its people."""

from comfy_api.latest import io, ui

from .models import base_model
from .world.people import SPLITS
from .world.photos import render_photos

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


class RenderPerson(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessRenderPerson",
            display_name="Draw Person",
            category="likeness/loaders",
            description="Draws photos of a person of the drawn world, each number another one, as references for the "
            "graphs of Load Miniature: with nothing to upload. No network was trained on these people.",
            search_aliases=["example photo", "reference photo", "sample image", "demo", "miniature", "load image"],
            inputs=[
                io.Int.Input(
                    "person",
                    default=3,
                    min=0,
                    max=len(SPLITS["test"]) - 1,
                    tooltip="Who. Every number is another woman or man.",
                ),
                io.Int.Input(
                    "photos",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="How many photos of this person, as one batch. The first is from the front; the others "
                    "differ in pose, light, expression, clothes and place.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Of the photos after the first: another seed, other photos of the same person.",
                ),
                io.Int.Input(
                    "size",
                    default=384,
                    min=96,
                    max=1024,
                    step=12,
                    advanced=True,
                    tooltip="Side of the square photos in pixels. What the miniature draws has 96.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The photos, to Detect Faces."),
                io.String.Output("words", tooltip="What a prompt calls this person: a woman, or a man."),
            ],
        )

    @classmethod
    def execute(cls, person, photos, seed, size) -> io.NodeOutput:
        images, words = render_photos(SPLITS["test"].start + person, photos, seed, size)
        return io.NodeOutput(images, words, ui=ui.PreviewImage(images, cls=cls))


NODES = [LoadMiniature, RenderPerson]
