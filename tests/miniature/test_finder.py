"""The face finder of the drawn world: its algebra, what it learns from, and the detector with its weights."""

import numpy as np
import pytest
import torch
from likeness.faces import detector
from likeness.faces.choose import apply_policy
from likeness.miniature import detector as drawn
from likeness.miniature import registration
from likeness.miniature.models.finder import SIZE, Finder, FinderSizes, centres
from likeness.miniature.training import finder as training
from likeness.miniature.world.dataset import SetRecipe, read, write
from likeness.miniature.world.draw import draw
from likeness.weights import folders
from PIL import Image

folders.register()
registration.register()
STYLES = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
CPU = torch.device("cpu")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture(scope="module")
def portraits():
    """12 people nobody trained with, a third of them in each style."""
    shown = [
        SetRecipe(split="test", first=40 * number, people=4, images=1, styles=style).describe(index)[:2]
        for number, style in enumerate(STYLES)
        for index in range(4)
    ]
    return draw(*zip(*shown), SIZE)


@pytest.fixture(scope="module")
def pixels(portraits):
    return portraits.images.movedim(-1, 1) * 2 - 1


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    write(folder, SetRecipe(people=4, images=2, size=SIZE))
    return read(folder)


@pytest.fixture(scope="module")
def finder():
    return detector.load("drawn: miniature", 0.5, 640)


def as_bytes(x: torch.Tensor) -> np.ndarray:
    return ((x + 1) * 127.5).round().byte().movedim(1, -1).numpy()


@pytest.mark.parametrize("sizes", [FinderSizes(), FinderSizes((8, 16, 24), 2)])
def test_sizes_are_read_from_the_weights(sizes):
    network = Finder(sizes)
    assert FinderSizes.of(network.state_dict()) == sizes
    points, presence = network(torch.zeros(2, 3, SIZE, SIZE))
    assert points.shape == (2, 5, 2) and presence.shape == (2,)
    assert ((points >= 0) & (points < SIZE)).all()


def test_the_centre_of_a_map_is_in_pixels():
    heat = torch.zeros(1, 2, 4, 4)
    heat[0, 0, 1, 2] = 1
    heat[0, 1, 0, 0] = heat[0, 1, 0, 1] = 0.5
    assert centres(heat, 6).tolist() == [[[14.5, 8.5], [5.5, 2.5]]]


def test_loss_counts_points_only_where_a_face_is():
    points, sure = torch.rand(2, 5, 2, generator=generator()) * 90, torch.tensor([30.0, -30.0])
    present = torch.tensor([True, False])
    assert training.loss(points, sure, points, present, 0.1).item() == pytest.approx(0, abs=1e-6)
    off = points + torch.tensor([3.0, 50.0])[:, None, None]
    assert training.loss(off, sure, points, present, 0.1).item() == pytest.approx(0.25)
    assert training.loss(points, -sure, points, present, 0.1).item() == pytest.approx(30)


def test_blur_keeps_means_and_each_picture_has_its_own():
    x = torch.zeros(2, 1, 33, 33)
    x[..., 16, 16] = 1
    soft = training.blur(x, torch.tensor([0.2, 2.0]))
    assert torch.allclose(soft.sum((2, 3)), torch.ones(2, 1), atol=1e-3)
    spread = (soft[:, 0].sum(1) * (torch.arange(33) - 16).square()).sum(1)
    assert torch.allclose(spread, torch.tensor([0.0, 4.0]), atol=0.02)


def test_scrambled_pictures_have_the_same_blocks_elsewhere():
    x = torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    y = training.scramble(x, 8, generator())
    corners = y[:, 0, ::8, ::8].flatten(1)
    assert corners.sort().values.tolist() == x[:, 0, ::8, ::8].flatten(1).tolist() and not torch.equal(x, y)
    for picture, row, column in np.ndindex(2, 2, 2):
        block = y[picture, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        place = (block[0, 0, 0] - x[picture, 0, 0, 0]).item()
        assert torch.equal(block, x[picture, :, place // 16 :, place % 16 :][:, :8, :8])


def test_spoiled_pictures_keep_all_but_the_face(portraits, pixels):
    face = portraits.masks[:, 0]
    x = training.spoil(pixels, face, generator())
    assert x.abs().max() <= 1
    far = training.blur(face[:, None].float(), torch.full((len(x),), 3.0)) < 1e-5
    changed = (x - pixels).abs().mean(1, keepdim=True)
    kept = torch.tensor([there[where].max() < 1e-3 for there, where in zip(changed, far)])
    assert 0 < (~kept).sum() < kept.sum()  # some are covered altogether
    assert all(there[where[None]].mean() > 0.03 for there, where in zip(changed, face))


@pytest.mark.parametrize("edge", [True, False])
def test_points_move_with_their_picture(edge):
    x = torch.full((2, 3, SIZE, SIZE), -1.0)
    points = torch.tensor([[[30.0, 50.0], [60.0, 40.0]]]).repeat(2, 1, 1)
    for column, row in points[0].int().tolist():
        x[:, :, row - 1 : row + 2, column - 1 : column + 2] = 1
    zoom, shift = torch.tensor([0.6, 1.2]), torch.tensor([[9.0, -4.0], [-5.0, 7.0]])
    seen, there = training.move(x, points, zoom, shift, edge)
    light = (seen[:, 0] + 1) / 2
    side = torch.arange(SIZE)
    mass = light.sum((1, 2))
    centre = torch.stack([(light.sum(dim) @ side.float()) / mass for dim in (1, 2)], dim=1)
    assert torch.allclose(centre, there.mean(1), atol=0.1)
    assert torch.allclose(there[:, 1] - there[:, 0], zoom[:, None] * torch.tensor([30.0, -10.0]))


def test_half_of_the_examples_show_a_face(small_set):
    x, points, present = training.examples(small_set, 6, generator())
    assert x.shape == (6, 3, SIZE, SIZE) and points.shape == (6, 5, 2) and x.abs().max() <= 1
    assert present.tolist() == [True] * 3 + [False] * 3
    again = training.examples(small_set, 6, generator())
    assert all(torch.equal(one, other) for one, other in zip((x, points, present), again))


def test_training_learns_and_gives_half_precision_weights(small_set):
    losses = []
    settings = training.FinderSettings(steps=16, batch=8, precision="bfloat16", ema=0.5)
    weights = training.make_weights(small_set, settings, lambda progress: losses.append(progress.losses[-1]))
    assert len(losses) == 16 and sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert FinderSizes.of(weights) == FinderSizes() and weights.keys() == Finder(FinderSizes()).state_dict().keys()


def test_unseen_people_are_found_in_every_style(finder, portraits, pixels):
    found = [face for picture in as_bytes(pixels) for face in finder.detect(picture)]
    assert len(found) == len(pixels)
    off = np.linalg.norm(np.stack([face.points for face in found]) - portraits.points.numpy(), axis=2)
    assert off.mean() < 4 and off.mean(axis=1).max() < 9  # eyes are 24 pixels apart
    assert all(face.points.dtype == np.float32 and face.landmarks is None and face.score >= 0.5 for face in found)


def test_boxes_hold_the_face(finder, portraits, pixels):
    inside = []
    for picture, mask in zip(as_bytes(pixels), portraits.masks[:, 0].numpy()):
        x0, y0, x1, y1 = finder.detect(picture)[0].box
        assert x1 - x0 == pytest.approx(y1 - y0, abs=1e-3) and mask.sum() > 0.35 * (x1 - x0) * (y1 - y0)
        rows, columns = np.nonzero(mask)
        inside.append(((columns >= x0) & (columns <= x1) & (rows >= y0) & (rows <= y1)).mean())
    assert np.mean(inside) > 0.9 and min(inside) > 0.65


@pytest.mark.parametrize("cover", ["one colour", "noise", "blur", "blocks"])
def test_spoiled_faces_are_none(finder, portraits, pixels, cover):
    face = portraits.masks[:, :1].float()
    covers = {
        "one colour": (pixels * face).sum((2, 3), keepdim=True) / face.sum((2, 3), keepdim=True),
        "noise": torch.randn(pixels.shape, generator=generator()) * 0.5,
        "blur": training.blur(pixels, torch.full((len(pixels),), 9.0)),
        "blocks": training.scramble(pixels, 12, generator()),
    }
    spoiled = pixels.lerp(covers[cover].expand_as(pixels), face).clamp(-1, 1)
    assert sum(len(finder.detect(picture)) for picture in as_bytes(spoiled)) <= 1  # of 12


def test_pictures_of_every_size_are_found_at_their_own_places(finder, portraits):
    picture = (portraits.images[:1].movedim(-1, 1)).repeat_interleave(4, 2).repeat_interleave(4, 3).movedim(1, -1)
    wide = torch.nn.functional.pad(picture, (0, 0, 70, 130))
    points = portraits.points[0].numpy() * 4 + 1.5
    for image, there in ((picture, points), (wide, points + [70, 0])):
        (face,) = detector.detect_faces(finder, image, "quick").per_image[0]
        assert np.linalg.norm(face.points - there, axis=1).mean() < 25  # of 384; eyes are 96 apart


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (2, 1), (1, 3), (2, 2)])
def test_several_people_in_a_picture_are_each_found(finder, portraits, rows, columns):
    """Also where the middle of all their eyes, which one look would take for a face, lies between them."""
    numbers = torch.arange(rows * columns).reshape(rows, columns)
    image = torch.cat([torch.cat([portraits.images[n] for n in line.tolist()], dim=1) for line in numbers])
    corners = torch.stack([numbers % columns, numbers // columns], dim=-1).reshape(-1, 1, 2) * SIZE
    there = (portraits.points[: rows * columns] + corners).numpy()
    faces = detector.detect_faces(finder, image[None]).per_image[0]
    assert len(faces) == len(there)
    for points in there:
        assert min(np.linalg.norm(face.points - points, axis=1).mean() for face in faces) < 3


@pytest.mark.parametrize("name", ["astronaut", "portrait", "three_faces"])
def test_photographs_are_answered_with_what_the_detector_sees(finder, root, name):
    photo = torch.from_numpy(np.array(Image.open(root / "workflows" / "assets" / f"{name}.png").convert("RGB"))) / 255
    with pytest.raises(ValueError, match="drawn: miniature .*this detector sees drawn faces only"):
        apply_policy(detector.detect_faces(finder, photo[None]), "largest", 0, "error")


def test_portraits_as_people_upload_them_are_no_drawings(finder, real_photos):
    """Smooth skin, lit evenly: a face found here would be drawn as that of somebody else, and nobody told."""
    for name in ("obama", "obama2", "obama3", "biden"):
        for side in (1000, 500, 350):
            image = Image.open(real_photos / f"{name}.jpg").convert("RGB")
            image.thumbnail((side, side))
            for height in (image.height, image.height // 2):
                assert finder.detect(np.array(image)[:height]) == [], (name, side)


def test_min_score_is_kept(pixels):
    """By a face so blurred that the finder is in doubt: a detector finds it or not, as its score is."""
    softer = torch.linspace(2, 6, 65)
    blurred = as_bytes(training.blur(pixels[:1].expand(len(softer), -1, -1, -1), softer))
    every = detector.load("drawn: miniature", 0.0, 640)
    picture, score = min(((each, every.detect(each)[0].score) for each in blurred), key=lambda pair: abs(pair[1] - 0.5))
    assert 0.02 < score < 0.98
    (face,) = detector.load("drawn: miniature", score - 0.01, 640).detect(picture)
    assert face.score == score and detector.load("drawn: miniature", score + 0.01, 640).detect(picture) == []
    (face,) = every.detect(np.zeros((50, 40, 3), np.uint8))
    assert face.score < 0.5


def test_it_is_the_last_of_the_detectors():
    assert "drawn: miniature" in detector.available()


def test_missing_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(drawn, "WEIGHTS", tmp_path / "finder.safetensors")
    with pytest.raises(FileNotFoundError, match="face finder should be in .*finder.safetensors"):
        detector.load("drawn: miniature", 0.5, 640)
