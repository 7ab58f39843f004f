"""PuLID's view of a face against numbers of its authors' code, and the packing of what it reads."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from likeness.encoders.pulid import CROP, PulidEncoder, cut_portraits, pack, prepare_pixels, unpack
from likeness.faces.types import Face, Faces
from likeness.tests.support.golden_cases import GOLDEN, TOLERANCE, Case, error
from PIL import Image

ASTRONAUT = Path(__file__).parents[2] / "workflows" / "assets" / "astronaut.png"


def read(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).float() / 255


def faces_of(image: torch.Tensor, points) -> Faces:
    return Faces(image[None], ((Face(np.float32(points), (0, 0, 1, 1), 1.0),),))


@pytest.fixture(scope="module")
def case():
    return Case("pulid_face")


def test_grey_face_on_white(case):
    crop = read(GOLDEN / "pulid_face_crop.png")[None]
    pixels = prepare_pixels(crop, case.input["labels"].long()[None], 336)
    assert error(pixels[0, :, ::8], case.output["pixels_every_8th_row"]) < TOLERANCE


def test_portrait(case):
    """A pixel of OpenCV's is good to 1/32 of a pixel's place, hence the tolerance."""
    crop = cut_portraits(faces_of(read(ASTRONAUT), json.loads(case.metadata["landmarks_xy"])))
    difference = (crop[0] - read(GOLDEN / "pulid_face_crop.png")).abs()
    assert float(difference.mean()) < 1 / 255 and float(difference.quantile(0.99)) < 6 / 255


def test_large_photo_is_shrunk_first_and_border_is_grey(case):
    image, points = read(ASTRONAUT), np.array(json.loads(case.metadata["landmarks_xy"]))
    large = image.repeat_interleave(4, 0).repeat_interleave(4, 1)
    small = cut_portraits(faces_of(image, points))
    again = cut_portraits(faces_of(large, (points + 0.5) * 4 - 0.5))
    assert float((small - again).abs().mean()) < 0.02
    corner = cut_portraits(faces_of(image, points - [180, 90]))[0, 0, 0]
    assert torch.allclose(corner * 255, torch.tensor([132.0, 133.0, 135.0]))
    assert cut_portraits(Faces(image[None], ((),))).shape == (0, CROP, CROP, 3)


def test_vector_and_hidden_states_survive_as_features():
    vector, states = torch.randn(2, 1280), torch.randn(2, 5, 7, 96)
    features = pack(vector, states)
    assert features.shape == (2, 14 + 35, 96)
    assert all(torch.equal(*pair) for pair in zip(unpack(features), (vector, states)))


def test_a_recogniser_of_another_kind_is_refused():
    sface = SimpleNamespace(name="sface.onnx", kind="sface")
    with pytest.raises(ValueError, match="reads an ArcFace recogniser, 512 wide, but sface.onnx is of the kind sface"):
        PulidEncoder(sface, None, "eva.pt", "", None)
