"""Scores of pictures: which is most like the person, did the prompt survive; and what is done with the answer."""

from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..adapters.face_prompt import put_class_words
from ..encoders.person import find_in_photos
from ..faces.detector import as_rgb
from ..metrics.histogram import compare_people, describe, draw_histogram
from ..metrics.loading import load_image_scorer, load_recogniser
from ..metrics.ranking import join, rank
from ..metrics.scoring import (
    find_person,
    group_images,
    merge,
    read_person,
    score_by_clip,
    score_by_network,
    score_face_distances,
)
from ..metrics.table import draw_scores
from .drawn_by import explain_bias
from .identity import ENCODER_FILES
from .inputs import class_words, explain_missing, weight_file, weight_path
from .remarks import show, show_text
from .sockets import (
    ExpressionEncoderType,
    FaceDetectorType,
    FaceIdType,
    FaceScorerType,
    ImageScorerType,
    PictureScoresType,
)

SCORER_FILES = {kind: ENCODER_FILES[kind] for kind in ("metrics", "insightface")}
IMAGE_SCORER_FILES = {
    "image_metrics": (
        "dino_deitsmall16_pretrain.pth",
        "clip-vit-base-patch32/pytorch_model.bin",
        "clip-vit-large-patch14/model.safetensors",
        "siglip-base-patch16-224/model.safetensors",
    )
}


class LoadFaceScorer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadFaceScorer",
            display_name="Load Face Scorer",
            category="likeness/metrics",
            description="Loads a recogniser that judges likeness for Score Pictures: SFace, FaceNet, SphereFace, "
            "AdaFace or an ArcFace. Take one that did not help to draw the pictures.",
            search_aliases=[
                "face similarity",
                "facenet",
                "sface",
                "adaface",
                "sphereface",
                "arcface",
                "identity score",
            ],
            inputs=[
                weight_file(
                    "scorer_name",
                    SCORER_FILES,
                    "A recogniser from models/metrics, or a .onnx one from models/insightface.",
                ),
                FaceScorerType.Input(
                    "face_scorer",
                    optional=True,
                    tooltip="Another Load Face Scorer, for scores by several recognisers as papers give them.",
                ),
            ],
            outputs=[
                FaceScorerType.Output("face_scorer_out", display_name="face_scorer", tooltip="To Score Pictures.")
            ],
        )

    @classmethod
    def validate_inputs(cls, scorer_name):
        return explain_missing(weight_path, SCORER_FILES, scorer_name)

    @classmethod
    def execute(cls, scorer_name, face_scorer=()) -> io.NodeOutput:
        return io.NodeOutput((*face_scorer, load_recogniser(weight_path(SCORER_FILES, scorer_name))))


class LoadImageScorer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadImageScorer",
            display_name="Load Image Scorer",
            category="likeness/metrics",
            description="Loads a network that compares whole pictures with photos (DINO, CLIP-I) and with the prompt "
            "(CLIP, SigLIP), for Score Pictures.",
            search_aliases=["dino", "siglip", "clip score", "clip-i", "clip-t", "image similarity"],
            inputs=[
                weight_file(
                    "scorer_name",
                    IMAGE_SCORER_FILES,
                    "From models/image_metrics: DINO's file, or the weights of a CLIP or SigLIP in a folder with its "
                    "config.json.",
                ),
                ImageScorerType.Input("image_scorer", optional=True, tooltip="Another Load Image Scorer."),
            ],
            outputs=[
                ImageScorerType.Output("image_scorer_out", display_name="image_scorer", tooltip="To Score Pictures.")
            ],
        )

    @classmethod
    def validate_inputs(cls, scorer_name):
        return explain_missing(weight_path, IMAGE_SCORER_FILES, scorer_name)

    @classmethod
    def execute(cls, scorer_name, image_scorer=()) -> io.NodeOutput:
        return io.NodeOutput((*image_scorer, load_image_scorer(weight_path(IMAGE_SCORER_FILES, scorer_name))))


class ScorePictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessScorePictures",
            display_name="Score Pictures",
            category="likeness/metrics",
            description="Which of these pictures is most like the person on the photos, and did the prompt survive? "
            "Gives every picture its scores, ranks them and draws them; Keep the Best and Likeness Gate go on from "
            "there.",
            search_aliases=["rank", "score", "face similarity", "likeness", "clip score", "best of", "evaluate"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures: one, a batch or a list, of any sizes."),
                io.Image.Input("photos", tooltip="Photos of the person, other ones than the pictures were drawn from "
                               "where there are any: one, a batch or a list."),
                FaceDetectorType.Input("face_detector", tooltip="From Load Face Detector."),
                FaceScorerType.Input("face_scorer", tooltip="From Load Face Scorer. Several make several scores."),
                ImageScorerType.Input("image_scorer", optional=True, tooltip="From Load Image Scorer: whole pictures "
                                      "against the photos and, by a CLIP or SigLIP, against the text."),
                io.Clip.Input("clip", optional=True, tooltip="The text half of a whole CLIP, such as "
                              "clip-vit-large-patch14 in CLIPLoader. The one in an SD1.5 checkpoint lacks its last "
                              "layer."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="The picture half of the same CLIP, from "
                                    "CLIPVisionLoader. Alone it compares the pictures with the photos."),
                io.String.Input("text", default="", multiline=True, dynamic_prompts=False, optional=True,
                                tooltip="The prompt the pictures should follow; {face} and the like are read as "
                                "class_words."),
                class_words(optional=True),
                ExpressionEncoderType.Input("expression_encoder", optional=True, tooltip="From Load Expression "
                                            "Encoder: how far expression, light and pose are from the template's, and "
                                            "the face's shape from the photos'."),
                io.Image.Input("template", optional=True, tooltip="For expression_encoder: the picture whose "
                               "expression, light and pose were to stay, as of an inpainting. One, or one for each "
                               "picture."),
                PictureScoresType.Input("scores", optional=True, tooltip="Scores of the same pictures for another "
                                        "person, from another Score Pictures: both must be in a picture for it to be "
                                        "good."),
            ],
            outputs=[
                PictureScoresType.Output("scores_out", display_name="scores",
                                         tooltip="To Keep the Best, Likeness Gate or another Score Pictures."),
                io.Image.Output("table", tooltip="Every picture with its scores, the best first."),
                io.Float.Output("score", is_output_list=True, tooltip="What the order is made by, one number a picture "
                                "in their order; 0 without a face."),
                io.Float.Output("identity", is_output_list=True, tooltip="How like the person, 1 at most; of several "
                                "people or recognisers the lowest; 0 without a face."),
                io.Float.Output("text_score", display_name="text", is_output_list=True, tooltip="How like the text; "
                                "the mean where several networks read it."),
                io.String.Output("csv", tooltip="A line a picture, with a heading, separated by commas."),
                io.String.Output("json", tooltip="The same with the network that each score comes from."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images, photos, face_detector, face_scorer, image_scorer=((),), clip=(None,), clip_vision=(None,),
        text=("",), class_words=("a person",), expression_encoder=(None,), template=(), scores=(None,),
    ) -> io.NodeOutput:  # fmt: skip
        batches, photo_batches = ([as_rgb(batch) for batch in group] for group in (images, photos))
        prompt = put_class_words(text[0], class_words[0])
        ranking = _score(
            batches, photo_batches, face_detector[0], face_scorer[0], image_scorer[0], (clip[0], clip_vision[0]),
            prompt, expression_encoder[0], [as_rgb(batch) for batch in template],
        )  # fmt: skip
        ranking = ranking if scores[0] is None else join(scores[0], ranking)
        bias = explain_bias(cls.hidden.prompt, cls.hidden.unique_id, face_scorer[0])
        foot = "; ".join(filter(None, [ranking.sources[ranking.identity[0]], bias]))
        table = draw_scores([image for batch in batches for image in batch], ranking.order, ranking.scores, foot)
        show(cls, bias)
        shown = {**ui.PreviewImage(table, cls=cls).as_dict(), **({"text": (bias,)} if bias else {})}
        no_text = ExecutionBlocker("Score Pictures: connect clip, clip_vision and a text, or an image_scorer that "
                                   "reads texts, for a text score.")  # fmt: skip
        return io.NodeOutput(
            ranking,
            table,
            _numbers(next(iter(ranking.scores.values()))),
            _numbers(ranking.lowest_identity),
            [no_text] if ranking.mean_text is None else _numbers(ranking.mean_text),
            ranking.as_csv(),
            ranking.as_json(),
            ui={**shown, "scores": ranking.as_rows()},
        )


def _score(batches, photos, detector, recognisers, networks, clip_halves, text, expression_encoder, template):
    """Return the ranking of the images of batches by everything that is there."""
    clip, clip_vision = clip_halves
    if clip is not None and (clip_vision is None or not text):
        raise ValueError(
            "Score Pictures scores the prompt with both halves of a CLIP: connect clip_vision beside clip, and give a "
            "text, or disconnect clip."
        )
    if (expression_encoder is None) != (not template):
        raise ValueError(
            "Score Pictures compares expressions with those of a template: connect both expression_encoder and "
            "template, or neither."
        )
    found_photos = find_in_photos(photos, detector, "Score Pictures")
    person = find_person(detector, recognisers, read_person(recognisers, found_photos), batches)
    pairs = [score_by_network(network, batches, text, photos) for network in networks]
    if clip_vision is not None:
        pairs.insert(0, score_by_clip(clip, clip_vision, batches, text, photos))
    texts, others = (merge([pair[number] for pair in pairs]) for number in (0, 1))
    if template:
        templates = find_in_photos(template, detector, "Score Pictures, template")
        others = merge([others, score_face_distances(expression_encoder, person.faces, found_photos, templates)])
    sources = person.identity.sources | texts.sources | others.sources
    return rank(person.identity.scores, texts.scores, others.scores, sources)


def _numbers(scores) -> list[float]:
    return scores.nan_to_num().tolist()


def _as_list(images) -> list:
    """Return pictures of one list as the host passes it, each by itself [H, W, C]."""
    return [image for batch in images for image in batch]


def _check_count(node: str, images: list, ranking) -> None:
    if len(images) != len(ranking.order):
        raise ValueError(
            f"{node}: {len(images)} pictures came with the scores of {len(ranking.order)}: connect the pictures that "
            "were scored."
        )


def _pick(images: list, indices: list[int]) -> list:
    """Return pictures as the host's list of batches; of none, what keeps the nodes behind from running."""
    return group_images([images[index] for index in indices]) if indices else [ExecutionBlocker(None)]


def _min_identity(default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input("min_identity", default=default, min=-1.0, max=1.0, step=0.01, tooltip=tooltip)


class KeepBest(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessKeepBest",
            display_name="Keep the Best",
            category="likeness/metrics",
            description="Passes on the best pictures of a batch, the best first, as Score Pictures or Best of N ranked "
            "them. Pictures without a face come last.",
            search_aliases=["best of", "top k", "select best", "rank", "filter images"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures that were scored, in the same order."),
                PictureScoresType.Input("scores", tooltip="From Score Pictures or Best of N."),
                io.Int.Input("count", default=3, min=1, max=4096, tooltip="How many to keep, if there are as many."),
                _min_identity(-1.0, "Only pictures in which each of the people has at least this identity; -1 keeps "
                              "whatever it is, faceless ones too."),
            ],
            outputs=[
                io.Image.Output("best", is_output_list=True, tooltip="The pictures kept, the best first: one batch, or "
                                "a list where their sizes differ. Where none is kept, nothing behind it runs."),
                io.Int.Output("indices", is_output_list=True, tooltip="Their places in the batch from 0, such as for "
                              "Latent From Batch."),
                io.Float.Output("score", is_output_list=True, tooltip="What they were ranked by, in the same order."),
                io.String.Output("report", tooltip="What was kept, in words."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, scores, count, min_identity) -> io.NodeOutput:
        pictures, ranking = _as_list(images), scores[0]
        _check_count("Keep the Best", pictures, ranking)
        kept = ranking.best(count[0], min_identity[0])
        main = _numbers(next(iter(ranking.scores.values())))
        numbers = ", ".join(f"{index + 1} ({main[index]:.2f})" for index in kept)
        asked = f", {min_identity[0]:.2f} is asked" if min_identity[0] > -1 else ""
        report = f"Kept {len(kept)} of {len(pictures)} pictures{asked}: {numbers or 'none'}."
        return io.NodeOutput(
            _pick(pictures, kept), kept or [ExecutionBlocker(None)], [main[index] for index in kept] or
            [ExecutionBlocker(None)], report, ui=show_text(cls, report),
        )  # fmt: skip


class LikenessGate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessGate",
            display_name="Likeness Gate",
            category="likeness/metrics",
            description="Lets pass only pictures that are enough like the person, or like each of several people; the "
            "others go out below. Nothing runs behind an output that gets no picture.",
            search_aliases=["threshold", "filter images", "face similarity", "reject", "switch"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures that were scored, in the same order."),
                PictureScoresType.Input("scores", tooltip="From Score Pictures or Best of N."),
                _min_identity(0.35, "The least identity of each person. Depends on the recogniser: with SFace two "
                              "photos of a person have 0.76 and more, strangers 0.35 at most; Compare Identities "
                              "measures it for your people."),
            ],
            outputs=[
                io.Image.Output("accepted", is_output_list=True, tooltip="The pictures that reach it, in their order."),
                io.Image.Output("rejected", is_output_list=True, tooltip="The others, faceless ones too."),
                io.Float.Output("identity", is_output_list=True, tooltip="Of every picture the identity that counted: "
                                "the lowest of the people; 0 without a face."),
                io.String.Output("report", tooltip="Which were accepted, with one cosine a person."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, scores, min_identity) -> io.NodeOutput:
        pictures, ranking = _as_list(images), scores[0]
        _check_count("Likeness Gate", pictures, ranking)
        accepted = ranking.accepted(min_identity[0])
        groups = [[index for index, passes in enumerate(accepted) if passes is verdict] for verdict in (True, False)]
        lines = [f"{len(groups[0])} of {len(pictures)} pictures have an identity of {min_identity[0]:.2f} and more."]
        for row, passes in zip(ranking.as_rows(), accepted):
            cosines = ", ".join(
                f"{name} {row[name]:.2f}" if row[name] is not None else "no face" for name in ranking.identity
            )
            lines.append(f"Picture {row['picture']}: {cosines}: {'accepted' if passes else 'rejected'}.")
        report = "\n".join(lines)
        outputs = [_pick(pictures, group) for group in groups]
        return io.NodeOutput(*outputs, _numbers(ranking.lowest_identity), report, ui=show_text(cls, report))


class CompareIdentities(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessCompareIdentities",
            display_name="Compare Identities",
            category="likeness/metrics",
            description="Draws how far two people are apart in a recogniser's eyes: the cosines of two photos of one "
            "person and of two people, as a histogram, and the threshold between them.",
            search_aliases=["histogram", "compare faces", "threshold", "face distance", "verification", "roc"],
            inputs=[
                FaceIdType.Input("face_id", tooltip="One person, of two or more photos: from Load Person or Encode "
                                 "Identity, with the recogniser that is to score."),
                FaceIdType.Input("compare_with", tooltip="The other person, by the same encoder."),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="The histogram."),
                io.Float.Output("cosine", tooltip="The mean over all pairs of a photo of each."),
                io.Float.Output("threshold", tooltip="The identity that tells them apart best: for Likeness Gate."),
                io.String.Output("report", tooltip="The same in words."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, face_id, compare_with) -> io.NodeOutput:
        pairs = compare_people(face_id, compare_with)
        picture, report = draw_histogram(pairs), describe(pairs)
        threshold = ExecutionBlocker(report) if pairs.threshold is None else pairs.threshold
        cosine = float(pairs.different.mean())
        return io.NodeOutput(picture, cosine, threshold, report, ui=ui.PreviewImage(picture, cls=cls))


NODES = [LoadFaceScorer, LoadImageScorer, ScorePictures, KeepBest, LikenessGate, CompareIdentities]
