"""FaceA-Net: learn a person from photos, hand one attribute of another person over, save and load."""

import logging
import os
import time

import comfy.model_management
import comfy.utils
from comfy_api.latest import io, ui
from server import PromptServer

from ..adapters.facea import ATTRIBUTES, LEVELS, REGIONS, base_warning
from ..adapters.facea_file import KIND, description, find_facea, load_facea, new_path, save_facea
from ..encoders.agreement import agreement
from ..faces.masks import SHAPES
from ..graphics import to_tensor
from ..inpaint.refine import CropStyle
from ..training import curve, facea_run, loop
from ..training.inpainting import cut_photos
from ..weights import folders
from .sockets import FaceaIdentityType, FaceIdType, FacesType

LoraModelType = io.Custom("LORA_MODEL")  # the host's own
_PHOTOS = [f"faces_{number}" for number in range(1, 21)]
_PRESETS = {
    "likeness: 1000 steps": facea_run.STEPS,
    "expressions, accessories, style: 600 steps": facea_run.FEWER_STEPS,
    "own: as many as steps says": None,
}
_NO_IDENTITY = "none saved yet"
_LOW_AGREEMENT = 0.3
_PAUSE = 0.5  # seconds between two looks at the loss in the graph


def _base() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="An SD1.x or 2.x inpainting checkpoint, from Load Checkpoint."),
        io.Clip.Input("clip", tooltip="Of the same checkpoint."),
        io.Vae.Input("vae", tooltip="Of the same checkpoint."),
    ]


def _photos(who: str) -> io.Autogrow.Input:
    one = FacesType.Input("faces", tooltip=f"From Detect Faces: photos of {who}, one face in each.")
    return io.Autogrow.Input(
        "photos",
        template=io.Autogrow.TemplateNames(one, names=_PHOTOS, min=1),
        tooltip=f"Photos of {who}, after Detect Faces with one face kept in each; the paper takes three. A batch of "
        "photos of one size is enough; for other sizes a new socket appears as you connect.",
    )


def _learning(steps: int) -> list[io.Input]:
    return [
        io.Int.Input("steps", default=steps, min=1, max=100_000, tooltip="How often what is learned is corrected."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            tooltip="The same seed, photos and settings give the same identity.",
        ),
        io.Int.Input("batch_size", default=4, min=1, max=64, tooltip="Photos a step, drawn at random. Less needs less "
                     "memory and learns less steadily."),
        io.Float.Input("learning_rate", default=1.2e-4, min=1e-7, max=1.0, step=1e-7, round=False,
                       tooltip="Of the LoRA."),
        io.Float.Input("features_learning_rate", default=2e-3, min=1e-7, max=1.0, step=1e-7, round=False,
                       tooltip="Of the learned features behind the prompts."),
    ]  # fmt: skip


def _cropping() -> list[io.Input]:
    return [
        io.Float.Input(
            "face_share",
            default=0.5,
            min=0.1,
            max=1.0,
            step=0.01,
            tooltip="The longer side of the face's box as a part of the crop's side. Refine Faces should use the same.",
        ),
        io.Int.Input(
            "size",
            default=512,
            min=64,
            max=2048,
            step=8,
            tooltip="Side of the crops in pixels: 512 for SD1.5. Smaller is quicker and needs less memory.",
        ),
        io.Combo.Input(
            "mask_shape",
            options=list(SHAPES),
            default="box",
            tooltip="The upright box around a part, as the paper has it, or its outline. Connected masks are taken as "
            "they are.",
        ),
        io.Int.Input(
            "mask_expand",
            default=0,
            min=-64,
            max=128,
            tooltip="How far these masks are grown, in pixels of the crop; 0 to 4 is usual in training.",
        ),
    ]


def _running() -> list[io.Input]:
    return [
        io.Combo.Input(
            "precision",
            options=list(loop.PRECISIONS),
            tooltip="What the UNet computes in. auto is bfloat16 where the device is quick at it, float32 elsewhere. "
            "What is learned is float32 always.",
        ),
        io.Boolean.Input(
            "gradient_checkpointing",
            default=True,
            tooltip="Compute the blocks of the UNet twice instead of remembering them: far less memory, about a third "
            "more time. The result is the same.",
        ),
        io.Int.Input(
            "preview_every",
            default=250,
            min=0,
            max=100_000,
            tooltip="Every so many steps the first photo's face is painted anew, to see what was learned. 0 for never.",
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        FaceaIdentityType.Output("facea_identity_out", display_name="facea_identity"),
        io.Image.Output("loss_curve", tooltip="The loss of every step, pale, and its running mean."),
        io.Image.Output("previews", tooltip="What was painted every preview_every steps; without, the crops."),
        LoraModelType.Output("lora", tooltip="The LoRA alone, for the host's own LoRA nodes."),
        io.String.Output("report", tooltip="Steps, time, loss, peak of the memory, and what to look at."),
    ]


def _masks(given: dict) -> dict:
    return {region: mask for region, mask in given.items() if mask is not None}


def _learn(cls, base, photos, task, settings, preview_every, remarks) -> io.NodeOutput:
    """Train with the loss in the graph, and give what both training nodes give."""
    for remark in remarks:
        logging.warning("FaceA training: %s", remark)
    bar = comfy.utils.ProgressBar(settings.steps)
    shown = 0.0

    def show(progress: loop.Progress) -> None:
        nonlocal shown
        comfy.model_management.throw_exception_if_processing_interrupted()
        if time.monotonic() - shown < _PAUSE and progress.step < settings.steps:
            return
        shown = time.monotonic()
        words = f"step {progress.step} of {settings.steps}, {curve.summary(progress.losses)}"
        PromptServer.instance.send_progress_text(words, cls.hidden.unique_id)
        bar.update_absolute(progress.step, preview=("JPEG", curve.draw(progress.losses, settings.steps), None))

    result = facea_run.learn(base, photos, task, settings, preview_every, show)
    report = "\n".join([facea_run.report(result), *remarks])
    losses = to_tensor(curve.draw(result.progress.losses, max(settings.steps, result.progress.step)))
    pictures = result.previews if len(result.previews) else photos.crops
    preview = ui.PreviewImage(losses, cls=cls)
    return io.NodeOutput(result.identity, losses, pictures, result.identity.lora, report, ui=preview)


class TrainFaceA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessTrainFaceA",
            display_name="Train FaceA",
            category="likeness/facea",
            description="Learns a person from about three photos, by tuning an inpainting model with a LoRA and "
            "learned features for face, eyes, nose and mouth. Stopped, it keeps what was learned; run again, it goes "
            "on.",
            search_aliases=["facea", "facea-net", "train lora", "fine-tune", "dreambooth", "textual inversion"],
            inputs=[
                *_base(),
                _photos("the person"),
                io.Combo.Input(
                    "word",
                    options=["woman", "man"],
                    tooltip='The person in the prompts: "a woman face", "a man left eye". Men get 3 learned rows a '
                    "prompt, women 4, as published.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(_PRESETS),
                    tooltip="The paper's 1000 steps for likeness; its 600 leave the face more free for expressions, "
                    "glasses and painting styles.",
                ),
                *_learning(facea_run.STEPS),
                io.Int.Input("rank", default=48, min=1, max=256, tooltip="Of the LoRA."),
                io.Int.Input(
                    "features",
                    default=0,
                    min=0,
                    max=32,
                    tooltip="Learned rows of each prompt; 0: 3 for a man, 4 for a woman.",
                ),
                io.Combo.Input(
                    "level",
                    options=list(LEVELS),
                    tooltip="Where the learned features stand: output, among the rows that the text encoder gives; "
                    "input, as words that it reads.",
                ),
                *_cropping(),
                *_running(),
                *(
                    io.Mask.Input(
                        f"{region.replace(' ', '_')}_mask",
                        optional=True,
                        tooltip=f"The {region} in every photo, one mask each, e.g. from a SAM node, for photos of one "
                        "size. Without it the mask comes from the landmarks. The subject's left is left.",
                    )
                    for region in REGIONS
                ),
                FaceIdType.Input(
                    "face_id",
                    optional=True,
                    tooltip="The same photos through Encode Identity: the report then says whether they show one "
                    "person.",
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, photos: io.Autogrow.Type, word, preset, steps, seed, batch_size, learning_rate,
        features_learning_rate, rank, features, level, face_share, size, mask_shape, mask_expand, precision,
        gradient_checkpointing, preview_every, face_mask=None, left_eye_mask=None, right_eye_mask=None, nose_mask=None,
        mouth_mask=None, face_id=None,
    ) -> io.NodeOutput:  # fmt: skip
        given = _masks(dict(zip(REGIONS, (face_mask, left_eye_mask, right_eye_mask, nose_mask, mouth_mask))))
        style = CropStyle(face_share, size, mask_shape, mask_expand)
        cut = cut_photos(list(photos.values()), REGIONS, style, given)
        settings = facea_run.Settings(
            steps=_PRESETS[preset] or steps,
            seed=seed,
            precision=precision,
            batch=batch_size,
            rank=rank,
            features=features,
            level=level,
            lr_lora=learning_rate,
            lr_features=features_learning_rate,
            checkpointing=gradient_checkpointing,
        )
        base = facea_run.Base(model, clip, vae)
        remarks = _remarks(len(cut.crops), face_id)
        return _learn(cls, base, cut, facea_run.Task(word), settings, preview_every, remarks)


def _remarks(photos: int, face_id) -> list[str]:
    remarks = []
    if photos == 1:
        remarks.append("Only one photo: light and pose of it will be learned too. Three photos are better.")
    least = [] if face_id is None else [each for each in agreement(face_id.embedding) if each < _LOW_AGREEMENT]
    if least:
        remarks.append(
            f"{len(least)} of {len(face_id.embedding)} photos agree with the others by less than {_LOW_AGREEMENT}: "
            "they may show somebody else. Look at Identity Agreement."
        )
    return remarks


class TransferFaceAAttribute(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessTransferFaceAAttribute",
            display_name="Transfer FaceA Attribute",
            category="likeness/facea",
            description="Gives a learned person the eye, nose or mouth of another: goes on learning for about a "
            "hundred steps, that attribute alone, on photos of the other person.",
            search_aliases=["facea", "facea-net", "attribute transfer", "swap eyes", "swap nose", "swap mouth"],
            inputs=[
                *_base(),
                FaceaIdentityType.Input("facea_identity", tooltip="The person who is to get the attribute."),
                _photos("the person whose attribute it is"),
                io.Combo.Input(
                    "attribute",
                    options=list(ATTRIBUTES),
                    tooltip="What to hand over. The subject's left is left; chain two of these nodes for both eyes.",
                ),
                *_learning(facea_run.TRANSFER_STEPS),
                *_cropping(),
                *_running(),
                io.Mask.Input(
                    "attribute_mask",
                    optional=True,
                    tooltip="The attribute in every photo, one mask each, for photos of one size. Without it the mask "
                    "comes from the landmarks.",
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, facea_identity, photos: io.Autogrow.Type, attribute, steps, seed, batch_size,
        learning_rate, features_learning_rate, face_share, size, mask_shape, mask_expand, precision,
        gradient_checkpointing, preview_every, attribute_mask=None,
    ) -> io.NodeOutput:  # fmt: skip
        style = CropStyle(face_share, size, mask_shape, mask_expand)
        cut = cut_photos(list(photos.values()), (attribute,), style, _masks({attribute: attribute_mask}))
        settings = facea_run.Settings(
            steps=steps,
            seed=seed,
            precision=precision,
            batch=batch_size,
            level=facea_identity.level,
            lr_lora=learning_rate,
            lr_features=features_learning_rate,
            checkpointing=gradient_checkpointing,
        )
        task = facea_run.Task(facea_identity.word, facea_identity, attribute)
        remarks = [remark for remark in [base_warning(facea_identity, model)] if remark]
        return _learn(cls, facea_run.Base(model, clip, vae), cut, task, settings, preview_every, remarks)


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
                io.String.Input(
                    "filename_prefix",
                    default="person",
                    tooltip="Name of the file in output/facea; a number is added. '/' makes sub-folders, %year%, "
                    "%month% and %day% stand for the date.",
                ),
            ],
            outputs=[
                FaceaIdentityType.Output("facea_identity_out", display_name="facea_identity"),
                io.String.Output("path", tooltip="Where the file was written."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, facea_identity, filename_prefix) -> io.NodeOutput:
        path = new_path(filename_prefix)
        save_facea(path, facea_identity)
        return io.NodeOutput(facea_identity, path)


class LoadFaceAIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessLoadFaceAIdentity",
            display_name="Load FaceA Identity",
            category="likeness/loaders",
            description="Loads a learned person that Save FaceA Identity wrote, or that a stopped training kept.",
            search_aliases=["facea", "facea-net", "load lora", "import identity"],
            inputs=[
                io.Combo.Input(
                    "identity_name",
                    options=folders.names(KIND) or [_NO_IDENTITY],
                    tooltip="A file from output/facea or models/facea. Press R after saving one, so that the list is "
                    "read again.",
                ),
            ],
            outputs=[
                FaceaIdentityType.Output("facea_identity"),
                io.String.Output("info", tooltip="The word, the base model, and how the identity was trained."),
            ],
        )

    @classmethod
    def validate_inputs(cls, identity_name):
        try:
            find_facea(identity_name)
        except FileNotFoundError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, identity_name):
        """A file that was replaced under the same name is loaded anew."""
        state = os.stat(find_facea(identity_name))
        return state.st_mtime_ns, state.st_size

    @classmethod
    def execute(cls, identity_name) -> io.NodeOutput:
        identity = load_facea(find_facea(identity_name))
        return io.NodeOutput(identity, description(identity_name, identity))


NODES = [TrainFaceA, TransferFaceAAttribute, SaveFaceAIdentity, LoadFaceAIdentity]
