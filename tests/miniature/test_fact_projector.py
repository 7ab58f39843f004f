"""FACT's projector by itself: what it learns of people, and that FACT's training begins with it."""

from dataclasses import replace

import pytest
import torch
from likeness.miniature.training import fact_projector
from likeness.miniature.training.fact_projector import of_people
from likeness.tests.support import tiny_frozen
from likeness.training import fact
from likeness.training.adapter_loop import train_adapter

SIZES = fact.FactSettings(queries=3, dim=64, depth=1, gate=1.0, steps=1, batch=2, precision="float32")


@pytest.fixture(scope="module")
def base():
    return tiny_frozen.frozen_base()


@pytest.fixture(scope="module")
def portraits():
    """Four people in eight pictures each, who differ in a few of the numbers that an encoder sees, and noise."""
    generator = torch.Generator().manual_seed(0)
    few = tiny_frozen.portraits(transface=(9, 24))
    rows, people = torch.arange(32) % len(few), torch.arange(32) % 4 + 10
    own = torch.randn(4, 9, 24, generator=generator)[people - 10]
    seen = (own + torch.randn(32, 9, 24, generator=generator)).half()
    return replace(
        few,
        latents=few.latents[rows],
        people=people,
        captions=[few.captions[row] for row in rows],
        faces=few.faces[rows],
        features={"transface": seen},
    )


def test_people_differ_and_their_pictures_do_not(portraits):
    target = of_people(portraits, 64)
    assert target.shape == (32, 4)  # of no more components than people
    for person in range(10, 14):
        assert (target[portraits.people == person] == target[portraits.people == person][0]).all()
    one_each = target[:4, :3]  # the means of four people have three directions
    assert torch.allclose(one_each.T @ one_each / 4, torch.eye(3), atol=1e-4)
    assert torch.allclose(one_each.mean(dim=0), torch.zeros(3), atol=1e-4)


def test_it_learns_to_tell_people_apart(portraits):
    torch.manual_seed(0)
    projector = fact.make_projector(24, 16, SIZES)
    settings = fact_projector.ProjectorSettings(steps=60, batch=16, components=3, precision="float32")
    progress = fact_projector.train(projector, portraits, settings, torch.device("cpu"), None, lambda progress: None)
    assert sum(progress.losses[:3]) / 3 > 0.8
    assert sum(progress.losses[-3:]) / 3 < 0.3


def test_the_projector_may_learn_more_slowly_and_a_checkpoint_keeps_its_order_otherwise(base):
    names = {}
    for times in (1.0, 0.25):
        settings = replace(SIZES, projector=times, gates=3.0)
        groups = fact.make_groups(fact.Fact(base, 24, settings), settings)
        names[times] = [{name.split(".")[0] for name in group.parameters} for group in groups]
        assert groups[0].lr == settings.lr and groups[-1].lr == 3 * settings.lr
        assert all("alpha_" in name for name in groups[-1].parameters)
    assert names[1.0] == [{"projector", "sites"}, {"sites"}]
    assert names[0.25] == [{"sites"}, {"projector"}, {"sites"}] and groups[1].lr == 0.25 * settings.lr


def test_fact_begins_with_the_projector_it_is_given(base, portraits):
    width = base.text.embeddings.token_embedding.weight.shape[1]
    given = fact.make_projector(24, width, SIZES).state_dict()
    still = replace(SIZES, lr=0.0, weight_decay=0.0)
    adapter = fact.make(base, portraits, still)
    adapter.projector.load_state_dict(given)
    train_adapter(fact, base, adapter, (portraits,), still)
    for name, each in adapter.projector.state_dict().items():
        assert torch.equal(each, given[name]), name
