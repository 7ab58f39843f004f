"""Best of N: make several images, keep the best."""

from comfy_api.latest import io, ui

from ..adapters.face_prompt import put_class_words
from ..faces.detector import detect_faces
from ..metrics.ranking import rank
from ..metrics.scores import identity_scores, text_scores
from ..metrics.table import draw_scores
from .inputs import class_words
from .sockets import FaceDetectorType, FaceEncoderType, FaceIdType, PictureScoresType


class BestOf(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessBestOf",
            display_name="Best of N",
            category="likeness/metrics",
            description="Ranks a batch of pictures by how much they are the person and, with a CLIP, how much they are "
            "the prompt; passes on the best and draws the scores.",
            search_aliases=[
                "score",
                "rank",
                "select best",
                "clip score",
                "identity",
                "face similarity",
                "face2diffusion",
            ],
            inputs=[
                io.Image.Input("images", tooltip="The pictures to choose from, as one batch."),
                FaceDetectorType.Input("face_detector", tooltip="From Load Face Detector."),
                FaceEncoderType.Input("face_encoder", tooltip="The encoder that read the identity."),
                FaceIdType.Input("face_id", tooltip="The person the pictures should show, from Encode Identity."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text half of a whole CLIP, such as clip-vit-large-patch14 in CLIPLoader. The one in "
                    "an SD1.5 checkpoint lacks its last layer.",
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="The picture half of the same CLIP, from CLIPVisionLoader."
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    dynamic_prompts=False,
                    optional=True,
                    tooltip="The prompt the pictures should follow; {face} and the like are read as class_words.",
                ),
                class_words(optional=True),
            ],
            outputs=[
                io.Image.Output("best", tooltip="The best picture, which is the first of the table."),
                io.Image.Output("table", tooltip="Every picture with its scores, the best first."),
                io.Int.Output("indices", is_output_list=True, tooltip="The pictures' places in the batch, best first."),
                PictureScoresType.Output("scores", tooltip="To Keep the Best or Likeness Gate."),
            ],
            has_intermediate_output=True,  # the scores are in the history of a run that the cache answers, too
        )

    @classmethod
    def execute(
        cls, images, face_detector, face_encoder, face_id, clip=None, clip_vision=None, text="", class_words="a person"
    ) -> io.NodeOutput:
        faces = detect_faces(face_detector, images)
        identity = identity_scores(face_encoder, faces, face_id)
        if (clip is None) != (clip_vision is None):
            raise ValueError(
                "Best of N scores the prompt with both halves of a CLIP: connect both clip and clip_vision, or neither."
            )
        prompt = put_class_words(text, class_words)
        text_columns = {} if clip is None else {"text": text_scores(clip, clip_vision, images, prompt)}
        ranking = rank({"identity": identity}, text_columns)
        missing = faces.per_image.count(())
        foot = f"identity by {face_encoder.name}; no face in {missing} of {len(images)}"
        table = draw_scores(images, ranking.order, ranking.scores, foot)
        best = ranking.order[0]
        shown = {**ui.PreviewImage(table, cls=cls).as_dict(), "scores": ranking.as_rows()}
        outputs = images[best : best + 1], table, ranking.order, ranking
        return io.NodeOutput(*outputs, ui=shown)


NODES = [BestOf]
