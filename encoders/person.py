"""One person out of many photos."""

from dataclasses import replace
from functools import reduce

import torch

from ..faces.choose import choose
from ..faces.detector import FaceDetector, detect_faces
from ..faces.headmask import head_masks
from ..faces.types import Faces
from .agreement import agreement, digits
from .combine import outliers
from .face_encoder import FaceEncoder
from .identity import FaceId, join

ODD_PHOTOS = ("mark", "drop")


def encode_photos(
    batches: list[torch.Tensor],
    detector: FaceDetector,
    encoder: FaceEncoder,
    masked: bool,
    odd_photos: str,
    min_agreement: float,
) -> tuple[FaceId, str]:
    """Return one person out of the largest face of every photo, and what became of the photos, in words.

    batches:        photos [n, H, W, 3] in 0..1, each batch of its own size; they are numbered in turn, from 1
    masked:         whether crops are blacked out around the estimated head
    odd_photos:     one of ODD_PHOTOS: whether photos that agree less than `min_agreement` stay in

    Raises ValueError where no photo shows a face.
    """
    everyone = _find_everyone(batches, detector, "Load Person")
    photos = [_keep_largest(faces) for faces in everyone]
    numbers = [number for number, faces in enumerate(photos, 1) if faces.per_image[0]]
    present = [photos[number - 1] for number in numbers]
    whole = reduce(join, [encoder.encode_faces(faces, head_masks(faces) if masked else None) for faces in present])
    odd = outliers(whole.embedding, min_agreement)
    lines = [f"Photo {number} shows no face." for number in range(1, len(photos) + 1) if number not in numbers]
    counts = [len(faces.per_image[0]) for faces in everyone]
    lines += [f"Photo {number} shows {n} faces: the largest was taken." for number, n in enumerate(counts, 1) if n > 1]
    lines += _describe_agreement(whole.embedding, numbers, odd, odd_photos, min_agreement)
    if odd_photos == "drop":
        rest = _list_rest(numbers, odd)
        whole = replace(whole, features=whole.features[rest], embedding=whole.embedding[rest], crops=whole.crops[rest])
    return whole, "\n".join([*lines, f"The person is made of {len(whole.features)} of {len(photos)} photos."])


def find_in_photos(batches: list[torch.Tensor], detector: FaceDetector, node: str) -> list[Faces]:
    """Return the largest face of every photo, each photo by itself; batches as for `encode_photos`, node: who asks.

    Raises ValueError where no photo shows a face.
    """
    return [_keep_largest(faces) for faces in _find_everyone(batches, detector, node)]


def _find_everyone(batches: list[torch.Tensor], detector: FaceDetector, node: str) -> list[Faces]:
    """Return all faces of every photo, each photo by itself; raise ValueError where no photo shows a face."""
    photos = [detect_faces(detector, photo[None]) for batch in batches for photo in batch]
    if not any(faces.per_image[0] for faces in photos):
        raise ValueError(
            f"{node}: none of the {len(photos)} photos shows a face (searched with {photos[0].tried}). Use "
            "clearer photos, lower min_score in Load Face Detector, or choose another detector there."
        )
    return photos


def _keep_largest(faces: Faces) -> Faces:
    """Return the faces of one photo without all but the largest."""
    return replace(faces, per_image=(choose(faces.per_image[0], "largest", 0, tuple(faces.images.shape[1:3])),))


def _list_rest(numbers: list[int], odd: list[tuple[int, float]]) -> list[int]:
    return sorted({*range(len(numbers))} - {row for row, _ in odd})


def _describe_agreement(embedding, numbers, odd, odd_photos: str, min_agreement: float) -> list[str]:
    """Say which of the photos, by their `numbers`, are odd, and how far the rest agrees."""
    verb, asked = "was dropped" if odd_photos == "drop" else "is odd", digits(min_agreement)
    lines = [f"Photo {numbers[row]} {verb}: {digits(value)} with the others, {asked} is asked." for row, value in odd]
    rest = _list_rest(numbers, odd)
    values = agreement(embedding[rest])
    if len(values) == 2 and values.min() < min_agreement:
        pair = " and ".join(str(numbers[row]) for row in rest)
        lines.append(f"Photos {pair} disagree ({digits(values[0])}), and which of them is odd cannot be told.")
    elif len(values):
        lines.append(f"{'The others' if odd else 'All'} agree by {digits(values.min())} and more.")
    return lines
