"""Refining faces with the host's own models and samplers: what it is made of, what changes, who paints whom."""

import comfy.sd
import comfy.utils
import latent_preview
import pytest
import torch
from likeness.adapters.facea_prompt import apply, encode_prompt
from likeness.faces.types import Faces
from likeness.inpaint.crop import resize
from likeness.inpaint.paint import FacePerson, SamplerSettings, assign, paint
from likeness.inpaint.paste import paste
from likeness.inpaint.refine import EVERY_FACE, CropStyle, refine_crops
from likeness.tests.support.face_at import face_at, faces_in, noise
from likeness.tests.support.facea_identity import drawn_identity
from scipy import ndimage

import nodes

pytestmark = pytest.mark.slow

SAMPLING = SamplerSettings(seed=3, steps=2, cfg=3.0, sampler_name="ddim", scheduler="normal", denoise=1.0)
STYLE = CropStyle(0.5, 64, "box", 4)
LAYOUT = face_at(60, 70, 0.5), face_at(150, 60, 0.4)


@pytest.fixture(scope="module")
def checkpoint(base):
    """model, clip and vae of the small inpainting checkpoint."""
    path = base / "models" / "checkpoints" / "likeness_builtin_sd15_inpaint.ckpt"
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(str(path), embedding_directory=None)[:3]


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    smooth = ndimage.gaussian_filter(noise(130, 210, 3).numpy(), (4, 4, 0))
    return torch.from_numpy(smooth).sub(0.5).mul(3).add(0.5).clamp(0, 1)[None]


@pytest.fixture(scope="module")
def people(checkpoint):
    """Two people with a LoRA and prompts of their own."""
    model, clip, _ = checkpoint

    def person(number, seed):
        identity = drawn_identity(model, seed=seed)
        patched, remark = apply(model, identity, 1.0)
        assert remark is None
        return FacePerson(patched, *encode_prompt(clip, identity, f"a woman face {seed}", "", False), number)

    with torch.inference_mode():
        return person(0, 1), person(1, 2)


@torch.inference_mode()
def paint_faces(photo, people, vae, wanted=None, mask=None, layout=LAYOUT, **sampling):
    faces = layout and faces_in(photo[0], *layout)
    wanted = tuple(person.number for person in people) if wanted is None else wanted
    crop, numbers = refine_crops(photo, faces, mask, wanted, STYLE)
    return crop, paint(crop, assign(crop, numbers, people), vae, SAMPLING._replace(**sampling))


def refine(photo, people, vae, feather=0, colour_match=False, **options):
    crop, faces = paint_faces(photo, people, vae, **options)
    return crop, paste(crop, faces, None, None, None, "mask", feather, colour_match)


def outside(crop) -> torch.Tensor:
    held = torch.ones(crop.originals.shape[:3], dtype=torch.bool)
    for i, window, limit in zip(crop.owners, crop.windows, crop.limits):
        rows, columns = torch.nonzero(limit, as_tuple=True)
        held[i, rows + window.top, columns + window.left] = False
    return held


def test_without_sampling_the_mask_holds_the_vae_s_round_trip(checkpoint, people, photo):
    """A mask 32 wide fills half of a crop 64 wide, so nothing is resized and all is exact."""
    _, _, vae = checkpoint
    mask = torch.zeros(1, *photo.shape[1:3])
    mask[0, 50:82, 60:92] = 1
    person = (FacePerson(people[0].model, people[0].positive, people[0].negative, EVERY_FACE),)
    crop, result = refine(photo, person, vae, mask=mask, layout=None, denoise=0.0)
    assert crop.windows[0] == (44, 34, 64) and torch.equal(outside(crop), mask == 0)
    with torch.inference_mode():
        round_trip = vae.decode(vae.encode(crop.images))[0]
    assert torch.equal(result[0, 50:82, 60:92], round_trip[16:48, 16:48].float())
    assert torch.equal(result[mask == 0], photo[mask == 0])


def test_without_sampling_resized_faces_hold_the_round_trip_too(checkpoint, people, photo):
    """But for the rim, where a resized pixel is made of painted and unpainted ones."""
    _, _, vae = checkpoint
    crop, result = refine(photo, people, vae, denoise=0.0)
    assert torch.equal(result[outside(crop)], photo[outside(crop)]) and len(crop.windows) == 2
    for image, window, limit in zip(crop.images, crop.windows, crop.limits):
        with torch.inference_mode():
            decoded = resize(vae.decode(vae.encode(image[None]))[0], window.side)
        inner = torch.from_numpy(ndimage.binary_erosion(limit.numpy(), iterations=6))
        there = result[0, window.top : window.top + window.side, window.left : window.left + window.side]
        assert inner.sum() > 300 and torch.allclose(there[inner], decoded[inner], atol=1e-6)


def test_one_face_is_what_the_stock_nodes_paint(checkpoint, people, photo):
    """InpaintModelConditioning and KSampler, tensor for tensor, with the same crop."""
    _, _, vae = checkpoint
    crop, ours = paint_faces(photo, people[:1], vae)
    first = people[0]
    with torch.inference_mode():
        positive, negative, latent = nodes.InpaintModelConditioning().encode(
            first.positive, first.negative, crop.images, vae, crop.masks
        )
        (samples,) = nodes.common_ksampler(
            first.model, 3, 2, 3.0, "ddim", "normal", positive, negative, latent, denoise=1.0
        )
        assert torch.equal(vae.decode(samples["samples"]), ours)


def test_each_face_is_painted_with_its_own_model_and_prompt(checkpoint, people, photo):
    _, _, vae = checkpoint
    calls = []

    def watch(person):
        model = person.model.clone()

        def note(apply_model, arguments):
            unet = apply_model.__self__.diffusion_model
            weight = unet.input_blocks[1][1].transformer_blocks[0].attn1.to_q.weight.clone()
            calls.append((person.number, weight, arguments["c"]["c_crossattn"], arguments["c"]["c_concat"]))
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

        model.set_model_unet_function_wrapper(note)
        return FacePerson(model, person.positive, person.negative, person.number)

    crop, _ = paint_faces(photo, tuple(map(watch, people)), vae)
    assert [number for number, *_ in calls] == [0, 0, 1, 1], "two steps each"
    weights = [weight for _, weight, *_ in calls]
    assert torch.equal(weights[0], weights[1]) and not torch.allclose(weights[0], weights[2], atol=1e-3)
    for number, _, text, concat in calls:
        prompts = [people[number].negative[0][0], people[number].positive[0][0]]
        assert sorted(prompt.shape[1] for prompt in prompts) == [462, 462]
        for prompt in prompts:
            assert any(torch.equal(row, prompt[0]) for row in text)
        small = torch.nn.functional.interpolate(crop.masks[number][None, None], (8, 8), mode="bilinear")[0, 0].round()
        assert torch.equal(concat[0, 0], small)
    others = people[1].positive[0][0]
    assert not any(torch.equal(row, others[0]) for row in calls[0][2])


def by_likeness(model, cosines, min_likeness=0.4):
    """A person whose likeness to the faces, image by image from the left, is given."""
    return FacePerson(model, None, None, EVERY_FACE, lambda faces: torch.tensor(cosines), min_likeness)


def test_people_are_found_by_likeness(photo):
    """The likest pairs first, each person once in an image, nobody below the threshold; numbers go before likeness."""
    pictures = torch.cat((photo, photo))
    faces = faces_in(photo[0], *LAYOUT)
    faces = Faces(pictures, faces.per_image * 2)
    crop, numbers = refine_crops(pictures, faces, None, (EVERY_FACE,), STYLE)
    assert numbers == (0, 1, 0, 1)
    anna, berta = by_likeness("a", [0.6, 0.7, 0.5, 0.3]), by_likeness("b", [0.5, 0.9, 0.2, 0.39])
    assert assign(crop, numbers, (anna, berta)) == [anna, berta, anna, None]
    rest = FacePerson("rest", None, None, EVERY_FACE)
    assert assign(crop, numbers, (anna, berta, rest)) == [anna, berta, anna, rest]
    named = FacePerson("second", None, None, 1)
    assert assign(crop, numbers, (anna, berta, named)) == [anna, named, anna, named]
    with pytest.raises(ValueError, match="the same person, equally like every face: keep one of them, or choose"):
        assign(crop, numbers, (anna, by_likeness("c", [0.6, 0.7, 0.5, 0.3])))
    some = crop.select([1, 2])
    assert some.owners == (0, 1) and torch.equal(some.images, crop.images[1:3])
    assert list(map(len, some.found.per_image)) == [1, 1] and crop.select([]).images.shape == (0, 64, 64, 3)


def test_the_order_of_people_and_who_else_is_painted_change_nothing(checkpoint, people, photo):
    _, _, vae = checkpoint
    crop, both = refine(photo, people, vae, feather=3, colour_match=True)
    assert torch.equal(refine(photo, people[::-1], vae, feather=3, colour_match=True)[1], both)
    alone = [refine(photo, (person,), vae, feather=3, colour_match=True) for person in people]
    one_by_one = torch.where((alone[0][1] != photo).any(dim=-1, keepdim=True), alone[0][1], alone[1][1])
    assert torch.equal(one_by_one, both)
    assert torch.equal(both[outside(crop)], photo[outside(crop)]) and not any(torch.equal(r, both) for _, r in alone)
    everybody = FacePerson(people[0].model, people[0].positive, people[0].negative, EVERY_FACE)
    assert torch.equal(refine(photo, (everybody, people[1]), vae, feather=3, colour_match=True)[1], both)


def test_every_step_of_every_face_is_shown(checkpoint, people, photo):
    """Through the host's own progress bar, with the host's own previews."""
    _, _, vae = checkpoint
    calls = []
    hook = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, **_: calls.append((value, total, preview)))
    latent_preview.set_preview_method("latent2rgb")
    try:
        paint_faces(photo, people, vae)
    finally:
        comfy.utils.set_progress_bar_global_hook(hook)
        latent_preview.set_preview_method("default")
    shown = [(value, total) for value, total, preview in calls if preview is not None]
    assert shown == [(1, 2), (2, 2)] * 2


def test_a_batch_is_painted_image_by_image_with_the_seed_s_noises(checkpoint, people, photo):
    _, _, vae = checkpoint
    pair = torch.cat([photo, photo.flip(-1)])
    everybody = FacePerson(people[0].model, people[0].positive, people[0].negative, EVERY_FACE)
    mask = torch.zeros(1, *photo.shape[1:3])
    mask[0, 40:90, 50:90] = 1
    crop, both = paint_faces(pair, (everybody,), vae, wanted=(EVERY_FACE,), mask=mask, layout=None)
    assert crop.owners == (0, 1)
    _, first = paint_faces(photo, (everybody,), vae, wanted=(EVERY_FACE,), mask=mask, layout=None)
    assert torch.equal(both[:1], first)
    _, same = paint_faces(torch.cat([photo, photo]), (everybody,), vae, wanted=(EVERY_FACE,), mask=mask, layout=None)
    assert torch.equal(same[:1], first) and not torch.equal(same[1:], first), "another noise"


def test_a_model_that_does_not_inpaint_works_and_is_mentioned(base, people, photo):
    path = base / "models" / "checkpoints" / "likeness_builtin_sd15.ckpt"
    with torch.inference_mode():
        model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(str(path), embedding_directory=None)
        identity = drawn_identity(model)
        patched, remark = apply(model, identity, 1.0)
        assert remark.startswith("The connected model is not an inpainting model")
        person = FacePerson(patched, *encode_prompt(clip, identity, "a woman face", "", True), EVERY_FACE)
        crop, result = refine(photo, (person,), vae, wanted=(EVERY_FACE,))
    assert torch.equal(result[outside(crop)], photo[outside(crop)]) and not torch.equal(result, photo)


def test_an_identity_of_another_base_is_a_remark(checkpoint):
    model, *_ = checkpoint
    identity = drawn_identity(model)
    other = type(identity)(**{**vars(identity), "base": "0" * 64, "base_name": "trained.safetensors"})
    _, remark = apply(model, other, 1.0)
    assert "trained on trained.safetensors, but the connected model" in remark and "\n" not in remark
