"""A folder of photos becomes crops, masks, captions and points; and these what trainings draw from."""

import logging
from pathlib import Path

import comfy.model_patcher
import numpy as np
import pytest
import torch
from likeness.encoders.face_encoder import FaceEncoder
from likeness.faces.align import align_faces
from likeness.faces.parsing import LABELS, SIZE, FaceParser, Parsing, find_parsing_crop
from likeness.miniature.models.autoencoder import Autoencoder, AutoencoderSizes
from likeness.miniature.models.base_model import MiniatureVAE
from likeness.tests.support import tiny
from likeness.tests.support.face_at import face_at
from likeness.training import photos
from likeness.training.buckets import list_shapes
from PIL import Image

from likeness import graphics

S = 48  # pixels a side of the crops
CPU = torch.device("cpu")
RED, BLUE = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]


class Spotter:
    """Takes every red box as wide as a face for one."""

    name, min_score, det_size = "spotter", 0.5, None

    def detect(self, image):
        seen = (image[..., 0] > 200) & (image[..., 1] < 100)
        edges = np.flatnonzero(np.diff(np.pad(seen.any(axis=0), 1).astype(int))).reshape(-1, 2)
        found = []
        for left, right in edges:
            rows = np.flatnonzero(seen[:, left:right].any(axis=1))
            found.append(face_at((left + right - 1) / 2, rows[[0, -1]].mean(), (right - left - 1) / 76))
        return found


def drawn(*faces, size=(220, 260)) -> Image.Image:
    """A picture of `size` (height, width) with a red box for each face (see `face_at`) and blue dots at its points."""
    pixels = np.full((*size, 3), 0.5)
    for face in faces:
        x0, y0, x1, y1 = np.rint(face.box).astype(int)
        pixels[y0 : y1 + 1, x0 : x1 + 1] = RED
        for x, y in np.rint(face.points).astype(int):
            pixels[y - 2 : y + 3, x - 2 : x + 3] = BLUE
    return Image.fromarray(np.uint8(pixels * 255))


def put(file, picture=None, caption=None) -> None:
    file.parent.mkdir(exist_ok=True)
    (picture or drawn(face_at(120, 110))).save(file)
    if caption is not None:
        file.with_suffix(".txt").write_text(caption, encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Two photos of ada, one of them with somebody behind her, and one of bob."""
    put(tmp_path / "ada" / "1.png", caption="ada at the\ncafé\n")
    put(tmp_path / "ada" / "2.png", drawn(face_at(60, 110, 1.1), face_at(165, 110, 0.5)))
    put(tmp_path / "bob" / "1.png", drawn(face_at(60, 55, 0.5), size=(100, 120)))
    (tmp_path / "ada" / "caption.txt").write_text("ada")
    return tmp_path


def read(folder, parser=None) -> photos.Album:
    return photos.read(folder, Spotter(), S, parser)


def test_people_and_captions_come_from_the_folder(folder):
    (folder / ".trash").mkdir()
    album = read(folder)
    assert len(album) == 3 and album.people.tolist() == [0, 0, 1]
    assert album.captions == ["ada at the café", "ada", "a photo of a person"]


def test_the_face_fills_two_thirds_of_the_middle_of_its_crop(folder):
    album = read(folder)
    assert album.images.shape == (3, S, S, 3) and album.images.dtype == torch.uint8
    for picture, face in zip(album.images, album.faces):
        red = ((picture[..., 0] > 200) & (picture[..., 1] < 100)).numpy()
        (top, bottom), (left, right) = (np.flatnonzero(red.any(axis=axis))[[0, -1]] for axis in (1, 0))
        assert bottom - top + 1 == pytest.approx(S / 1.5, abs=1)
        assert [left, top, right, bottom] == pytest.approx(face.box, abs=1)
        assert [(top + bottom) / 2, (left + right) / 2] == pytest.approx([S / 2 - 0.5] * 2, abs=0.6)


def test_the_largest_of_several_faces_is_taken(tmp_path):
    large, central = face_at(60, 110, 1.1), face_at(165, 110, 0.5)
    put(tmp_path / "ada" / "1.png", drawn(large))
    put(tmp_path / "ada" / "2.png", drawn(large, central))
    alone, among = read(tmp_path).images
    assert torch.equal(alone, among)


@pytest.mark.parametrize(
    ("filters", "reasons"),
    [
        ({"min_side": 100}, ["1.png: its face is too small: the crop has less than 100 pixels"]),
        ({"one_face": True}, ["2.png: 2 faces were found in it"]),
        ({"min_score": 1.5}, [f"{n}.png: the detector's score of its face is below 1.5" for n in (1, 2, 1)]),
        ({"min_sharpness": 1e6}, [f"{n}.png: its face is blurred: the sharpness is below 1e+06" for n in (1, 2, 1)]),
        ({}, []),
    ],
)
def test_filters_leave_photos_out_and_say_why(filters, reasons, folder):
    told = []
    album = photos.read_files(
        photos.list_photos(folder),
        Spotter(),
        S,
        None,
        lambda name, why: told.append(f"{Path(name).name}: {why}"),
        photos.Filters(**filters),
    )
    assert told == reasons and len(album or ()) == 3 - len(reasons)


def test_sharpness_is_the_variance_of_the_laplacian():
    assert photos.measure_sharpness(torch.zeros(9, 9, 3)) == 0
    stripes = (torch.arange(9) % 2 * 255.0).expand(9, 9)[..., None].expand(9, 9, 3)
    assert photos.measure_sharpness(stripes) == pytest.approx(510**2, rel=0.05)
    assert photos.measure_sharpness(stripes / 10) == pytest.approx(51**2, rel=0.05)


def test_mirrored_photos_have_mirrored_points_and_masks(folder):
    album = read(folder)
    both, n = photos.add_mirrored(album), len(album)
    assert len(both) == 2 * n and torch.equal(both.images[n:], album.images.flip(2))
    assert torch.equal(both.face_masks[n:], album.face_masks.flip(2))
    for face, other in zip(album.faces, both.faces[n:]):
        assert other.points[0] == pytest.approx([S - 1 - face.points[1, 0], face.points[1, 1]])
        assert other.points[0, 0] < other.points[1, 0], "the subject's right eye is at the left again"
        assert other.box[0] == pytest.approx(S - 1 - face.box[2])


def test_the_side_that_a_crop_had_in_its_photo_is_known(folder):
    """Bob's face is half as large as ada's first."""
    sizes = read(folder).sizes
    first, _, bob = sizes[:, 0].tolist()
    assert torch.equal(sizes[:, 0], sizes[:, 1]) and not sizes[:, 2:].any()
    assert first == pytest.approx(2 * bob, abs=3) and first == pytest.approx(1.5 * 77, abs=30)


SHAPES = list_shapes(S, 12)


def test_a_target_shows_all_of_the_photo_that_its_shape_takes(tmp_path):
    """The dots at the face's points are where SDXL's numbers say, in photos larger and smaller than the target."""
    photos_of = [(face_at(60, 150), (200, 620)), (face_at(90, 330), (400, 190)), (face_at(20, 18, 0.3), (40, 44))]
    for number, (face, size) in enumerate(photos_of):
        put(tmp_path / "ada" / f"{number}.png", drawn(face, size=size))
    album, plain = photos.read(tmp_path, Spotter(), S, None, SHAPES), read(tmp_path)
    assert torch.equal(album.images, plain.images) and plain.targets is None, "what encoders see is as without buckets"
    assert [tuple(target.image.shape[:2]) for target in album.targets] == [(24, 96), (60, 36), (48, 48)]
    for (face, size), target, sizes in zip(photos_of, album.targets, album.sizes.tolist()):
        (height, width), (*photo, top, left) = target.face_mask.shape, sizes
        scale = max(height / size[0], width / size[1])
        assert photo == list(size) and (top == 0 or left == 0) and target.image.dtype == torch.uint8
        points = (face.points + 0.5) * scale - 0.5 - [left, top]
        inside = ((target.image[..., 0] > 140) & (target.image[..., 1] < 100)).float()
        rows, columns = inside.nonzero().float().unbind(1)
        corners = (np.reshape(face.box, (2, 2)) + 0.5) * scale - 0.5 - [left, top]
        seen = [columns.min(), rows.min(), columns.max(), rows.max()]
        assert seen == pytest.approx(corners.ravel().clip(0, [width, height] * 2), abs=1.5)
        x, y = np.rint(points[2]).astype(int)
        assert target.face_mask[y, x] and inside[target.face_mask].mean() > 0.5 and not target.face_mask.all()


def test_targets_of_several_shapes_are_what_is_learned(folder, base):
    put(folder / "bob" / "2.png", drawn(face_at(60, 120), size=(200, 420)))
    album = photos.read(folder, Spotter(), S, None, SHAPES)
    portraits, plain = (photos.encode(each, *base, [encoder("msid")], batch=3) for each in (album, read(folder)))
    model, vae = base
    for row, target in enumerate(album.targets):
        with torch.inference_mode():
            (expected,) = model.model.process_latent_in(vae.encode(target.image[None].float() / 255))
        latents, faces = (column[torch.tensor([row])][0].float() for column in (portraits.latents, portraits.faces))
        assert torch.allclose(latents, expected, atol=1e-3)
        assert faces.shape == latents.shape[1:] and 0 < faces.mean() < 1
    assert len(portraits.latents.parts) == 2 and torch.equal(portraits.sizes, album.sizes)
    assert torch.equal(portraits.features["msid"], plain.features["msid"])


def test_the_points_move_along(folder):
    for picture, face in zip(read(folder).images, read(folder).faces):
        assert face.points.dtype == np.float32
        for x, y in np.rint(face.points).astype(int):
            assert picture[y, x, 2] > 200 > picture[y, x, 0], "the dots of the crop lie under its points"


def test_crops_at_the_border_go_on_with_its_pixels(tmp_path):
    put(tmp_path / "ada" / "1.png", drawn(face_at(38, 45), size=(140, 140)))
    (picture,) = read(tmp_path).images
    assert picture[0, S // 2, 0] > 200 and picture[S // 2, 0, 0] > 200 and picture[-1, -1].tolist() == [127] * 3


def test_masks_hold_the_face_and_the_head_around_it(folder):
    album = read(folder)
    assert album.face_masks.shape == album.head_masks.shape == (3, S, S) and album.face_masks.dtype == torch.bool
    assert (album.face_masks & ~album.head_masks).float().mean() < 0.01, "two estimates of one jaw"
    assert album.face_masks[:, S // 2, S // 2].all() and not album.head_masks[:, 0, 0].any()
    assert (album.face_masks.float().mean(dim=(1, 2)) < album.head_masks.float().mean(dim=(1, 2)) - 0.1).all()


class Parser(FaceParser):
    """Sees skin in the upper half of the crop, as CelebA-HQ has it, or nothing."""

    def parse(self, image, face):
        probabilities = np.zeros((len(LABELS), SIZE, SIZE))
        probabilities[LABELS.index("skin"), : SIZE // 2] = self.name != "blind"
        to_crop = find_parsing_crop(face)
        return Parsing(probabilities, to_crop, face.points)


def test_a_parser_draws_the_masks(folder, caplog):
    (mask, *_) = read(folder, Parser("half", None)).face_masks
    rows = mask[:, S // 2].nonzero()[:, 0]
    assert rows[0] == 0 and S * 0.3 < rows[-1] < S * 0.7, "the upper half"
    with pytest.raises(ValueError, match="None of the 3 pictures"):
        read(folder, Parser("blind", None))
    assert caplog.text.count("no face was found in it") == 3


def test_a_person_with_one_photo_is_kept_and_named(folder, caplog):
    assert 1 in read(folder).people
    assert "only one photo of bob: training cannot pair it" in caplog.text and "of ada" not in caplog.text


def test_what_is_no_picture_or_has_no_face_is_left_out_and_named(folder, caplog):
    whole = (folder / "ada" / "1.png").read_bytes()
    (folder / "ada" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "ada" / "page.jpg").write_text("<html>not here</html>")
    put(folder / "ada" / "dot.png", Image.new("RGB", (1, 1)))
    put(folder / "ada" / "tree.png", drawn())
    (folder / "ada" / "notes.md").write_text("no picture at all")
    with caplog.at_level(logging.WARNING):
        assert read(folder).people.tolist() == [0, 0, 1]
    for name in ("cut.png", "page.jpg", "dot.png"):
        assert f"{folder / 'ada' / name} is left out: it cannot be read as a picture (" in caplog.text
    assert f"{folder / 'ada' / 'tree.png'} is left out: no face was found in it." in caplog.text
    assert "notes.md" not in caplog.text


def test_a_huge_picture_is_made_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(graphics, "LONGEST", 120)
    drawn(face_at(120, 110), size=(200, 300)).save(tmp_path / "huge.png")
    assert graphics.read_image(tmp_path / "huge.png").shape == (80, 120, 3)


def test_the_camera_may_have_been_held_upright(tmp_path):
    lying = drawn(face_at(120, 110)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    (tmp_path / "ada").mkdir()
    lying.save(tmp_path / "ada" / "1.png", exif=exif)
    put(tmp_path / "eve" / "1.png")
    turned, upright = read(tmp_path).images
    assert torch.equal(turned, upright)


def test_folders_that_hold_nothing_to_train_with(tmp_path):
    drawn(face_at(120, 110)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="has no sub-folders: make one for each person"):
        read(tmp_path)
    put(tmp_path / "ada" / "1.png", drawn())
    with pytest.raises(ValueError, match="None of the 2 pictures below .* shows a face to train with: put photos"):
        read(tmp_path)


def test_a_caption_that_is_not_utf8_is_named_before_anything_is_looked_at(folder, monkeypatch):
    monkeypatch.setattr(Spotter, "detect", lambda *_: pytest.fail("looked for faces first"))
    (folder / "bob" / "1.txt").write_bytes("bob at the café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"bob/1.txt is not UTF-8 \(from byte 15 on\): save it"):
        read(folder)


class Mirror(torch.nn.Module):
    """An encoder whose features are the pixels it saw."""

    def identify(self, pixels):
        return pixels.flatten(2), pixels.flatten(1)


def encoder(kind, crop_size=16) -> FaceEncoder:
    return FaceEncoder(kind, "mirror", "", comfy.model_patcher.ModelPatcher(Mirror(), CPU, CPU, size=1), crop_size)


@pytest.fixture(scope="module")
def base():
    """Model and VAE."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        weights = Autoencoder(AutoencoderSizes(4, (8, 8, 8), (8, 8, 8))).state_dict()
    return tiny.model(), MiniatureVAE(weights)


def test_latents_and_face_shares_are_those_of_the_crops(folder, base):
    (model, vae), album = base, read(folder)
    told = []
    portraits = photos.encode(album, model, vae, [], batch=2, report=lambda *each: told.append(each))
    with torch.inference_mode():
        expected = model.model.process_latent_in(vae.encode(album.images.float() / 255))
    assert portraits.latents.shape == (3, 4, S // 12, S // 12) and portraits.latents.dtype == torch.float16
    assert torch.allclose(portraits.latents.float(), expected, atol=1e-3) and expected.std() > 0.01
    shares = album.face_masks.float().reshape(3, S // 12, 12, S // 12, 12).mean(dim=(2, 4))
    assert torch.allclose(portraits.faces.float(), shares, atol=1e-3) and ((shares > 0) & (shares < 1)).any()
    assert portraits.captions == album.captions and torch.equal(portraits.people, album.people)
    assert told == [(2, 3), (3, 3)]
    assert not portraits.latents.is_inference(), "autograd can use them"


def test_transface_sees_heads_before_black_and_the_others_whole_crops(folder, base):
    album = read(folder)
    portraits = photos.encode(album, *base, [encoder("transface"), encoder("msid"), encoder("arcface", 8)], batch=2)
    features = portraits.features
    assert {name: tuple(each.shape) for name, each in features.items()} == {
        "transface": (3, 3, 256),
        "msid": (3, 3, 256),
        "arcface": (3, 3, 64),
    }
    whole, head = ((features[name].float() + 1) / 2 for name in ("msid", "transface"))
    expected = align_faces(album.select(slice(None)), 16).movedim(-1, 1).flatten(2)
    assert torch.allclose(whole, expected, atol=1e-3)
    black = (head.amax(dim=1) < 1e-3) & (whole.amax(dim=1) > 0.1)
    kept = torch.isclose(head, whole, atol=1e-3).all(dim=1)
    assert (black.float().mean(dim=1) > 0.02).all() and (kept.float().mean(dim=1) > 0.5).all()


def test_a_size_that_latents_cannot_show_is_refused(folder, base):
    with pytest.raises(ValueError, match="Photos of 50 x 50 .* stands for 12 x 12 of them: read the photos at 48"):
        photos.encode(photos.read(folder, Spotter(), 50), *base, [])
