"""One person out of many photos."""

from dataclasses import replace
from functools import reduce

import torch

from ..faces.choose import choose
from ..faces.detector import FaceDetector, detect_faces
from ..faces.headmask import head_masks
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
    found = [detect_faces(detector, photo[None]) for batch in batches for photo in batch]
    chosen = [
        replace(faces, per_image=(choose(faces.per_image[0], "largest", 0, tuple(faces.images.shape[1:3])),))
        for faces in found
    ]
    numbers = [number for number, faces in enumerate(chosen, 1) if faces.per_image[0]]
    if not numbers:
        raise ValueError(
            f"Load Person: none of the {len(chosen)} photos shows a face (searched with {found[0].tried}). Use clearer "
            "photos, lower min_score in Load Face Detector, or choose another detector there."
        )
    identities = [
        encoder.encode_faces(faces, head_masks(faces) if masked else None) for faces in chosen if faces.per_image[0]
    ]
    whole = reduce(join, identities)
    lines = [f"Photo {number} shows no face." for number in range(1, len(chosen) + 1) if number not in numbers]
    odd = outliers(whole.embedding, min_agreement)
    verb = "was dropped" if odd_photos == "drop" else "is odd"
    asked = digits(min_agreement)
    lines += [f"Photo {numbers[row]} {verb}: {digits(value)} with the others, {asked} is asked." for row, value in odd]
    rest = sorted({*range(len(numbers))} - {row for row, _ in odd})
    left = agreement(whole.embedding[rest])
    if len(left) == 2 and left.min() < min_agreement:
        lines.append(f"Photos {' and '.join(str(numbers[row]) for row in rest)} disagree ({digits(left[0])}); which of "
                     "them is odd cannot be told.")  # fmt: skip
    elif len(left):
        lines.append(f"The others agree by {digits(left.min())} and more.")
    if odd and odd_photos == "drop":
        whole = replace(whole, features=whole.features[rest], embedding=whole.embedding[rest], crops=whole.crops[rest])
    count = len(whole.features)
    return whole, "\n".join([*lines, f"The person is made of {count} of {len(chosen)} photos."])
