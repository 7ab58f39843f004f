"""Validation of an adapter in training: people held out are drawn, and it is said how like them the pictures are.

Always the same people, noises and settings, so that the numbers of one training can be compared.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from PIL import Image

from ..encoders.face_encoder import FaceEncoder
from ..encoders.identity import FaceId
from ..faces.detector import detect_faces
from ..faces.search import FaceDetector
from ..graphics import draw_rows, to_pillow
from ..metrics.loading import load_image_scorer, load_recogniser
from ..metrics.scores import compare_with_text, identity_scores
from ..metrics.scoring import read_person
from ..metrics.text_image import TextImageNetwork
from ..weights import folders
from .frozen import Frozen
from .loop import make_stream
from .portraits import Portraits
from .sampling import sample
from .settings import BEST, AdapterSettings

_AT_ONCE = 4  # pictures in one call of the model


def load_scorers(face_scorer: str, text_scorer: str = ""):
    """Return the recogniser of models/metrics or models/insightface and the CLIP of models/image_metrics, None for "".

    Raises FileNotFoundError, which tells how to get it, for a file that is missing, and ValueError for another kind.
    """
    recogniser = load_recogniser(_find(("metrics", "insightface"), face_scorer)) if face_scorer else None
    if not text_scorer:
        return recogniser, None
    network = load_image_scorer(folders.path("image_metrics", text_scorer))
    if not isinstance(network, TextImageNetwork):
        raise ValueError(f"text_scorer: {text_scorer} knows no text: name a CLIP or SigLIP with its config.json.")
    return recogniser, network


def check(settings: AdapterSettings) -> None:
    """Raise ValueError where the best file is to be chosen by a score that nothing gives."""
    scorer = {"identity": settings.face_scorer, "text": settings.text_scorer}.get(settings.best, "none")
    if settings.best != BEST[0] and not (scorer and settings.validation_pictures):
        name = "face_scorer" if settings.best == "identity" else "text_scorer"
        raise ValueError(f"best = '{settings.best}' needs validation_pictures and {name}, or leave it out.")


def _find(kinds: tuple[str, ...], name: str) -> str:
    return next((file for kind in kinds if (file := folders.find(kind, name))), None) or folders.path(kinds[0], name)


def choose_rows(portraits: Portraits, count: int) -> torch.Tensor:
    """Return `count` rows at most: the first photo of every person in turn, then the second, and so on."""
    order = sorted(range(len(portraits)), key=lambda row: (portraits.shelves.place[row], portraits.shelves.person[row]))
    return torch.tensor(order[:count])


class Gallery:
    """Draws people held out with an adapter in training, scores the pictures, and writes a sheet of them.

    data: of people held out, as the trainer's `make_loss` has it, portraits first. detector: finds the faces; None
    where nothing scores likeness. recogniser, text_network: what scores, or None. output: the adapter's file to be.
    """

    def __init__(
        self,
        trainer: ModuleType,
        base: Frozen,
        vae,
        data: tuple,
        settings: AdapterSettings,
        output: Path,
        detector: FaceDetector | None = None,
        recogniser: FaceEncoder | None = None,
        text_network: TextImageNetwork | None = None,
    ):
        self.trainer, self.base, self.vae, self.data, self.settings = trainer, base, vae, data, settings
        self.output, self.detector, self.recogniser, self.text_network = output, detector, recogniser, text_network
        portraits: Portraits = data[0]
        self.rows = portraits.split(choose_rows(portraits, settings.validation_pictures))
        latents, stream = [portraits.latents[rows].float() for rows in self.rows], make_stream(0)
        self.captions = [portraits.captions[row] for row in torch.cat(self.rows).tolist()]
        self.noise = [torch.randn(some.shape, generator=stream) for some in latents]
        self.photos = [photo for some in latents for photo in self._decode(base.model.process_latent_out(some))]
        self.people = [read_face(detector, recogniser, photo[None]) for photo in self.photos] if recogniser else []

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the pictures [n, h, w, 3] of latents."""
        with torch.inference_mode():
            return self.vae.decode(latents).cpu().clamp(0, 1)

    def draw(self, adapter: torch.nn.Module) -> list[torch.Tensor]:
        """Return the people's pictures, [h, w, 3] each, as their photos are shaped."""
        return [image for some in zip(self.rows, self.noise) for image in self._draw_alike(adapter, *some)]

    @torch.no_grad()
    def _draw_alike(self, adapter: torch.nn.Module, alike: torch.Tensor, noises: torch.Tensor) -> torch.Tensor:
        """Return pictures [n, h, w, 3] of the rows `alike` [n], which are of one shape."""
        parts = []
        for rows, noise in zip(alike.split(_AT_ONCE), noises.split(_AT_ONCE)):
            with self.base.autocast():
                shown, nothing = self.trainer.conditions(self.base, adapter, self.data, rows, self.settings)

            def denoise(x: torch.Tensor, sigma: torch.Tensor, shown=shown, nothing=nothing) -> torch.Tensor:
                with self.base.autocast():
                    without, there = (self.base.denoise(x, sigma, *each) for each in (nothing, shown))
                return torch.lerp(without, there, self.settings.cfg)

            parts.append(sample(self.base.model, denoise, noise.to(self.base.device), self.settings.sampling_steps))
        return self._decode(torch.cat(parts))

    def score(self, images: list[torch.Tensor]) -> dict[str, list[float | None]]:
        """Return by name a score of every picture: cosine with the person, 0 without a face, and with the caption.

        None where the photo itself shows no face.
        """
        scores = {}
        if self.recogniser:
            scores["identity"] = [
                score_likeness(self.detector, self.recogniser, person, image)
                for image, person in zip(images, self.people)
            ]
        if self.text_network:
            words = self.text_network.embed_texts(self.captions)
            seen = torch.cat([self.text_network.embed_images(image[None]) for image in images])
            scores["text"] = compare_with_text(seen, words).tolist()
        return scores

    def __call__(self, adapter: torch.nn.Module, step: int) -> dict[str, float]:
        """Write the sheet of a step and return the mean scores by name; of none where nothing could be scored."""
        images = self.draw(adapter)
        scores = self.score(images)
        sheet = draw_people(self.photos, images, label(scores, len(images)), f"Step {step}")
        sheet.save(self.output.with_suffix(f".validation-{step:08d}.png"))
        return {
            name: sum(known) / len(known) for name in scores if (known := [x for x in scores[name] if x is not None])
        }


def read_face(detector: FaceDetector, recogniser: FaceEncoder, photos: torch.Tensor) -> FaceId | None:
    """Return what a recogniser reads of photos [n, h, w, 3] of one person, None where no face is found in any."""
    found = [faces for photo in photos if (faces := detect_faces(detector, photo[None])).per_image[0]]
    return read_person([recogniser], found)[0] if found else None


def score_likeness(
    detector: FaceDetector, recogniser: FaceEncoder, person: FaceId | None, image: torch.Tensor
) -> float | None:
    """Return the cosine of an image [h, w, 3] with a person, 0 where it shows no face, None where nobody is known."""
    if person is None:
        return None
    return float(identity_scores(recogniser, detect_faces(detector, image[None]), person).nan_to_num(0.0))


def label(scores: dict[str, list[float | None]], count: int) -> list[str]:
    """Return of each of `count` pictures its scores, a line each."""
    lines = [
        [f"{name} {'not known' if value is None else f'{value:.3f}'}" for value in values]
        for name, values in scores.items()
    ]
    return ["\n".join(parts) for parts in zip(*lines)] or [""] * count


def draw_people(
    photos: Sequence[torch.Tensor], images: Sequence[torch.Tensor], labels: list[str], title: str
) -> Image.Image:
    """Return a sheet of photos, [h, w, 3] each, above the labelled pictures that were drawn of them."""
    drawn = [(text, to_pillow(image)) for text, image in zip(labels, images)]
    return draw_rows(title, [("photos", [("", to_pillow(photo)) for photo in photos]), ("drawn of them", drawn)])
