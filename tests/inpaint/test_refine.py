"""Crops of faces to refine: what may change in the picture, to the pixel, and who paints it."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from likeness.faces.choose import left_to_right, whole_image
from likeness.faces.types import Faces
from likeness.inpaint.paint import FacePerson, assign, check_people
from likeness.inpaint.paste import paste
from likeness.inpaint.refine import EVERY_FACE, CropStyle, grey_out, refine_crops, separate
from likeness.tests.support.face_at import face_at, faces_in, noise

ALL = (EVERY_FACE,)
SMALL = CropStyle(0.5, 64, "box", 6)


def crops(image, *layout, mask=None, wanted=ALL, style=SMALL):
    return refine_crops(image[None], faces_in(image, *layout), mask, wanted, style)


def invert(crop, feather=0):
    """The pictures with every face inverted."""
    return paste(crop, 1 - crop.images, None, None, None, "mask", feather, False)


def change(crop, **options) -> np.ndarray:
    return (invert(crop, **options) != crop.originals).any(dim=-1).numpy()


def test_the_mask_is_the_face_with_room_around_it():
    image, face = noise(200, 260, 3), face_at(130, 100)
    for size in (64, 256):
        tight, _ = crops(image, face, style=CropStyle(0.5, size, "box", 0))
        wide, _ = crops(image, face, style=CropStyle(0.5, size, "box", size // 16))
        widths = [crop.masks[0].amax(dim=0).sum().item() for crop in (tight, wide)]
        assert tight.images.shape == (1, size, size, 3) and abs(widths[1] - widths[0] - size / 8) <= size / 32
        assert tight.windows[0].side == pytest.approx((max(np.subtract(face.box[2:], face.box[:2])) + 1) * 2, abs=1)
    box = crops(image, face, style=CropStyle(0.5, 64, "box", 0))[0].masks[0]
    hull = crops(image, face, style=CropStyle(0.5, 64, "hull", 0))[0].masks[0]
    assert (hull <= box).all() and hull.sum() < 0.85 * box.sum() and box.sum() == box.any(0).sum() * box.any(1).sum()


somewhere = st.floats(-60, 160, allow_nan=False)
a_face = st.builds(face_at, somewhere, somewhere, st.floats(0.02, 1.2), st.floats(-180, 180))


@settings(deadline=None, max_examples=80)
@given(
    height=st.integers(2, 110), width=st.integers(2, 110), layout=st.lists(a_face, min_size=1, max_size=4),
    style=st.builds(CropStyle, st.floats(0.1, 1), st.sampled_from([16, 40, 96]), st.sampled_from(["hull", "box"]),
                    st.integers(0, 8)),
    feather=st.integers(0, 12), masked=st.booleans(),
)  # fmt: skip
def test_only_what_is_masked_changes_whatever_faces_there_are(height, width, layout, style, feather, masked):
    image = noise(height, width, 3)
    layout = left_to_right(tuple(face for face in layout if face.box[2] > face.box[0]))
    mask = (noise(1, height, width, seed=1) > 0.4).float() if masked else None
    try:
        crop, numbers = crops(image, *layout, mask=mask, style=style)
    except ValueError as error:
        assert "nothing to paint" in str(error)
        return
    held = np.zeros((height, width), int)
    for window, limit in zip(crop.windows, crop.limits):
        rows, columns = np.nonzero(limit.numpy())
        rows, columns = rows + window.top, columns + window.left
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        held[rows[inside], columns[inside]] += 1
    assert held.max() <= 1, "no pixel belongs to two faces"
    assert not (change(crop, feather=feather)[0] & (held == 0)).any()
    if masked:
        assert not (held > 0)[mask[0].numpy() == 0].any()
    assert torch.equal(paste(crop, crop.images, None, None, None, "mask", feather, True), image[None])


def test_faces_are_painted_alone_or_together_in_any_order():
    image = noise(160, 300, 3)
    layout = face_at(80, 80), face_at(130, 90, 0.9), face_at(250, 70, 0.5)  # the first two overlap
    together, numbers = crops(image, *layout)
    assert numbers == (0, 1, 2)
    expected = invert(together)
    alone = [crops(image, *layout, wanted=(i,))[0] for i in range(3)]
    for i, crop in enumerate(alone):
        assert torch.equal(crop.images[0], together.images[i]) and torch.equal(crop.masks[0], together.masks[i])
    for order in permutations(alone):
        pasted = image[None]
        for crop in order:
            pasted = paste(crop, 1 - crop.images, None, pasted, None, "mask", 0, False)
        assert torch.equal(pasted, expected)
    assert all((invert(crop) != image).any() for crop in alone)


def test_what_two_faces_share_is_the_nearer_one_s():
    near, far, everywhere = face_at(30, 50, 0.5), face_at(70, 50, 0.5), torch.ones(100, 100, dtype=torch.bool)
    left, right = separate([everywhere, everywhere], [near, far])
    assert (left ^ right).all() and left[:, :50].all() and right[:, 51:].all()
    small = separate([everywhere, everywhere], [near, face_at(70, 50, 0.25)])[1]
    assert small.sum() < right.sum() and small[50, 70], "near is measured in the face's own size"
    assert torch.equal(separate([left, everywhere], [near, far])[1], right)


def test_a_mask_of_one_s_own_counts_exactly():
    image, mask = noise(160, 300, 3), torch.zeros(160, 300)
    mask[40:61, 70:99], mask[100, 240] = 1, 1
    crop, numbers = crops(image, face_at(80, 80), face_at(250, 90, 0.5), mask=mask, style=CropStyle(0.5, 256))
    assert numbers == (0, 1) and np.array_equal(change(crop)[0], mask.bool().numpy())
    crop, numbers = crops(image, face_at(80, 80), face_at(250, 30, 0.2), mask=mask, style=CropStyle(0.5, 256))
    assert numbers == (0,), "the mask holds nothing of the second"


def test_a_speck_of_a_mask_is_not_lost_where_the_crop_shrinks_it():
    image, mask = noise(400, 400, 3), torch.zeros(400, 400)
    mask[200, 190] = 1
    crop, _ = crops(image, face_at(200, 200, 3), mask=mask)
    assert crop.windows[0].side > 8 * crop.size and crop.masks.sum() >= 1
    assert np.array_equal(np.argwhere(change(crop)[0]), [[200, 190]])


def test_a_mask_without_faces_is_one_position():
    images, mask = noise(3, 120, 140, 3), torch.zeros(3, 120, 140)
    mask[0, 20:50, 30:60], mask[0, 70:80, 100:110], mask[2, 5, 139] = 1, 1, 1
    crop, numbers = refine_crops(images, None, mask, ALL, CropStyle(0.8, 128))
    assert crop.owners == (0, 2) and numbers == (0, 0)
    assert np.array_equal(change(crop), mask.bool().numpy())
    assert crop.windows[0] == (20, 0, 100) and torch.equal(invert(crop)[1], images[1])


def test_images_without_a_face_stay_as_they_are():
    images = noise(3, 90, 100, 3)
    layout = ((whole_image((90, 100)),), (face_at(50, 50, 0.4), replace(face_at(80, 40, 0.3))), ())
    crop, numbers = refine_crops(images, Faces(images, layout), None, ALL, SMALL)
    assert (
        crop.owners == (1, 1) and numbers == (0, 1) and change(crop).any(axis=(1, 2)).tolist() == [False, True, False]
    )
    with pytest.raises(ValueError, match="There is nothing to paint: no face was found in any picture"):
        refine_crops(images, Faces(images, (layout[0], (), ())), None, ALL, SMALL)


def test_skipped_images_are_in_their_places_again_and_stay_as_they_are():
    images = noise(3, 90, 100, 3)
    one = (face_at(50, 50, 0.4),)
    for skipped, layout in (((1,), (one, one)), ((0, 2), (one,)), ((2,), (one, one))):
        rest = [i for i in range(3) if i not in skipped]
        faces = Faces(images[rest], layout, skipped=skipped)
        crop, _ = refine_crops(images, faces, None, ALL, SMALL)
        assert [bool(changed.any()) for changed in change(crop)] == [i in rest for i in range(3)]
        crop, _ = refine_crops(images[rest], faces, None, ALL, SMALL)
        assert len(crop.originals) == len(rest) and change(crop).any(axis=(1, 2)).all()
    with pytest.raises(ValueError, match="in 2 pictures of 100 x 90, but image holds 3 of 100 x 80"):
        refine_crops(images[:, :80], faces, None, ALL, SMALL)


def test_pictures_without_a_face_can_pass_through():
    images, empty = noise(2, 90, 100, 3), torch.zeros(1, 90, 100)
    nobody, one = Faces(images, ((), ())), Faces(images, ((), (face_at(50, 50, 0.4),)))
    for faces, mask in ((nobody, None), (None, empty), (one, empty)):
        crop, numbers = refine_crops(images, faces, mask, (0,), SMALL, none_is_well=True)
        assert numbers == () and torch.equal(crop.originals, images)
        assert crop.images.shape == (0, 64, 64, 3) and crop.masks.shape == (0, 64, 64)
    assert refine_crops(images, one, None, (0, 3), SMALL, none_is_well=True)[1] == (0,), "who is not there is left out"


def test_the_index_is_the_position_or_the_person_s_number_in_a_video():
    images = noise(2, 90, 200, 3)
    followed = tuple(replace(face_at(x, 45, 0.3), number=n) for x, n in ((40, 4), (150, 2)))
    crop, numbers = refine_crops(images, Faces(images, (followed, followed[:1])), None, (2,), SMALL)
    assert crop.owners == (0,) and numbers == (2,) and crop.faces[0] is followed[1]
    with pytest.raises(
        ValueError, match=r"There is no face 3 in any picture, only \[2, 4\]: change index, or set choose"
    ):
        refine_crops(images, Faces(images, (followed, followed)), None, (3, EVERY_FACE), SMALL)


@pytest.mark.parametrize("side", [3, 8])
def test_tiny_faces(side):
    image, face = noise(70, 80, 3), face_at(40, 35, side / 90)
    crop, _ = crops(image, face, style=CropStyle(0.5, 512, "hull", 12))
    assert crop.images.shape == (1, 512, 512, 3) and crop.masks[0].mean() > 0.1
    assert 1 <= change(crop).sum() <= 2 * side * side


def test_an_inpainting_model_sees_grey_where_it_paints():
    images = noise(2, 8, 8, 3)
    mask = torch.zeros(2, 8, 8)
    mask[1, 2:4, 2:4] = 1
    shown = grey_out(images, mask)
    assert torch.equal(shown[0], images[0] - 0.5 + 0.5) and (shown[1, 2:4, 2:4] == 0.5).all()


@pytest.mark.parametrize(
    "image, faces, mask, message",
    [
        ((1, 60, 60, 3), None, None, "Nothing says what to paint: connect faces .*, mask, or both"),
        ((1, 60, 60, 3), None, torch.zeros(1, 60, 60), "nothing to paint: mask is empty"),
        ((1, 60, 60, 3), None, torch.ones(1, 60, 64), "mask is 64 x 60 pixels, the picture is 60 x 60"),
        ((1, 60, 60, 3), None, torch.ones(2, 60, 60), "mask holds 2 masks for 1 pictures"),
        (
            (2, 60, 60, 3),
            (1, 60, 60, 3),
            None,
            "faces were found in 1 pictures of 60 x 60, but image holds 2 of 60 x 60",
        ),
        ((1, 60, 70, 3), (1, 60, 60, 3), None, "in 1 pictures of 60 x 60, but image holds 1 of 70 x 60"),
        ((1, 60, 60, 3), (1, 60, 60, 3), torch.eye(60)[None, :, :] * 0, "mask is empty"),
    ],
)
def test_bad_input_is_one_sentence(image, faces, mask, message):
    faces = faces and Faces(torch.zeros(faces), ((face_at(30, 30, 0.3),),) * faces[0])
    with pytest.raises(ValueError, match=message):
        refine_crops(torch.zeros(image), faces, mask, ALL, SMALL)


def test_a_mask_beside_the_faces_says_so():
    mask = torch.zeros(1, 90, 300)
    mask[0, 10, 290] = 1
    with pytest.raises(ValueError, match="nothing to paint: the mask holds nothing of any face"):
        crops(noise(90, 300, 3), face_at(40, 45, 0.3), mask=mask)


def test_a_batch_with_two_none_and_five_faces():
    """Two people by likeness: each once where it is, nobody where there is no face, everybody else as before."""
    images = torch.stack([noise(120, 300, 3)] * 3)
    rows = [[face_at(60 * i + 20, 50, 0.4) for i in range(count)] for count in (2, 0, 5)]
    faces = Faces(images, tuple(map(tuple, rows)))
    crop, numbers = refine_crops(images, faces, None, ALL, SMALL)
    assert crop.owners == (0, 0, 2, 2, 2, 2, 2) and numbers == (0, 1, 0, 1, 2, 3, 4)
    likeness = {"anna": [0.2, 0.8, 0.1, 0.1, 0.9, 0.5, 0.1], "berta": [0.7, 0.1, 0.1, 0.1, 0.6, 0.1, 0.1]}
    anna, berta = (
        FacePerson(None, [], [], EVERY_FACE, lambda found, cosines=cosines: cosines, 0.4)
        for cosines in likeness.values()
    )
    owners = assign(crop, numbers, (anna, berta))
    assert owners == [berta, anna, None, None, anna, None, None]
    painted = crop.select([i for i, owner in enumerate(owners) if owner])
    changed = (invert(painted) != images).any(dim=-1)
    assert not changed[1].any() and changed[0].any() and changed[2, :, 130:170].any()
    assert not changed[2, :, :110].any() and not changed[2, :, 190:].any()


def person(number):
    return FacePerson(None, [], [], number)


def test_who_a_face_becomes():
    second, rest, first = people = person(1), person(EVERY_FACE), person(0)
    assert assign(None, (0, 1, 2, 1), people) == [first, second, rest, second]
    assert assign(None, (1, 2), (second,)) == [second, None]
    check_people(people)
    with pytest.raises(ValueError, match="2 people are to become face 1: give each person its own index"):
        check_people((second, rest, person(1)))
    with pytest.raises(ValueError, match="2 people are to become every face"):
        check_people((rest, person(EVERY_FACE)))
