"""From photos to what the UNet receives: crops, masks, latents, and the host's own nine channels."""

import dataclasses

import comfy.model_management
import comfy.sample
import comfy.sd
import numpy as np
import pytest
import torch
from likeness.adapters.facea import REGIONS
from likeness.faces.types import Faces
from likeness.inpaint.refine import CropStyle
from likeness.tests.support import tiny, tiny_facea
from likeness.tests.support.face_at import face_at, noise
from likeness.training import facea, inpainting
from likeness.training.inpainting import Photos, cut_photos

import nodes

STYLE = CropStyle(face_share=0.5, size=64)


@pytest.fixture(scope="module")
def checkpoint(base):
    """Model, CLIP and VAE of the built-in inpainting checkpoint."""
    path = base / "models" / "checkpoints" / "likeness_builtin_sd15_inpaint.ckpt"
    return comfy.sd.load_checkpoint_guess_config(str(path))[:3]


def photo(x=100.0, y=110.0, scale=1.0, seed=0, size=(220, 200)) -> Faces:
    return Faces(noise(*size, 3, seed=seed)[None], ((face_at(x, y, scale),),))


def test_every_photo_gives_a_square_crop_and_a_mask_for_each_part():
    photos = cut_photos([photo(), photo(60, 70, 0.5, seed=1, size=(150, 120))], REGIONS, STYLE)
    assert photos.crops.shape == (2, 64, 64, 3) and list(photos.masks) == list(REGIONS)
    for mask in photos.masks.values():
        assert mask.shape == (2, 64, 64) and set(mask.unique().tolist()) == {0.0, 1.0}
        assert (mask[0] - mask[1]).abs().mean() < 0.04, "faces of all sizes come out alike"
    centres = {region: torch.nonzero(mask[0]).float().mean(dim=0) for region, mask in photos.masks.items()}
    assert centres["left eye"][1] > centres["face"][1] > centres["right eye"][1], "the subject's left is left"
    assert centres["mouth"][0] > centres["nose"][0] > centres["left eye"][0]
    inside = [(photos.masks[region][0] * (1 - photos.masks["face"][0])).sum() for region in REGIONS[1:]]
    assert max(inside) == 0


def test_boxes_hulls_and_growth():
    box, hull, grown = (
        cut_photos([photo()], ("mouth",), CropStyle(0.5, 256, *style)).masks["mouth"][0]
        for style in (("box", 0), ("hull", 0), ("box", 6))
    )
    rows, columns = np.nonzero(box.numpy())
    inside = box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (inside == 0).sum() <= 4, "but for the corners, which resizing rounds"
    assert hull.sum() < box.sum()
    wide = np.nonzero(grown.numpy())[1]
    assert columns.min() - wide.min() == pytest.approx(6, abs=2)


def test_masks_of_the_users_own():
    given = torch.zeros(2, 220, 200)
    given[0, 80:90, 90:120] = given[1, 100:130, 70:80] = 1
    faces = Faces(noise(2, 220, 200, 3), ((face_at(100, 110),), (face_at(100, 110),)))
    photos = cut_photos([faces], ("face", "nose"), STYLE, {"nose": given})
    expected = cut_photos([faces], ("face", "nose"), STYLE)
    assert torch.equal(photos.masks["face"], expected.masks["face"])
    wide, tall = (np.ptp(np.nonzero(mask.numpy()), axis=1) for mask in photos.masks["nose"])
    assert wide[1] > wide[0] and tall[0] > tall[1]


def test_what_does_not_serve_is_named():
    nobody = Faces(noise(1, 220, 200, 3), ((),))
    with pytest.raises(ValueError, match="Photo 2 of 3 has no face, but one is needed"):
        cut_photos([photo(), nobody, photo()], REGIONS, STYLE)
    two = Faces(noise(1, 220, 200, 3), ((face_at(50, 60, 0.5), face_at(150, 60, 0.5)),))
    with pytest.raises(ValueError, match="Photo 1 of 1 has 2 faces, but one"):
        cut_photos([two], REGIONS, STYLE)
    with pytest.raises(ValueError, match="no photo to learn from"):
        cut_photos([], REGIONS, STYLE)
    with pytest.raises(ValueError, match="mask for the nose in photo 1 of 1 is empty. Leave"):
        cut_photos([photo()], ("nose",), STYLE, {"nose": torch.zeros(1, 220, 200)})
    with pytest.raises(ValueError, match="2 of 200 x 220 pixels, but there are 2 photos of 200 x 220 and 300 x 300"):
        cut_photos([photo(), photo(size=(300, 300))], ("nose",), STYLE, {"nose": torch.ones(2, 220, 200)})


def test_the_digest_sees_pictures_and_masks():
    photos = cut_photos([photo()], REGIONS, STYLE)
    moved = Photos(photos.crops, {**photos.masks, "nose": 1 - photos.masks["nose"]})
    others = [photos, moved, Photos(photos.crops + 1e-3, photos.masks), cut_photos([photo()], REGIONS, STYLE)]
    digests = [each.digest() for each in others]
    assert digests[0] == digests[3] and len(set(digests)) == 3


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="UNet has 9 input channels; the connected SD15 has 4. Load an inpainting"):
        inpainting.check_inpainting(tiny.model())
    inpainting.check_inpainting(tiny.model(in_channels=9))


@torch.inference_mode()
@pytest.mark.slow
def test_with_everything_masked_the_masked_latent_is_that_of_grey(checkpoint):
    model, _, vae = checkpoint
    crops = noise(2, 64, 64, 3)
    data = inpainting.encode(model, vae, Photos(crops, {"face": torch.ones(2, 64, 64)}))
    grey = model.model.process_latent_in(vae.encode(torch.full((2, 64, 64, 3), 0.5)))
    assert torch.equal(data.conditions["face"][:, 1:], grey) and (data.conditions["face"][:, 0] == 1).all()
    assert torch.equal(data.latents, model.model.process_latent_in(vae.encode(crops)))


@torch.inference_mode()
def test_a_mask_that_the_latents_cannot_show_is_refused(checkpoint):
    model, _, vae = checkpoint
    speck = torch.zeros(1, 64, 64)
    speck[0, 8, 8] = 1
    with pytest.raises(ValueError, match="stands for 8 x 8 pixels.* mask_expand to 4, so that the nose"):
        inpainting.encode(model, vae, Photos(noise(1, 64, 64, 3), {"nose": speck}))


@torch.inference_mode()
@pytest.mark.slow
def test_the_training_input_is_what_the_host_feeds_its_unet(checkpoint):
    """The same crop and mask through InpaintModelConditioning and KSampler, tensor for tensor."""
    model, clip, vae = checkpoint
    mask = torch.zeros(1, 64, 64)
    mask[0, 16:48, 8:40] = 1
    mask[0, 20:23, 50:61] = 1  # not on the latents' grid
    crop = noise(1, 64, 64, 3)
    prompt = clip.encode_from_tokens_scheduled(clip.tokenize("a man face"))
    positive, _, latent = nodes.InpaintModelConditioning().encode(prompt, prompt, crop, vae, mask, noise_mask=False)
    eps = comfy.sample.prepare_noise(latent["samples"], seed=5)
    with tiny_facea.unet_inputs(model.model) as seen:
        nodes.common_ksampler(model, 5, 4, 1.0, "euler", "simple", positive, positive, latent, denoise=0.6)
        data = inpainting.encode(model, vae, Photos(crop, {"face": mask}))
        x, t, context = seen[0]
        sigma = model.model.model_sampling.sigmas[t.long()]
        z_t = facea.add_noise(model.model, data.latents, sigma, eps)
        facea.eps_theta(model.model, z_t, sigma, data.conditions["face"], prompt[0][0])
    ours = seen[-1]
    assert x.shape == (1, 9, 8, 8) and torch.equal(ours[0][:, 4:], x[:, 4:]), "mask and masked latent"
    assert torch.equal(ours[0][:, :4], x[:, :4]), "the noisy latent"
    assert torch.equal(ours[1], t) and torch.equal(ours[2], context)


def test_photos_of_two_people_are_remarked_upon():
    from likeness.nodes import facea_train

    same = tiny.face_id(3)
    one, other = torch.eye(2)
    mixed = dataclasses.replace(same, embedding=torch.stack((one, one, other)))
    alike = dataclasses.replace(same, embedding=one.repeat(3, 1))
    assert facea_train.list_doubts(3, alike) == []
    (remark,) = facea_train.list_doubts(3, mixed)
    assert remark.startswith("1 of 3 photos agree with the others by less than 0.5")
    assert "Only one photo" in facea_train.list_doubts(1, None)[0]
