"""The crop around one face, its masks and guides: where they lie, to the pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from likeness.faces.types import Faces
from likeness.inpaint.canny import canny
from likeness.inpaint.crop import Window, box_area, cut, dilate, in_crop, put, resize, window_around
from likeness.inpaint.fact_crop import below_eyes, canny_without_face, cut_control, inpaint_mask, prepare, without_face
from likeness.tests.support.face_at import face_at, faces_in, noise
from PIL import Image


def prepared(picture, *found, index=0, share=0.7, size=128, face_mask=None, donor=None):
    return prepare(faces_in(picture, *found), index, share, size, face_mask, donor)


def blob(height, width, x, y, sigma) -> torch.Tensor:
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))[..., None].expand(-1, -1, 3)


def centroid(picture) -> np.ndarray:
    weight = picture.sum(dim=-1).double().numpy()
    return np.array(
        [(weight.sum(axis=0) @ np.arange(weight.shape[1])), (weight.sum(axis=1) @ np.arange(len(weight)))]
    ) / (weight.sum())


@pytest.fixture(scope="module")
def astronaut(root):
    return np.array(Image.open(root / "workflows" / "assets" / "astronaut.png"))


def pictures_for_canny(astronaut):
    drawn = np.random.default_rng(0)
    yield astronaut
    yield astronaut[..., 1].copy()
    yield drawn.integers(0, 256, (301, 203, 3), dtype=np.uint8)
    yield drawn.integers(0, 60, (97, 128), dtype=np.uint8)
    yield np.kron(drawn.integers(0, 3, (20, 20, 3)), np.ones((7, 7, 1))).astype(np.uint8) * 100  # ties everywhere
    yield np.zeros((16, 16, 3), dtype=np.uint8)
    yield astronaut[:1].copy()
    yield astronaut[:, :1].copy()


def test_canny_is_opencv_s(astronaut):
    cv2 = pytest.importorskip("cv2")
    for picture in pictures_for_canny(astronaut):
        for low, high in ((100, 200), (20, 50), (0, 10)):
            expected = cv2.Canny(picture, low, high) > 0
            assert np.array_equal(canny(picture, low, high), expected), (picture.shape, low, high)


def test_the_face_has_its_share_of_the_crop_and_is_in_its_middle():
    for face in (face_at(200, 150), face_at(-3, 7, 0.3), face_at(50.3, 60.9, 2.7)):
        x0, y0, x1, y1 = face.box
        for share in (0.3, 0.7, 1.0):
            left, top, side = window_around(face.box, share)
            assert all(isinstance(number, int) for number in (left, top, side))
            assert abs(side * share - (max(x1 - x0, y1 - y0) + 1)) <= share / 2
            assert (
                abs(left + (side - 1) / 2 - (x0 + x1) / 2) <= 0.5 and abs(top + (side - 1) / 2 - (y0 + y1) / 2) <= 0.5
            )


@settings(deadline=None)
@given(
    height=st.integers(2, 40), width=st.integers(2, 40), left=st.integers(-60, 60), top=st.integers(-60, 60),
    side=st.integers(1, 50),
)  # fmt: skip
def test_cut_and_put_are_exact(height, width, left, top, side):
    picture, window = noise(height, width, 3), Window(left, top, side)
    patch = cut(picture, window)
    for y in range(side):
        for x in (0, side // 2, side - 1):
            row, column = min(max(top + y, 0), height - 1), min(max(left + x, 0), width - 1)
            assert torch.equal(patch[y, x], picture[row, column])
    assert torch.equal(put(picture, patch, torch.ones(side, side), window), picture)
    inside = np.zeros((height, width), dtype=bool)
    inside[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
    changed = put(picture, patch + 1, torch.ones(side, side), window) != picture
    assert np.array_equal(changed.all(dim=-1).numpy(), inside) and np.array_equal(changed.any(dim=-1).numpy(), inside)


@pytest.mark.parametrize("side, size", [(64, 64), (40, 128), (51, 128), (128, 50), (201, 64)])
def test_a_point_is_where_the_mapping_says(side, size):
    window, at = Window(-7, 11, side), np.array([[20.0, 35.0]])
    picture = blob(side + 30, side + 30, *at[0], sigma=3 * max(1, side / size))
    found = centroid(resize(cut(picture, window), size))
    assert np.abs(found - in_crop(at, window, size)[0]).max() < 0.5 * size / side


def test_masks_and_their_dilations():
    area = np.zeros((300, 300), dtype=bool)
    area[100:200, 100:200] = True  # so that parts of the root of the area are per cent
    assert [dilate(area, part).any(axis=0).sum() for part in (0.0, 0.04, 0.05, 0.1)] == [100, 103, 104, 109]
    below = np.arange(300)[:, None] >= np.full(300, 150)
    nowhere, everywhere = np.zeros_like(area), np.ones_like(area)
    assert np.array_equal(inpaint_mask(area, below, nowhere), dilate(area, 0.04))
    wide = inpaint_mask(area, below, everywhere)
    assert np.array_equal(wide[:150], dilate(area, 0.04)[:150]) and np.array_equal(wide[150:], dilate(area, 0.1)[150:])
    donor = np.zeros_like(area)
    donor[:, :150] = True
    half = inpaint_mask(area, below, donor)
    assert np.array_equal(half[150:, :150], wide[150:, :150]) and np.array_equal(
        half[150:, 150:], dilate(area, 0.04)[150:, 150:]
    )


@pytest.mark.parametrize("roll", [0, 30, -75, 180])
def test_below_the_eyes_is_where_the_mouth_is(roll):
    face = face_at(100, 100, roll=roll)
    window = window_around(face.box, 0.5)
    below = below_eyes(face, window, 256)
    eyes, mouth = face.points[:2].mean(axis=0), face.points[3:].mean(axis=0)
    for at, expected in ((mouth, True), (eyes + 0.1 * (mouth - eyes), True), (eyes - 0.1 * (mouth - eyes), False)):
        column, row = np.rint(in_crop(at[None], window, 256)[0]).astype(int)
        assert below[row, column] == expected


def test_the_mask_covers_the_face_and_keeps_to_it():
    face = face_at(100, 110)
    for dense in (None, np.concatenate([face.points, face.points.mean(axis=0) + [[0, 60], [-50, 10], [50, 10]]])):
        one, _ = prepared(noise(220, 200, 3), replace(face, landmarks=dense), size=256)
        mask = one.masks[0].bool().numpy()
        eyes, mouth = face.points[:2].mean(axis=0), face.points[3:].mean(axis=0)
        forehead = eyes - 0.5 * (mouth - eyes)  # where none of the landmarks is
        for x, y in np.rint(in_crop(np.array([*face.points, forehead]), one.windows[0], 256)).astype(int):
            assert mask[y, x]
        assert 0.5 < mask.any(axis=0).mean() < 0.9 and 0.5 < mask.any(axis=1).mean() < 0.9 and not mask[0].any()
        assert np.array_equal(mask, dilate(one.areas[0], 0.04))


def test_other_faces_are_black_and_not_painted_over():
    picture = noise(150, 300, 3) * 0.5 + 0.5
    left, right = face_at(90, 75), face_at(170, 75)
    one, _ = prepared(picture, left, right, index=0, share=0.4)
    x0, *_ = in_crop(np.array([right.box[:2]]), one.windows[0], 128)[0]
    black = (one.images[0] == 0).all(dim=-1).numpy()
    assert np.array_equal(black, one.others[0]) and black.any()
    assert not black[:, : int(x0)].any() and not (one.masks[0].bool().numpy() & black).any()
    alone, _ = prepared(picture, left, share=0.4)
    assert torch.equal(one.images[0][~torch.from_numpy(black)], alone.images[0][~torch.from_numpy(black)])


def test_a_face_that_hides_another_in_part_is_whole():
    picture, near, behind = noise(150, 300, 3) * 0.5 + 0.5, face_at(90, 75), face_at(128, 75)
    one, _ = prepared(picture, near, behind, share=0.4, size=256)
    black = (one.images[0] == 0).all(dim=-1).numpy()
    own = box_area(near.box, one.windows[0], 256)
    assert not (black & own).any() and (black & box_area(behind.box, one.windows[0], 256)).any()
    assert not (black & one.areas[0]).any() and not (black & one.masks[0].bool().numpy()).any()
    alone, _ = prepared(picture, near, share=0.4, size=256)
    assert (black & alone.areas[0]).any(), "the face would reach into it"


def test_the_index_counts_from_the_left_or_is_the_persons_number():
    picture = noise(100, 300, 3)
    found = face_at(50, 50, 0.5), face_at(150, 50, 0.5), face_at(250, 50, 0.5)
    assert [prepared(picture, *found, index=i)[0].faces[0] for i in range(3)] == list(found)
    followed = [replace(face, number=number) for face, number in zip(found, (0, 3, 7))]
    assert prepared(picture, *followed, index=3)[0].faces[0] is followed[1]
    with pytest.raises(
        ValueError, match=r"Picture 1 of 1 has no face 3, only \[0, 1, 2\]: change index, or set choose"
    ):
        prepared(picture, *found, index=3)
    with pytest.raises(ValueError, match="has no face 0, only none at all"):
        prepared(picture)


def test_a_batch_is_cut_picture_by_picture():
    pictures = noise(2, 120, 140, 3)
    found = ((face_at(60, 60),), (face_at(90, 50, 0.5), face_at(30, 40, 0.3)))
    both, _ = prepare(Faces(pictures, found), 0, 0.7, 64, None, None)
    assert both.images.shape == (2, 64, 64, 3) and both.masks.shape == (2, 64, 64)
    for i in range(2):
        one, _ = prepared(pictures[i], *found[i], size=64)
        assert torch.equal(one.images[0], both.images[i]) and torch.equal(one.masks[0], both.masks[i])


def test_a_mask_of_ones_own():
    picture, face = noise(120, 140, 3), face_at(60, 60)
    drawn = torch.zeros(1, 120, 140)
    drawn[0, 50:80, 40:70] = 1
    one, _ = prepared(picture, face, face_mask=drawn)
    rows, columns = np.nonzero(one.areas[0])
    corners = in_crop(np.array([[40, 50], [69, 79]]), one.windows[0], 128)
    assert np.abs(np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]]) - corners).max() <= 1
    assert torch.equal(prepared(picture, face, face_mask=drawn[0])[0].masks, one.masks)
    with pytest.raises(ValueError, match="face_mask is 100 x 90 pixels, the picture with the faces is 140 x 120"):
        prepared(picture, face, face_mask=torch.ones(1, 90, 100))
    with pytest.raises(ValueError, match="face_mask holds 2 pictures for 1"):
        prepared(picture, face, face_mask=torch.ones(2, 120, 140))
    with pytest.raises(ValueError, match="nothing to paint over: the mask of face 0 in picture 1 of 1 is empty"):
        prepared(picture, face, face_mask=torch.zeros(1, 120, 140))


def test_edges_without_the_face(astronaut):
    cv2 = pytest.importorskip("cv2")
    picture = torch.from_numpy(astronaut).float() / 255
    face = face_at(224, 135, 1.0)
    one, _ = prepared(picture, face, face_at(300, 150, 0.5), size=256, share=0.4)
    edges = canny_without_face(one)[0]
    assert edges.shape == (256, 256, 3) and set(edges.unique().tolist()) == {0.0, 1.0}
    drawn = edges[..., 0].bool().numpy()
    erased = dilate(one.areas[0], 0.05) & below_eyes(face, one.windows[0], 256)
    near_black = cv2.dilate(one.others[0].astype(np.uint8), np.ones((5, 5))) > 0
    expected = cv2.Canny((one.images[0] * 255).round().byte().numpy(), 100, 200) > 0
    assert np.array_equal(drawn, expected & ~erased & ~near_black)
    assert (expected & erased).any() and (expected & near_black).any() and (drawn & one.areas[0]).any()


def test_maps_of_the_whole_picture_are_cut_alike():
    picture, face = noise(320, 240, 3), face_at(20, 160)
    one, _ = prepared(picture, face, share=0.5)
    control = cut_control(one, picture[None])
    left, _, side = one.windows[0]
    outside = int(np.ceil((-left + 2) * 128 / side)), int((-left - 3) * 128 / side)
    assert (control[0, :, : outside[1]] == 0).all(), "black where there is no picture"
    assert torch.allclose(control[0, :, outside[0] :], one.images[0, :, outside[0] :], atol=1e-6)
    faceless = without_face(one, control)
    erased = (faceless == 0).all(dim=-1)[0].numpy() & (control != 0).any(dim=-1)[0].numpy()
    grown = dilate(one.areas[0], 7.01 / np.sqrt(one.areas[0].sum()))
    assert np.array_equal(erased, grown & (control != 0).any(dim=-1)[0].numpy())
    assert cut_control(one, None).shape == one.images.shape and not cut_control(one, None).any()
    with pytest.raises(ValueError, match="control_image is 64 x 64 pixels"):
        cut_control(one, torch.zeros(1, 64, 64, 3))


def test_the_donors_face_is_laid_on_the_five_points():
    face, other = face_at(100, 100, 1.0, roll=10), face_at(60, 70, 0.8, roll=-25)
    dots = sum(blob(150, 130, *point, sigma=2.5) for point in other.points)
    donor = faces_in(dots.clamp(0, 1), other)
    one, composite = prepared(torch.zeros(200, 200, 3), face, size=256, donor=donor)
    for x, y in in_crop(face.points, one.windows[0], 256):
        patch = composite[0, round(y) - 6 : round(y) + 7, round(x) - 6 : round(x) + 7]
        assert np.abs(centroid(patch) - [6 + x - round(x), 6 + y - round(y)]).max() < 1.5
    without, plain = prepared(torch.zeros(200, 200, 3), face, size=256)
    assert torch.equal(plain, without.images) and torch.equal(one.masks, without.masks), "the same outline"


def test_a_donors_wider_jaw_widens_the_mask():
    face = face_at(100, 100, roll=10)
    picture, jaw = noise(200, 200, 3), face.points.mean(axis=0) + [[-60, 30], [60, 30], [-60, -30], [60, -30]]
    donor = replace(face, landmarks=np.concatenate([face.points, jaw]))
    one, _ = prepared(picture, face, size=256, donor=faces_in(picture, donor))
    without, _ = prepared(picture, face, size=256)
    more = (one.masks[0] > without.masks[0]).numpy()
    assert more.any() and not (one.masks < without.masks).any()
    assert not (more & ~below_eyes(face, one.windows[0], 256)).any() and not (more & ~dilate(one.areas[0], 0.1)).any()


def test_what_lies_half_a_face_beyond_the_donors_is_not_shown():
    face = other = face_at(100, 100)
    white = torch.ones(200, 200, 3)
    one, composite = prepared(torch.zeros(200, 200, 3), face, share=0.4, size=256, donor=faces_in(white, other))
    columns = (composite[0] > 0).all(dim=-1).any(dim=0).sum().item()
    width = other.box[2] - other.box[0]
    assert abs(columns - 1.5 * width * 256 / one.windows[0].side) <= 2


@pytest.mark.parametrize("found", [((),), ((face_at(9, 9, 0.1),),) * 3])
def test_a_donor_that_does_not_fit(found):
    with pytest.raises(ValueError, match="donor must hold one picture with a face, or 2"):
        prepare(
            Faces(noise(2, 60, 60, 3), ((face_at(30, 30, 0.3),),) * 2), 0, 0.7, 64, None,
            Faces(noise(len(found), 50, 50, 3), found),
        )  # fmt: skip
