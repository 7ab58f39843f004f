"""One person's identity, as an encoder sees it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class FaceId:
    """Identity features of the photos of one person.

    encoder:   kind of the encoder that made them, e.g. "transface"
    file:      the encoder's weight file
    features:  [photos, tokens, dim] float32
    crops:     [photos, S, S, 3] in 0..1, the pictures the encoder saw
    """

    encoder: str
    file: str
    features: torch.Tensor
    crops: torch.Tensor


def joined(first: FaceId, second: FaceId) -> FaceId:
    """The photos of both identities as those of one person, `first`'s before `second`'s.

    Raises ValueError where they come from different encoders, whose features have nothing in common.
    """
    if (first.encoder, first.file) != (second.encoder, second.file):
        raise ValueError(
            f"These identities cannot be joined: one was encoded by {first.file} ({first.encoder}), the other by "
            f"{second.file} ({second.encoder}). Encode all photos with the same Load Face Encoder."
        )
    return FaceId(
        first.encoder,
        first.file,
        torch.cat((first.features, second.features)),
        torch.cat((first.crops, second.crops)),
    )
