"""SFace's real weights on real photographs: OpenCV's own numbers, one person told from another."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from likeness.encoders.agreement import MIN_AGREEMENT, between_photos, cosines, find_disagreeing
from likeness.encoders.identity import join
from likeness.encoders.loading import load_encoder
from likeness.faces.choose import choose
from likeness.faces.detector import detect_faces, load
from likeness.faces.types import Faces
from likeness.metrics.ranking import rank
from likeness.metrics.scores import identity_scores
from PIL import Image

SFACE = "face_recognition_sface_2021dec_int8bq.onnx"
YUNET = "opencv: face_detection_yunet_2023mar_int8bq.onnx"
ONE = ("obama.jpg", "obama2.jpg", "obama3.jpg", "obama_partial_face.jpg", "obama_partial_face2.jpg")
OTHER = "biden.jpg"


@pytest.fixture(scope="module")
def encoder(real_folders):
    return load_encoder(str(real_folders / "insightface" / SFACE))


@pytest.fixture(scope="module")
def detector(real_folders):
    return load(YUNET, 0.6, 640)


@pytest.fixture(scope="module")
def photos(detector, real_photos):
    """The largest face of every photograph, by its file's name."""
    found = {}
    for name in (*ONE, OTHER):
        with Image.open(real_photos / name) as file:
            file.thumbnail((640, 640))
            image = torch.from_numpy(np.array(file.convert("RGB"), np.float32) / 255)
        faces = detect_faces(detector, image[None], "quick")
        found[name] = Faces(faces.images, (choose(faces.per_image[0], "largest", 0, image.shape[:2]),))
    return found


@pytest.fixture(scope="module")
def identities(encoder, photos):
    return {name: encoder.encode_faces(faces) for name, faces in photos.items()}


def test_the_embedding_is_opencvs(encoder, identities, real_folders):
    import cv2

    opencv = cv2.FaceRecognizerSF.create(str(real_folders / "insightface" / SFACE), "")
    for name in (ONE[0], OTHER):
        crop = (identities[name].crops[0] * 255).round()
        bgr = np.ascontiguousarray(crop.numpy().astype(np.uint8)[..., ::-1])
        ours = encoder.encode(crop[None] / 255, masked=False)
        np.testing.assert_allclose(ours.features[0, 0].numpy(), opencv.feature(bgr)[0], atol=1e-3)
    assert encoder.kind == "sface" and ours.features.shape == (1, 1, 128)


def test_one_person_is_told_from_another(identities):
    person = torch.cat([identities[name].embedding for name in ONE])
    same = cosines(person, person)[~torch.eye(len(ONE), dtype=bool)]
    different = cosines(person, identities[OTHER].embedding)
    assert same.min() > 0.6 and different.max() < 0.35, "0.69 and 0.27 were measured"


def test_four_people_are_strangers_to_each_other(encoder, detector, identities, root):
    """The two photographs in which packages carry one person more each."""
    data = Path(pytest.importorskip("matplotlib").get_data_path())
    others = []
    for file in (root / "workflows" / "assets" / "astronaut.png", data / "sample_data" / "grace_hopper.jpg"):
        image = torch.from_numpy(np.array(Image.open(file).convert("RGB"), np.float32) / 255)
        others.append(encoder.encode_faces(detect_faces(detector, image[None], "quick")).embedding)
    embedding = torch.cat([identities[ONE[0]].embedding, identities[OTHER].embedding, *others])
    assert embedding.shape == (4, 128)
    strangers = cosines(embedding, embedding)[~torch.eye(4, dtype=bool)]
    assert strangers.max() < 0.35 < MIN_AGREEMENT, "0.21 was measured"
    one = torch.cat([identities[name].embedding for name in ONE])
    assert cosines(one, embedding[1:]).max() < 0.35, "0.29 was measured"


def test_the_photo_of_somebody_else_is_marked(identities):
    mixed = identities[ONE[0]]
    for name in (ONE[1], OTHER, *ONE[2:]):
        mixed = join(mixed, identities[name])
    comparison = between_photos(mixed, MIN_AGREEMENT)
    assert find_disagreeing(comparison) == [2]
    assert comparison.overall[[0, 1, 3, 4, 5]].min() - MIN_AGREEMENT > 0.1 < MIN_AGREEMENT - comparison.overall[2]


def test_a_brick_wall_is_worse_than_a_stranger(encoder, detector, photos, identities):
    stranger = photos[OTHER].images[0]
    brick = Image.fromarray(skimage.data.brick()).convert("RGB").resize(stranger.shape[1::-1])
    images = torch.stack([torch.from_numpy(np.array(brick, np.float32) / 255), stranger])
    faces = Faces(images, ((), photos[OTHER].per_image[0]))
    assert not any(detect_faces(detector, images[:1], "quick").per_image)
    scores = identity_scores(encoder, faces, identities[ONE[0]])
    assert rank({"identity": scores}).order == [1, 0] and scores[0].isnan()
