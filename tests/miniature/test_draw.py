"""Drawn portraits: the same numbers give the same picture, and what is told of a picture is in it."""

from dataclasses import replace
from itertools import combinations, product

import pytest
import torch
from likeness.faces.parsing import LABELS
from likeness.miniature.world import scenes
from likeness.miniature.world.draw import PARTS, draw
from likeness.miniature.world.features import LABEL
from likeness.miniature.world.people import BEARDS, HAIR_STYLES, TRAITS, person
from likeness.miniature.world.scenes import EXPRESSIONS, STYLES, Scene, mirror, scene
from likeness.miniature.world.sheet import sheet

PLAIN = Scene()
SWAP = {2: 3, 3: 2, 4: 5, 5: 4, 7: 8, 8: 7}


def bald(number: int = 0, **traits):
    """A person without a hair, a mole or freckles, who is the same on both sides."""
    who = person(number)
    return replace(who, hair="bald", beard="none", traits={**who.traits, "mole_size": 0.0, "freckles": -1.0, **traits})


def of(who, *seen: Scene, size: int = 64):
    return draw([who] * len(seen), seen, size)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().mean())


def test_the_same_numbers_give_the_same_bytes():
    people, seen = [person(n) for n in range(4)], [scene(n, 1) for n in range(4)]
    one, other = draw(people, seen, 48), draw(people, seen, 48)
    for name in ("images", "labels", "masks", "points"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_no_picture_depends_on_its_batch():
    people, seen = [person(n) for n in range(6)], [scene(n, 2) for n in range(6)]
    together = draw(people, seen, 48)
    for index in (5, 0, 3):
        alone = draw(people[index : index + 1], seen[index : index + 1], 48)
        assert torch.equal(alone.images[0], together.images[index])
        assert torch.equal(alone.masks[0], together.masks[index])


def test_shapes_and_ranges():
    drawn = draw([person(0), person(1)], [scene(0, 0), scene(1, 0)], 40)
    assert drawn.images.shape == (2, 40, 40, 3) and drawn.images.dtype == torch.float32
    assert drawn.labels.shape == (2, 40, 40) and drawn.labels.dtype == torch.uint8
    assert drawn.masks.shape == (2, len(PARTS), 40, 40) and drawn.masks.dtype == torch.bool
    assert drawn.points.shape == (2, 5, 2)
    assert 0 <= drawn.images.min() and drawn.images.max() <= 1


def test_labels_are_numbered_as_the_parser_numbers_them():
    assert tuple(LABEL) == LABELS and list(LABEL.values()) == list(range(19))


@pytest.mark.parametrize(
    "name, values, least",
    [
        ("background", scenes.BACKGROUNDS, 0.02),
        ("hat", (None, *scenes.HATS), 0.005),
        ("clothes", scenes.CLOTHES, 0.002),
        ("clothes_colour", scenes.COLOURS, 0.004),
        ("expression", EXPRESSIONS, 0.001),
        ("style", STYLES, 0.01),
        ("glasses", (False, True), 0.003),
    ],
)
def test_every_kind_of_scene_can_be_told_apart(name, values, least):
    pictures = of(person(2), *(replace(PLAIN, **{name: value}) for value in values)).images
    assert pictures.isfinite().all()
    assert min(difference(one, other) for one, other in combinations(pictures, 2)) > least


@pytest.mark.parametrize("name, values", [("hair", HAIR_STYLES), ("beard", BEARDS)])
def test_every_hair_and_beard_can_be_told_apart(name, values):
    traits = {**person(1).traits, "hair_colour": 0.2, "skin": 0.2}
    people = [replace(person(1), beard="none", traits=traits)] * len(values)
    people = [replace(who, **{name: value}) for who, value in zip(people, values)]
    pictures = draw(people, [PLAIN] * len(values), 64).images
    assert pictures.isfinite().all()
    assert min(difference(one, other) for one, other in combinations(pictures, 2)) > 0.0015


@pytest.mark.parametrize("trait", TRAITS)
def test_every_trait_can_be_seen(trait):
    who = replace(person(1), hair="short", beard="none")
    middle = {name: (low + high) / 2 for name, (low, high) in TRAITS.items()} | {"mole_size": 0.02}
    people = [replace(who, traits={**middle, trait: value}) for value in TRAITS[trait]]
    one, other = draw(people, [PLAIN] * 2, 96).images
    assert difference(one, other) > 0.00015 and (one - other).abs().max() > 0.05


def test_people_differ_more_than_the_pictures_of_one():
    same = {"style": "photo", "background": "grey wall", "clothes": "shirt", "clothes_colour": "blue", "hat": None}
    seen = [replace(scene(0, picture), **same) for picture in range(4)]
    faces = torch.stack([of(person(n), *seen, size=48).images for n in range(12)])  # people, scenes
    mean = faces.mean(dim=1)
    within = difference(faces, mean[:, None])
    between = sum(difference(one, other) for one, other in combinations(mean, 2)) / 66
    assert between > within
    hits = [min(range(12), key=lambda k: difference(faces[n, 0], faces[k, 1:].mean(dim=0))) == n for n in range(12)]
    assert sum(hits) >= 8  # chance: 1


def test_the_subjects_left_is_at_the_pictures_right():
    drawn = of(bald(), PLAIN)
    left, right = (
        drawn.masks[0, PARTS.index(f"{side} eye")].nonzero()[:, 1].float().mean() for side in ("left", "right")
    )
    assert left > 32 > right
    for part in ("eye", "brow", "ear"):
        columns = [
            (drawn.labels[0] == LABEL[f"{side} {part}"]).nonzero()[:, 1].float().mean() for side in ("left", "right")
        ]
        assert columns[0] > 32 > columns[1], part
    xs, ys = drawn.points[0].T
    assert xs[0] < xs[2] < xs[1] and xs[3] < xs[4] and ys[:2].max() < ys[2] < ys[3:].min()


@pytest.mark.parametrize("style", STYLES)
def test_a_wink_closes_the_stated_eye(style):
    for side, other in (("left", "right"), ("right", "left")):
        who = bald(eye_aspect=0.5)
        labels = of(who, replace(PLAIN, expression=f"wink {side}", style=style), size=128).labels
        closed, opened = ((labels == LABEL[f"{which} eye"]).sum() for which in (side, other))
        assert 0 < closed < 0.6 * opened


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_mirrored_scene_of_a_symmetric_face_is_the_mirror_image(expression):
    seen = Scene(expression=expression, yaw=0.3, roll=0.1, x=0.08, light_x=0.6, glasses=True)
    drawn = of(bald(), seen, mirror(seen))
    own = drawn.labels[0].flip(1).clone()
    swapped = own.clone()
    for one, other in SWAP.items():
        swapped[own == one] = other
    assert (swapped != drawn.labels[1]).float().mean() < 0.002
    assert torch.equal(drawn.masks[0].flip(2)[[0, 2, 1, 3, 4]], drawn.masks[1])
    points = drawn.points[0][[1, 0, 2, 4, 3]]
    points[:, 0] = 63 - points[:, 0]
    torch.testing.assert_close(points, drawn.points[1], atol=1e-3, rtol=0)


def test_points_lie_in_their_masks_at_every_pose():
    turns = ((-0.5, 0.22, 1.0), (0.5, -0.1, 1.3), (0.5, 0.22, 1.15), (-0.2, -0.22, 1.0), (0.0, 0.0, 1.3))
    poses = [
        Scene(expression=expression, yaw=yaw, roll=roll, scale=scale)
        for (yaw, roll, scale), expression in product(turns, EXPRESSIONS)
    ]
    people = [person(n) for n in range(len(poses))]
    seen = poses + [scene(n, 0) for n in range(40)]
    drawn = draw(people + [person(n) for n in range(40)], seen, 64)
    for masks, points in zip(drawn.masks, drawn.points.round().int().tolist()):
        for part, (x, y) in zip(("right eye", "left eye", "nose", "mouth", "mouth"), points):
            assert masks[PARTS.index(part), y, x], part


def test_masks_lie_inside_the_face_and_apart():
    drawn = draw([person(n) for n in range(30)], [scene(n, 3) for n in range(30)], 64)
    face, left, right, nose, mouth = drawn.masks.unbind(1)
    assert not ((left | right | nose | mouth) & ~face).any()
    assert not (left & right).any() and not (mouth & (left | right)).any()
    assert all(mask.flatten(1).any(dim=1).all() for mask in (left, right, nose, mouth))
    skin = (drawn.labels == LABEL["skin"]) | (drawn.labels == LABEL["nose"])
    assert (skin & ~face).float().mean() < 0.001  # all the face's skin is in its mask


def test_labels_say_what_is_worn():
    seen = [replace(PLAIN, hat=hat, glasses=glasses) for hat in (None, *scenes.HATS) for glasses in (False, True)]
    for shown, labels in zip(seen, of(person(3), *seen).labels):
        assert bool((labels == LABEL["hat"]).any()) == bool(shown.hat)
        assert bool((labels == LABEL["glasses"]).any()) == shown.glasses
        assert (labels == LABEL["cloth"]).any() and (labels == LABEL["neck"]).any()


def test_styles_are_what_they_say():
    who, seen = bald(skin=0.3), replace(scene(0, 0), background="meadow", hat="cap")
    photo, sketch, cartoon = of(who, *(replace(seen, style=style) for style in STYLES)).images
    colour = [float((picture.amax(dim=-1) - picture.amin(dim=-1)).mean()) for picture in (photo, sketch, cartoon)]
    assert colour[1] < 0.09 < 0.2 < min(colour[0], colour[2])
    face = of(who, replace(PLAIN, style="cartoon"), size=96)
    skin = face.images[0][face.labels[0] == LABEL["skin"]]
    assert len(skin.mul(255).round().unique(dim=0)) < 0.5 * len(skin)  # flat


@pytest.mark.parametrize("style", ["photo", "cartoon"])
def test_the_side_towards_the_light_is_brighter(style):
    seen = [replace(PLAIN, style=style, light_x=side, light_y=0.0, light=1.0) for side in (-1, 1)]
    drawn = of(bald(), *seen)
    for picture, labels, sign in zip(drawn.images, drawn.labels, (-1, 1)):
        skin = labels == LABEL["skin"]
        left, right = (picture[:, part][skin[:, part]].mean() for part in (slice(0, 32), slice(32, 64)))
        assert sign * (right - left) > 0.03


def test_a_turned_head_shows_depth():
    ahead, aside = of(bald(), PLAIN, replace(PLAIN, yaw=0.4)).points
    moved = (aside - ahead)[:, 0]
    assert moved.min() > 0 and moved[2] > moved[:2].max()  # the nose stands out
    assert aside[1, 0] - aside[0, 0] < ahead[1, 0] - ahead[0, 0]


def test_a_head_rolls_clockwise():
    for roll in (-0.2, 0.2):
        across = torch.subtract(*of(bald(), replace(PLAIN, roll=roll)).points[0][[1, 0]])
        assert torch.atan2(across[1], across[0]).item() == pytest.approx(roll, abs=1e-4)


def test_glasses_make_no_face_larger():
    bare, worn = of(bald(), PLAIN, replace(PLAIN, glasses=True)).masks
    assert (bare != worn).sum() <= 2  # of each arm one pixel may lie before an ear


def test_scale_and_shift_move_the_face():
    drawn = of(bald(), Scene(scale=1.0), Scene(scale=1.3), Scene(scale=1.0, x=0.125, y=-0.0625))
    small, large, moved = drawn.masks[:, 0]
    assert 1.5 < large.sum() / small.sum() < 1.9
    assert torch.equal(moved, small.roll((-2, 4), (0, 1)))
    torch.testing.assert_close(drawn.points[2], drawn.points[0] + torch.tensor([4.0, -2.0]))


def test_a_small_picture_is_the_large_one_made_smaller():
    large, small = (of(person(6), replace(PLAIN, glasses=True), size=size) for size in (128, 64))
    shrunk = torch.nn.functional.avg_pool2d(large.images.movedim(-1, 1), 2).movedim(1, -1)
    assert difference(shrunk, small.images) < 0.012
    torch.testing.assert_close((large.points + 0.5) / 2 - 0.5, small.points, atol=1e-3, rtol=0)


def test_a_sheet_has_a_row_a_person():
    drawn = sheet([3, 4], columns=3, size=32)
    assert drawn.shape == (64, 96, 3)
    assert torch.equal(drawn[32:, 64:], draw([person(4)], [scene(4, 2)], 32).images[0])


@pytest.mark.parametrize("people, seen, size", [([], [], 64), ([0], [], 64), ([0], [0], 8)])
def test_what_cannot_be_drawn_is_refused(people, seen, size):
    with pytest.raises(ValueError, match="one scene for each person|at least 16 pixels"):
        draw([person(n) for n in people], [PLAIN for _ in seen], size)
