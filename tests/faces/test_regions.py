"""Masks from landmarks and from five points: sides, shapes, edges, and everything faces do at a picture's border."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from likeness.faces.align import template
from likeness.faces.geometry import convex_hull, fill_convex
from likeness.faces.headmask import head_mask
from likeness.faces.masks import REGIONS, MaskStyle, describe, face_masks, join_per_image, tint
from likeness.faces.types import Face, Faces
from scipy import ndimage

SIZE = 512
LANDMARKS = json.loads((Path(__file__).parents[1] / "golden" / "astronaut_landmarks.json").read_text())
FIVE = [468, 473, 1, 61, 291]
# Spots read off the photo: inside each part, and one outside of all but the face.
SPOTS = {
    "face": [(225, 78), (225, 160), (190, 120), (262, 125)],
    "left eye": [(246, 103)],
    "right eye": [(203, 101)],
    "left brow": [(248, 94)],
    "right brow": [(203, 93)],
    "nose": [(224, 122)],
    "mouth": [(224, 145)],
}
CHEEK = (200, 122)
NO_HAIR = [region for region in REGIONS if region != "hair"]
SWAPPED = {"left eye": "right eye", "right eye": "left eye", "left brow": "right brow", "right brow": "left brow"}


def face_478(which="photo") -> Face:
    landmarks = np.float32(LANDMARKS[which])
    return face_of(landmarks[FIVE], landmarks)


def face_of(points, landmarks=None) -> Face:
    around = points if landmarks is None else landmarks
    return Face(np.float32(points), (*around.min(axis=0).tolist(), *around.max(axis=0).tolist()), 1.0, landmarks)


def face_106() -> Face:
    """InsightFace's layout from MediaPipe's points of the same photo: part by part, cheeks and chin first."""
    mesh = np.float32(LANDMARKS["photo"])
    oval = (
        "152 127 234 93 132 58 172 136 150 149 176 148 162 21 54 103 67 454 323 361 288 397 365 379 378 400 377 356 389"
    )
    groups = [
        [*map(int, oval.split()), 234, 454, 172, 397],
        [33, 7, 163, 144, 145, 153, 154, 155, 133, 159],
        [46, 53, 52, 65, 55, 70, 63, 105, 66],
        [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409],
        [168, 6, 197, 195, 5, 4, 1, 2, 98, 327, 64, 294, 48, 278, 94],
        [263, 249, 390, 373, 374, 380, 381, 382, 362, 386],
        [276, 283, 282, 295, 285, 300, 293, 334, 296],
    ]
    landmarks = mesh[[i for group in groups for i in group]]
    assert len(landmarks) == 106
    return face_of(mesh[FIVE], landmarks)


def face_68() -> Face:
    mesh = np.float32(LANDMARKS["photo"])
    text = """127 234 93 132 58 172 136 150 152 379 365 397 288 361 323 454 356 46 53 52 65 55 285 295 282 283 276
    168 197 5 4 75 97 2 326 305 33 160 158 133 153 144 362 385 387 263 373 380
    61 39 37 0 267 269 291 405 314 17 84 181 78 82 13 312 308 317 14 87"""
    landmarks = mesh[[int(i) for i in text.split()]]
    assert len(landmarks) == 68
    return face_of(mesh[FIVE], landmarks)


FACES = {"478": face_478, "106": face_106, "68": face_68, "5": lambda: face_of(face_478().points)}


def faces_of(*present, height=SIZE, width=SIZE) -> Faces:
    return Faces(torch.zeros(len(present), height, width, 3), present)


def mask_of(face, region, height=SIZE, width=SIZE, **style):
    masks, _ = face_masks(faces_of((face,), height=height, width=width), region, MaskStyle(**style))
    assert masks.shape == (1, height, width) and masks.dtype == torch.float32
    return masks[0]


def move_face(face: Face, move) -> Face:
    return face_of(move(face.points), None if face.landmarks is None else np.float32(move(face.landmarks)))


def overlap(a, b) -> float:
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum())


@pytest.mark.parametrize("kind", FACES)
def test_parts_lie_where_they_are_in_the_photo(kind):
    for part, spots in SPOTS.items():
        mask = mask_of(FACES[kind](), part, expand=3.0)  # the 68 have one line of points along each brow
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert [spot for spot in spots if not mask[spot[1], spot[0]]] == [], part
        assert mask[CHEEK[1], CHEEK[0]] == (part == "face"), part


def test_sources_are_told():
    for kind, words in (
        ("478", "MediaPipe landmarks"),
        ("106", "InsightFace landmarks"),
        ("68", "68 landmarks"),
        ("5", "estimated from five points"),
    ):
        assert face_masks(faces_of((FACES[kind](),)), "mouth", MaskStyle())[1] == (words,)
    unknown = face_of(face_478().points, np.float32(LANDMARKS["photo"])[:98])
    assert face_masks(faces_of((unknown,)), "mouth", MaskStyle())[1] == ("estimated from five points",)


@pytest.mark.parametrize("kind", FACES)
def test_the_subjects_left_eye_is_at_the_right_hand_side(kind):
    box = mask_of(FACES[kind](), "left eye", shape="box").nonzero()
    assert box[:, 1].min() > FACES[kind]().points[2, 0], "right of the nose in the upright, unmirrored portrait"


@pytest.mark.parametrize("kind", FACES)
@pytest.mark.parametrize("region", NO_HAIR)
def test_mirrored_coordinates_swap_the_sides(kind, region):
    """Landmarks flipped with the picture: their indices now name the wrong side, and the five points' order is off."""
    mirrored = move_face(FACES[kind](), lambda points: points * [-1, 1] + [SIZE - 1, 0])
    expected = mask_of(FACES[kind](), SWAPPED.get(region, region)).flip(1)
    assert overlap(mask_of(mirrored, region), expected) > 0.95


@pytest.mark.parametrize("region", NO_HAIR)
def test_a_mirrored_photo_detected_anew_swaps_the_sides(region):
    """MediaPipe's own answer on the mirrored photo: its indices name the sides of the person seen there."""
    expected = mask_of(face_478(), SWAPPED.get(region, region), expand=2).flip(1)
    other = mask_of(face_478(), region, expand=2).flip(1)
    mask = mask_of(face_478("mirrored"), region, expand=2)
    assert overlap(mask, expected) > 0.7
    assert region not in SWAPPED or overlap(mask, other) == 0


@pytest.mark.parametrize("kind", FACES)
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_masks_turn_with_the_face(kind, turns):
    def turn(points):
        for _ in range(turns):
            points = points[:, ::-1] * [1, -1] + [0, SIZE - 1]  # as torch.rot90 turns the picture
        return points

    for region in ("face", "left eye", "right brow", "mouth", "head"):
        expected = torch.rot90(mask_of(FACES[kind](), region), turns)
        assert overlap(mask_of(move_face(FACES[kind](), turn), region), expected) > 0.97, region


@pytest.mark.slow
@pytest.mark.parametrize("kind", FACES)
def test_faces_half_outside_are_cut_and_nothing_else(kind):
    by = np.float32([225, 0])
    for region in ("face", "right eye", "head"):
        for style in ({}, {"expand": 6.0}, {"expand": -2.0}, {"feather": 8.0}, {"shape": "box"}):
            whole = mask_of(move_face(FACES[kind](), lambda points: points + by), region, width=2 * SIZE, **style)
            cut = mask_of(FACES[kind](), region, **style)
            assert torch.allclose(whole[:, 225 : 225 + SIZE], cut, atol=1e-4), (region, style)
            outside = move_face(FACES[kind](), lambda points: points - by)
            left = mask_of(outside, region, **style)
            assert (left[:, :100] - cut[:, 225:325]).abs().max() < 1e-4, (region, style)


@pytest.mark.parametrize("kind", FACES)
@pytest.mark.parametrize("region", NO_HAIR)
def test_a_face_far_outside_gives_an_empty_mask(kind, region):
    far = move_face(FACES[kind](), lambda points: points + [2000, -900])
    assert mask_of(far, region, expand=30, feather=10).sum() == 0


@pytest.mark.parametrize("kind", FACES)
def test_tiny_and_huge_faces(kind):
    face = FACES[kind]()
    middle = face.points.mean(axis=0)
    tiny = move_face(face, lambda points: (points - middle) * 0.08 + [20, 20])  # about 8 px
    sizes = {region: int(mask_of(tiny, region, 40, 40).sum()) for region in NO_HAIR}
    assert all(sizes.values()) and 25 < sizes["face"] < 120 and sizes["left eye"] <= 6
    huge = move_face(face, lambda points: (points - middle) * 30 + [256, 256])  # 3000 px
    assert mask_of(huge, "face").mean() == 1 and 0 < mask_of(huge, "nose").mean() <= 1
    assert mask_of(huge, "face", expand=100, feather=20, unit="per cent of the face").mean() == 1


def test_batches_without_faces_with_one_and_with_three():
    one = FACES["478"]()
    three = tuple(move_face(one, lambda points, x=x: (points - 225) * 0.5 + [x, 200]) for x in (80, 240, 400))
    faces = faces_of((), (one,), three)
    masks, sources = face_masks(faces, "both eyes", MaskStyle())
    assert masks.shape == (4, SIZE, SIZE) and len(sources) == 4
    joined = join_per_image(faces, masks)
    assert joined.shape == (3, SIZE, SIZE)
    assert joined[0].sum() == 0 and torch.equal(joined[1], masks[0])
    assert torch.equal(joined[2], masks[1:].amax(dim=0)) and joined[2].sum() == masks[1:].sum()
    assert describe("both eyes", joined, sources) == "both eyes: MediaPipe landmarks; 1 of 3 masks empty"
    empty, _ = face_masks(faces_of((), ()), "face", MaskStyle())
    assert empty.shape == (0, SIZE, SIZE) and join_per_image(faces_of((), ()), empty).sum() == 0
    assert describe("face", torch.zeros(2, 4, 4), ()) == "face: no face; 2 of 2 masks empty"


@pytest.mark.parametrize("kind", FACES)
def test_pairs_are_their_two_sides(kind):
    for pair, sides in (("both eyes", ("left eye", "right eye")), ("brows", ("left brow", "right brow"))):
        for style in ({}, {"shape": "box", "expand": 1.0}, {"feather": 3.0}):
            left, right = (mask_of(FACES[kind](), side, **style) for side in sides)
            assert torch.equal(mask_of(FACES[kind](), pair, **style), torch.maximum(left, right))
            assert left.sum() > 0 and right.sum() > 0


def test_expansion_moves_the_edge_by_so_many_pixels():
    plain = mask_of(face_478(), "mouth").numpy() > 0
    distance = ndimage.distance_transform_edt(~plain)
    assert np.array_equal(mask_of(face_478(), "mouth", expand=7.5).numpy() > 0, distance <= 7.5)
    inner = mask_of(face_478(), "mouth", expand=-3).numpy() > 0
    assert np.array_equal(inner, ndimage.distance_transform_edt(plain) > 3) and inner.any()
    assert mask_of(face_478(), "mouth", expand=-100).sum() == 0
    assert mask_of(face_478(), "mouth", expand=256).mean() > 0.4
    assert mask_of(face_478(), "mouth", expand=256, shape="box").mean() > 0.4


def test_boxes_are_upright_and_grow_by_their_edges():
    def edges(mask):
        rows, columns = mask.nonzero().T
        assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].min() == 1
        return np.array([columns.min(), rows.min(), columns.max(), rows.max()])

    outline = face_478().landmarks[[61, 291, 0, 17]]
    box = edges(mask_of(face_478(), "mouth", shape="box"))
    assert np.abs(box[[0, 2]] - outline[:2, 0]).max() < 1.5 and np.abs(box[[1, 3]] - outline[2:, 1]).max() < 1.5
    assert (edges(mask_of(face_478(), "mouth", shape="box", expand=4)) - box).tolist() == [-4, -4, 4, 4]
    assert (edges(mask_of(face_478(), "mouth", shape="box", expand=-2)) - box).tolist() == [2, 2, -2, -2]
    assert mask_of(face_478(), "mouth", shape="box", expand=-60).sum() == 0
    assert edges(mask_of(face_478(), "mouth", shape="box", expand=250))[0] == 0


def test_per_cent_are_of_the_longer_side_of_the_faces_box():
    face = face_478()
    x0, y0, x1, y1 = face.box
    longer = max(x1 - x0, y1 - y0)
    for shape in ("hull", "box"):
        relative = mask_of(face, "nose", shape=shape, expand=10, feather=4, unit="per cent of the face")
        assert torch.equal(relative, mask_of(face, "nose", shape=shape, expand=longer / 10, feather=longer / 25))


@pytest.mark.parametrize("feather", [1.0, 4.0, 30.0])
def test_feather_is_a_gaussian_over_the_edge(feather):
    soft, hard = (mask_of(face_478(), "face", feather=f).numpy() for f in (feather, 0.0))
    assert np.abs(soft - ndimage.gaussian_filter(hard, feather / 2)).max() < 0.02
    assert soft.max() <= 1 + 1e-6 and soft.min() >= 0
    depth = ndimage.distance_transform_edt(hard) - ndimage.distance_transform_edt(1 - hard)
    assert soft[depth < -2 * feather - 1].max() < 0.01
    if feather < 10:
        assert soft[depth > 2 * feather + 1].min() > 0.99


def test_the_head_is_the_estimate_of_the_other_nodes():
    for kind in FACES:
        assert torch.equal(mask_of(FACES[kind](), "head"), head_mask(FACES[kind](), (SIZE, SIZE)))


def test_hair_needs_a_parser():
    with pytest.raises(ValueError, match="Hair can only be masked by a face parser.*face_parser.*head"):
        face_masks(faces_of((face_478(),)), "hair", MaskStyle())


def test_landmarks_that_are_no_numbers_are_left_aside():
    broken = face_478().landmarks.copy()
    broken[7] = np.nan
    face = Face(face_478().points, face_478().box, 1.0, broken)
    assert torch.equal(mask_of(face, "mouth"), mask_of(FACES["5"](), "mouth"))
    assert torch.equal(mask_of(face, "head"), mask_of(FACES["5"](), "head"))


def test_large_images_are_worked_on_in_the_faces_window():
    face = move_face(face_478(), lambda points: points * 4)
    large = mask_of(face, "face", 2048, 2048, expand=10, feather=5, unit="per cent of the face")
    small = mask_of(face_478(), "face", expand=10, feather=5, unit="per cent of the face")
    shrunk = torch.nn.functional.avg_pool2d(large[None], 4)[0]
    assert (shrunk - small).abs().mean() < 2e-3


def test_preview_shows_the_mask_and_leaves_the_image_recognisable():
    faces = Faces(torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)), ((),))
    masks = torch.zeros(1, 32, 32)
    masks[:, :16] = 1
    image = tint(faces.images, masks)
    assert image.shape == faces.images.shape and image.min() >= 0 and image.max() <= 1
    assert image[:, :16].mean() > image[:, 16:].mean() + 0.1
    assert torch.equal(image[:, 16:], faces.images[:, 16:] * 0.55)


@pytest.mark.parametrize("seed", range(5))
def test_convex_fill_against_the_definition(seed):
    """A pixel is filled where its centre is inside of every edge; windows may lie anywhere."""
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(12, 2)) * [20, 9] + [30, 20]
    corners = convex_hull(points)
    window = (-10, 3, 64, 45)
    rows, columns = np.mgrid[3:45, -10:64]
    inside = np.ones(rows.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0)):
        inside &= (bx - ax) * (rows - ay) - (by - ay) * (columns - ax) >= 0
    assert inside.any() and np.array_equal(fill_convex(corners, window), inside)


@pytest.mark.parametrize("points", [[[5, 5]] * 4, [[2, 3], [6, 3], [4, 3]], [[2, 2], [6, 6], [4, 4]], [[4.4, 4.3]] * 2])
def test_degenerate_hulls_fill_something(points):
    filled = fill_convex(convex_hull(np.array(points, dtype=float)), (0, 0, 10, 10))
    assert 1 <= filled.sum() <= 5
    column, row = np.rint(np.mean(points, axis=0)).astype(int)
    assert filled[row, column]


def test_template_face_is_upright_in_its_crop():
    face = face_of(template(112).astype(np.float32))
    left = mask_of(face, "left eye", 112, 112).nonzero().double().mean(dim=0)
    # An average face's eye is a little nearer to the nose and lower than its iris in the template.
    assert abs(left[1] - 72.8) < 0.3 and abs(left[0] - 52.2) < 0.3
