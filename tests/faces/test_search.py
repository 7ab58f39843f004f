"""The search that does not give up: in which order it looks, how finds come back, what it does not believe."""

import numpy as np
import pytest
from likeness.faces import detector, search
from likeness.faces.types import Face
from PIL import Image

# A marked face: red values that tell eyes, nose and mouth, and in green the number of the point in template order.
RED = [50, 50, 100, 150, 150]
OFFSETS = np.array([[4, 5], [14, 6], [9, 10], [5, 15], [13, 14]])  # x, y


def marked(width, height, at, scale=1):
    image = np.full((height, width, 3), 9, np.uint8)
    for number, (x, y) in enumerate(np.array(at) + scale * OFFSETS):
        image[y, x] = RED[number], number, 200
    return image


def numbered(image):
    """The places of the five marks [5, 2] in a picture, in template order: the truth, read off its pixels."""
    rows, columns = np.nonzero(image[..., 2] == 200)
    order = image[rows, columns, 1].argsort()
    return np.stack([columns, rows], axis=1)[order]


class Reader:
    """Sees the marked face where it is upright, at the sizes and with the room around it that it is told to need."""

    name = "reader"

    def __init__(self, det_size=None, sees_at=None, room=0, score=0.9, min_score=0.5):
        self.det_size, self.sees_at, self.room, self.score, self.min_score = det_size, sees_at, room, score, min_score
        self.looks = []

    def detect(self, image):
        self.looks.append((self.det_size, image.shape[:2]))
        rows, columns = np.nonzero(image[..., 2] == 200)
        points = np.stack([columns, rows], axis=1)
        kind = image[rows, columns, 0]
        eyes, nose, mouth = (points[kind == red] for red in (50, 100, 150))
        edge = np.array(image.shape[1::-1]) - 1
        if self.sees_at not in (None, self.det_size) or np.minimum(points, edge - points).min() < self.room:
            return []
        down = mouth.mean(axis=0) - eyes.mean(axis=0)
        if down[1] < abs(down[0]):
            return []
        points = np.concatenate([eyes[eyes[:, 0].argsort()], nose, mouth[mouth[:, 0].argsort()]]).astype(np.float32)
        corners = np.concatenate([points.min(axis=0) - 2, points.max(axis=0) + 3])
        host = {"landmarks_xy": points, "bbox_xyxy": corners, "score": self.score}
        return [Face(points, tuple(map(float, corners)), self.score, points.copy(), host)]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_image_gives_points_box_landmarks_and_mesh_back_exactly(turns):
    image = np.ascontiguousarray(np.rot90(marked(90, 70, (30, 20)), turns))
    (face,) = search.find(Reader(), image)
    truth = numbered(image)
    assert np.array_equal(face.points, truth) and np.array_equal(face.landmarks, truth)
    assert np.array_equal(face.host["landmarks_xy"], truth)
    upright = (*OFFSETS.min(axis=0) - 2 + (30, 20), *OFFSETS.max(axis=0) + 3 + (30, 20))
    corner_marks = np.zeros((70, 90), int)
    corner_marks[upright[1], upright[0]] = corner_marks[upright[3], upright[2]] = 1
    rows, columns = np.nonzero(np.rot90(corner_marks, turns))
    assert face.box == (columns.min(), rows.min(), columns.max(), rows.max())
    assert np.array_equal(face.host["bbox_xyxy"], face.box) and face.points.dtype == np.float32


def test_the_looks_and_their_order():
    def looks(how, det_size=640, **kwargs):
        reader = Reader(det_size, room=999, **kwargs)
        assert search.find(reader, marked(100, 64, (5, 5)), how) == []
        return reader.looks

    plain, bordered = [(640, (64, 100)), (640, (100, 64))] * 2, [(640, (114, 150)), (640, (150, 114))] * 2
    sizes = [(size, (64, 100)) for size in (320, 480, 960, 1280)]
    assert looks("quick") == [plain[0], bordered[0]]
    assert looks("thorough") == plain + bordered + sizes
    assert [size for size, _ in looks("thorough", None)] == [None] * 8


def test_it_stops_at_the_first_look_that_finds_and_leaves_the_detector_as_it_was():
    reader = Reader(640, sees_at=480)
    (face,) = search.find(reader, marked(100, 64, (30, 20)))
    assert np.array_equal(face.points, OFFSETS + [30, 20])
    assert [size for size, _ in reader.looks] == [640] * 8 + [320, 480, 480] and reader.det_size == 640
    assert search.find(Reader(640, sees_at=480), marked(100, 64, (30, 20)), "quick") == []


def test_a_face_near_the_edge_is_found_within_the_border():
    reader = Reader(room=12)
    (face,) = search.find(reader, marked(40, 40, (10, 3)))
    assert np.array_equal(face.points, OFFSETS + [10, 3]) and len(reader.looks) == 8


@pytest.mark.parametrize("det_size, sizes", [
    (640, [320, 480, 960, 1280]), (64, [96, 128]), (2048, [1024, 1536]), (320, [160, 256, 480, 640]), (None, []),
])  # fmt: skip
def test_other_sizes_are_multiples_of_32_within_the_nodes_range(det_size, sizes):
    assert search.other_sizes(det_size) == sizes


def test_one_that_looks_for_every_size_needs_fewer_looks():
    reader = Reader(640, room=999)
    reader.scans = True
    assert search.find(reader, marked(100, 64, (5, 5))) == []
    assert [size for size, _ in reader.looks] == [640] * 4 + [480] * 4 + [1280]
    assert search.in_words(reader, "thorough", 0).endswith("picture and at det_size 1280")


class Closer(Reader):
    """Sees the faces that are listed for its looks, numbered from 1, and is asked about each."""

    def __init__(self, faces, **kwargs):
        super().__init__(**kwargs)
        self.faces, self.asked = faces, 0

    def detect(self, image):
        self.looks.append((image.shape[:2], image[0, 0, 0]))
        return self.faces.get(len(self.looks), [])

    def look_closer(self, image, face):
        self.asked += 1
        return face if face.score > 0.5 else None


def standing(roll, score, at=(30, 20), **facts):
    angle = np.radians(roll)
    points = OFFSETS @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + at
    points = points.astype(np.float32)
    corners = np.concatenate([points.min(axis=0) - 2, points.max(axis=0) + 3])
    return Face(points, tuple(map(float, corners)), score, **facts)


@pytest.mark.parametrize("finds, corner", [
    ({1: [standing(0, 0.6), standing(0, 0.6, (300, 20))], 2: [standing(0, 0.7, (220, 120))]}, 7),  # two to one
    ({1: [standing(0, 0.6)], 2: [standing(-42, 0.9, (220, 120))]}, 7),  # a rolled head, surest in the next turn
    ({2: [standing(0, 0.7)]}, 8),
    ({1: [standing(0, 0.6)], 2: [standing(0, 0.9, (220, 120), profile=True)]}, 7),  # mostly none
    ({}, 7),
])  # fmt: skip
def test_a_group_is_looked_at_from_nearer_in_the_turn_in_which_most_people_stand(finds, corner):
    image = np.zeros((300, 400, 3), np.uint8)
    image[0, 0], image[0, -1] = 7, 8  # the second is the first one of the next turn
    closer = Closer(finds)
    search.find(closer, image)
    assert [mark for _, mark in closer.looks[:5]] == [7, 8, 0, 0, corner]
    assert [shape for shape, _ in closer.looks[4:10]] == [(200, 200)] * 6


def test_where_faces_are_small_in_their_part_smaller_ones_are_looked_for():
    def looks(width):
        small = Face(OFFSETS.astype(np.float32), (0.0, 0.0, width, width), 0.9)
        closer = Closer({1: [small]})
        search.find(closer, np.zeros((600, 800, 3), np.uint8))
        return [shape for shape, _ in closer.looks[4:]]

    assert looks(49.0) == [(400, 400)] * 6 + [(200, 200)] * 35
    assert looks(51.0) == [(400, 400)] * 6
    assert looks(10.0) == looks(49.0), "of parts smaller than that, detectors see no more"


@pytest.mark.parametrize("length, side, starts", [
    (100, 200, [0]), (200, 200, [0]), (201, 200, [0, 1]), (300, 200, [0, 100]), (400, 200, [0, 100, 200]),
    (3, 1, [0, 1, 2]),
])  # fmt: skip
def test_parts_cover_a_side_by_half_over_each_other(length, side, starts):
    assert search._spread(length, side) == starts


def test_texture_is_given_up_after_some_refusals_and_the_surest_finds_are_asked_about_first():
    doubtful = [standing(0, 0.4, (30 * i, 40 * j)) for i in range(10) for j in range(7)]
    closer = Closer({1: [*doubtful, standing(0, 0.9, (340, 20))]})
    (face,) = search.find(closer, np.zeros((300, 400, 3), np.uint8))
    assert face.score == 0.9 and closer.asked == 1 + search._MOST_REFUSED
    closer = Closer(dict.fromkeys(range(1, 99), doubtful))
    assert search.find(closer, np.zeros((300, 400, 3), np.uint8)) == [] and closer.asked == search._MOST_REFUSED
    assert max(max(shape) for shape, _ in closer.looks) == 400, "nor is it looked at within a border any more"


class Dreamer(Reader):
    """Answers any picture but the plain and the bordered one with the same face, wherever it may be."""

    def __init__(self, face, **kwargs):
        super().__init__(**kwargs)
        self.face = face

    def detect(self, image):
        self.looks.append(image.shape)
        return [self.face] if len(self.looks) > 2 else []


def test_a_find_that_is_not_seen_in_the_mirror_does_not_count():
    dream = Face(OFFSETS.astype(np.float32), (2.0, 3.0, 18.0, 18.0), 0.99)
    dreamer = Dreamer(dream)
    assert search.find(dreamer, np.zeros((80, 80, 3), np.uint8)) == [] and len(dreamer.looks) == 13


@pytest.mark.parametrize("change", ["low score", "upside down", "points outside"])
def test_an_unsure_find_in_a_turned_image_does_not_count(monkeypatch, change):
    sees = Reader.detect

    def unsure(self, image):
        faces = sees(self, image)
        for face in faces:
            points = face.points.copy()
            if change == "upside down":
                points = points[[3, 4, 2, 0, 1]]
            if change == "points outside":
                points[2, 0] += 50
            yield Face(points, face.box, 0.74 if change == "low score" else 0.76)

    monkeypatch.setattr(Reader, "detect", lambda self, image: list(unsure(self, image)))
    turned = np.ascontiguousarray(np.rot90(marked(90, 70, (30, 20)), 1))
    assert search.find(Reader(), turned) == []
    assert change == "upside down" or len(search.find(Reader(), marked(90, 70, (30, 20)))) == 1  # nothing to doubt


def test_a_sure_find_in_a_turned_image_needs_half_of_what_is_left_above_min_score():
    turned = np.ascontiguousarray(np.rot90(marked(90, 70, (30, 20)), 1))
    assert len(search.find(Reader(score=0.75, min_score=0.5), turned)) == 1
    assert search.find(Reader(score=0.75, min_score=0.6), turned) == []


def test_min_size_measures_the_shorter_side_and_the_search_goes_on():
    reader = Reader(640)
    image = marked(100, 64, (30, 20))  # the box is 15 wide and 15 high
    assert len(search.find(reader, image, min_size=15)) == 1 and len(reader.looks) == 4
    assert search.find(reader, image, min_size=16) == [] and len(reader.looks) == 4 + 4 + 4 + 4 * 2
    clipped = marked(100, 64, (84, 20))  # and 14 wide where the edge cuts it
    assert len(search.find(Reader(), clipped, min_size=13)) == 1 and search.find(Reader(), clipped, min_size=14) == []


def test_what_was_tried_in_words():
    assert search.in_words(Reader(), "quick", 0) == "reader, then again with a black border around the picture"
    assert search.in_words(Reader(640), "thorough", 24) == (
        "reader, turned by 90, 180 and 270 degrees too, then again with a black border around the picture and at "
        "det_size 320, 480, 960 and 1280; faces under 24 pixels (min_size) do not count"
    )
    assert search.in_words(Reader(), "thorough", 0).endswith("with a black border around the picture")


@pytest.fixture(scope="module")
def haar():
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "CascadeClassifier"):
        pytest.skip("OpenCV 5 has no Haar cascade")
    return detector.load("opencv: haar cascade", 0.5, 640)


@pytest.mark.slow
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_astronaut_lying_and_upside_down(haar, root, turns):
    photo = np.array(Image.open(root / "workflows" / "assets" / "astronaut.png").convert("RGB"))
    (upright,) = search.find(haar, photo)
    (face,) = search.find(haar, np.ascontiguousarray(np.rot90(photo, turns)))
    assert np.allclose(search.turn_back(face.points, turns, (512, 512)), upright.points)
    assert face.score == upright.score


@pytest.mark.slow
@pytest.mark.usefixtures("haar")
def test_texture_in_which_the_cascade_sees_faces_shows_none():
    cv2 = pytest.importorskip("cv2")
    small_haar = detector.load("opencv: haar cascade", 0.4, 256)
    blots = cv2.resize(np.random.default_rng(4).integers(0, 256, (40, 40, 3), dtype=np.uint8), (256, 256))
    assert small_haar.detect(blots), "choose other blots: these test nothing"
    assert search.find(small_haar, blots) == []
