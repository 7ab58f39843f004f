"""One person's identity, as an encoder sees it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class FaceId:
    """Identity features of the photos of one person.

    encoder:    kind of the encoder that made them, e.g. "transface"
    file:       the encoder's weight file
    sha256:     of that file: identities of two files do not mix, whatever the files are called
    features:   [photos, tokens, dim] float32, what adapters read
    embedding:  [photos, d] float32 of length 1, by which photos are compared
    crops:      [photos, S, S, 3] in 0..1, the images the encoder saw
    masked:     whether the crops' background was blackened before
    """

    encoder: str
    file: str
    sha256: str
    features: torch.Tensor
    embedding: torch.Tensor
    crops: torch.Tensor
    masked: bool


def join(first: FaceId, second: FaceId) -> FaceId:
    """Return the photos of both identities as those of one person, `first`'s before `second`'s.

    Raises ValueError where they come from different encoders, whose features have nothing in common.
    """
    check_same_encoder(first, second)
    return FaceId(
        first.encoder,
        first.file,
        first.sha256,
        torch.cat((first.features, second.features)),
        torch.cat((first.embedding, second.embedding)),
        torch.cat((first.crops, second.crops)),
        first.masked and second.masked,
    )


def check_same_encoder(first: FaceId, second: FaceId) -> None:
    """Raise ValueError unless both identities were made by the same weights, and look like it."""
    if (first.encoder, first.sha256) != (second.encoder, second.sha256):
        raise ValueError(
            f"These identities cannot be joined or compared: one was encoded by {first.file} ({first.encoder}), the "
            f"other by {second.file} ({second.encoder}). Encode all photos with the same Load Face Encoder."
        )
    for part in ("features", "embedding", "crops"):
        shapes = [list(getattr(identity, part).shape[1:]) for identity in (first, second)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"These identities cannot be joined or compared: both name {first.file}, but the {part} of a photo "
                f"are {shapes[0]} in one and {shapes[1]} in the other. Encode the photos again."
            )
