"""From photos to a FaceA identity: prepare once, train, and keep what was learned whatever stops it."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

import comfy.model_management
import folder_paths
import torch

from ..adapters.facea import (
    ATTRIBUTES,
    LEVELS,
    REGIONS,
    FaceaIdentity,
    check_layers,
    encode_text,
    fingerprint,
    get_word_embeddings,
    name_base,
    write_prompt,
)
from ..adapters.facea_file import KIND, load_facea, save_facea
from ..weights import saving
from . import inpainting, loop
from .bases import BUILT_IN, load_checkpoint
from .curve import summarise
from .distributed import is_main
from .facea import Learned, step_loss
from .inpainting import Inpainting, Photos
from .lora import copy_patcher, in_training, make_branches, make_lora, state_dict
from .precision import compute_dtype
from .sampling import sample
from .settings import Count, CountOrNone, Positive, TrainingSettings, WatchedSettings

ROWS = {"man": 3, "woman": 4}  # learned features of a prompt, as published
WHOLE = "none"  # attribute alone: the whole face is learned
STEPS, FEWER_STEPS, TRANSFER_STEPS = 1000, 600, 100
_KEPT = 5  # checkpoints of other trainings that were stopped
_PREVIEW_STEPS, _PREVIEW_SCALE = 20, 3.0
# Settings that change nothing of what a step learns.
_NOT_LEARNED = (
    "steps",
    "checkpoint_seconds",
    *(field.name for field in fields(WatchedSettings)[len(fields(TrainingSettings)) :]),
)
# Younger settings: left alone they must not change the keys of older checkpoints.
_ADDED = {"warmup": 0, "cosine": False, "ema": 0.0, "attribute_loss": True, "learned_rows": True, "compile": False}


@dataclass(frozen=True)
class Settings(WatchedSettings):
    """How to tune; docs/papers.md 6.5 tells which defaults are published and which chosen.

    batch: photos sampled for a step, with replacement. rank: of the LoRA, whose alpha is the same. features: learned
    rows of each prompt, 0 for `ROWS`. level: one of LEVELS. checkpointing: less memory, more time. compile: minutes
    first, less time then. attribute_loss, learned_rows: False for the ablations of the paper's Table 2: no local terms,
    and rows that stay.
    """

    batch: Count = 4
    rank: Count = 48
    features: CountOrNone = 0
    level: Literal[LEVELS] = LEVELS[0]
    lr_lora: Positive = 1.2e-4
    lr_features: Positive = 2e-3
    checkpointing: bool = False
    attribute_loss: bool = True
    learned_rows: bool = True
    compile: bool = False


@dataclass(frozen=True)
class PersonSettings(Settings):
    """Settings of the command: those of the training, and what it is to learn of whom, see `Task`.

    start: file of the identity to go on from, "" for none. attribute: one of ATTRIBUTES, or WHOLE.
    """

    word: str = "woman"
    start: str = ""
    attribute: Literal[(WHOLE, *ATTRIBUTES)] = WHOLE


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be learned of whom.

    word: "man" or "woman". start: None, or the identity to go on from, with its word and level. attribute: None for the
    whole face, or the one of ATTRIBUTES that is to become that of the person in the photos: the local term alone.
    """

    word: str = "man"
    start: FaceaIdentity | None = None
    attribute: str | None = None

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that are trained, and need masks."""
        return (self.attribute,) if self.attribute else REGIONS


@dataclass(frozen=True, eq=False)
class Base:
    """The host's model patcher, CLIP and VAE of one inpainting checkpoint."""

    model: object
    clip: object
    vae: object


class Now(NamedTuple):
    """What can be asked of a training after a step: the identity, and the first photo's face painted anew with it, an
    image [1, S, S, 3].
    """

    identity: Callable[[], FaceaIdentity]
    paint: Callable[[], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Result:
    """What a training returns; previews: [m, S, S, 3], one per interval, or m = 0."""

    identity: FaceaIdentity
    progress: loop.Progress
    previews: torch.Tensor


def read_task(person: PersonSettings) -> Task:
    """Return what settings say of whom what is to be learned; raises ValueError or OSError where they do not fit."""
    if person.attribute != WHOLE and not person.start:
        raise ValueError(
            f"attribute = '{person.attribute}' changes a person who was learned: name that identity's file as start."
        )
    if not person.start:
        return Task(person.word)
    if not Path(person.start).is_file():
        raise ValueError(f"There is no file {person.start}: name that of the identity to start from.")
    start = load_facea(person.start)
    return Task(start.word, start, None if person.attribute == WHOLE else person.attribute)


def load_base(checkpoint: str) -> Base:
    """Return what a checkpoint file holds, or of a base that comes with the pack the UNet that inpaints."""
    if built_in := BUILT_IN.get(checkpoint):
        return Base(*built_in.load_inpainting())
    return Base(*load_checkpoint(checkpoint))


def learn(
    base: Base,
    photos: Photos,
    task: Task,
    settings: Settings,
    preview_every: int = 0,
    after_step: Callable[[loop.Progress, Now], None] = lambda progress, now: None,
) -> Result:
    """Tune a copy of the UNet on the photos of one person and return the identity; the connected models stay.

    preview_every: steps between pictures in which the first photo's face is painted anew; 0 for none. after_step:
    called after every step with the progress and what is learned at that moment.
    A run of the same photos, settings and base that was stopped goes on from its checkpoint in output/facea_training,
    where beside it only the newest of other trainings stay.
    What stops the training, raised by `after_step` or not, comes out of here after the identity of that moment was
    written to output/facea; running out of memory, and a loss that is no number, as RuntimeError with a sentence.
    """
    inpainting.check_inpainting(base.model)
    if task.start is not None:
        check_layers(base.model, task.start)
    texts = ["", *(write_prompt(task.word, region) for region in task.regions)]
    with torch.inference_mode():  # as in a node of the host; a script starts outside of it
        data = inpainting.encode(base.model, base.vae, photos)
        rows = {text: encode_text(base.clip, text) for text in texts}
    with torch.inference_mode(False):  # autograd cannot use what is made in that mode
        run, latents = _Run(base, task, settings, data, rows), []
        now = Now(run.identity, lambda: _decode(base.vae, run.preview()))

        def look(progress: loop.Progress) -> None:
            if preview_every and progress.step % preview_every == 0:
                latents.append(run.preview())
            after_step(progress, now)
            if settings.validate_steps and progress.step % settings.validate_steps == 0:
                comfy.model_management.load_models_gpu(run.patchers, force_full_load=True)  # others may have come

        folder = Path(folder_paths.get_output_directory()) / "facea_training"
        checkpoint = folder / f"{_digest(base, photos, task, settings)[:16]}.pt"
        if is_main():
            _sweep(checkpoint)
        try:
            with in_training(run.patchers, run.learned.lora, settings.checkpointing, settings.compile):
                loop.train(run.groups, run.loss, settings, run.device, checkpoint, look, run.progress)
        except BaseException as error:  # the host's interruption is one
            remark = _save_stopped(run.identity(), run.progress, checkpoint)
            if comfy.model_management.is_oom(error):
                comfy.model_management.unload_all_models()  # the host does so for its own kind of error only
            if sentence := _explain(error, settings):
                raise RuntimeError(f"FaceA training stopped: {sentence}. {remark}") from error
            logging.warning("FaceA training was stopped. %s", remark)
            raise
    if is_main():
        checkpoint.unlink(missing_ok=True)
    pictures = _decode(base.vae, torch.cat(latents)) if latents else photos.crops[:0]
    return Result(run.identity(), run.progress, pictures)


class _Run:
    """A training with everything it needs on its device, and how far it has come."""

    def __init__(self, base: Base, task: Task, settings: Settings, data: Inpainting, rows: dict):
        self.base, self.task, self.settings = base, task, settings
        self.device, self.progress = base.model.load_device, loop.Progress()
        conditions = {region: _copy_to(condition, self.device) for region, condition in data.conditions.items()}
        self.data = Inpainting(_copy_to(data.latents, self.device), conditions)
        rows = {text: (_copy_to(tensor, self.device), first) for text, (tensor, first) in rows.items()}
        self.nothing, _ = rows.pop("")
        rows = dict(zip(task.regions, rows.values()))
        model = copy_patcher(base.model, "model")
        model.set_model_compute_dtype(compute_dtype(settings.precision, self.device))
        self.model = model.model
        start = task.start
        level = start.level if start else settings.level
        clip = _copy_clip(base.clip) if level == "input" else None
        self.patchers = [model, *([clip.patcher] if clip else [])]
        features = start.features if start else _start_features(base.clip, task, settings, rows)
        self.learned = Learned(
            make_branches(start.lora if start else make_lora(model, settings.rank, settings.seed), self.device),
            {region: torch.nn.Parameter(_copy_to(tensor, self.device)) for region, tensor in features.items()},
            task.word,
            rows,
            clip,
        )
        layers = self.learned.lora.items()
        lora = {f"{layer}.{name}": part for layer, branch in layers for name, part in branch.named_parameters()}
        features = {region: self.learned.features[region] for region in task.regions}
        groups = [loop.Group(lora, settings.lr_lora), loop.Group(features, settings.lr_features)]
        self.groups = groups if settings.learned_rows else groups[:1]
        self.parameters = {name: tensor for group in self.groups for name, tensor in group.parameters.items()}

    def loss(self, generator: torch.Generator, step: int) -> torch.Tensor:
        """Return the loss of a sampled batch: Eq. 2 with the terms that task and settings leave of it."""
        attribute, batch = self.task.attribute, self.settings.batch
        attributes = (attribute,) if attribute else ATTRIBUTES if self.settings.attribute_loss else ()
        return step_loss(self.model, self.learned, self.data, generator, batch, attributes, attribute is None)

    @torch.no_grad()
    def preview(self) -> torch.Tensor:
        """Return the latent [1, c, h, w] of the first photo, its mask painted anew with what is learned so far."""
        region, model = self.task.regions[0], self.model
        generator = torch.Generator().manual_seed(self.settings.seed)
        photo = self.data.latents[:1]
        noise = torch.randn(photo.shape, generator=generator).to(photo)
        condition = self.data.conditions[region][:1].repeat(2, 1, 1, 1)

        def denoise(x, sigma):
            both = model.apply_model(x.repeat(2, 1, 1, 1), sigma.repeat(2), c_concat=condition, c_crossattn=context)
            prompt, negative = both.chunk(2)
            return torch.lerp(negative, prompt, _PREVIEW_SCALE)

        with self.progress.averaged(self.parameters):
            context = torch.cat((self.learned.context([region]), self.nothing))
            return sample(model, denoise, noise, _PREVIEW_STEPS)

    @torch.no_grad()
    def identity(self) -> FaceaIdentity:
        """Return what is learned at this moment, where there is a running average that."""
        start, learned = self.task.start, self.learned
        with self.progress.averaged(self.parameters):
            lora = state_dict(learned.lora)
            features = {
                region: tensor.detach().to("cpu", torch.float32, copy=True)
                for region, tensor in learned.features.items()
            }
        settings = {name: str(value) for name, value in asdict(self.settings).items() if name not in _NOT_LEARNED}
        settings |= {"steps": str(self.progress.step), "photos": str(len(self.data.latents))}
        if self.task.attribute:
            past = {f"before: {name}": value for name, value in start.settings.items()}
            settings = past | settings | {"transferred": self.task.attribute}
        return FaceaIdentity(
            lora,
            features,
            "input" if learned.clip else "output",
            self.task.word,
            fingerprint(self.base.model),
            name_base(self.base.model),
            settings,
        )


@torch.inference_mode()
def _decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """Return images [m, S, S, 3] of latents [m, c, h, w]."""
    return vae.decode(latents)


def _copy_to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a copy that autograd can work with, also of a tensor that was made in inference mode."""
    return tensor.to(device, torch.float32, copy=True)


def _copy_clip(clip):
    """Return the host's CLIP with weights of its own, see `copy_patcher`."""
    copy = clip.clone()
    copy.patcher = copy_patcher(clip.patcher, "text encoder")
    copy.cond_stage_model = copy.patcher.model
    return copy


def _start_features(clip, task: Task, settings: Settings, rows: dict) -> dict[str, torch.Tensor]:
    """Return where learning begins: rows that the features replace or, on the input level, the prompt's last word."""
    count = settings.features or ROWS.get(task.word, max(ROWS.values()))
    if settings.level == "output":
        return {region: tensor[0, first : first + count] for region, (tensor, first) in rows.items()}
    return {region: _embed_last_word(clip, write_prompt(task.word, region)).repeat(count, 1) for region in rows}


def _embed_last_word(clip, text: str) -> torch.Tensor:
    """Return the embedding [1, width] of the last token of `text`."""
    ((chunk,),) = clip.tokenize(text, return_word_ids=True).values()
    return get_word_embeddings(clip)[[token for token, _, word in chunk if word][-1]].float()[None]


def _digest(base: Base, photos: Photos, task: Task, settings: Settings) -> str:
    """Return 64 hex digits that stand for everything that decides what is learned until a step."""
    values = asdict(settings).items()
    decisive = {name: value for name, value in values if name not in _NOT_LEARNED and value != _ADDED.get(name)}
    if settings.cosine:  # how many steps there are decides how quickly the rates fall
        decisive["steps"] = settings.steps
    digest = hashlib.sha256(repr((decisive, task.word, task.attribute)).encode())
    digest.update((photos.digest() + fingerprint(base.model)).encode())
    if task.start:
        for name, tensor in sorted((task.start.lora | task.start.features).items()):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _sweep(checkpoint: Path) -> None:
    """Remove what stopped trainings left beside `checkpoint`: all but the newest, and what is half written."""
    saving.sweep_parts(checkpoint.parent)
    others = [path for kind in ("*.pt", "*.damaged") for path in checkpoint.parent.glob(kind) if path != checkpoint]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]:
        logging.info("FaceA training: %s, which a training that was stopped long ago left, is removed.", path)
        path.unlink(missing_ok=True)


def _save_stopped(identity: FaceaIdentity, progress: loop.Progress, checkpoint: Path) -> str:
    """Write what was learned so far, in the place of what was before, and return a sentence: where, or why not."""
    if progress.step == 0:
        return "Nothing was learned yet."
    path = (
        Path(folder_paths.get_output_directory())
        / KIND
        / "stopped"
        / f"{checkpoint.stem}_step_{progress.step}.safetensors"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_facea(path, identity, "Train FaceA")
        for older in set(path.parent.glob(f"{checkpoint.stem}_step_*.safetensors")) - {path}:
            older.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        return f"What was learned in {progress.step} steps could not be kept: {error}"
    return f"What was learned in {progress.step} steps is kept in {path}. The same training goes on when it runs again."


def _explain(error: BaseException, settings: Settings) -> str | None:
    """Return what to do about an error, where it is one of those that training is known to have."""
    if isinstance(error, loop.StoppedError):
        return str(error)
    if comfy.model_management.is_oom(error):
        less = [f"lower batch_size (now {settings.batch})"]
        less += [] if settings.checkpointing else ["switch gradient_checkpointing on"]
        return f"the device ran out of memory: {', '.join(less)}, or make the crops smaller"
    return None


def report(result: Result) -> str:
    """Return how a training went, in a few lines."""
    progress = result.progress
    done = progress.step - progress.resumed_at
    photos = int(result.identity.settings["photos"])
    counts = f"{progress.step} step{'s' * (progress.step != 1)} on {photos} photo{'s' * (photos != 1)}"
    lines = [f"{counts}: {summarise(progress.losses)}"]
    if progress.resumed_at:
        lines.append(f"went on after step {progress.resumed_at}, where it had been stopped")
    if done:
        lines.append(f"{progress.seconds:.1f} s, {progress.seconds / done:.3f} s a step")
    if progress.peak:
        lines.append(f"peak of the device's memory: {progress.peak / 1e9:.2f} GB")
    return "\n".join(lines)
