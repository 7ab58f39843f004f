"""EVA02-CLIP's vision tower against numbers of its authors' code."""

import pytest
import torch
from likeness.encoders.eva02 import Eva02, Eva02Sizes, make_angles, read_weights, rotate_pairs
from likeness.encoders.loading import load_eva
from likeness.tests.support.golden_cases import TOLERANCE, Case, error

TAPS_TOLERANCE = 5e-6  # of the largest value: hidden states reach 27


@pytest.fixture(scope="module")
def case():
    return Case("pulid_eva02")


def build(weights: dict) -> Eva02:
    weights = read_weights(weights)
    tower = Eva02(Eva02Sizes.of(weights)).eval()
    tower.load_state_dict(weights)
    return tower


@torch.inference_mode()
def test_embedding_and_hidden_states(case):
    embedding, taps = build(case.weights())(case.input["image"])
    assert error(embedding, case.output["embedding"]) < TOLERANCE
    expected = torch.stack([case.output[f"hidden.{index}"] for index in range(5)], dim=1)
    assert error(taps, expected) < TAPS_TOLERANCE * float(expected.abs().max())


@torch.inference_mode()
def test_file_without_prefix_and_with_text_and_rotations(case):
    """The published file holds a text tower and the rotations; others hold the vision tower alone."""
    weights = case.weights()
    more = {
        "text.positional_embedding": torch.zeros(3),
        "logit_scale": torch.zeros(()),
        "visual.rope.freqs_cos": torch.zeros(36, 64),
    }
    plain = {key.removeprefix("visual."): value for key, value in weights.items()}
    image = case.input["image"][:1]
    expected = build(weights)(image)[0]
    assert torch.equal(build(weights | more)(image)[0], expected)
    assert torch.equal(build(plain)(image)[0], expected)


def test_a_truncated_file_is_one_sentence(case, tmp_path):
    """Cut off on the way, or without its last block."""
    file, weights = tmp_path / "eva.pt", case.weights()
    torch.save(weights, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"eva\.pt' cannot be read .* cut short, .* download it again") as caught:
        load_eva(str(file))
    assert "\n" not in str(caught.value)
    torch.save({key: value for key, value in weights.items() if ".blocks.3.attn" not in key}, file)
    with pytest.raises(ValueError, match=r"eva\.pt looks like EVA02-CLIP but cannot be loaded") as caught:
        load_eva(str(file))
    assert "\n" not in str(caught.value)
    torch.save(weights, file)
    assert load_eva(str(file))[1] == "eva.pt"


def test_rotation_turns_neighbouring_channels():
    """A patch at row p and column 0 turns only the first half, each frequency two neighbours, by p / grid * 16."""
    angles = make_angles(4)
    assert angles.shape == (16, 64) and not angles[0].any()
    assert not angles[4, 32:].any() and not angles[1, :32].any()
    assert torch.allclose(angles[4, :4], torch.tensor([4, 4, 4 * 10000 ** (-1 / 16), 4 * 10000 ** (-1 / 16)]))
    quarter = torch.full((1, 2), torch.pi / 2)
    turned = rotate_pairs(torch.tensor([[1.0, 2.0]]), quarter.cos(), quarter.sin())
    assert torch.allclose(turned, torch.tensor([[-2.0, 1.0]]))
