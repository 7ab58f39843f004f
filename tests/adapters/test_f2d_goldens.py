"""Face2Diffusion's networks and its prompt against numbers of the authors' own code."""

import copy
import json

import numpy as np
import pytest
import torch
from likeness.adapters.face2diffusion import MappingNetwork, MappingSizes
from likeness.adapters.face_prompt import TokenIndex, put_words
from likeness.encoders.deep3d import EXPRESSION, Regressor, RegressorSizes, cut_aligned, weak_perspective
from likeness.encoders.msid import USED_KEYS, Msid, MsidSizes
from likeness.tests.support import tiny_clip
from likeness.tests.support.golden_cases import GOLDEN, TOLERANCE, Case, error
from PIL import Image


def filled(network, weights):
    network.load_state_dict(weights)
    return network.eval()


@pytest.fixture(scope="module")
def msid():
    case = Case("f2d_msid")
    weights = {key: value for key, value in case.weights().items() if key.startswith(USED_KEYS)}
    return case, filled(Msid(MsidSizes.of(weights)), weights)


@torch.inference_mode()
def test_msid(msid):
    case, network = msid
    assert error(network(case.input["image"]), case.output["identity_vector"]) < TOLERANCE


@torch.inference_mode()
def test_batch_norm_in_training_mode_would_be_noticed(msid):
    case, network = msid
    training = copy.deepcopy(network).train()
    assert error(training(case.input["image"]), case.output["identity_vector"]) > 0.1


@pytest.fixture(scope="module")
def mapping():
    case = Case("f2d_mapping")
    weights = case.weights()
    return case, filled(MappingNetwork(MappingSizes.of(weights)), weights)


@torch.inference_mode()
def test_mapping_without_and_with_expression(mapping):
    case, network = mapping
    identity, expression = case.input["identity_vector"], case.input["expression"]
    without = torch.stack((case.output["word1"], case.output["word2"]), dim=1)
    given = torch.stack((case.output["word1_with_expression"], case.output["word2_with_expression"]), dim=1)
    assert error(network(identity), without) < TOLERANCE
    assert error(network(identity, expression), given) < TOLERANCE
    assert error(network(identity, expression, 0.0), without) < TOLERANCE
    assert error(without, given) > 0.01


def test_published_parameter_counts(mapping, msid):
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(mapping[1]) == 12_000_832
    assert round(count(msid[1]) / 1e6, 2) == 21.45


@torch.inference_mode()
def test_deep3d_coefficients():
    case = Case("deep3d_coefficients")
    weights = case.weights()
    coefficients = filled(Regressor(RegressorSizes.of(weights)), weights)(case.input["image"])
    assert error(coefficients, case.output["coefficients"]) < TOLERANCE
    assert error(coefficients[:, EXPRESSION], case.output["expression"]) < TOLERANCE


def test_deep3d_alignment(root):
    expected = json.loads((GOLDEN / "deep3d_alignment.json").read_text())
    picture = np.array(Image.open(root / "workflows" / "assets" / "astronaut.png").convert("RGB"))
    points = np.array(expected["landmarks_xy"])
    scale, shift = weak_perspective(np.stack([points[:, 0], picture.shape[0] - 1 - points[:, 1]], axis=1))
    assert abs(102 / scale - expected["scale"]) < TOLERANCE
    np.testing.assert_allclose(shift, expected["translation"], rtol=TOLERANCE)
    crop = cut_aligned(torch.from_numpy(picture.astype(np.float32) / 255), points)
    golden = np.array(Image.open(GOLDEN / "deep3d_alignment.png").convert("RGB"), dtype=np.float32) / 255
    assert error(crop, torch.from_numpy(golden)) < TOLERANCE


@pytest.mark.slow  # 123 million numbers are drawn
@torch.inference_mode()
def test_text_with_and_without_words_through_the_hosts_clip():
    case = Case("f2d_text")
    clip = tiny_clip.loaded(case.weights())
    chunk = [(int(token), 1.0) for token in case.input["token_ids"][0]]
    position = int(case.metadata["position"])
    words = {TokenIndex(0, position): case.input["word1"][0], TokenIndex(0, position + 1): case.input["word2"][0]}
    plain = clip.encode_from_tokens({"l": put_words(clip, [chunk], {})})
    injected = clip.encode_from_tokens({"l": put_words(clip, [chunk], words)})
    assert error(plain, case.output["context_plain"]) < TOLERANCE
    assert error(injected, case.output["context"]) < TOLERANCE
    assert error(plain, case.output["context"]) > 0.1
