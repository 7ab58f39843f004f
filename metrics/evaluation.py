"""Scores of many pictures of one person, a few at a time: what a table of a paper is made of (docs/papers.md 7)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from ..encoders.expression import ExpressionEncoder
from ..encoders.face_encoder import FaceEncoder
from ..encoders.person import find_in_photos
from ..faces.choose import choose
from ..faces.detector import FaceDetector, detect_faces
from ..faces.search import in_words
from ..faces.types import Faces
from .image_features import ImageNetwork
from .scores import geometric_mean, harmonic_mean
from .scoring import (
    compare_coefficients,
    compare_vectors,
    describe_network,
    find_person,
    group_images,
    name_recognisers,
    read_person,
    regress,
)
from .similarity import directional_similarity
from .text_image import HostClip, TextImageNetwork

CHUNK = 16  # images in memory at once
PLAIN = "a photo of {subject}"  # the prompt of dCLIP's reference
HARMONIC, GEOMETRIC, FEATURES, PHOTOS = "hMean", "gMean", "inception", "photos"


@dataclass(frozen=True, eq=False)
class Judges:
    """Everything that scores. The first recogniser chooses among several faces of a picture."""

    detector: FaceDetector
    recognisers: Sequence[FaceEncoder]
    networks: Sequence[ImageNetwork | TextImageNetwork | HostClip] = ()
    inception: ImageNetwork | None = None
    expression: ExpressionEncoder | None = None

    def describe(self) -> dict[str, str]:
        """Return by role which file judges, and the beginning of its hash."""
        roles = dict(zip(name_recognisers(self.recognisers, brief=False), map(describe_network, self.recognisers)))
        roles |= {network.label: describe_network(network) for network in self.networks}
        if self.inception:
            roles["FID, KID"] = describe_network(self.inception)
        if self.expression:
            roles["expression, light, pose, shape"] = self.expression.name
        return roles | {"detector": in_words(self.detector, "thorough", 0)}


@dataclass(frozen=True)
class Job:
    """One picture to score. load, template: give the image [H, W, 3] and, for E-*, what it was painted into."""

    load: Callable[[], torch.Tensor]
    text: str
    seed: str = ""
    template: Callable[[], torch.Tensor] | None = None


def score_person(
    judges: Judges, photos: list[torch.Tensor], jobs: Sequence[Job], plain: str
) -> dict[str, torch.Tensor]:
    """Return by name the scores [n] of a person's pictures, and [n, 2048] features where there is an Inception.

    photos: images [H, W, 3]; plain: the text of dCLIP's reference, whose own pictures get none. hMean and gMean are of
    identities and text scores, of each kind of network those of the last one. `PHOTOS`: the first recogniser's vectors
    [k, d] of the photos.
    """
    batches = [photo[None] for photo in photos]
    found_photos = find_in_photos(batches, judges.detector, "evaluate")
    identities = read_person(judges.recognisers, found_photos)
    scores: dict[str, list[torch.Tensor]] = {}
    vectors: list[list[torch.Tensor]] = [[] for _ in judges.networks]
    for chunk in _split(jobs):
        images = group_images([job.load() for job in chunk])
        person = find_person(judges.detector, judges.recognisers, identities, images, brief=False)
        parts = dict(person.identity.scores)
        for network, rows in zip(judges.networks, vectors):
            rows += [network.embed_images(batch) for batch in images]
        if judges.inception:
            parts[FEATURES] = torch.cat([judges.inception.embed_images(batch) for batch in images])
        if judges.expression and all(job.template for job in chunk):
            parts |= _compare_faces(judges, person.faces, found_photos, chunk)
        for name, values in parts.items():
            scores.setdefault(name, []).append(values)
    together = {name: torch.cat(values) for name, values in scores.items()}
    text_names = {}
    for network, rows in zip(judges.networks, vectors):
        text_names[network.kind], parts = _compare_images(network, torch.cat(rows), jobs, batches, plain)
        together |= parts
    names = [*name_recognisers(judges.recognisers, brief=False), *sum(text_names.values(), [])]
    means = [together[name].nan_to_num() for name in names]
    if len(means) > 1:
        together |= {HARMONIC: harmonic_mean(*means), GEOMETRIC: geometric_mean(*means)}
    return together | {PHOTOS: identities[0].embedding.cpu()}


def _split(jobs: Sequence[Job]) -> Iterable[Sequence[Job]]:
    return (jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK))


def _compare_images(network, vectors, jobs: Sequence[Job], photos, plain: str):
    """Return the names of a network's text scores, and all its scores of images by their vectors [n, d]."""
    references = torch.cat([network.embed_images(batch) for batch in photos])
    if isinstance(network, ImageNetwork):
        return [], compare_vectors(network, vectors, None, references, "")[1].scores
    texts = list(dict.fromkeys([*(job.text for job in jobs), plain]))
    words = network.embed_texts(texts)
    rows = words[[texts.index(job.text) for job in jobs]]
    with_text, others = compare_vectors(network, vectors, rows, references, "the prompts")
    scores, names = with_text.scores | others.scores, list(with_text.scores)
    direction = _compare_directions(vectors, rows, jobs, words[-1:], plain)
    if network.kind == "clip" and direction is not None:
        name = network.label.replace("clip", "dCLIP")
        scores[name] = direction
        names.append(name)
    return names, scores


def _compare_directions(vectors, rows, jobs: Sequence[Job], plain_words, plain: str) -> torch.Tensor | None:
    """Return dCLIP [n] against the plain prompt's picture of the same seed, else its first; None without such pictures.

    NaN for the plain prompt's own pictures.
    """
    plain_jobs = {job.seed: index for index, job in reversed([*enumerate(jobs)]) if job.text == plain}
    if not plain_jobs:
        return None
    first = min(plain_jobs.values())
    references = vectors[[plain_jobs.get(job.seed, first) for job in jobs]]
    scores = directional_similarity(vectors, references, rows, plain_words)
    return scores.where(torch.tensor([job.text != plain for job in jobs]), torch.nan)


def _compare_faces(judges: Judges, found: list[Faces], photos: list[Faces], chunk: Sequence[Job]):
    templates = torch.cat([_read_template(judges, job.template()) for job in chunk])
    if templates.isnan().any():
        missing = int(templates.isnan().any(dim=1).sum())
        raise ValueError(
            f"{missing} of {len(chunk)} templates show no face: expressions have nothing to be compared with."
        )
    rows = torch.cat([regress(judges.expression, faces) for faces in found])
    references = torch.cat([regress(judges.expression, photo) for photo in photos if photo.per_image[0]])
    return compare_coefficients(rows, templates, references)


def _read_template(judges: Judges, image: torch.Tensor) -> torch.Tensor:
    """Return the coefficients [1, 257] of a template's largest face; NaN without one."""
    faces = detect_faces(judges.detector, image[None])
    largest = choose(faces.per_image[0], "largest", 0, tuple(image.shape[:2]))
    return regress(judges.expression, Faces(faces.images, (largest,)))
