"""Grain of a picture on what was painted into it."""

import pytest
import torch
from likeness.inpaint.grain import find_grain, match_grain
from likeness.tests.support.executor import GraphError

SIDE, STRENGTH = 128, 0.05
FACE = (slice(32, 96), slice(40, 104))


def sample_grain(seed: int, colours: int = 3) -> torch.Tensor:
    """Grain two pixels wide, in as many colours."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(colours, SIDE // 2, SIDE // 2, generator=generator)[None]
    return torch.nn.functional.interpolate(noise, size=(SIDE, SIDE), mode="nearest")[0].movedim(0, -1) * STRENGTH


@pytest.fixture
def picture():
    """A scene with light, an edge and grain; the same with a smooth face painted in."""
    scene = torch.linspace(0.3, 0.6, SIDE)[:, None, None].repeat(1, SIDE, 3)
    scene[:, 64:] += 0.2
    original = (scene + sample_grain(1)).clamp(0, 1)
    painted = original.clone()
    painted[FACE] = scene[FACE] + torch.tensor([0.05, 0.0, -0.05])
    return scene, original, painted


def fine(image: torch.Tensor) -> torch.Tensor:
    """What a mean of neighbours takes out of an image, away from its borders."""
    planes = image.movedim(-1, 0)[None]
    return (planes - torch.nn.functional.avg_pool2d(planes, 5, 1, 2))[..., 4:-4, 4:-4]


def test_the_painted_part_gets_it_and_nothing_else_changes(picture):
    scene, original, painted = picture
    result = match_grain(painted, original, 1.0, 0)
    outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    outside[FACE] = False
    assert torch.equal(result[outside], painted[outside])
    added = (result - painted)[FACE]
    assert added.mean().abs() < 0.1 * STRENGTH, "no colour comes with it"
    assert float(fine(result[FACE]).std() / fine(original[FACE]).std()) == pytest.approx(1, abs=0.15)
    neighbours = (added[1:] * added[:-1]).mean() / added.square().mean()
    assert neighbours > 0.15, "coarse grain stays coarse"
    assert torch.equal(result, match_grain(painted, original, 1.0, 0))
    other = match_grain(painted, original, 1.0, 1)
    assert not torch.equal(result, other), "frames differ"
    assert torch.equal(other, match_grain(painted, original, 1.0, 1, find_grain(original))), "measured before"
    half = (match_grain(painted, original, 0.5, 0) - painted)[FACE]
    assert torch.allclose(half, added / 2, atol=1e-6)


def test_grey_grain_stays_grey():
    original = torch.full((SIDE, SIDE, 3), 0.5) + sample_grain(2, 1)
    painted = original.clone()
    painted[FACE] = 0.4
    added = (match_grain(painted, original, 1.0, 0) - painted)[FACE]
    assert (added.amax(dim=-1) - added.amin(dim=-1)).max() < 1e-5 and added.std() > 0.5 * STRENGTH


@pytest.mark.parametrize("grain", [0.0, 1.0])
def test_what_has_grain_enough_stays(picture, grain):
    scene, _, _ = picture
    original = scene + grain * sample_grain(1)
    painted = original.clone()
    painted[FACE] = scene[FACE] * 0.9 + sample_grain(3)[FACE]
    added = (match_grain(painted, original, 1.0, 0) - painted)[FACE]
    assert added.std() < 0.3 * STRENGTH
    assert grain or not added.any()


def test_a_change_too_small_to_measure_stays(picture):
    _, original, _ = picture
    painted = original.clone()
    painted[10:14, 10:14] = 0.5
    assert torch.equal(match_grain(painted, original, 1.0, 0), painted)
    assert torch.equal(match_grain(original, original, 1.0, 0), original)


def test_in_a_graph_frame_by_frame(executor):
    graph = {
        "1": {"class_type": "LikenessExamplePicture", "inputs": {"image": "examples/astronaut.png [temp]"}},
        "2": {"class_type": "ImageBlur", "inputs": {"image": ["1", 0], "blur_radius": 3, "sigma": 2.0}},
        "3": {"class_type": "RepeatImageBatch", "inputs": {"image": ["2", 0], "amount": 2}},
        "4": {"class_type": "LikenessMatchGrain", "inputs": {"image": ["3", 0], "original": ["1", 0], "amount": 1.0}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }
    outputs = executor.run(graph)
    (result,), (blurred,) = outputs["4"], outputs["3"]
    assert result.shape == (2, 512, 512, 3)
    grains = [frame - blurred[0] for frame in result]
    assert grains[0].std() > 0.003 and not torch.equal(*grains)
    graph["4"]["inputs"] |= {"image": ["1", 0], "original": ["3", 0]}
    with pytest.raises(GraphError, match="there are 1 of 512 x 512 pixels and 2 originals"):
        executor.run(graph)
