"""Photos of a face as an inpainting model is trained on them: everything that does not change from step to step.

The UNet's input is put together as the host's sampler puts it together behind InpaintModelConditioning, by the
host's own functions, so that the UNet sees in training what it will see when it paints.
"""

import hashlib
from dataclasses import dataclass

import comfy.latent_formats
import torch

from ..faces.types import Face, Faces
from ..inpaint.crop import cut, resize, window_around
from ..inpaint.paint import check_size
from ..inpaint.refine import CropStyle, area_in_crop, grey_out, outline


def input_channels(latents: type[comfy.latent_formats.LatentFormat]) -> int:
    """Return how many channels an inpainting UNet takes: a noisy latent, a mask, the latent of the masked image."""
    return 2 * latents.latent_channels + 1


CHANNELS = input_channels(comfy.latent_formats.SD15)
_LATENTS = [comfy.latent_formats.SD15]
_LEAVE = "Leave this photo out or, in a graph, connect a mask of your own."


def register_latents(latents: type[comfy.latent_formats.LatentFormat]) -> None:
    """Let FaceA learn with models of these latents too."""
    if latents not in _LATENTS:
        _LATENTS.append(latents)


@dataclass(frozen=True, eq=False)
class Photos:
    """n photos of one person, cut out square.

    crops: [n, S, S, 3] in 0..1. masks: region -> [n, S, S], 1 where the model is to paint and 0 elsewhere.
    """

    crops: torch.Tensor
    masks: dict[str, torch.Tensor]

    def digest(self) -> str:
        """Return 64 hex digits that stand for pictures and masks."""
        digest = hashlib.sha256(str(tuple(self.crops.shape)).encode())
        for region, mask in self.masks.items():
            digest.update(region.encode() + mask.to(torch.uint8).cpu().numpy().tobytes())
        digest.update(self.crops.float().cpu().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Inpainting:
    """What the UNet is trained on, as it receives it.

    latents: [n, c, h, w]. conditions: region -> [n, 1 + c, h, w], mask and latent of the picture without what is
    masked.
    """

    latents: torch.Tensor
    conditions: dict[str, torch.Tensor]


def cut_photos(
    detected: list[Faces],
    regions: tuple[str, ...],
    style: CropStyle,
    given: dict[str, torch.Tensor] | None = None,
) -> Photos:
    """Return one face of every photo in a square crop, with a mask for each of `regions`.

    found: photos with one face each; entries may differ in size. given: masks of the photos [n, H, W] for some of the
    regions, where all photos are of one size; the others come from the face's landmarks.
    Raises ValueError, naming the photo, where there is no face or more than one, or a mask is empty or does not fit.
    """
    photos = [(faces, i) for faces in detected for i in range(len(faces.images))]
    shown = _one_face([faces.per_image[i] for faces, i in photos])
    given = {region: _fitting(mask, photos, region) for region, mask in (given or {}).items()}
    crops, masks = [], {region: [] for region in regions}
    for number, (face, (faces, i)) in enumerate(zip(shown, photos)):
        window = window_around(face.box, style.face_share)
        crops.append(resize(cut(faces.images[i], window), style.size))
        for region in regions:
            mask = given[region][number] if region in given else outline(faces.images[i], face, region, style)
            masks[region].append(area_in_crop(mask, window, style.size).float())
    cut_out = Photos(torch.stack(crops), {region: torch.stack(tensor) for region, tensor in masks.items()})
    for region, mask in cut_out.masks.items():
        _check_masks(mask, region)
    return cut_out


def encode(model, vae, photos: Photos) -> Inpainting:
    """Return the photos as the host's `model`, a model patcher of an inpainting UNet, receives them. On the CPU.

    Raises ValueError where the model is none that inpaints, the crops do not divide into latents, or a mask is too
    small to be seen in these.
    """
    check_inpainting(model)
    check_size(photos.crops.shape[1], vae)
    latents = model.model.process_latent_in(vae.encode(photos.crops))
    conditions = {}
    cell = vae.spacial_compression_encode()
    for region, mask in photos.masks.items():
        conditions[region] = condition(model, vae, photos.crops, mask, latents)
        where = f" at the size of the latents, each of which stands for {cell} x {cell} pixels of the crop"
        remedy = (
            f"Set size or face_share higher, or mask_expand to {cell // 2}, so that the {region} fills one. {_LEAVE}"
        )
        _check_masks(conditions[region][:, 0], region, where, remedy)
    return Inpainting(latents.cpu(), {region: tensor.cpu() for region, tensor in conditions.items()})


def condition(model, vae, images: torch.Tensor, masks: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Return mask and masked latent [n, 1 + c, h, w] for images [n, S, S, 3] and masks [n, S, S], 1 where it is to
    paint.
    """
    return model.model.concat_cond(
        noise=latents,
        device=latents.device,
        concat_latent_image=vae.encode(grey_out(images, masks)),
        concat_mask=masks[:, None],
    )


def check_inpainting(model) -> None:
    """Raise ValueError unless `model` is a UNet that inpaints, of SD 1.x, 2.x or latents that were registered."""
    latents = model.model.latent_format
    channels = model.model.model_config.unet_config.get("in_channels")
    known = isinstance(latents, tuple(_LATENTS))
    if not known or channels != input_channels(type(latents)):
        raise ValueError(
            f"FaceA learns with an SD 1.x or 2.x inpainting model, whose UNet has {CHANNELS} input channels; the "
            f"connected {type(model.model.model_config).__name__} has {channels}. Load an inpainting checkpoint, such "
            "as sd-v1-5-inpainting.ckpt; in Load Miniature set task to inpainting."
        )


def _one_face(detected: list[tuple[Face, ...]]) -> list[Face]:
    """Return the face of every photo; stand-ins for faces that were not found, which have no score, are none."""
    if not detected:
        raise ValueError("There is no photo to learn from: connect Detect Faces.")
    detected = [[face for face in faces if face.score > 0] for faces in detected]
    for number, faces in enumerate(detected, 1):
        if len(faces) != 1:
            raise ValueError(
                f"Photo {number} of {len(detected)} has {len(faces) or 'no'} face{'s' * (len(faces) > 1)}, but one is "
                "needed: leave this photo out, or change choose and the detector in Detect Faces."
            )
    return [face for (face,) in detected]


def _fitting(mask: torch.Tensor, photos: list[tuple[Faces, int]], region: str) -> torch.Tensor:
    mask = mask.reshape(-1, *mask.shape[-2:])
    sizes = {tuple(faces.images.shape[1:3]) for faces, _ in photos}
    if len(mask) != len(photos) or sizes != {tuple(mask.shape[1:])}:
        height, width = mask.shape[1:]
        raise ValueError(
            f"The masks for the {region} are {len(mask)} of {width} x {height} pixels, but there are {len(photos)} "
            f"photos of {' and '.join(f'{w} x {h}' for h, w in sorted(sizes))}: give one mask of its size per photo."
        )
    return mask


def _check_masks(masks: torch.Tensor, region: str, where: str = "", remedy: str = _LEAVE) -> None:
    for number, mask in enumerate(masks, 1):
        if not (mask > 0).any():
            raise ValueError(f"The mask for the {region} in photo {number} of {len(masks)} is empty{where}. {remedy}")
