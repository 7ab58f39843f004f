"""Faces followed through a video, and frames without one."""

import numpy as np
import pytest
import torch
from likeness.faces.align import template
from likeness.faces.choose import IF_NO_FACE, apply_policy, left_to_right, report_faceless
from likeness.faces.frames import fill_from_nearest, find_cuts, number_faces, report_cuts
from likeness.faces.types import Face, Faces
from PIL import Image

SIZE = (120, 400)


def face(x, y=60.0, side=40.0, score=0.9):
    """A face whose box has its centre at x, y."""
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    points = template(112) * side / 112 + [x - side / 2, y - side / 2]
    return Face(points.astype(np.float32), box, score)


def centre(one):
    return (one.box[0] + one.box[2]) / 2


def video(*frames):
    images = torch.linspace(0, 1, len(frames))[:, None, None, None].expand(-1, *SIZE, 3)
    return Faces(images, tuple(left_to_right(frame) for frame in frames), "a detector")


def cross_paths(frames=32, hidden=range(0), jitter=0.0):
    """Two persons walk past each other: A from the left, B from the right and a little lower."""
    random = np.random.default_rng(3)
    both = []
    for i in range(frames):
        a, b = 40 + 10 * i, 360 - 10 * i
        shaken = random.normal(0, jitter, 4) if jitter else np.zeros(4)
        persons = [face(a + shaken[0], 58 + shaken[1], 40), face(b + shaken[2], 64 + shaken[3], 44)]
        both.append(tuple(persons[1:] if i in hidden else persons))
    return both, [40 + 10 * i for i in range(frames)], [360 - 10 * i for i in range(frames)]


@pytest.mark.parametrize("hidden, jitter", [(range(0), 0), (range(14, 19), 0), (range(0), 1.5), (range(13, 20), 1.0)])
@pytest.mark.parametrize("index", [0, 1])
def test_two_persons_crossing_keep_their_numbers(hidden, jitter, index):
    frames, *ways = cross_paths(32, hidden, jitter)
    result = apply_policy(video(*frames), "left to right", index, "nearest frame", video=True)
    for i, (one,) in enumerate(result.per_image):
        assert one.number == index
        if index == 1 or i not in hidden:
            assert abs(centre(one) - ways[index][i]) < 5


def test_twins_who_cross_are_told_apart_by_where_they_were_going():
    frames = [(face(40 + 10 * i), face(355 - 10 * i)) for i in range(32)]
    result = apply_policy(video(*frames), "all", 0, "error", video=True)
    assert [[centre(one) for one in present] for present in result.per_image] == [
        [40 + 10 * i, 355 - 10 * i] for i in range(32)
    ]


def test_without_video_faces_come_left_to_right_as_ever():
    frames, *_ = cross_paths()
    result = apply_policy(video(*frames), "all", 0, "error")
    for present in result.per_image:
        assert [centre(one) for one in present] == sorted(map(centre, present))
        assert [one.number for one in present] == [None, None]
    (first,), *_, (last,) = apply_policy(video(*frames), "left to right", 0, "error").per_image
    assert centre(first) == 40 and centre(last) == 50, "whoever is leftmost"


def test_all_keeps_a_stable_order_through_the_crossing():
    frames, a, b = cross_paths()
    result = apply_policy(video(*frames), "all", 0, "error", video=True)
    assert [[centre(one) for one in present] for present in result.per_image] == [list(pair) for pair in zip(a, b)]


@pytest.mark.parametrize("rule, expected", [("largest", 200), ("most central", 200), ("left to right", 60)])
def test_largest_and_most_central_are_decided_in_the_first_frame_with_faces(rule, expected):
    frames = [(), (face(60), face(200, side=44)), (face(62, side=56), face(190, side=40))]
    result = apply_policy(video(*frames), rule, 0, "skip", video=True)
    assert len(result.per_image) == 2 and centre(result.per_image[0][0]) == expected
    assert result.per_image[1][0].number == result.per_image[0][0].number
    assert centre(apply_policy(video(*frames), "largest", 0, "skip").per_image[1][0]) == 62


def test_who_vanishes_keeps_the_number_free_and_newcomers_get_the_next():
    frames = [(face(60), face(200)), (face(60),), (face(60), face(340)), (face(60), face(204), face(340))]
    numbers = [{one.number: centre(one) for one in present} for present in number_faces(tuple(frames))]
    assert numbers == [{0: 60, 1: 200}, {0: 60}, {0: 60, 2: 340}, {0: 60, 1: 204, 2: 340}]


def test_a_face_of_quite_another_size_in_the_same_position_is_somebody_else():
    numbers = [present[0].number for present in number_faces(((face(60, side=30),), (face(60, side=100),)))]
    assert numbers == [0, 1]


@pytest.mark.parametrize("frames, sides", [(1, 1.0), (4, 2.0), (9, 3.0), (25, 3.0)])
def test_a_face_is_looked_for_within_its_side_and_within_three_after_a_while(frames, sides):
    """`frames`: from one sight of it to the next, between which nobody is seen."""
    for moved, number in ((0.97 * sides, 0), (1.03 * sides, 1)):
        for x, y in ((moved, 0), (0, -moved), (-0.6 * moved, 0.8 * moved)):
            walk = (face(200),), *[()] * (frames - 1), (face(200 + 40 * x, 60 + 40 * y),)
            assert number_faces(walk)[-1][0].number == number, (x, y)


def test_a_change_in_size_counts_as_a_way():
    for x, side, number in ((25, 60, 1), (10, 60, 0), (0, 79, 0), (0, 81, 1), (0, 21, 0), (0, 19, 1)):
        assert number_faces(((face(100),), (face(100 + x, side=side),)))[1][0].number == number, (x, side)


def test_who_walked_out_of_sight_is_expected_a_side_ahead_at_most():
    walk = [(face(100 + 20 * i),) for i in range(12)]  # the last at 320, and by then 20 pixels a frame
    for gap, ahead in ((1, 20), (2, 40), (9, 40)):
        reach = 40 * np.sqrt(gap)
        for x, number in ((ahead - reach + 2, 0), (ahead + reach - 2, 0), (ahead + reach + 2, 1)):
            frames = (*walk, *[()] * (gap - 1), (face(320 + x),))
            assert number_faces(frames)[-1][0].number == number, (gap, x)


def test_a_detector_that_trembles_sends_nobody_far():
    """One jump of ten pixels is half believed: the next is expected five further on."""
    standing = (face(100),), (face(100),), (face(110),)
    for x, number in ((115 + 39, 0), (115 + 41, 1), (115 - 39, 0), (115 - 41, 1)):
        assert number_faces((*standing, (face(x),)))[-1][0].number == number, x


def test_no_faces_at_all_and_too_large_a_number():
    empty = video((), ())
    for if_no_face in ("error", "skip", "nearest frame"):
        with pytest.raises(ValueError, match="No face was found in picture 1, 2 of 2"):
            apply_policy(empty, "left to right", 3, if_no_face, video=True)
    assert len(apply_policy(empty, "left to right", 3, "whole picture", video=True).per_image) == 2
    with pytest.raises(ValueError, match=r"Face 2 of the video .* there are only 2 faces \(index 0 to 1\) in all its"):
        apply_policy(video((face(60),), (face(60), face(200))), "left to right", 2, "skip", video=True)


MIDDLE = range(12, 20)


@pytest.fixture
def thirty_two():
    """32 frames of one person walking; nobody is seen in frames 12 to 19."""
    return video(*(() if i in MIDDLE else (face(50 + 8 * i, score=0.5 + i / 100),) for i in range(32)))


@pytest.mark.parametrize("followed", [False, True])
@pytest.mark.parametrize("rule", ["largest", "left to right", "all"])
@pytest.mark.parametrize("if_no_face", IF_NO_FACE)
def test_a_batch_of_32_with_faceless_frames_in_the_middle(thirty_two, rule, if_no_face, followed):
    if if_no_face == "error":
        named = r"picture 13, 14, 15, 16, 17, 18, 19, 20 of 32 \(searched with a detector\)"
        with pytest.raises(ValueError, match=f'No face was found in {named}.*"nearest frame"'):
            apply_policy(thirty_two, rule, 0, if_no_face, followed)
        return
    result = apply_policy(thirty_two, rule, 0, if_no_face, followed)
    if if_no_face == "skip":
        shown = [i for i in range(32) if i not in MIDDLE]
        assert torch.equal(result.images, thirty_two.images[shown]) and result.skipped == tuple(MIDDLE)
        assert [centre(present[0]) for present in result.per_image] == [50 + 8 * i for i in shown]
        return
    if if_no_face == "leave as it is":
        assert torch.equal(result.images, thirty_two.images)
        assert [len(present) for present in result.per_image] == [i not in MIDDLE for i in range(32)]
        assert report_faceless(result) == "8 of 32 pictures had no face and were left as they are."
        return
    assert torch.equal(result.images, thirty_two.images) and [len(present) for present in result.per_image] == [1] * 32
    if if_no_face == "whole picture":
        assert [present[0].score == 0 for present in result.per_image] == [i in MIDDLE for i in range(32)]
        return
    # 12 to 15 are nearer to 11, 16 to 19 to 20.
    source = [11 if i in range(12, 16) else 20 if i in range(16, 20) else i for i in range(32)]
    assert [centre(present[0]) for present in result.per_image] == [50 + 8 * i for i in source]
    assert [present[0].score for present in result.per_image] == [0.5 + i / 100 for i in source], (
        "the score comes along"
    )


def test_of_two_equally_near_frames_the_earlier_one_lends():
    one, other = (face(60),), (face(200),)
    assert fill_from_nearest(((), one, (), other, ())) == (one, one, one, other, other)


def test_a_frame_in_which_only_another_is_seen_lacks_the_one_followed():
    frames = [(face(60), face(200)), (face(60),), (face(60), face(200))]
    with pytest.raises(ValueError, match="Face 1, as the video numbers them, was not found in picture 2 of 3"):
        apply_policy(video(*frames), "left to right", 1, "error", video=True)
    result = apply_policy(video(*frames), "left to right", 1, "nearest frame", video=True)
    assert [centre(present[0]) for present in result.per_image] == [200, 200, 200]
    assert len(apply_policy(video(*frames), "left to right", 1, "skip", video=True).per_image) == 2


def test_many_faceless_images_are_not_all_listed():
    with pytest.raises(ValueError, match="picture 2, 3, 4, 5, 6, 7, 8, 9 and more of 40"):
        apply_policy(video((face(60),), *[()] * 39), "largest", 0, "error")


def test_what_became_of_images_without_a_face_in_a_sentence():
    three = video((face(60),), (), (face(62),))
    assert report_faceless(apply_policy(three, "largest", 0, "skip")) == "1 of 3 pictures had no face and was skipped."
    left = apply_policy(three, "largest", 0, "leave as it is")
    assert report_faceless(left) == "1 of 3 pictures had no face and was left as it is." and len(left.per_image) == 3
    assert report_faceless(apply_policy(three, "largest", 0, "nearest frame")) == ""
    assert apply_policy(video((), ()), "largest", 0, "leave as it is").per_image == ((), ())


def _numbers(frames):
    return [{round(centre(one)): one.number for one in present} for present in number_faces(tuple(frames))]


def test_a_false_find_in_the_first_frame_has_the_last_number():
    walk = [(face(40, side=90), face(150), face(250)), *[(face(150 + i), face(250 + i)) for i in range(1, 6)]]
    assert _numbers(walk) == [{40: 2, 150: 0, 250: 1}, *[{150 + i: 0, 250 + i: 1} for i in range(1, 6)]]
    for rule in ("largest", "most central"):
        result = apply_policy(video(*walk), rule, 0, "leave as it is", video=True)
        assert all(round(centre(one)) != 40 for present in result.per_image for one in present)


@pytest.mark.parametrize("gap", [1, 4])
def test_a_false_find_near_a_hidden_person_does_not_take_the_number_for_good(gap):
    """The person stands at 100, is hidden for `gap` frames, something else is seen in the last of these."""
    stray = face(100 + 0.9 * 40 * np.sqrt(gap), 60)
    walk = [(face(100),)] * 5 + [()] * (gap - 1) + [(stray,)] + [(face(100),)] * 5
    numbers = _numbers(walk)
    assert [frame.get(100) for frame in numbers if 100 in frame] == [0] * 10
    assert gap == 1 or numbers[-6] == {round(centre(stray)): 1}


@pytest.mark.parametrize("jitter", [-2, 0, 2])
def test_people_above_each_other_are_numbered_in_rows_whatever_the_jitter(jitter):
    top, below = (face(100, 40), face(200, 44), face(300, 38)), (face(100 + jitter, 130), face(201 - jitter, 126))
    for order in ((*top, *below), (*below, *top[::-1])):
        assert left_to_right(order) == (*top, *below)


def test_people_beside_each_other_are_one_row_however_tall():
    tall, small = face(200, 40), face(100, 40 + 39)
    assert left_to_right((tall, small)) == (small, tall)
    assert left_to_right((face(100, 40 + 41), tall))[0] is tall


@pytest.mark.parametrize("unseen", [0, 1, 3])
def test_a_way_is_one_of_a_frame_however_long_nobody_was_seen(unseen):
    """Sixteen pixels since the last sight: half of that a frame is believed, and the next is expected there."""
    walk = (face(100),), *[()] * unseen, (face(116),)
    expected = 116 + 16 / (unseen + 1) / 2
    for x, number in ((expected + 39, 0), (expected + 41, 1), (expected - 39, 0), (expected - 41, 1)):
        assert number_faces((*walk, (face(x),)))[-1][0].number == number, x


@pytest.mark.parametrize("sides, number", [(0.45, 0), (0.55, 1)])
def test_beyond_half_a_side_a_sight_may_be_somebody_elses(sides, number):
    """The person stands still: what a detector sees beside them for one frame is a tremble, or another's face."""
    walk = [(face(100),)] * 5 + [(face(100 + 40 * sides),)] + [(face(100),)] * 3
    assert [present[0].number for present in number_faces(tuple(walk))] == [0] * 5 + [number] + [0] * 3


def test_a_stray_sight_stands_still():
    """What was taken for the person's jump is looked for where it was seen, not where the jump went."""
    walk = [(face(100),)] * 5 + [(face(100, 96),), (face(100),), (face(100), face(148, 96))]
    assert [[one.number for one in present] for present in number_faces(tuple(walk))] == [[0]] * 5 + [[1], [0], [0, 1]]


def test_who_comes_nearer_stays_the_same():
    walk = [(face(200, side=30 * 1.3**i),) for i in range(6)]
    assert [present[0].number for present in number_faces(tuple(walk))] == [0] * 6


@pytest.fixture(scope="module")
def scenes(root):
    """Two photographs, [512, 512, 3] each."""
    files = (root / "workflows" / "assets" / name for name in ("astronaut.png", "portrait.png"))
    return [torch.from_numpy(np.array(Image.open(file).convert("RGB").resize((512, 512)))) / 255 for file in files]


def pan(scene, frames, step=8):
    return [scene[:256, step * frame : step * frame + 256] for frame in range(frames)]


def test_cuts_are_told_and_pans_fades_and_flashes_are_not(scenes):
    first, second = scenes
    film = torch.stack([*pan(first, 12), *pan(second, 8), *pan(first, 5, 16)])
    assert find_cuts(film) == [12, 20]
    assert report_cuts(film).startswith("The film cuts before frames 13, 21. Numbers follow people by their place")
    fade = torch.stack([torch.lerp(first, second, frame / 12) for frame in range(13)])
    flash = torch.stack([first] * 5 + [torch.ones_like(first)] + [first] * 5)
    fast = torch.stack(pan(first, 8, 32))
    assert find_cuts(fade) == find_cuts(flash) == find_cuts(fast) == []
    assert find_cuts(first[None]) == [] and find_cuts(torch.stack(scenes)) == [1]
    assert report_cuts(fade) == ""
