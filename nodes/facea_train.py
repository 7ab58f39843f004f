"""FaceA-Net: learn a person from photos, and hand one attribute of another person over."""

import logging
import time

import comfy.model_management
import comfy.utils
from comfy_api.latest import io, ui
from server import PromptServer

from ..adapters.facea import ATTRIBUTES, LEVELS, REGIONS, warn_of_base
from ..encoders.agreement import MIN_AGREEMENT, agreement
from ..graphics import to_tensor
from ..inpaint.refine import CropStyle
from ..training import curve, facea_run, loop
from ..training.inpainting import cut_photos
from ..training.settings import PRECISIONS
from .inputs import check_mask, crop_shape, crop_size, face_share
from .sockets import FaceaIdentityType, FaceIdType, FacesType

LoraModelType = io.Custom("LORA_MODEL")  # the host's own
_PHOTOS = [f"faces_{number}" for number in range(1, 21)]
_PRESETS = {
    "likeness: 1000 steps": facea_run.STEPS,
    "expressions, accessories, style: 600 steps": facea_run.FEWER_STEPS,
    "own: as many as steps says": None,
}
# Fields of `facea_run.Settings` by the inputs that set them, and those of `CropStyle` in their order.
_SETTINGS = {
    "steps": "steps", "seed": "seed", "precision": "precision", "batch_size": "batch", "rank": "rank",
    "features": "features", "level": "level", "learning_rate": "lr_lora", "features_learning_rate": "lr_features",
    "gradient_checkpointing": "checkpointing",
}  # fmt: skip
_STYLE = ("face_share", "size", "mask_shape", "mask_expand")
_PAUSE = 0.5  # seconds between two looks at the loss in the graph


def _checkpoint_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="An SD1.x or 2.x inpainting checkpoint, from Load Checkpoint."),
        io.Clip.Input("clip", tooltip="Of the same checkpoint."),
        io.Vae.Input("vae", tooltip="Of the same checkpoint."),
    ]


def _photo_input(person: str) -> io.Autogrow.Input:
    faces = FacesType.Input("faces", tooltip=f"From Detect Faces: photos of {person}, one face in each.")
    return io.Autogrow.Input(
        "photos",
        template=io.Autogrow.TemplateNames(faces, names=_PHOTOS, min=1),
        tooltip=f"Photos of {person}, after Detect Faces with one face kept in each; the paper takes three. A batch of "
        "photos of one size is enough; for other sizes a new socket appears as you connect.",
    )


def _step_inputs(steps: int, meaning: str) -> list[io.Input]:
    """Return the inputs that say how a step learns, and how many there are: `steps` at first; meaning: its tooltip."""
    rate = {"min": 1e-7, "max": 1.0, "step": 1e-7, "round": False, "advanced": True}
    return [
        io.Int.Input("steps", default=steps, min=1, max=100_000, tooltip=meaning),
        io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF,
                     tooltip="The same seed, photos and settings give the same identity."),
        io.Int.Input("batch_size", default=4, min=1, max=64, advanced=True,
                     tooltip="Photos a step, drawn at random. Less needs less memory and learns less steadily."),
        io.Float.Input("learning_rate", default=1.2e-4, tooltip="Of the LoRA.", **rate),
        io.Float.Input("features_learning_rate", default=2e-3,
                       tooltip="Of the learned features behind the prompts.", **rate),
    ]  # fmt: skip


def _run_inputs() -> list[io.Input]:
    """Return the inputs that say how photos are cut, what is computed in which way, and what is shown."""
    return [
        face_share("Refine Faces should use the same."),
        crop_size("Side of the crops in pixels: 512 for SD1.5. Smaller is quicker and needs less memory."),
        crop_shape("mask_shape", "The upright box around a part, as the paper has it, or its outline. Connected masks "
                   "are taken as they are."),
        io.Int.Input("mask_expand", default=0, min=-64, max=128, advanced=True,
                     tooltip="How far these masks are grown, in pixels of the crop; 0 to 4 is usual in training."),
        io.Combo.Input("precision", options=list(PRECISIONS), advanced=True,
                       tooltip="What the UNet computes in. auto is bfloat16 where the device is quick at it, float32 "
                       "elsewhere. What is learned is float32 always."),
        io.Boolean.Input("gradient_checkpointing", default=True, advanced=True,
                         tooltip="Compute the blocks of the UNet twice instead of remembering them: far less memory, "
                         "more time, up to twice as much on a fast GPU. The result is the same."),
        io.Int.Input("preview_every", default=250, min=0, max=100_000, advanced=True,
                     tooltip="Every so many steps the first photo's face is painted anew, to see what was learned. 0 "
                     "for never."),
    ]  # fmt: skip


def _mask_input(region: str) -> io.Mask.Input:
    tooltip = (
        f"The {region} in every photo, one mask each, e.g. from a SAM node, for photos of one size. Without it the "
        "mask comes from the landmarks. The subject's left is left."
    )
    return io.Mask.Input(f"{region.replace(' ', '_')}_mask", optional=True, tooltip=tooltip)


def _outputs() -> list[io.Output]:
    return [
        FaceaIdentityType.Output(
            "facea_identity_out",
            display_name="facea_identity",
            tooltip="The learned person, to FaceA Person or Save FaceA Identity.",
        ),
        io.Image.Output("loss_curve", tooltip="The loss of every step, pale, and its running mean."),
        io.Image.Output("previews", tooltip="What was painted every preview_every steps; without, the crops."),
        LoraModelType.Output("lora", tooltip="The LoRA alone, for the host's own LoRA nodes."),
        io.String.Output("report", tooltip="Steps, time, loss, peak of the memory, and what to look at."),
    ]


def _learn(cls, base, photos, task, masks, doubts, options) -> io.NodeOutput:
    """Train with the loss in the graph, and return what both training nodes give.

    photos: what Autogrow collected. masks: region -> mask of the photos, or None. options: the other inputs by name.
    """
    masks = {region: check_mask(mask, f"the mask of {region}") for region, mask in masks.items() if mask is not None}
    cut = cut_photos(list(photos.values()), task.regions, CropStyle(*(options[name] for name in _STYLE)), masks)
    for doubt in doubts:
        logging.warning("FaceA training: %s", doubt)
    remarks = "".join(f"\n{doubt}" for doubt in doubts)
    settings = facea_run.Settings(**{_SETTINGS[name]: options[name] for name in _SETTINGS.keys() & options.keys()})
    bar = comfy.utils.ProgressBar(settings.steps)
    last = 0.0

    def show(progress: loop.Progress, now: facea_run.Now) -> None:
        nonlocal last
        comfy.model_management.throw_exception_if_processing_interrupted()
        if time.monotonic() - last < _PAUSE and progress.step < settings.steps:
            return
        last = time.monotonic()
        words = f"step {progress.step} of {settings.steps}, {curve.summarise(progress.losses)}"
        PromptServer.instance.send_progress_text(words + remarks, cls.hidden.unique_id)
        bar.update_absolute(progress.step, preview=("JPEG", curve.draw(progress.losses, settings.steps), None))

    result = facea_run.learn(base, cut, task, settings, options["preview_every"], show)
    losses = to_tensor(curve.draw(result.progress.losses, max(settings.steps, result.progress.step)))
    report = "\n".join([facea_run.report(result), *doubts])
    images = result.previews if len(result.previews) else cut.crops
    shown = {**ui.PreviewImage(losses, cls=cls).as_dict(), "text": (report,), "losses": result.progress.losses}
    return io.NodeOutput(result.identity, losses, images, result.identity.lora, report, ui=shown)


class TrainFaceA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        learned = [
            io.Combo.Input("word", options=["woman", "man"],
                           tooltip='The person in the prompts: "a woman face", "a man left eye". Men get 3 learned '
                           "rows a prompt, women 4, as published."),
            io.Combo.Input("preset", options=list(_PRESETS),
                           tooltip="The paper's 1000 steps for likeness; its 600 leave the face more free for "
                           "expressions, glasses and painting styles."),
            *_step_inputs(
                facea_run.STEPS,
                "Counts only where preset is own: how often what is learned is corrected.",
            ),
            io.Int.Input("rank", default=48, min=1, max=256, advanced=True, tooltip="Of the LoRA."),
            io.Int.Input("features", default=0, min=0, max=32, advanced=True,
                         tooltip="Learned rows of each prompt; 0: 3 for a man, 4 for a woman."),
            io.Combo.Input("level", options=list(LEVELS), advanced=True,
                           tooltip="Where the learned features stand: output, among the rows that the text encoder "
                           "gives; input, as words that it reads."),
        ]  # fmt: skip
        same = "The same photos through Encode Identity: the report then says whether they show one person."
        return io.Schema(
            node_id="LikenessTrainFaceA",
            display_name="Train FaceA",
            category="likeness/facea",
            description="Learns a person from about three photos, by tuning an inpainting model with a LoRA and "
            "learned features for face, eyes, nose and mouth. Stopped, it keeps what was learned; run again, it goes "
            "on.",
            search_aliases=[
                "facea",
                "facea-net",
                "train lora",
                "fine-tune",
                "dreambooth",
                "textual inversion",
                "likeness",
                "same person",
                "consistent character",
            ],
            inputs=[
                *_checkpoint_inputs(),
                _photo_input("the person"),
                *learned,
                *_run_inputs(),
                *map(_mask_input, REGIONS),
                FaceIdType.Input("face_id", optional=True, tooltip=same),
            ],
            outputs=_outputs(),
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, photos: io.Autogrow.Type, word, preset, face_id=None, **options
    ) -> io.NodeOutput:
        options["steps"] = _PRESETS[preset] or options["steps"]
        masks = {region: options.pop(f"{region.replace(' ', '_')}_mask", None) for region in REGIONS}
        count = sum(len(faces.images) for faces in photos.values())
        base, task = facea_run.Base(model, clip, vae), facea_run.Task(word)
        return _learn(cls, base, photos, task, masks, list_doubts(count, face_id), options)


def list_doubts(photos: int, face_id) -> list[str]:
    """Return in sentences what may be wrong with so many photos, whose identity is `face_id` or None."""
    doubts = []
    if photos == 1:
        doubts.append("Only one photo: light and pose of it will be learned too. Three photos are better.")
    low = [] if face_id is None else [value for value in agreement(face_id.embedding) if value < MIN_AGREEMENT]
    if low:
        doubts.append(
            f"{len(low)} of {len(face_id.embedding)} photos agree with the others by less than {MIN_AGREEMENT}: "
            "they may show somebody else. Look at Identity Agreement."
        )
    return doubts


class TransferFaceAAttribute(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        attribute = "What to hand over. The subject's left is left; chain two of these nodes for both eyes."
        mask = (
            "The attribute in every photo, one mask each, for photos of one size. Without it the mask comes from the "
            "landmarks."
        )
        return io.Schema(
            node_id="LikenessTransferFaceAAttribute",
            display_name="Transfer FaceA Attribute",
            category="likeness/facea",
            description="Gives a learned person the eye, nose or mouth of another: goes on learning for about a "
            "hundred steps, that attribute alone, on photos of the other person.",
            search_aliases=["facea", "facea-net", "attribute transfer", "swap eyes", "swap nose", "swap mouth"],
            inputs=[
                *_checkpoint_inputs(),
                FaceaIdentityType.Input("facea_identity", tooltip="The person who is to get the attribute."),
                _photo_input("the person whose attribute it is"),
                io.Combo.Input("attribute", options=list(ATTRIBUTES), tooltip=attribute),
                *_step_inputs(facea_run.TRANSFER_STEPS, "How often what is learned is corrected."),
                *_run_inputs(),
                io.Mask.Input("attribute_mask", optional=True, tooltip=mask),
            ],
            outputs=_outputs(),
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, facea_identity, photos: io.Autogrow.Type, attribute, attribute_mask=None, **options
    ) -> io.NodeOutput:
        options["level"] = facea_identity.level
        task = facea_run.Task(facea_identity.word, facea_identity, attribute)
        warning = warn_of_base(facea_identity, model)
        base, masks = facea_run.Base(model, clip, vae), {attribute: attribute_mask}
        return _learn(cls, base, photos, task, masks, [warning] if warning else [], options)


NODES = [TrainFaceA, TransferFaceAAttribute]
