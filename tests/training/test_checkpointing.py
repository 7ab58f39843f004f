"""Gradient checkpointing of the adapters: the same loss and the same gradients, blocks computed twice."""

from dataclasses import replace

import pytest
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from likeness.tests.support import tiny_frozen
from likeness.training import face2diffusion, fact, infinite_id
from likeness.training.frozen import freeze
from likeness.training.loop import make_stream

SHARED = {"batch": 2, "precision": "float32"}
FEATURES = {"transface": (4, 24), "msid": (1, 12), "expression": (6,), "clip": (5, 20), "arcface": (1, 512)}
TRAINERS = {
    "fact": (fact, fact.FactSettings(**SHARED, dim=64, depth=1, queries=3, gate=0.5)),
    "face2diffusion": (face2diffusion, face2diffusion.Face2DiffusionSettings(**SHARED, hidden=(16,))),
    "infinite-id": (infinite_id, infinite_id.InfiniteIdSettings(**SHARED, dim=64, depth=1, queries=3)),
}


def learn(method, checkpointing):
    """The loss of a step, the gradients by name, and how many transformer blocks were computed."""
    trainer, settings = TRAINERS[method]
    base, portraits = freeze(*tiny_frozen.host(), "float32", checkpointing), tiny_frozen.portraits(**FEATURES)
    count, calls = 0, []
    for block in base.model.diffusion_model.modules():
        if isinstance(block, BasicTransformerBlock):
            count += 1
            block.norm1.register_forward_hook(lambda *_: calls.append(1))
    module = trainer.make(base, portraits, replace(settings, checkpointing=checkpointing))
    more = [torch.zeros(5, 20)] if method == "infinite-id" else []
    loss = trainer.make_loss(base, module, portraits, *more, settings)(make_stream(3), 0)
    loss.backward()
    return loss.item(), {name: each.grad for name, each in module.named_parameters()}, len(calls) / count


@pytest.mark.parametrize("method", TRAINERS)
def test_checkpointing_changes_no_gradient(method):
    loss, gradients, once = learn(method, checkpointing=False)
    again, recomputed, twice = learn(method, checkpointing=True)
    assert again == loss and gradients.keys() == recomputed.keys() and twice > once
    for name, gradient in gradients.items():
        assert (gradient is None) == (recomputed[name] is None)
        if gradient is not None:
            assert torch.allclose(gradient, recomputed[name], rtol=1e-4, atol=1e-7), name
