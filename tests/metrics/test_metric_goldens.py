"""The networks that score, against their authors' code on the same weights."""

import pytest
import torch
from likeness.metrics.adaface import AdaFace
from likeness.metrics.facenet import FaceNet
from likeness.metrics.layers import shapes_of
from likeness.metrics.sphereface import SphereFace
from likeness.patcher import manage_small
from likeness.tests.support.golden_cases import TOLERANCE, Case, error
from torch.nn.functional import normalize


def build(network, case: Case, weights=None, of=shapes_of):
    weights = weights or case.weights()
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
    embedding = build(network, case)(case.input["image"])
    if "norm" in case.output:
        assert error(embedding.norm(dim=1, keepdim=True), case.output["norm"]) < 2e-5 * case.output["norm"].item()
    if name != "metric_sphereface20a":  # whose vectors are compared by a cosine, and published as they are
        embedding = normalize(embedding)
    assert error(embedding, case.output["embedding"]) < TOLERANCE
