"""The estimated head: what it holds, and that it follows the face."""

import numpy as np
import pytest
import torch
from likeness.faces.align import template
from likeness.faces.headmask import head_mask, head_masks, mask_background, masks_per_face
from likeness.faces.types import Face, Faces
from PIL import Image

SIZE = (512, 512)
# Read off the photo: the points, and spots of hair, ears, chin on one side; wall, collar and flag on the other.
POINTS = np.array([[203, 101], [246.5, 103], [223, 127], [203.5, 140], [247, 138.5]], dtype=np.float32)
HEAD = [(225, 25), (170, 60), (280, 70), (290, 90), (176, 125), (273, 130), (225, 165), (190, 150)]
NOT_HEAD = [(100, 100), (330, 100), (225, 200), (150, 170), (300, 160)]


def _face(points, landmarks=None):
    return Face(points, (174.0, 64.0, 273.0, 162.0), 1.0, landmarks)


def _oval(points):
    """A hull of face landmarks without hair: an oval from brows to chin."""
    angles = np.linspace(0, 2 * np.pi, 30)
    centre = points[:2].mean(axis=0) * 0.4 + points[3:].mean(axis=0) * 0.6
    return (centre + np.stack([44 * np.cos(angles), 50 * np.sin(angles)], axis=1)).astype(np.float32)


@pytest.mark.parametrize("landmarks", [None, _oval(POINTS)], ids=["five points", "dense landmarks"])
def test_astronaut(landmarks):
    mask = head_mask(_face(POINTS, landmarks), SIZE)
    assert mask.shape == SIZE and set(mask.unique().tolist()) == {0.0, 1.0}
    assert [spot for spot in HEAD if not mask[spot[1], spot[0]]] == []
    assert [spot for spot in NOT_HEAD if mask[spot[1], spot[0]]] == []


def test_dense_landmarks_are_all_inside():
    wide = _oval(POINTS) + np.float32([30, 10])
    mask = head_mask(_face(POINTS, wide), SIZE)
    inner = wide + (wide.mean(axis=0) - wide) * 0.05
    assert all(mask[round(y), round(x)] for x, y in inner.tolist())


@pytest.mark.parametrize("degrees", [90, 180])
def test_mask_turns_with_the_face(degrees):
    turn = np.exp(1j * np.radians(degrees))
    moved = (POINTS - 255.5) @ [1, 1j] * turn
    points = np.stack([moved.real, moved.imag], axis=1).astype(np.float32) + np.float32(255.5)
    upright = head_mask(_face(POINTS), SIZE)
    turned = torch.rot90(upright, -degrees // 90)  # y points down, so a positive turn is clockwise
    assert (head_mask(_face(points), SIZE) - turned).abs().mean() < 2e-3


def test_face_at_the_border_and_far_outside():
    assert 0 < head_mask(_face(POINTS - np.float32([223, 0])), SIZE).mean() < 0.06
    assert head_mask(_face(POINTS - np.float32([900, 0])), SIZE).sum() == 0


def test_masks_follow_the_faces_and_blacken_the_rest(root):
    pixels = np.array(Image.open(root / "workflows" / "assets" / "astronaut.png"))
    picture = torch.from_numpy(pixels).float()[None] / 255
    faces = Faces(picture.expand(2, -1, -1, -1), ((_face(POINTS), _face(POINTS + np.float32([100, 100]))), ()))
    masks = head_masks(faces)
    assert masks.shape == (2, *SIZE)
    assert torch.equal(masks[1, 150:, 150:], masks[0, 50:-100, 50:-100])
    black = mask_background(picture, masks[:1])
    assert torch.equal(black[0][masks[0] == 1], picture[0][masks[0] == 1])
    assert black[0][masks[0] == 0].abs().max() == 0
    assert head_masks(Faces(picture, ((),))).shape == (0, *SIZE)


def test_template_sized_head_fills_its_crop():
    mask = head_mask(Face(template(112).astype(np.float32), (0.0, 0.0, 111.0, 111.0), 1.0), (112, 112))
    assert 0.9 < mask.mean() < 1


def test_given_masks_are_repeated_for_each_face():
    faces = Faces(torch.zeros(3, 8, 6, 3), ((_face(POINTS),) * 2, (), (_face(POINTS),)))
    masks = torch.arange(3.0)[:, None, None].expand(3, 8, 6)
    assert masks_per_face(faces, masks)[:, 0, 0].tolist() == [0, 0, 2]
    assert masks_per_face(faces, torch.ones(8, 6)).shape == (3, 8, 6)
    with pytest.raises(ValueError, match="2 pictures of 6 x 8, the photos are 3 of 6 x 8"):
        masks_per_face(faces, torch.ones(2, 8, 6))
    with pytest.raises(ValueError, match="8 x 6"):
        masks_per_face(faces, torch.ones(3, 6, 8))
