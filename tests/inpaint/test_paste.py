"""Pasting a face crop back: what nobody painted stays to the last bit, what was painted lands where it should."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from likeness.faces.types import Faces
from likeness.inpaint.crop import in_crop, resize
from likeness.inpaint.fact_crop import prepare
from likeness.inpaint.paste import BLENDS, paste
from likeness.tests.support.face_at import face_at, faces_in, noise
from scipy import ndimage


def pasted(crop, image, round_trip=None, picture=None, mask=None, blend="mask", feather=8, colour_match=True):
    return paste(crop, image, round_trip, picture, mask, blend, feather, colour_match)


def cropped(picture, *found, index=0, share=0.7, size=64):
    return prepare(faces_in(picture, *found), index, share, size, None, None)[0]


def smooth(*shape, seed=0) -> torch.Tensor:
    """Pictures [h, w, 3] as photos are: without noise from pixel to pixel."""
    return torch.from_numpy(ndimage.gaussian_filter(noise(*shape, 3, seed=seed).numpy(), (5, 5, 0))) * 4 - 1.5


def under(crop, i=0) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel of the picture the row and column of the crop's pixel under its centre; -1 where there is none."""
    left, top, side = crop.windows[i]
    height, width = crop.pictures.shape[1:3]
    found = []
    for start, length in ((top, height), (left, width)):
        at = np.floor((np.arange(length) - start + 0.5) * crop.size / side).astype(int)
        found.append(np.where((at >= 0) & (at < crop.size), at, -1))
    return tuple(np.meshgrid(*found, indexing="ij"))


def is_masked(crop, mask=None) -> np.ndarray:
    rows, columns = under(crop)
    mask = (crop.masks[0] if mask is None else mask).numpy() > 0
    return (rows >= 0) & (columns >= 0) & mask[rows, columns]


somewhere = st.floats(-120, 200, allow_nan=False)
a_face = st.builds(face_at, somewhere, somewhere, st.floats(0.03, 1.5), st.floats(-180, 180))
settings_of_paste = st.fixed_dictionaries(
    {"blend": st.sampled_from(BLENDS), "feather": st.integers(0, 30), "colour_match": st.booleans()}
)


@settings(deadline=None, max_examples=150)
@given(
    height=st.integers(2, 90), width=st.integers(2, 90), found=st.lists(a_face, min_size=1, max_size=3),
    share=st.floats(0.3, 1), size=st.sampled_from([8, 40, 64, 104]), how=settings_of_paste, returned=st.booleans(),
    own_mask=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
def test_crop_then_paste_unchanged_is_the_identity(height, width, found, share, size, how, returned, own_mask, seed):
    picture = noise(height, width, 3, seed=seed)
    try:
        crop = cropped(picture, *found, share=share, size=size)
    except ValueError as error:  # a face of which nothing is left beside the others
        assert "nothing to paint over" in str(error)
        return
    mask = noise(1, size, size, seed=seed + 1) if own_mask else None
    back = pasted(crop, crop.images.clone(), crop.images.clone() if returned else None, mask=mask, **how)
    assert torch.equal(back[0], picture)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(20, 90), width=st.integers(20, 90), face=a_face, share=st.floats(0.3, 1),
    size=st.sampled_from([8, 40, 64]), feather=st.integers(0, 12), seed=st.integers(0, 9),
)  # fmt: skip
def test_what_is_not_masked_stays(height, width, face, share, size, feather, seed):
    picture = noise(height, width, 3, seed=seed)
    crop = cropped(picture, face, share=share, size=size)
    back = pasted(crop, noise(1, size, size, 3, seed=seed + 1), feather=feather)[0]
    changed = (back != picture).any(dim=-1).numpy()
    assert not (changed & ~is_masked(crop)).any()
    if feather == 0 and is_masked(crop).sum() > 30:
        assert changed[is_masked(crop)].mean() > 0.9


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(
    "at, scale", [((100, 90), 0.5), ((100, 90), 1.3), ((0, 40), 0.8), ((199, 149), 1.0), ((90, 0), 2.0)]
)
def test_outside_the_crop_nothing_changes(blend, at, scale):
    picture = noise(150, 200, 3)
    crop = cropped(picture, face_at(*at, scale))
    back = pasted(crop, 1 - crop.images, blend=blend)[0]
    rows, columns = under(crop)
    outside = (rows < 0) | (columns < 0)
    assert torch.equal(back[outside], picture[outside]) and not torch.equal(back, picture)


@pytest.mark.parametrize("scale", [0.3, 0.59, 1.0, 2.3])
@pytest.mark.parametrize("at", [(110.0, 120.0), (87.3, 131.9)])
def test_a_marker_lands_where_it_was_painted(scale, at):
    picture = torch.full((260, 240, 3), 0.5)
    crop = cropped(picture, face_at(*at, scale), size=128)
    side = crop.windows[0].side
    for x, y in ((64, 64), (40, 80), (81.5, 52.25)):
        rows, columns = torch.arange(128)[:, None], torch.arange(128)
        spot = torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * (3 * max(1, 128 / side)) ** 2)) * 0.4
        back = pasted(crop, crop.images + spot[..., None], mask=torch.ones(1, 128, 128), feather=0)[0]
        weight = (back - picture)[..., 0].double().numpy()
        found = np.array([weight.sum(axis=0) @ np.arange(240), weight.sum(axis=1) @ np.arange(260)]) / weight.sum()
        left, top, _ = crop.windows[0]
        expected = (np.array([x, y]) + 0.5) * side / 128 - 0.5 + [left, top]
        assert np.abs(found - expected).max() < 0.1
        assert np.abs(in_crop(found[None], crop.windows[0], 128)[0] - [x, y]).max() < 0.1 * max(1, 128 / side)


def test_several_faces_in_any_order():
    picture = noise(120, 420, 3)
    found = [face_at(x, 60, 0.7, roll) for x, roll in ((70, 0), (210, 20), (350, -15))]
    crops = [cropped(picture, *found, index=i, size=96) for i in range(3)]
    results = [noise(1, 96, 96, 3, seed=i) for i in range(3)]
    ends = []
    for order in permutations(range(3)):
        whole = picture[None]
        for i in order:
            whole = pasted(crops[i], results[i], picture=whole)
        ends.append(whole)
    assert all(torch.equal(ends[0], end) for end in ends[1:])
    assert all((ends[0][0, 60, x] != picture[60, x]).all() for x in (70, 210, 350))


def test_detail_lost_in_resizing_does_not_come_back_as_a_ghost():
    picture = noise(400, 400, 3)
    crop = cropped(picture, face_at(200, 200, 3.0), size=64)
    back = pasted(crop, torch.full((1, 64, 64, 3), 0.25), feather=0, colour_match=False)[0]
    deep = ndimage.binary_erosion(is_masked(crop), iterations=16)
    assert deep.any() and (back[deep] - 0.25).abs().max() < 1e-3


def test_beside_a_change_the_picture_keeps_its_own_detail():
    picture = noise(400, 400, 3)
    crop = cropped(picture, face_at(200, 200, 3.0), size=64)
    image = crop.images.clone()
    image[0, 30:34, 30:34] = 0
    back = pasted(crop, image, feather=0, colour_match=False)[0]
    rows, columns = under(crop)
    away = (rows < 30 - 4) | (rows > 33 + 4) | (columns < 30 - 4) | (columns > 33 + 4)
    assert torch.equal(back[away], picture[away])
    changed = (rows == 31) & (columns == 31)
    assert (back[changed] < 1e-3).all()


@pytest.mark.parametrize("scale", [0.2, 0.7, 3.0])
def test_a_change_is_seen_as_far_as_resizing_spreads_it(scale):
    picture = torch.full((400, 400, 3), 0.5)
    crop = cropped(picture, face_at(200, 200, scale), size=64)
    image = crop.images.clone()
    image[0, 30, 33] = 1
    (left, top, side), everything = crop.windows[0], torch.ones(1, 64, 64)
    back = pasted(crop, image, mask=everything, feather=0, colour_match=False)[0]
    assert (back[top : top + side, left : left + side] - resize(image[0], side)).abs().max() < 1e-6


def test_the_feather_rises_inwards():
    picture = torch.zeros(128, 128, 3)
    crop = cropped(picture, face_at(64, 64), size=128)
    mask = torch.zeros(1, 128, 128)
    mask[0, 32:96, 32:96] = 1
    sharp, soft = (
        pasted(crop, torch.ones(1, 128, 128, 3), mask=mask, feather=feather, colour_match=False)[0, ..., 0]
        for feather in (0, 9)
    )
    masked = is_masked(crop, mask[0])
    assert (
        (sharp[ndimage.binary_erosion(masked)] > 0.95).all() and sharp[~masked].max() == 0 and soft[~masked].max() == 0
    )
    row = soft[64][masked[64]]
    assert (row[:8].diff() > 0).all() and 0 < row[0] < 0.2 and row[len(row) // 2] > 0.999


def test_the_tone_of_the_vae_is_taken_back():
    picture = smooth(300, 300) * 0.4 + 0.3
    crop = cropped(picture, face_at(150, 150, 1.2), size=128)
    mask = crop.masks[0, ..., None]
    shift = torch.tensor([0.06, -0.03, 0.02])
    painted = crop.images + shift + 0.1 * mask
    for blend in BLENDS:
        on, off = (pasted(crop, painted, blend=blend, feather=0, colour_match=match)[0] for match in (True, False))
        middle = on[140:160, 140:160] - picture[140:160, 140:160], off[140:160, 140:160] - picture[140:160, 140:160]
        assert (middle[0].mean(dim=(0, 1)) - 0.1).abs().max() < 2e-3
        assert (middle[1].mean(dim=(0, 1)) - 0.1 - shift).abs().max() < 2e-3


def test_details_the_vae_lost_are_returned_outside_the_mask():
    picture = noise(150, 150, 3) * 0.6 + 0.2
    crop = cropped(picture, face_at(75, 75, 1.0), size=128)
    blurred = torch.from_numpy(ndimage.gaussian_filter(crop.images.numpy(), (0, 1, 1, 0))) + 0.02
    mask = crop.masks[0, ..., None]
    painted = blurred * (1 - mask) + mask * 0.9
    (back,) = pasted(crop, painted, blurred, blend="whole crop")
    far = ~ndimage.binary_dilation(is_masked(crop), np.ones((11, 11)))
    box = crop.faces[0].box
    assert torch.equal(back[far], picture[far]) and far.sum() > 5000
    assert (back[75, 75] - 0.88).abs().max() < 5e-3, "within the mask the tone goes back by what the ring shows"
    (lost,) = pasted(crop, painted, blend="whole crop", colour_match=False)
    inside = far & (np.arange(150) > box[0]) & (np.arange(150) < box[2])
    assert (lost[inside] - picture[inside]).abs().mean() > 0.02


def test_the_whole_crop_has_a_soft_border_but_not_at_the_pictures_end():
    picture = torch.zeros(300, 400, 3)
    crop = cropped(picture, face_at(200, 127, 2.0), size=128)
    left, top, side = crop.windows[0]
    (back,) = pasted(crop, torch.ones(1, 128, 128, 3), blend="whole crop", colour_match=False)
    assert -3 <= top <= 0 and (back[0, left + 40 : left + side - 40] > 0.9999).all()
    row = back[30, left : left + side, 0]
    kernel = int(10 * side / 256) | 1
    assert row[0] == 0 and 0 < row[kernel] < 1 and row[2 * kernel] > 0.9999
    assert (row[: 2 * kernel].diff() >= 0).all() and torch.allclose(row, row.flip(0), atol=1e-6)
    assert back[:, :left].max() == 0


def test_the_whole_crop_leaves_nothing_of_the_old_face():
    crop = cropped(torch.zeros(200, 200, 3), face_at(100, 100), share=1.0, size=128)
    (back,) = pasted(crop, torch.ones(1, 128, 128, 3), blend="whole crop", colour_match=False)
    x0, y0, x1, y1 = (round(edge) for edge in crop.faces[0].box)
    assert (back[y0 + 1 : y1, x0 + 1 : x1] > 0.9999).all()


def test_other_faces_stay_as_they_are():
    picture = noise(150, 300, 3)
    left, right = face_at(90, 75), face_at(165, 75)
    crop = cropped(picture, left, right, share=0.4, size=128)
    others = crop.others[0]
    rows, columns = under(crop)
    theirs = (rows >= 0) & (columns >= 0) & others[rows, columns]
    assert theirs.sum() > 1000
    for blend in BLENDS:
        (back,) = pasted(crop, noise(1, 128, 128, 3), blend=blend)
        assert torch.equal(back[theirs], picture[theirs])


def test_a_batch_and_one_for_all():
    pictures = noise(2, 90, 100, 3)
    crop, _ = prepare(Faces(pictures, ((face_at(50, 50, 0.5),), (face_at(40, 30, 0.4),))), 0, 0.7, 48, None, None)
    images = noise(2, 48, 48, 3)
    both = pasted(crop, images)
    for i in range(2):
        alone = prepare(faces_in(pictures[i], *crop.faces[i : i + 1]), 0, 0.7, 48, None, None)[0]
        assert torch.equal(pasted(alone, images[i : i + 1])[0], both[i])
    several = pasted(alone, noise(3, 48, 48, 3))
    assert several.shape == (3, 90, 100, 3) and not torch.equal(several[0], several[1])
    with pytest.raises(ValueError, match="There are 2 results to paste, but image holds 3: give one"):
        pasted(crop, noise(3, 48, 48, 3))


def test_an_empty_mask_pastes_nothing_and_no_ring_is_no_tone():
    picture = noise(90, 100, 3)
    crop = cropped(picture, face_at(50, 50, 0.5))
    assert torch.equal(pasted(crop, noise(1, 64, 64, 3), mask=torch.zeros(1, 64, 64))[0], picture)
    full = pasted(crop, torch.ones(1, 64, 64, 3), mask=torch.ones(64, 64), feather=0)[0]
    assert full[50, 50].min() == 1


@pytest.mark.parametrize(
    "given, message",
    [
        ({"image": noise(1, 64, 72, 3)}, "image is 72 x 64 pixels, but has to be 64 x 64: .* Prepare Face Crop"),
        ({"round_trip": noise(1, 32, 32, 3)}, "round_trip is 32 x 32 pixels, but has to be 64 x 64"),
        ({"mask": torch.ones(1, 90, 100)}, "mask is 100 x 90 pixels, but has to be 64 x 64"),
        ({"picture": noise(1, 64, 64, 3)}, "picture is 64 x 64 pixels, but has to be 100 x 90: .* cut from"),
        ({"image": noise(1, 64, 64, 3) * torch.nan}, "holds NaN or infinite pixels"),
        ({"picture": noise(2, 90, 100, 3), "mask": torch.ones(3, 64, 64)}, "picture holds 2: give one"),
    ],
)
def test_inputs_that_do_not_fit(given, message):
    crop = cropped(noise(90, 100, 3), face_at(50, 50, 0.5))
    with pytest.raises(ValueError, match=message):
        pasted(crop, **{"image": crop.images} | given)


def test_grey_pictures_with_alpha_and_other_dtypes():
    picture = noise(90, 100, 3)
    crop = cropped(picture, face_at(50, 50, 0.5))
    grey = pasted(crop, torch.full((1, 64, 64, 1), 0.5, dtype=torch.float64))
    with_alpha = pasted(
        crop,
        torch.full((1, 64, 64, 4), 0.5, dtype=torch.float16),
        picture=torch.cat([picture, picture], -1)[None, ..., :4],
    )
    assert torch.equal(grey, with_alpha) and grey.dtype == torch.float32
