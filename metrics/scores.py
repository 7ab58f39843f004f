"""Identity and text scores of a batch of images, by the user's recogniser and CLIP (docs/papers.md 7)."""

from dataclasses import replace

import comfy.sd
import comfy.sd1_clip
import torch
from torch.nn.functional import cosine_similarity

from ..encoders.face_encoder import FaceEncoder
from ..encoders.identity import FaceId
from ..faces.headmask import head_masks
from ..faces.types import Faces
from .crops import fit_shorter_side, from_bytes, to_bytes

_BATCH = 16  # images at once


def harmonic_mean(*scores: torch.Tensor) -> torch.Tensor:
    """Return n / (1/s_1 + ... + 1/s_n) of scores clamped at 0 from below: Identity x Text (docs/papers.md 7.3).

    scores: one or more of one shape, a number for each image; the paper takes three of identity and three of text,
    and prints the mean over images. 0 where one is 0.
    """
    clamped = torch.stack(scores).clamp(min=0).abs()  # -0 stays itself in clamp, and would have the reciprocal -inf
    return len(scores) / clamped.reciprocal().sum(dim=0)


def geometric_mean(*scores: torch.Tensor) -> torch.Tensor:
    """Return (s_1 ... s_n)^(1/n) of scores clamped and given as to `harmonic_mean` (docs/papers.md 7.3)."""
    return torch.stack(scores).clamp(min=0).log().mean(dim=0).exp()


def face_scores(encoder: FaceEncoder, faces: Faces, face_id: FaceId) -> torch.Tensor:
    """Return for every face, image by image, its cosine [n] to the person: the mean over the person's photos.

    The crops are made as the person's were. Raises ValueError where `encoder` is not the one that read the person.
    """
    if (encoder.kind, encoder.sha256) != (face_id.encoder, face_id.sha256):
        raise ValueError(
            f"The identity was encoded by {face_id.file} ({face_id.encoder}), but {encoder.name} ({encoder.kind}) is "
            "connected: only vectors of one encoder can be compared. Connect the Load Face Encoder that read it."
        )
    if not any(faces.per_image):
        return torch.zeros(0)
    vectors = encoder.encode_faces(faces, head_masks(faces) if face_id.masked else None).embedding
    return (vectors.cpu() @ face_id.embedding.cpu().T).mean(dim=1)


def identity_scores(encoder: FaceEncoder, faces: Faces, face_id: FaceId) -> torch.Tensor:
    """Return for every image the score [n] of the face most like the person, as `face_scores`; NaN without a face."""
    return choose_person(faces, face_scores(encoder, faces, face_id))[1]


def choose_person(faces: Faces, cosines: torch.Tensor) -> tuple[Faces, torch.Tensor]:
    """Return of every image the one face most like the person, if there is one, and its cosine [n]; NaN without.

    cosines: of all faces, image by image, as `face_scores` gives them.
    """
    chosen, scores = [], []
    for present, part in zip(faces.per_image, cosines.split(list(map(len, faces.per_image)))):
        best = int(part.argmax()) if len(present) else 0
        chosen.append(present[best : best + 1])
        scores.append(part[best] if len(present) else torch.tensor(torch.nan))
    return replace(faces, per_image=tuple(chosen)), torch.stack(scores)


def text_scores(clip, clip_vision, images: torch.Tensor, text: str) -> torch.Tensor:
    """Return for every image [n, H, W, 3] the cosine [n] of CLIP's image and text embeddings: CLIP-T, 1 at most.

    Raises ValueError where text encoder and vision network are not two halves of one CLIP.
    """
    return compare_with_text(image_embeddings(clip_vision, images), text_embedding(clip, text))


def compare_with_text(vectors: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Return the cosines [n] of a CLIP's embeddings of images [n, d] and of one text [1, d]; see `text_scores`."""
    if vectors.shape[1] != words.shape[1]:
        raise ValueError(
            f"The text encoder embeds into {words.shape[1]} numbers and the vision network into {vectors.shape[1]}: "
            "they are not two halves of one CLIP. Load both of the same model, for instance clip-vit-large-patch14."
        )
    return cosine_similarity(vectors, words)


def image_embeddings(clip_vision, images: torch.Tensor) -> torch.Tensor:
    """Return the host's CLIP's projected embeddings [n, d] of images [n, H, W, 3], in float32.

    The square is cut as CLIP's authors do, in 8 bits: the host's own cut of an oblong image is off by half a pixel,
    which is 5 of 255 on average.
    """
    side = clip_vision.image_size
    squares = torch.stack([from_bytes(fit_shorter_side(to_bytes(image), side, side)) for image in images])
    parts = [clip_vision.encode_image(part).image_embeds for part in squares.split(_BATCH)]
    return torch.cat(parts).float().cpu()


def text_embedding(clip, text: str) -> torch.Tensor:
    """Return CLIP's projected embedding [1, d] of a text, of its first 77 tokens, in float32.

    Raises ValueError where the text encoder has no projection to the space it shares with images.
    """
    model = clip.cond_stage_model
    projected = not _lacks_projection(clip)
    pooled = None
    if projected:
        tokens = clip.tokenize(text)
        clip.load_model(tokens)
        model.reset_clip_options()
        model.set_clip_options({"projected_pooled": True, "execution_device": clip.patcher.load_device})
        pooled = model.encode_token_weights(tokens)[1]
    if pooled is None or not pooled.isfinite().all() or not pooled.any():
        raise ValueError(
            f"The connected CLIP ({type(model).__name__}) cannot score pictures: it has no projection to the space of "
            "pictures, which checkpoints of SD 1.x leave out. Load a whole CLIP with CLIPLoader, for instance "
            "clip-vit-large-patch14."
        )
    return pooled.float().cpu()


def _lacks_projection(clip) -> bool:
    """Return whether an SD 1.x checkpoint holds no projection; the host would compute with whatever lies in memory."""
    loader = (clip.patcher.cached_patcher_init or (None,))[0]
    is_sd1 = isinstance(clip.cond_stage_model, comfy.sd1_clip.SD1ClipModel)
    return is_sd1 and loader is comfy.sd.load_checkpoint_clip_patcher
