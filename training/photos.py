"""Real photos of people as the trainings of adapters take them: one face of each photo in a crop.

Crops are square and half as wide again as the face's box, as those of FACT's authors (docs/papers.md 2.8).
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from .. import graphics
from ..encoders.clip_vision import clip_features
from ..encoders.expression import ExpressionEncoder
from ..encoders.face_encoder import FaceEncoder
from ..faces.align import align_faces
from ..faces.choose import choose
from ..faces.detector import as_bytes, detect_faces
from ..faces.masks import MaskStyle, face_masks
from ..faces.parsing import FaceParser
from ..faces.search import FaceDetector, move_face
from ..faces.types import Face, Faces
from ..inpaint.crop import cut, in_crop, resize, window_around
from .buckets import Shape, choose_shape, place_window
from .photo_lists import PHOTO_FILES, LeftOutError, Photo, list_photos
from .portraits import Portraits, stack
from .settings import CLIP_FACES

ALIGNED = 112  # pixels a side of an aligned crop that recognisers learn from
ALIGNED_FROM = 2 * ALIGNED  # of the crop that it is cut from, where no base model says another
_CLIP_SIDE = 224  # of the aligned face that CLIP sees
_FACE_SHARE = 1 / 1.5
_ON_BLACK = ("transface",)  # encoders that were trained on heads without background


class Target(NamedTuple):
    """What a base model learns to draw of a photo: uint8 [h, w, 3], bool [h, w], the face, and `Portraits.sizes`."""

    image: torch.Tensor
    face_mask: torch.Tensor
    size: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Album:
    """n photos of people, each cut out square around its largest face.

    images: uint8 [n, S, S, 3]. people: int64 [n], numbers from 0 in the order of the folders' names.
    captions: one a picture. faces: one a picture, in pixels of the crop.
    face_masks, head_masks: bool [n, S, S], the face, and the head with its hair. sizes: int64 [n, 4], as `Portraits`
    have them. targets: one a photo with buckets, in which more of it is learned than the crop; None without.
    """

    images: torch.Tensor
    people: torch.Tensor
    captions: list[str]
    faces: tuple[Face, ...]
    face_masks: torch.Tensor
    head_masks: torch.Tensor
    sizes: torch.Tensor
    targets: tuple[Target, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: slice) -> Faces:
        """Return some of the pictures in 0..1 with their faces, as encoders take them."""
        return Faces(self.images[rows].float() / 255, tuple((face,) for face in self.faces[rows]))


class _Portrait(NamedTuple):
    """One photo cut out: uint8 [S, S, 3], its face, bool [S, S], the side in the photo, and the target if any."""

    image: torch.Tensor
    face: Face
    face_mask: torch.Tensor
    head_mask: torch.Tensor
    side: int
    target: Target | None = None


class Filters(NamedTuple):
    """What photos must be.

    min_side: pixels that the crop has in the photo. min_score: of the detector for the largest face. min_sharpness:
    variance of the crop's Laplacian in grey of 0..255; a blurred face has less than about 50. one_face: nobody else.
    """

    min_side: int = 0
    min_score: float = 0.0
    min_sharpness: float = 0.0
    one_face: bool = False


def read(
    folder: Path, detector: FaceDetector, size: int, parser: FaceParser | None = None, shapes: tuple[Shape, ...] = ()
) -> Album:
    """Return the photos below `folder`, cut out at `size` pixels a side; the parser, if any, draws the masks.

    shapes: of the targets, where there are to be some.

    What cannot be used is left out, and a warning names it: files that are no pictures, pictures without a face.
    Raises ValueError where the folder has no sub-folders, a caption is not UTF-8, or nothing is left.
    """
    files = list_photos(folder)
    for photo in files:
        photo.read_caption()
    album = read_files(
        files, detector, size, parser, lambda *why: logging.warning("%s is left out: %s.", *why), shapes=shapes
    )
    if album is None:
        raise ValueError(
            f"None of the {len(files)} pictures below {folder} shows a face to train with: put photos "
            f"({', '.join(PHOTO_FILES)}) into one sub-folder for each person, or choose another face detector."
        )
    names = {photo.person: photo.file.parent.name for photo in files}
    for number, count in Counter(album.people.tolist()).items():
        if count == 1:
            logging.warning(
                "There is only one photo of %s: training cannot pair it with another of the same person. Add photos.",
                names[number],
            )
    return replace(album, people=album.people.unique(return_inverse=True)[1])


def read_files(
    files: Sequence[Photo],
    detector: FaceDetector,
    size: int,
    parser: FaceParser | None,
    leave_out: Callable[[str, str], None],
    filters: Filters | None = None,
    shapes: tuple[Shape, ...] = (),
) -> Album | None:
    """Return photos with the numbers of their people, cut out; None where none serves.

    leave_out: called with the name of a photo that does not serve, and the reason. shapes: see `read`.
    """
    usable = []
    for photo in files:
        try:
            portrait = _cut_portrait(photo, detector, size, parser, filters or Filters(), shapes)
            usable.append((photo.person, _caption_or_leave_out(photo), portrait))
        except LeftOutError as error:
            leave_out(photo.name, str(error))
    if not usable:
        return None
    people, captions, portraits = zip(*usable)
    images, faces, face_masks, head_masks, sides, targets = zip(*portraits)
    masks = map(torch.stack, (face_masks, head_masks))
    sizes = [target.size for target in targets] if shapes else [(side, side, 0, 0) for side in sides]
    album = Album(torch.stack(images), torch.tensor(people), list(captions), faces, *masks, torch.tensor(sizes))
    return replace(album, targets=targets if shapes else None)


def add_mirrored(album: Album) -> Album:
    """Return the album with a mirrored copy of every photo behind them all."""
    size = album.images.shape[1]

    def mirror(face: Face) -> Face:
        """Return the face in the mirrored crop, where the subject's right is left."""
        points = face.points[[1, 0, 2, 4, 3]] * np.float32([-1, 1]) + np.float32([size - 1, 0])
        x0, y0, x1, y1 = face.box
        return replace(face, points=points, box=(size - 1 - x1, y0, size - 1 - x0, y1), landmarks=None, host=None)

    return Album(
        torch.cat((album.images, album.images.flip(2))),
        album.people.repeat(2),
        album.captions * 2,
        (*album.faces, *map(mirror, album.faces)),
        *(torch.cat((masks, masks.flip(2))) for masks in (album.face_masks, album.head_masks)),
        album.sizes.repeat(2, 1),
    )


def encode(
    album: Album,
    model,
    vae,
    encoders: Sequence[FaceEncoder],
    batch: int = 8,
    report: Callable[[int, int], None] | None = None,
) -> Portraits:
    """Return portraits: latents by `vae` and `model` of the host, features by the name of the encoders' kinds.

    TransFace sees heads before black, other encoders whole crops. report: called with the number of pictures that are
    done and of all. Raises ValueError where the pictures' size is no multiple of a latent's.
    """
    check_size(album.images.shape[1], vae)
    parts = []
    for start in range(0, len(album), batch):
        parts.append(_encode_rows(album, slice(start, start + batch), model, vae, encoders))
        if report:
            report(min(start + batch, len(album)), len(album))
    latents, faces, *features = (stack([row for rows in column for row in rows]) for column in zip(*parts))
    named = {encoder.kind: tensor for encoder, tensor in zip(encoders, features)}
    return Portraits(latents, album.people, album.captions, faces, named, album.sizes)


def check_size(size: int, vae) -> None:
    """Raise ValueError where pictures of `size` pixels do not divide into latents."""
    shrink = vae.spacial_compression_encode()
    if size % shrink:
        raise ValueError(
            f"Photos of {size} x {size} pixels do not divide into latents, each of which stands for {shrink} x "
            f"{shrink} of them: read the photos at {max(round(size / shrink), 1) * shrink} pixels (data.size)."
        )


@torch.no_grad()
def expressions(album: Album, encoder: ExpressionEncoder) -> torch.Tensor:
    """Return the expression of every picture's face, [n, 64] float16."""
    images = (album.select(slice(row, row + 1)) for row in range(len(album)))
    return torch.cat([encoder.encode(tensor).coefficients for tensor in images]).to("cpu", torch.float16)


@torch.no_grad()
def clip_states(album: Album, clip_vision, face: str = CLIP_FACES[0], batch: int = 8) -> torch.Tensor:
    """Return the last hidden states [n, m, d], float16, of every picture in the host's CLIP_VISION: Infinite-ID's
    (3.1).

    face: one of CLIP_FACES: what CLIP sees, the aligned face or the whole crop.
    """
    chosen = (album.select(slice(start, start + batch)) for start in range(0, len(album), batch))
    parts = (align_faces(faces, _CLIP_SIDE) if face == "aligned" else faces.images for faces in chosen)
    return torch.cat([clip_features(clip_vision, tensor, "last").features.to("cpu", torch.float16) for tensor in parts])


def align_crops(album: Album) -> torch.Tensor:
    """Return the aligned crops of all pictures, uint8 [n, ALIGNED, ALIGNED, 3], as MSID sees them (3.1): no mask."""
    return (align_faces(album.select(slice(None)), ALIGNED) * 255).round().to(torch.uint8)


@torch.no_grad()
def clip_of_nothing(clip_vision) -> torch.Tensor:
    """Return the last hidden states [m, d] of an empty picture."""
    return clip_features(clip_vision, torch.zeros(1, 8, 8, 3), "last").negative[0]


@torch.inference_mode()
def _encode_rows(album: Album, rows: slice, model, vae, encoders: Sequence[FaceEncoder]) -> list:
    """Return latents, the share of each that is face, and the features of some of the pictures: float16, on the CPU.

    All of them by rows, of which those of latents and shares may differ in shape.
    """
    faces, heads = album.select(rows), album.head_masks[rows].float()
    learned = [(faces.images, album.face_masks[rows])]
    if album.targets:
        learned = [(target.image[None].float() / 255, target.face_mask[None]) for target in album.targets[rows]]
    latents, shares, features = [], [], []
    for images, masks in learned:
        encoded = model.model.process_latent_in(vae.encode(images))
        shares.extend(interpolate(masks[:, None].float(), encoded.shape[-2:], mode="area")[:, 0].half().cpu())
        latents.extend(encoded.half().cpu())
    for encoder in encoders:
        on_black = encoder.kind in _ON_BLACK
        crops = align_faces(faces, encoder.crop_size, heads if on_black else None)
        features.append(encoder.encode(crops, on_black).features.half().cpu())
    return [latents, shares, *features]


def _caption_or_leave_out(photo: Photo) -> str:
    try:
        return photo.read_caption()
    except ValueError as error:
        raise LeftOutError("its caption is not UTF-8") from error


def _cut_portrait(
    photo: Photo,
    detector: FaceDetector,
    size: int,
    parser: FaceParser | None,
    filters: Filters,
    shapes: tuple[Shape, ...],
) -> _Portrait:
    """Return the largest face of a photo cut out; raises LeftOutError where the photo does not serve."""
    try:
        image = graphics.read_image(photo.open())
    except LeftOutError:
        raise
    except ValueError as error:
        raise LeftOutError(f"it cannot be read as a picture ({error.__cause__})") from error
    faces = detect_faces(detector, image[None]).per_image[0]
    seen = choose(faces, "largest", 0, tuple(image.shape[:2]))
    if not seen:
        raise LeftOutError("no face was found in it")
    if filters.one_face and len(faces) > 1:
        raise LeftOutError(f"{len(faces)} faces were found in it")
    if seen[0].score < filters.min_score:
        raise LeftOutError(f"the detector's score of its face is below {filters.min_score:g}")
    portrait = _cut_out(image, *seen, size, parser)
    if not portrait.face_mask.any():
        raise LeftOutError("no face was found in it")
    if portrait.side < filters.min_side:
        raise LeftOutError(f"its face is too small: the crop has less than {filters.min_side} pixels")
    if filters.min_sharpness and measure_sharpness(portrait.image) < filters.min_sharpness:
        raise LeftOutError(f"its face is blurred: the sharpness is below {filters.min_sharpness:g}")
    return portrait._replace(target=_cut_target(image, *seen, shapes, parser)) if shapes else portrait


def measure_sharpness(image: torch.Tensor) -> float:
    """Return the variance of the Laplacian of an image [h, w, 3] of 0..255 in grey."""
    grey = image.float().mean(dim=-1)
    middle, rows, columns = grey[1:-1, 1:-1], grey[:-2, 1:-1] + grey[2:, 1:-1], grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((rows + columns - 4 * middle).var())


def _cut_out(image: torch.Tensor, face: Face, size: int, parser: FaceParser | None) -> _Portrait:
    window = window_around(face.box, _FACE_SHARE)
    crop = resize(cut(image, window), size)
    there = move_face(face, lambda points: in_crop(points, window, size).astype(np.float32))
    faces = Faces(crop[None], ((there,),))
    masks = (face_masks(faces, region, MaskStyle(), parser)[0][0] > 0.5 for region in ("face", "head"))
    return _Portrait(torch.from_numpy(as_bytes(crop)), there, *masks, window.side)


def _cut_target(image: torch.Tensor, face: Face, shapes: tuple[Shape, ...], parser: FaceParser | None) -> Target:
    """Return as much of a photo as the nearest of some shapes takes, with the face and, if it fits, its crop inside."""
    photo = tuple(image.shape[:2])
    shape = choose_shape(shapes, photo)
    crop = window_around(face.box, _FACE_SHARE)
    around = crop.left, crop.top, crop.left + crop.side - 1, crop.top + crop.side - 1
    top, left, height, width = place_window(photo, shape, (around, face.box))
    scale = np.array(shape) / (height, width)
    there = move_face(face, lambda points: ((points - [left, top] + 0.5) * scale[::-1] - 0.5).astype(np.float32))
    target = resize(image[top : top + height, left : left + width], *shape)
    mask = face_masks(Faces(target[None], ((there,),)), "face", MaskStyle(), parser)[0][0] > 0.5
    cut_off = np.rint(scale * (top, left)).astype(int).tolist()
    return Target(torch.from_numpy(as_bytes(target)), mask, (*photo, *cut_off))
