"""The networks that score and the crops they are given, against their authors' code on the same weights and images."""

import numpy as np
import pytest
import skimage.data
import torch
from likeness.faces.types import Face, Faces
from likeness.metrics import crops
from likeness.metrics.adaface import AdaFace
from likeness.metrics.dino import Dino, DinoSizes, with_published_names
from likeness.metrics.face_distances import SLICES, coefficient_distances, pose_angle
from likeness.metrics.facenet import FaceNet
from likeness.metrics.inception import Inception
from likeness.metrics.layers import shapes_of
from likeness.metrics.sphereface import COLUMNS, SphereFace
from likeness.metrics.statistics import frechet_distance
from likeness.patcher import manage_small
from likeness.tests.support.golden_cases import TOLERANCE, Case, error
from PIL import Image
from torch.nn.functional import normalize

UNUSED_KEYS = ("fc6.", "fc.")  # heads of the training, which the published files have


def build(network, weights, of=shapes_of):
    return manage_small(network, of(weights), weights).model


@torch.inference_mode()
@pytest.mark.parametrize("name, network", [
    ("metric_facenet", FaceNet),
    ("metric_sphereface20a", SphereFace),
    pytest.param("metric_adaface_ir50", AdaFace, marks=pytest.mark.slow),
    pytest.param("metric_adaface_ir101", AdaFace, marks=pytest.mark.slow),
])  # fmt: skip
def test_recognisers(name, network):
    case = Case(name)
    weights = {key: value for key, value in case.weights().items() if not key.startswith(UNUSED_KEYS)}
    embedding = build(network, weights)(case.input["image"])
    if "norm" in case.output:
        assert error(embedding.norm(dim=1, keepdim=True), case.output["norm"]) < 2e-5 * case.output["norm"].item()
    assert error(normalize(embedding), normalize(case.output["embedding"])) < TOLERANCE


@torch.inference_mode()
def test_dino():
    case = Case("metric_dino_vits16")
    network = build(Dino, case.weights(), DinoSizes.of)
    assert error(network(case.input["image"]), case.output["cls"]) < TOLERANCE


@torch.inference_mode()
def test_dino_with_the_names_of_the_hubs_port():
    case = Case("metric_dino_vits16")
    weights = case.weights()
    ported = {}
    for key, tensor in weights.items():
        name = key.replace("attn.proj", "attention.output.dense").replace("mlp.fc1", "intermediate.dense")
        name = name.replace("mlp.fc2", "output.dense").replace("norm1", "layernorm_before")
        name = name.replace("norm2", "layernorm_after").replace("blocks.", "encoder.layer.")
        name = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        name = {
            "norm.weight": "layernorm.weight",
            "norm.bias": "layernorm.bias",
            "cls_token": "embeddings.cls_token",
        }.get(name, name.replace("pos_embed", "embeddings.position_embeddings"))
        if ".attn.qkv." in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3)):
                ported[name.replace("attn.qkv", f"attention.attention.{part}")] = rows
        else:
            ported[name] = tensor
    named = with_published_names(ported)
    assert named.keys() == weights.keys() and all(torch.equal(named[key], weights[key]) for key in weights)
    assert with_published_names(weights).keys() == weights.keys()


@torch.inference_mode()
def test_inception():
    case = Case("metric_inception_fid")
    gain = float(case.metadata["conv_gain"])
    weights = {key: value * gain if value.ndim >= 2 else value for key, value in case.weights().items()}
    weights = {key: value for key, value in weights.items() if not key.startswith(UNUSED_KEYS)}
    network = build(Inception, weights)
    for size in ("small", "large"):
        features = network(case.input[size] / 255)
        assert error(features, case.output[f"pool3_{size}"]) < 2e-4  # of values up to 18


@pytest.mark.parametrize("name", ["few", "many"])
def test_frechet(name):
    case = Case("metric_frechet")
    distance = frechet_distance(case.input[f"{name}.0"], case.input[f"{name}.1"])
    assert distance == pytest.approx(case.output[name].item(), rel=1e-7 if name == "few" else 1e-12)


@pytest.fixture(scope="module")
def case():
    return Case("metric_preprocess")


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.ascontiguousarray(skimage.data.astronaut()[:, 60:420]))


@pytest.mark.parametrize("name, cut", [
    ("facenet_160", lambda image, box: crops.cut_box(image, box, 160)),
    ("facenet_160_margin14", lambda image, box: crops.cut_box(image, box, 160, margin=14)),
    ("clip_224", lambda image, box: crops.fit_shorter_side(image, 224, 224)),
    ("dino_224", lambda image, box: crops.fit_shorter_side(image, 256, 224)),
    ("siglip_224", lambda image, box: crops.squash(image, 224)),
])  # fmt: skip
def test_crops_to_the_byte(case, image, name, cut):
    assert np.array_equal(np.array(cut(image, case.input["mtcnn_box"].numpy())), case.output[name].numpy())


def test_warped_crops_within_1_of_255(case, image):
    points = case.input["points"].numpy()
    faces = Faces(crops.from_bytes(image)[None], ((Face(points, (0, 0, 10, 10), 0.9),),))
    aligned = crops.align_in_image(faces, 112)[0] * 255
    for crop, name in ((aligned, "adaface_112"), (aligned[:, COLUMNS], "sphereface_112x96")):
        assert (crop - case.output[name]).abs().mean() < 1
    matrix = crops.fit_from_template(points, 112) - [[0, 0, COLUMNS.start], [0, 0, 0]]
    assert np.abs(matrix - case.output["sphereface_matrix"].numpy()).max() < 1e-5


def test_the_box_by_points_is_nearly_mtcnns(case):
    box = crops.box_of_points(case.input["points"].double().numpy())
    (x0, y0, x1, y1), (a0, b0, a1, b1) = box, case.input["mtcnn_box"].tolist()
    both = (min(x1, a1) - max(x0, a0)) * (min(y1, b1) - max(y0, b0))
    assert both / ((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - both) > 0.9


def test_distances_of_faces():
    case = Case("metric_deep3d_slices")
    result, template, reference = (case.input[name] for name in ("result", "template", "reference"))
    to_template, to_reference = coefficient_distances(result, template), coefficient_distances(result, reference)
    for name in SLICES:
        distances = to_reference if name == "shape" else to_template
        for norm in ("l2", "mse"):
            assert error(distances[f"{name}_{norm}"], case.output[f"{name}_{norm}"]) < 1e-6
    assert error(pose_angle(result, template), case.output["pose_geodesic_degrees"]) < 1e-4
    assert all(value.abs().max() == 0 for value in coefficient_distances(result, result).values())
    for name, part in SLICES.items():
        length = part.stop - part.start
        torch.testing.assert_close(to_template[f"{name}_l2"] ** 2, to_template[f"{name}_mse"] * length)


def test_a_row_without_a_face_has_no_distance():
    rows = torch.ones(2, 257)
    rows[1] = torch.nan
    assert coefficient_distances(rows, torch.zeros(2, 257))["shape_mse"].isnan().tolist() == [False, True]
