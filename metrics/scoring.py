"""All scores of some images at once: people, prompt, whole images, and how far faces lie apart (docs/papers.md 7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from ..encoders.expression import ExpressionEncoder
from ..encoders.face_encoder import FaceEncoder
from ..encoders.identity import FaceId, join
from ..faces.detector import FaceDetector, detect_faces
from ..faces.types import Faces
from .face_distances import SLICES, coefficient_distances, pose_angle
from .image_features import ImageNetwork
from .ranking import Columns, free_name
from .scores import choose_person, compare_with_text, face_scores, image_embeddings, text_embedding
from .similarity import reference_similarity
from .text_image import TextImageNetwork


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores by name, [n] each, of n images, and what each comes from."""

    scores: Columns
    sources: dict[str, str]


def merge(parts: Sequence[Scored]) -> Scored:
    """Return the scores of all parts; a name that is there already gets a number."""
    scores, sources = {}, {}
    for part in parts:
        names = {name: free_name(name, scores) for name in part.scores}
        scores |= {names[name]: values for name, values in part.scores.items()}
        sources |= {names[name]: source for name, source in part.sources.items()}
    return Scored(scores, sources)


@dataclass(frozen=True, eq=False)
class FoundPerson:
    """faces: of each batch of images, in every image the face most like the person; identity: what they score."""

    faces: list[Faces]
    identity: Scored


def group_images(images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return images [H, W, 3] as one batch where they are of one size, else each as a batch of its own; none as []."""
    same = len({image.shape for image in images}) == 1
    return [torch.stack(list(images))] if same else [image[None] for image in images]


def read_person(recognisers: Sequence[FaceEncoder], photos: list[Faces]) -> list[FaceId]:
    """Return what each recogniser reads of a person's photos, each of one image; those without a face are left out."""
    present = [photo for photo in photos if photo.per_image[0]]
    return [reduce(join, [recogniser.encode_faces(photo) for photo in present]) for recogniser in recognisers]


def find_person(
    detector: FaceDetector,
    recognisers: Sequence[FaceEncoder],
    identities: Sequence[FaceId],
    batches: Sequence[torch.Tensor],
    brief: bool = True,
) -> FoundPerson:
    """Find a person in images and score them by each recogniser; the first one chooses among several faces.

    identities: of `read_person`; batches: images [n, H, W, 3] in 0..1, each batch of its own size; brief: as for
    `name_recognisers`.
    """
    found = [detect_faces(detector, batch) for batch in batches]
    missing, count = sum(faces.per_image.count(()) for faces in found), sum(len(faces.images) for faces in found)
    scores, sources = {}, {}
    for name, recogniser, person in zip(name_recognisers(recognisers, brief), recognisers, identities):
        parts = [choose_person(faces, face_scores(recogniser, faces, person)) for faces in found]
        found = [faces for faces, _ in parts] if not scores else found
        scores[name] = torch.cat([part for _, part in parts])
        sources[name] = (
            f"mean cosine with {len(person.crops)} photos by {describe_network(recogniser)}, crops of "
            f"{recogniser.crop_size} px, faces found with {found[0].tried}; no face in {missing} of {count}"
        )
    return FoundPerson(found, Scored(scores, sources))


def describe_network(network) -> str:
    """Return a network's file and the beginning of its hash."""
    return f"{network.name} (sha256 {network.sha256[:12]})"


def name_recognisers(recognisers: Sequence[FaceEncoder], brief: bool = True) -> list[str]:
    """Return "identity" and what each is, numbered where two are of one family; brief: of one only "identity"."""
    if brief and len(recognisers) == 1:
        return ["identity"]
    kinds = [recogniser.kind for recogniser in recognisers]
    return [
        f"identity {kind}" + (f" {kinds[: index + 1].count(kind)}" if kinds.count(kind) > 1 else "")
        for index, kind in enumerate(kinds)
    ]


def score_by_clip(clip, clip_vision, batches, text: str, photos) -> tuple[Scored, Scored]:
    """Return the host's CLIP's scores of images with a text, where `clip` is given, and with photos, where there are
    any: CLIP-T and CLIP-I.

    Raises ValueError as `text_scores`.
    """
    vectors = torch.cat([image_embeddings(clip_vision, batch) for batch in batches])
    source = f"CLIP vision of {clip_vision.image_size} px"
    with_text, with_photos = Scored({}, {}), Scored({}, {})
    if clip is not None:
        scores = compare_with_text(vectors, text_embedding(clip, text))
        with_text = Scored({"text": scores}, {"text": f"cosine with '{text}' by {source}"})
    if photos:
        references = torch.cat([image_embeddings(clip_vision, batch) for batch in photos])
        scores = reference_similarity(vectors, references)
        with_photos = Scored({"clip-i": scores}, {"clip-i": f"mean cosine with {len(references)} photos by {source}"})
    return with_text, with_photos


def score_by_network(network: ImageNetwork | TextImageNetwork, batches, text: str, photos) -> tuple[Scored, Scored]:
    """Return a network's scores of images with a text, where it reads one and there is one, and with photos."""
    vectors = torch.cat([network.embed_images(batch) for batch in batches])
    references = torch.cat([network.embed_images(batch) for batch in photos]) if photos else None
    words = network.embed_texts([text]) if text and isinstance(network, TextImageNetwork) else None
    return compare_vectors(network, vectors, words, references, f"'{text}'")


def compare_vectors(network, vectors, words, references, said: str) -> tuple[Scored, Scored]:
    """Return a network's scores of images [n, d] with texts [1 or n, d], and with photos [k, d]; None: not compared.

    Of SigLIP the text score is the probability, and its cosine is among the others. said: the texts, in words.
    """
    source = describe_network(network)
    text_scored, others = Scored({}, {}), Scored({}, {})
    if words is not None:
        cosines = compare_with_text(vectors, words)
        name = f"text {network.label}"
        if network.kind == "siglip":
            others.scores["siglip cosine"], others.sources["siglip cosine"] = cosines, f"of the same as '{name}'"
            cosines = network.probability(cosines)
        text_scored.scores[name], text_scored.sources[name] = cosines, f"with {said} by {source}"
    if references is not None:
        name = f"{network.label}-i"
        others.scores[name] = reference_similarity(vectors, references)
        others.sources[name] = f"mean cosine with {len(references)} photos by {source}"
    return text_scored, others


def score_face_distances(
    encoder: ExpressionEncoder, found: list[Faces], photos: list[Faces], template: list[Faces]
) -> Scored:
    """Return how far expression, light and pose lie from the template's, and the shape from the photos' (mean).

    found: one face at most in each image; photos, template: one image each. The template is one for all images, or one
    each. NaN where an image has no face: 0 would be the best. l2 and mse as in `coefficient_distances`.
    """
    rows = torch.cat([regress(encoder, faces) for faces in found])
    templates = torch.cat([regress(encoder, faces) for faces in template])
    if len(templates) not in (1, len(rows)) or templates.isnan().any():
        raise ValueError(
            f"The template is to be one picture with a face, or as many as there are pictures to score ({len(rows)}); "
            f"these are {len(templates)}, {int(templates.isnan().any(dim=1).sum())} of them without a face."
        )
    references = torch.cat([regress(encoder, photo) for photo in photos if photo.per_image[0]])
    scores = compare_coefficients(rows, templates.expand(len(rows), -1), references)
    source = f"by {encoder.name}, lower is nearer"
    sources = {name: f"{'to the photos' if 'shape' in name else 'to the template'} {source}" for name in scores}
    return Scored(scores, sources)


def compare_coefficients(rows: torch.Tensor, templates: torch.Tensor, references: torch.Tensor) -> Columns:
    """Return distances [n] of coefficients [n, 257] to templates' [n, 257] and, of the shape, photos' [k, 257]."""
    scores = {}
    for name in SLICES:
        others = references[:, None].expand(-1, len(rows), -1) if name == "shape" else templates[None]
        for norm in ("l2", "mse"):
            key = f"{name}_{norm}"
            scores[key] = torch.stack([coefficient_distances(rows, other)[key] for other in others]).mean(dim=0)
    return {name: values.float() for name, values in (scores | {"pose_degrees": pose_angle(rows, templates)}).items()}


def regress(encoder: ExpressionEncoder, faces: Faces) -> torch.Tensor:
    """Return the coefficients [n, 257] of the one face of each image on the CPU; NaN where it has none."""
    has_face = torch.tensor([bool(present) for present in faces.per_image])
    rows = torch.full((len(has_face), 257), torch.nan)
    if has_face.any():
        rows[has_face] = encoder.regress(faces)[0].cpu().float()
    return rows
