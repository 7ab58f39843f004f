"""Alignment against published numbers: matrix, crop, template rules, and what a similarity must never do."""

import json

import numpy as np
import pytest
import torch
from likeness.faces.align import ARCFACE_112, align_faces, in_template_order, template, warp
from likeness.faces.geometry import similarity
from likeness.faces.types import Face, Faces
from PIL import Image


@pytest.fixture(scope="module")
def golden(root):
    return json.loads((root / "tests" / "golden" / "alignment.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def astronaut(root):
    return torch.from_numpy(np.array(Image.open(root / "workflows" / "assets" / "astronaut.png"))).float() / 255


def _turned(points, degrees, scale, shift):
    turn = scale * np.exp(1j * np.radians(degrees))
    moved = (np.asarray(points) @ [1, 1j]) * turn + complex(*shift)
    return np.stack([moved.real, moved.imag], axis=1)


def test_template_is_the_published_one(golden):
    assert np.abs(template(112) - golden["template_112"]).max() < 1e-5


@pytest.mark.parametrize(
    "size, factor, shift", [(112, 1, 0), (224, 2, 0), (128, 1, 8), (256, 2, 16), (896, 8, 0), (100, 100 / 112, 0)]
)
def test_template_sizes(size, factor, shift):
    assert np.allclose(template(size), ARCFACE_112 * factor + [shift, 0], atol=1e-12)


def test_matrix_matches_golden(golden):
    matrix = similarity(golden["landmarks_xy"], template(112))
    assert np.abs(matrix - golden["matrix_to_112"]).max() < 2e-5


def test_crop_matches_golden(root, golden, astronaut):
    crop = warp(astronaut, similarity(golden["landmarks_xy"], template(112)), 112).numpy() * 255
    stored = np.array(Image.open(root / "tests" / "golden" / "alignment_fact.png")).astype(np.float64)
    assert np.abs(crop - stored).max() < 0.502


def test_template_points_give_the_identity():
    assert np.allclose(similarity(template(112), template(112)), [[1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_identity_crop_is_the_picture_bit_for_bit(astronaut):
    picture = astronaut[100:212, 150:262]
    assert torch.equal(warp(picture, similarity(template(112), template(112)), 112), picture)


@pytest.mark.parametrize("degrees, scale", [(0, 2.0), (30, 1.0), (-75, 1.7), (180, 1.3)])
def test_rotated_and_scaled_points_are_brought_back(golden, degrees, scale):
    points = np.array(golden["landmarks_xy"])
    expected = similarity(points, template(112)) @ np.vstack([points.T, np.ones(5)])
    moved = _turned(points, degrees, scale, (40, -20))
    assert np.allclose(similarity(moved, template(112)) @ np.vstack([moved.T, np.ones(5)]), expected, atol=1e-9)


def test_rotated_and_scaled_copy_gives_the_same_crop(golden, astronaut):
    points = np.array(golden["landmarks_xy"])
    # Turn the picture about the face by 25 degrees and enlarge it by 1.5, as one warp into a larger canvas.
    centre = points.mean(axis=0)
    about = _turned(points - centre, 25, 1.5, (300, 300))
    copy = warp(astronaut, similarity(points, about), 600)
    crop, again = (
        warp(image, similarity(where, template(112)), 112) for image, where in ((astronaut, points), (copy, about))
    )
    error = (crop - again).square().mean().item()
    assert -10 * np.log10(error) > 34  # a bilinear copy is a little softer; one pixel of shift gives 25


def test_half_a_pixel_is_bilinear_and_outside_is_black():
    picture = torch.tensor([[0.2, 0.6], [0.4, 1.0]])[..., None]
    crop = warp(picture, np.array([[1, 0, 0.5], [0, 1, 0.5]]), 3)[..., 0]
    assert torch.allclose(crop[1, 1], picture.mean())
    assert torch.allclose(crop[0], torch.tensor([0.05, 0.2, 0.15]))  # three, two and three of four corners are black
    assert warp(picture, np.array([[1, 0, 9], [0, 1, 9]]), 3).abs().max() == 0


@pytest.mark.parametrize("seed", range(20))
def test_never_a_reflection(seed):
    points = np.random.default_rng(seed).normal(size=(5, 2)) * 50
    mirrored = template(112) * [-1, 1]
    for source in (points, mirrored):
        matrix = similarity(source, template(112))[:, :2]
        scale = np.linalg.det(matrix)
        assert scale > 0
        assert np.allclose(matrix @ matrix.T, scale * np.eye(2))


@pytest.mark.parametrize("fill", [7.0, np.nan, np.inf])
def test_degenerate_points_are_refused(fill):
    points = np.full((5, 2), fill)
    with pytest.raises(ValueError, match="Cannot align a face"):
        similarity(points, template(112))


@pytest.mark.parametrize("degrees", [0, 60, 180, -100])
def test_template_order(degrees):
    points = _turned(template(112), degrees, 1, (0, 0))
    assert np.array_equal(in_template_order(points), points)
    mirrored = points * [-1, 1]
    assert np.array_equal(in_template_order(mirrored), mirrored[[1, 0, 2, 4, 3]])


def test_mirrored_picture_gives_the_mirrored_crop(golden):
    points = np.array(golden["landmarks_xy"])
    mirrored = in_template_order(points * [-1, 1] + [511, 0])
    spots = np.array([[190, 60], [260, 60], [190, 180], [260, 180], [225, 120]])
    landed, other = (
        similarity(five, template(112)) @ np.vstack([np.transpose(where), np.ones(5)])
        for five, where in ((points, spots), (mirrored, spots * [-1, 1] + [511, 0]))
    )
    # Not exactly: the template itself is not symmetric about the crop's middle.
    assert np.abs(landed * [[-1], [1]] + [[111], [0]] - other).max() < 1.5


def test_align_faces_runs_picture_by_picture_and_applies_each_mask(golden, astronaut):
    points = np.array(golden["landmarks_xy"], dtype=np.float32)
    face = Face(points, (0, 0, 1, 1), 1.0)
    shifted = Face(points + np.float32([10, 0]), (0, 0, 1, 1), 1.0)
    faces = Faces(torch.stack([astronaut, astronaut * 0.5]), ((face, shifted), (face,)))
    crops = align_faces(faces, 112)
    assert crops.shape == (3, 112, 112, 3)
    assert torch.allclose(crops[2], crops[0] * 0.5, atol=1e-6)
    assert not torch.allclose(crops[1], crops[0], atol=0.1)
    masks = torch.stack([torch.ones(512, 512), torch.zeros(512, 512), torch.ones(512, 512)])
    masked = align_faces(faces, 112, masks)
    assert torch.equal(masked[[0, 2]], crops[[0, 2]]) and masked[1].abs().max() == 0


def test_align_faces_without_faces_and_with_wrong_masks(astronaut):
    assert align_faces(Faces(astronaut[None], ((),)), 112).shape == (0, 112, 112, 3)
    face = Face(template(112).astype(np.float32), (0, 0, 1, 1), 1.0)
    with pytest.raises(ValueError, match="one mask per face"):
        align_faces(Faces(astronaut[None], ((face,),)), 112, torch.ones(1, 64, 64))
